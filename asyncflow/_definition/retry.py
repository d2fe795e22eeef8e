"""Retry policies and timeouts, as a class declares them: when a failed attempt of a method is followed by another one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .._durations import Seconds, is_number, seconds
from ..errors import AsyncflowError, FlowDefinitionError, MethodTimeoutError, StateConflictError, StepMismatchError

__all__ = ["Retry", "RetryAfter", "next_delay"]


class RetryAfter(AsyncflowError):  # noqa: N818 - an instruction, raised by a method
    """Raise it in a method to have the method tried again after a number of seconds, if its retry policy has attempts left.

    `seconds` is a number from 0, or a timedelta; it replaces the pause of the policy. Raises `ValueError` for another value.
    """

    def __init__(self, after: Seconds, message: str = "", **where: Any) -> None:
        duration = seconds(after)
        if duration is None or duration < 0:
            raise ValueError(f"RetryAfter takes a number of seconds from 0, or a timedelta, not {after!r}")
        super().__init__(
            message
            or f"the method asked to be tried again after {duration:g} s, which a retry policy with attempts left does",
            **where,
        )
        self.seconds = duration


@dataclass(frozen=True)
class Retry:
    """A retry policy: how often a method is tried, and how long the pause before each retry is (exponential back-off with jitter).

    The pause after the n-th failed attempt is `initial * factor ** (n - 1)` seconds, at most `maximum`, changed at random by up to
    `jitter` times itself in either direction. A method can choose the pause by raising `RetryAfter(seconds)`.

    - `attempts`: how often the method is called in all, from 1; None for no limit, which needs a `run_timeout`.
    - `initial`: the first pause: seconds, or a timedelta.
    - `factor`: how much longer each pause is than the one before, from 1.
    - `maximum`: the longest pause: seconds, or a timedelta.
    - `jitter`: the random part of each pause, from 0 to 1: 0.1 is 10 % in either direction.
    - `on`: what is retried: a type of exception, a tuple of types, or a function that gets the exception and says whether. A group of
      exceptions is retried if each of its exceptions is. Of asyncflow's own errors, only `RetryAfter`, `MethodTimeoutError` and
      `StateConflictError` are retried, unless a type in `on` is one of asyncflow's.

    Raises `FlowDefinitionError` for a value that cannot be right.
    """

    attempts: int | None = 3
    initial: Seconds = 1.0
    factor: float = 2.0
    maximum: Seconds = 60.0
    jitter: float = 0.1
    on: type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], object] = Exception

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise FlowDefinitionError(
                f"a retry policy cannot be used as written: {'; '.join(problems)}", problems=problems
            )
        object.__setattr__(self, "initial", seconds(self.initial))
        object.__setattr__(self, "maximum", seconds(self.maximum))

    def _problems(self) -> Iterator[str]:
        n = self.attempts
        if n is not None and (type(n) is not int or n < 1):
            yield f"attempts must be a number of calls from 1, or None, not {n!r}"
        for name in ("initial", "maximum"):
            value = seconds(getattr(self, name))
            if value is None or value < 0:
                yield f"{name} must be a number of seconds from 0, or a timedelta, not {getattr(self, name)!r}"
        if not (is_number(self.factor) and self.factor >= 1):
            yield f"factor must be a number from 1, not {self.factor!r}"
        if not (is_number(self.jitter) and 0 <= self.jitter <= 1):
            yield f"jitter must be a number from 0 to 1, not {self.jitter!r}"
        if (isinstance(self.on, type) or not callable(self.on)) and not _are_exceptions(self.on):
            yield f"on must be a type of Exception, a tuple of such types, or a function, not {self.on!r}"

    def pause(self, failed: int, draw: float) -> float:
        """Return the pause before the next attempt, in seconds.

        - `failed`: how many attempts have failed, from 1.
        - `draw`: a random number from 0 to 1.
        """
        initial, maximum = seconds(self.initial), seconds(self.maximum)
        assert initial is not None, "__post_init__ has checked it"
        assert maximum is not None, "__post_init__ has checked it"
        try:
            pause = min(maximum, initial * float(self.factor) ** (failed - 1))
        except OverflowError:
            pause = maximum if initial else 0.0
        return min(maximum, pause * (1 + self.jitter * (2 * draw - 1)))

    def covers(self, error: Exception) -> bool:
        """Whether another attempt may follow. Raises what a function in `on` raises.

        - `error`: what the attempt raised.
        """
        return all(isinstance(leaf, Exception) and self._covers(leaf) for leaf in _leaves(error))

    def _covers(self, error: Exception) -> bool:
        if isinstance(error, RetryAfter | StepMismatchError):
            return isinstance(error, RetryAfter)
        is_own = isinstance(error, AsyncflowError) and not isinstance(error, MethodTimeoutError | StateConflictError)
        if isinstance(self.on, type | tuple):
            types = self.on if isinstance(self.on, tuple) else (self.on,)
            return isinstance(error, tuple(t for t in types if issubclass(t, AsyncflowError)) if is_own else types)
        return not is_own and bool(self.on(error))


def next_delay(policy: Retry | None, error: Exception, failed: int, draw: float) -> float | None:
    """Return the seconds after which a method is tried again, or None if it has failed permanently.

    `failed`: its failed attempts, this one included, since it was started or resumed after its last one. `draw`: a random number from 0
    to 1. Raises what a function in the policy's `on` raises.
    """
    if policy is None or (policy.attempts is not None and failed >= policy.attempts) or not policy.covers(error):
        return None
    asked = [leaf.seconds for leaf in _leaves(error) if isinstance(leaf, RetryAfter)]
    return max(asked) if asked else policy.pause(failed, draw)


def _are_exceptions(types: object) -> bool:
    each = types if isinstance(types, tuple) else (types,)
    return bool(each) and all(isinstance(t, type) and issubclass(t, Exception | BaseExceptionGroup) for t in each)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions of a group, and of the groups in it. An error of asyncflow counts as one, also if it is a group."""
    if isinstance(error, BaseExceptionGroup) and not isinstance(error, AsyncflowError):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
