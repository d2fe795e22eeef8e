"""The turn of a run: whether it may run methods now. A run that only waits releases its turn, and takes another one afterwards."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Turn"]


class Turn(Protocol):
    """What a runner gives to each of its runs, of which only some may run methods at a time."""

    @property
    def is_watched(self) -> bool:
        """Whether the runner notices that another owner has taken the run over, or has ended it."""
        ...

    async def take(self) -> bool:
        """Wait until the run may run methods. Return False, at once, if it may already."""
        ...

    def release(self) -> None:
        """Let another run have the turn, because no method of this run runs."""
        ...

    def of_child(self) -> Turn:
        """Return the turn of a child of this run, which has yet to be taken."""
        ...
