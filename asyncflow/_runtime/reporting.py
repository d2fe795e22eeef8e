"""What a method says while it runs: `report` its progress, `stream` values."""

from __future__ import annotations

import math
from typing import Any

from ..events import Reported, Streamed
from .scope import Scope, current_invocation

__all__ = ["report", "stream"]


def report(done: float, total: float | None = None, text: str = "") -> None:
    """Report how much of its work a method has done, to observers and readers of the run. Nothing is stored.

    It may be called in a plain method, too, and in threads that have the method's context. Where nothing observes the run, it costs next to
    nothing.

    - `done`: how much is done, at least 0.
    - `total`: of how much; None if that is not known.
    - `text`: what the method does now, for people.

    Raises `LookupError` outside of a method, `TypeError` and `ValueError` for other arguments.
    """
    scope = _scope("report")
    for name, value in (("done", done), ("total", total)):
        if not isinstance(value, int | float) and not (name == "total" and value is None):
            raise TypeError(f"report() takes {name} as a number, not {type(value).__name__}")
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"report() takes {name} as a finite number of at least 0, not {value!r}")
    if not isinstance(text, str):
        raise TypeError(f"report() takes text as a str, not {type(text).__name__}")
    scope.of_pass.emit(scope, Reported, done=done, total=total, text=text)


def stream(value: Any) -> None:
    """Emit a value, such as a token of a model, to observers and readers of the run. Nothing is stored.

    It may be called where `report` may.

    - `value`: the value. Observers get the same object, so do not change it afterwards.

    Raises `LookupError` outside of a method.
    """
    scope = _scope("stream")
    scope.of_pass.emit(scope, Streamed, value=value)


def _scope(call: str) -> Scope:
    scope = current_invocation.get()
    if scope is None:
        raise LookupError(f"asyncflow.{call}() is available only inside a method of a flow")
    return scope
