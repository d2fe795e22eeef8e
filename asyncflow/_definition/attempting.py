"""What a class and its methods declare about attempts: retry policies and timeouts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .._durations import seconds
from .._keywords import Unset
from ..errors import FlowDefinitionError
from .decorators import Mark
from .definition import FlowDefinition
from .retry import Retry

__all__ = ["Attempting", "check_bounded", "checked_limit"]


@dataclass(frozen=True, slots=True)
class Attempting:
    """The class attributes `retry` and `timeout`: the defaults of its methods."""

    retry: Retry | None
    timeout: float | None
    has_run_timeout: bool

    @classmethod
    def of_class(cls, flow: type, problems: list[str]) -> Attempting:
        """Read the class attributes of a flow. A method or a property of that name, or a value of another kind, is none.

        A number or a text can only be meant as one, so it is a mistake.
        """
        retry, timeout = (inspect.getattr_static(flow, name, None) for name in ("retry", "timeout"))
        if isinstance(retry, int | float | str):
            problems.append(f"retry must be a policy, such as Retry(attempts=3), or None, not {retry!r}; {_RENAME}")
        limit = seconds(timeout)
        if (limit is None and isinstance(timeout, int | float | str)) or (limit is not None and limit <= 0):
            problems.append(f"{_not_positive('timeout', timeout)}; {_RENAME}")
            limit = None
        run_timeout = getattr(flow, "run_timeout", None)
        try:
            checked_limit("run_timeout", run_timeout)
        except ValueError as error:
            problems.append(str(error))
        return cls(retry if isinstance(retry, Retry) else None, limit, run_timeout is not None)

    def of_method(self, marks: Sequence[Mark], problem: Callable[[str], None]) -> tuple[Retry | None, float | None]:
        """Return the retry policy and the timeout of a method, in seconds. Mistakes are passed to `problem`."""
        retry: Any = self._declared("retry", marks, problem)
        timeout: Any = self._declared("timeout", marks, problem)
        if not isinstance(retry, Retry | None):
            problem(f"has retry={retry!r}; pass a policy: retry=Retry(attempts=3)")
            retry = None
        elif retry is not None and retry.attempts is None and not self.has_run_timeout:
            problem(_UNBOUNDED)
        limit = seconds(timeout)
        if timeout is not None and (limit is None or limit <= 0):
            problem(f"has an invalid timeout: {_not_positive('timeout', timeout)}")
        return retry, limit

    def _declared(self, name: str, marks: Sequence[Mark], problem: Callable[[str], None]) -> object:
        given = [value for mark in marks if not isinstance(value := getattr(mark, name), Unset)]
        if len(given) > 1:
            problem(f"is given {name}= by two decorators; give it once")
        return given[0] if given else getattr(self, name)


_RENAME: Final = "rename an attribute that is meant for something else"
_UNBOUNDED: Final = "may be tried again without end; give its policy a number of attempts, or the class a run_timeout"


def check_bounded(definition: FlowDefinition, run_timeout: float | None) -> None:
    """Raise `FlowDefinitionError` if a method may be tried again without any limit: an instance may have another `run_timeout`."""
    for method in definition.methods.values():
        if run_timeout is None and method.retry is not None and method.retry.attempts is None:
            problem = f"{method.name} {_UNBOUNDED}"
            raise FlowDefinitionError(f"{definition.name} cannot run as configured: {problem}", problems=[problem])


def checked_limit(name: str, value: object) -> float | None:
    """Return a time limit in seconds; None for none. Raises `ValueError`."""
    limit = seconds(value)
    if value is not None and (limit is None or limit <= 0):
        raise ValueError(_not_positive(name, value))
    return limit


def _not_positive(name: str, value: object) -> str:
    return f"{name} must be a number of seconds above 0, a timedelta, or None, not {value!r}"
