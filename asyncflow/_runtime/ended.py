"""The end of one invocation: its effects, and whether it ends the pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._definition.definition import MethodDefinition, label_of
from .._scheduling.messages import Command, Fail, Finish
from ..merge import Conflict
from ..persistence.checkpoint import Checkpoint
from .failures import conflict_error, method_label_error, undeclared_label_error
from .scope import Scope
from .settings import Settings
from .versions import Version

__all__ = ["Ended", "first_leaf", "label_returned", "merged", "says"]


@dataclass(slots=True)
class Ended:
    """The effects of one invocation's end, before it is durable."""

    commands: tuple[Command, ...]
    version: Version
    checkpoint: Checkpoint | None
    is_well: bool = False
    is_last: bool = False
    """Whether the pass has finished with it."""
    result: Any = None


def says(commands: tuple[Command, ...], kind: type[Finish | Fail]) -> bool:
    """Whether the pass is over in this way: then a command of this kind is the only one."""
    return len(commands) == 1 and type(commands[0]) is kind


def label_returned(settings: Settings, run_id: str, method: MethodDefinition, result: Any) -> str | None:
    """Return the label for a router's result. Raises `UnknownLabelError`."""
    label = label_of(result)
    if label is not None and method.labels is not None and label not in method.labels:
        raise undeclared_label_error(settings.name, run_id, method)
    if label in settings.definition.methods:
        raise method_label_error(settings.name, run_id, method.name)
    return label


def merged(
    settings: Settings, run_id: str, scope: Scope, draft: Any, newest: Version, writers: Sequence[tuple[int, str]]
) -> Version:
    """Merge a draft, three-way, with what others have committed since its launch. Raises `StateConflictError`."""
    base, method = scope.base, scope.method.name
    try:
        return Version(newest.index + 1, settings.state_type.merged(base.state, draft, newest.state))
    except Conflict as conflict:
        others = [writer for index, writer in writers if index > base.index]
        raise conflict_error(settings.name, run_id, method, others, conflict) from None


def first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception in a group, or in a group within it, that is not a group itself."""
    first = group.exceptions[0]
    return first_leaf(first) if isinstance(first, BaseExceptionGroup) else first
