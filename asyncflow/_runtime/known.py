"""What there is to know of a flow without running it: for a web front that describes it, for one."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from inspect import Signature
from typing import Any

__all__ = ["KnownFlow", "described"]


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
