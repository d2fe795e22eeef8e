"""One method that raised: what `MethodError.failures` holds. This module knows no other exception of asyncflow."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["ATTEMPTS", "TEXT", "FailedAttempt", "Failure", "portable", "type_of"]

ATTEMPTS: Final = 10
"""How many of an invocation's failed attempts are kept with their errors: the newest ones."""

TEXT: Final = 8 * 1024
"""The characters that are kept of the message of a failed attempt, and of its traceback: of that the last ones."""


class FailedAttempt(NamedTuple):
    """An attempt of an invocation that raised, as it is stored: as texts."""

    number: int
    """The number of the attempt, from 1."""
    at: float
    """When it raised, in seconds since the Unix epoch."""
    type: str
    """The type of the exception, with its module, such as `builtins.KeyError`."""
    message: str
    """The exception as text; only its first 8 KB."""
    traceback: str
    """The traceback as text; only its last 8 KB."""


class Failure:
    """One method that raised.

    - `method`: the name of the method.
    - `invocation_id`: the id of the invocation that raised.
    - `exception`: the exception itself. If the run failed in another process, or earlier, it is an `errors.RecordedException`.
    - `number`: the number of the attempt that raised it, from 1.
    """

    __slots__ = ("_at", "_earlier", "exception", "invocation_id", "method", "number")

    def __init__(
        self,
        method: str,
        invocation_id: str,
        exception: Exception,
        earlier: Sequence[FailedAttempt] = (),
        number: int = 1,
        at: float = 0.0,
    ) -> None:
        """`earlier`: the attempts that raised before. `number`, `at`: of the attempt that raised this exception."""
        self.method: str = method
        self.invocation_id: str = invocation_id
        self.exception: Exception = exception
        self._earlier = tuple(earlier)
        self.number: int = number
        self._at = at

    @property
    def type(self) -> str:
        """The type of the exception, with its module, such as `builtins.KeyError`."""
        return _recorded(self.exception, "recorded_type") or type_of(self.exception)

    @property
    def message(self) -> str:
        """The exception as text; empty if it cannot be converted to text."""
        try:
            return str(self.exception)
        except Exception:  # a third-party __str__ may raise anything
            return ""

    @property
    def traceback(self) -> str:
        """The traceback as text: the frames of the user's code, and those that it called; empty if it cannot be converted to text."""
        recorded = _recorded(self.exception, "recorded_traceback")
        if recorded is not None:
            return recorded
        try:
            return "".join(traceback.format_exception(self.exception))
        except Exception:  # it reads attributes of a third-party exception, which may raise anything
            return ""

    @property
    def attempts(self) -> tuple[FailedAttempt, ...]:
        """The attempts that raised since the run was started, or resumed after a failure; the last of them raised `exception`.

        At most the newest 10. Without a retry policy there is one.
        """
        last = FailedAttempt(self.number, self._at, self.type, self.message[:TEXT], self.traceback[-TEXT:])
        return (*self._earlier, last)[-ATTEMPTS:]

    def __repr__(self) -> str:
        return f"Failure({self.invocation_id}: {self.type.rpartition('.')[2]})"

    def __reduce__(self) -> tuple[Callable[..., Failure], tuple[Any, ...]]:
        what = self.method, self.invocation_id, portable(self.exception)
        return Failure, (*what, self._earlier, self.number, self._at)


def _recorded(error: Exception, name: str) -> str | None:
    """Return a text of an `errors.RecordedException`, None for another exception."""
    try:
        text = getattr(error, name, None)
    except Exception:  # a third-party __getattr__ may raise anything
        return None
    return text if isinstance(text, str) else None


def type_of(error: Exception) -> str:
    """Return the name of an exception's class, with its module."""
    return f"{type(error).__module__}.{type(error).__qualname__}"


def portable(error: Exception) -> Exception:
    """Return the exception, or, if it cannot be pickled and unpickled, a `RuntimeError` that names it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception as reason:  # whatever a third-party exception raises
        return RuntimeError(f"{type_of(error)}, which cannot be pickled ({type(reason).__name__})")
    return error
