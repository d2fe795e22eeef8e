"""The flows that are registered with a runner: the identities of their stored runs, and a description of each flow."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from inspect import Signature
from typing import Any, Final

from .._definition.aliases import UNRESOLVED
from .._definition.identity import Identity
from .._definition.results import result_of
from .._definition.signals import Signal
from .._runs.ownership import is_same_place
from .._runs.setup import Setup
from ..errors import FlowDefinitionError
from ..flow import Flow
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import FlowPersistence
from .driver import driver_of, instantiate

__all__ = ["FlowInfo", "FlowRegistry", "described"]

logger: Final = logging.getLogger("asyncflow")

MakeFlow = Callable[[], Any]
"""A flow class, or a function without arguments that returns a flow."""


class FlowRegistry:
    """The registered flows of one runner. Their names are unique, so that each run is resumed by its own class."""

    def __init__(self, persistence: FlowPersistence) -> None:
        self._persistence = persistence
        self._named: dict[str, tuple[Identity, MakeFlow]] = {}
        self._makes: dict[str, MakeFlow] = {}
        self.names: Mapping[str, str] = {}
        """The name of the flow by each identity that its runs may be stored under: `RunEntry.identity`, `Checkpoint.known_by`."""
        self.may_wait: bool = False
        """Whether runs of any flow may be parked."""

    def register(self, make: MakeFlow) -> Flow[Any]:
        """Create a flow that stores in the runner's storage, and register it."""
        flow = instantiate(make)
        driver = driver_of(flow)
        if self.add(driver.setup.settings.identity, make):
            _warn_of_another_storage(driver.setup, self._persistence)
        driver.store_in(self._persistence)
        self.may_wait = self.may_wait or driver.setup.parks
        return flow

    def instance_of(self, c: Checkpoint) -> Any:
        """Return a new instance of the flow of a stored run; None if the flow is not registered."""
        make = self.of(c)
        return None if make is None else driver_of(self.register(make))

    def add(self, identity: Identity, make: MakeFlow) -> bool:
        """Register a flow; return whether it is new. Raises `FlowDefinitionError` for a second class with the same identity or name."""
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
                    f"{other.stored} and {identity.stored} both declare formerly = {shared[0]!r}; only one of them can resume its "
                    "runs. Keep it in that one",
                    problems=["two flows were formerly one"],
                )

    def _index(self) -> None:
        """Map each key to the flow that fits it best: by its identity, by a former identity, by a bare name or another name of its file."""
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
        """All identities that runs of these flows may be stored under, as `Catalog.runs(identities=)` accepts them."""
        return self._makes.keys()

    def named(self, identity: str) -> MakeFlow | None:
        """Return the factory of the flow with this `RunEntry.identity`; None for an unknown identity."""
        return self._makes.get(identity)

    def of(self, checkpoint: Checkpoint) -> MakeFlow | None:
        """Return the factory of a stored run's flow; None for an unknown flow."""
        return self._makes.get(checkpoint.known_by)


def _same_name(known: Identity, other: Identity) -> FlowDefinitionError:
    same = known.stored == other.stored
    which = f"two different classes known as {known.stored}" if same else f"{known.stored} and {other.stored}"
    return FlowDefinitionError(
        f"two flows are named {known.name}: {which}. Declare name = ... in one of them, so that each run is resumed by its own class "
        f"(formerly = {other.stored!r} keeps the runs that it has stored)",
        problems=["two flows of one name"],
    )


@dataclass(frozen=True, slots=True)
class FlowInfo:
    """The description of a flow, available without running it: a web front end, for example, documents the flow from it."""

    name: str
    """The name that its runs are stored under."""
    description: str
    """The docstring of its class."""
    state: Any
    """The model of its state, with an `id`; or `dict[str, X]`."""
    preset: frozenset[str]
    """The fields that its initial state sets, so that inputs need not set them."""
    results: tuple[Any, ...]
    """The declared result of the flow or, without one, the return annotations of the methods that a run may end with; empty if one of
    these has none."""
    signals: tuple[Signal[Any], ...] = ()
    """The signals that it declares."""


def described(made: Any) -> FlowInfo:
    """Return the description of a flow."""
    driver = driver_of(made)
    definition, types = driver.setup.settings.definition, driver.state_type
    is_declared = definition.result is not Any and definition.result is not UNRESOLVED
    results = (definition.result,) if is_declared else tuple(result_of(method) for method in definition.last)
    return FlowInfo(
        driver.setup.settings.name,
        inspect.cleandoc(vars(type(made)).get("__doc__") or ""),
        types.declaration,
        types.names_set(driver.initial),
        () if Signature.empty in results else results,
        tuple(definition.signals.values()),
    )


def _warn_of_another_storage(setup: Setup, storage: object) -> None:
    """Warn if a flow declares another storage than the runner's: `load` and `resume` of its class look in the flow's own storage."""
    if setup.is_declared and not is_same_place(setup.persistence, storage):
        logger.warning(
            "storage mismatch: %s declares persistence %r, but the runner stores its runs in %r. load(id) and resume(id) of the class "
            "look in the first, unless they get persistence=. Give the runner and the flow one storage",
            setup.settings.name,
            setup.persistence,
            storage,
        )
