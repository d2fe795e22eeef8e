"""Tracebacks that show the user's code: the engine's own frames around it do not show what went wrong.

`ASYNCFLOW_FULL_TRACEBACKS=1` keeps all frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, TypeVar

import anyio

from ..errors import AsyncflowError, MethodError

__all__ = ["crash_in", "from_here", "run_shortened", "trimmed"]

T = TypeVar("T")
E = TypeVar("E", bound=AsyncflowError)

SETTING: Final = "ASYNCFLOW_FULL_TRACEBACKS"


def trimmed(error: Exception) -> Exception:
    """Cut the traceback of a method's exception, so that it starts at the method, and return the exception.

    If no frame is the user's, the traceback stays, except for asyncflow's own errors, whose text explains the problem.
    """
    if _is_full():
        return error
    found = error.__traceback__
    while found is not None and _is_ours(found):
        found = found.tb_next
    if found is not None or isinstance(error, AsyncflowError):
        BaseException.with_traceback(error, found)  # a foreign class may override it
    return error


def run_shortened(function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Run an async function on asyncio. If it raises a `MethodError`, drop the frames of that call."""
    try:
        return anyio.run(function, *args)
    except MethodError as error:
        raise from_here(error) from error.__cause__


def from_here(error: E) -> E:
    """Return an asyncflow error whose traceback starts where it is raised next."""
    return error if _is_full() else error.with_traceback(None)


def _is_full() -> bool:
    return os.environ.get(SETTING, "") not in ("", "0")


def _is_ours(found: TracebackType) -> bool:
    return str(found.tb_frame.f_globals.get("__name__", "")).startswith("asyncflow.")


def crash_in(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """Return the KeyboardInterrupt or SystemExit in a group that has besides these only cancellations; None for any other group."""
    crashes, others = group.split((KeyboardInterrupt, SystemExit))
    is_only = others is None or others.split(anyio.get_cancelled_exc_class())[1] is None
    return _first_leaf(crashes) if crashes is not None and is_only else None


def _first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception in a group, or in a group within it, that is not a group itself."""
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, BaseExceptionGroup) else first
