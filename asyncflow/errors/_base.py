"""The base class of all exceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = [
    "AsyncflowError",
    "blank",
]


class AsyncflowError(Exception):
    """The base class of all exceptions of asyncflow.

    `run_id`, `method` and `seq` name the run, the method and the checkpoint that the error concerns; None where there is none.
    """

    __module__ = "asyncflow.errors"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__.startswith("asyncflow.errors."):  # users and stored failures know them by their public name
            cls.__module__ = "asyncflow.errors"

    def __init__(
        self, message: str, *, run_id: str | None = None, method: str | None = None, seq: int | None = None
    ) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.method = method
        self.seq = seq

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        return blank, (type(self), self.args), self.__dict__


def blank(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Create an exception as unpickling does: without its constructor, whose keywords `args` does not hold."""
    error = cls.__new__(cls, *args)
    error.args = args
    return error
