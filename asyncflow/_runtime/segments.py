"""Run a coroutine piece by piece: it hands over to its caller where it awaits `handed_over`, and is continued with an answer.

So the coroutine of a step can have its function called in the thread of a plain method: each piece runs in a task of its own.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any

from .scope import StepScope

__all__ = ["Segment", "handed_over"]


@types.coroutine
def handed_over(inner: StepScope) -> Generator[StepScope, Any, Any]:
    """Hand over to what runs the coroutine. Return or raise its answer."""
    return (yield inner)


class Segment:
    """The next piece of a coroutine. Awaited, it returns (False, what was handed over), or (True, the result of the coroutine)."""

    def __init__(self, whole: Coroutine[Any, Any, Any], answer: Any = None, error: BaseException | None = None) -> None:
        """`answer`, `error`: what the coroutine gets where it has handed over."""
        self._whole = whole
        self._answer = answer
        self._error = error

    def __await__(self) -> Generator[Any, Any, tuple[bool, Any]]:
        answer, error = self._answer, self._error
        try:
            while True:
                yielded = self._whole.send(answer) if error is None else self._whole.throw(error)
                if isinstance(yielded, StepScope):
                    return False, yielded
                answer, error = None, None
                try:
                    answer = yield yielded
                except BaseException as raised:  # what awaits it was cancelled
                    error = raised
        except StopIteration as stop:
            return True, stop.value
