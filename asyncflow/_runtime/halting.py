"""Stop a pass after a method, or after a number of methods, so that a run can be made step by step."""

from __future__ import annotations

from collections.abc import Callable

from .._scheduling.messages import Command
from .._scheduling.progress import Progress
from .scope import Scope
from .signals import Step

__all__ = ["Halt", "HaltedError"]


class HaltedError(Exception):
    """What ends a pass that was to stop here. No method and no caller gets it."""


class Halt:
    """When a call stops its run: once a method has completed, or so many of all methods have.

    - `method`: the name of the method; '' for all.
    - `count`: how many have to complete.
    """

    __slots__ = ("_left", "_method", "last")

    def __init__(self, method: str, count: int) -> None:
        self._method = method
        self._left = count
        self.last = ""
        """The invocation that completed last of those that count."""

    def stopping(self, step: Step, progress: Progress, stop: Callable[[BaseException], object]) -> Step:
        """Return a function that makes a step, and stops the pass after the last one. What else runs then may finish.

        If nothing is left to run, the pass ends, or waits for a signal: then it stops before the method that the signal starts.
        """

        async def halting(scope: Scope, turn: int) -> tuple[Command, ...]:
            if not self._left:
                stop(HaltedError())
                return ()
            commands = await step(scope, turn)
            method, occurrence = scope.invocation[:2]
            key = f"{method}:{occurrence}"  # of all items together
            if self._left and self._method in ("", method) and key not in progress.pending:
                self._left -= 1
                self.last = key
                if not self._left and progress.is_open and not progress.failed:
                    stop(HaltedError())
            return commands

        return halting
