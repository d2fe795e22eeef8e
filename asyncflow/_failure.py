"""One method that raised: what `MethodError.failures` holds. This module knows no other exception of asyncflow."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable

__all__ = ["Failure", "portable", "type_of"]


class Failure:
    """One method that raised.

    - `method`: the name of the method.
    - `invocation_id`: the id of the invocation that raised.
    - `exception`: the exception itself. If the run failed in another process, or earlier, it is an `errors.RecordedException`.
    """

    __slots__ = ("exception", "invocation_id", "method")

    def __init__(self, method: str, invocation_id: str, exception: Exception) -> None:
        self.method = method
        self.invocation_id = invocation_id
        self.exception = exception

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

    def __repr__(self) -> str:
        return f"Failure({self.invocation_id}: {self.type.rpartition('.')[2]})"

    def __reduce__(self) -> tuple[Callable[..., Failure], tuple[str, str, Exception]]:
        return Failure, (self.method, self.invocation_id, portable(self.exception))


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
