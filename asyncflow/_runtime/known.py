"""The flows that a runner knows: by what their stored runs are known, and what there is to know of each without running it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from inspect import Signature
from typing import Any

from .._definition.identity import Identity
from ..errors import FlowDefinitionError
from ..persistence.checkpoint import Checkpoint
from .runs import Setup, is_same_place

__all__ = ["KnownFlow", "KnownFlows", "described", "warn_of_another_storage"]

logger = logging.getLogger("asyncflow")

MakeFlow = Callable[[], Any]
"""A flow class, or a function of no arguments that makes a flow."""


class KnownFlows:
    """The flows of one runner. No two have one name: each run is resumed by its own class."""

    def __init__(self) -> None:
        self._named: dict[str, tuple[Identity, MakeFlow]] = {}
        self._makes: dict[str, MakeFlow] = {}
        self.names: Mapping[str, str] = {}
        """The name of the flow by what its runs may be stored under: `RunEntry.identity`, `Checkpoint.known_by`."""

    def add(self, identity: Identity, make: MakeFlow) -> bool:
        """Know a flow; whether it is a new one. Raises `FlowDefinitionError` for a second class of one identity or name."""
        known = self._named.get(identity.name)
        if known is None:
            self._refuse_former_names_of_two(identity)
            self._named[identity.name] = identity, make
            self._index()
        elif known[0].cls is not identity.cls and known[1] is not make:
            raise _same_name(known[0], identity)
        return known is None

    def _refuse_former_names_of_two(self, identity: Identity) -> None:
        for other, _ in self._named.values():
            if shared := sorted(set(identity.formerly) & set(other.formerly)):
                raise FlowDefinitionError(
                    f"{other.stored} and {identity.stored} both say that they were formerly {shared[0]!r}; only one of them can resume "
                    "its runs. Leave it in that one",
                    problems=["two flows were formerly one"],
                )

    def _index(self) -> None:
        """Each key leads to the flow that it fits best: by its identity, by a former one, by a bare name or another name of its file."""
        self._makes, names = {}, dict[str, str]()
        flows = self._named.values()
        for keys in (lambda i: (i.stored,), lambda i: i.formerly, lambda i: i.known):
            for identity, make in flows:
                for key in keys(identity):
                    self._makes.setdefault(key, make)
                    names.setdefault(key, identity.name)
        self.names = names

    @property
    def identities(self) -> Set[str]:
        """All that runs of these flows may be stored under: what `Catalog.runs(identities=)` takes."""
        return self._makes.keys()

    def named(self, identity: str) -> MakeFlow | None:
        """What makes the flow of a `RunEntry.identity`; None for an unknown one."""
        return self._makes.get(identity)

    def of(self, checkpoint: Checkpoint) -> MakeFlow | None:
        """What makes the flow of a stored run; None for an unknown one."""
        return self._makes.get(checkpoint.known_by)


def _same_name(known: Identity, other: Identity) -> FlowDefinitionError:
    same = known.stored == other.stored
    which = f"two different classes known as {known.stored}" if same else f"{known.stored} and {other.stored}"
    return FlowDefinitionError(
        f"two flows are named {known.name}: {which}. Declare name = ... in one of them (there, formerly = {other.stored!r} keeps "
        "the runs that it has stored), so that each run is resumed by its own class",
        problems=["two flows of one name"],
    )


@dataclass(frozen=True, slots=True)
class KnownFlow:
    """What others may want to know of a flow: a web front that describes it, for one."""

    name: str
    """What its runs are stored under."""
    description: str
    """The docstring of its class."""
    state: Any
    """Its model, with an `id`; or `dict[str, X]`."""
    preset: frozenset[str]
    """The fields that its initial state sets, so that inputs need not."""
    results: tuple[Any, ...]
    """The return annotations of the methods that a run may end with; empty where one of them has none."""


def described(made: Any) -> KnownFlow:
    """What there is to know of a flow."""
    instance = made._instance
    definition, types = instance.setup.settings.definition, instance.state_type
    results = tuple(method.returns for method in definition.last)
    return KnownFlow(
        instance.setup.settings.name,
        inspect.cleandoc(vars(type(made)).get("__doc__") or ""),
        types.declaration,
        types.names_set(instance.initial),
        () if Signature.empty in results else results,
    )


def warn_of_another_storage(setup: Setup, storage: object) -> None:
    """Log that a flow's own storage is not the one where a runner stores its runs: the flow by itself looks in its own."""
    if setup.is_declared and not is_same_place(setup.persistence, storage):
        logger.warning(
            "%s declares the persistence %r, and a runner stores its runs in %r: load(id) and resume(id) of the class look in the "
            "first, unless they are given persistence=. Give the runner and the flow one storage",
            setup.settings.name,
            setup.persistence,
            storage,
        )
