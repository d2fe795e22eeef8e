"""A version of a run's state. It never changes: a commit makes a new one."""

from __future__ import annotations

from typing import Any

from .._values.copying import copied
from ..errors import LimitExceededError

__all__ = ["Version", "detached_copy"]


class Version:
    """A state that a method has left, and its index in the pass."""

    __slots__ = ("index", "state")

    def __init__(self, index: int, state: Any) -> None:
        self.index = index
        self.state = state
        """The state, which must not be changed."""

    def draft(self, is_alone: bool) -> Any:
        """Return a state that the caller may change. `is_alone`: no other invocation runs meanwhile."""
        return copied(self.state)


def detached_copy(value: Any) -> Any:
    """Return a copy of what a method leaves, which no other code can reach."""
    try:
        return copied(value)
    except RecursionError:
        raise LimitExceededError(
            f"a {type(value).__name__} is nested too deeply to be kept, or contains itself; flatten it. Nothing of this call was "
            "saved"
        ) from None
