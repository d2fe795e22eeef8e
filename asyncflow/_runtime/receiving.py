"""`wait_for` in a method: wait for a signal. The signal is stored with the method's own values, so it is taken once."""

from __future__ import annotations

from typing import Any, TypeVar

from .._definition.signals import Signal
from .._durations import Seconds, seconds
from .scope import current_invocation

__all__ = ["wait_for"]

P = TypeVar("P")


async def wait_for(signal: Signal[P], /, *, timeout: Seconds | None = None, key: str | None = None) -> P:  # noqa: ASYNC109
    """Wait for a signal in a method of a flow, and return its payload.

    The signal is taken from the inbox in a checkpoint of its own. A method that runs again, after a crash or in its next attempt, gets
    the same payload without waiting, or waits for the rest of its time. A signal that came earlier, and that nothing has taken, is
    taken at once. Once another method has failed, or when a runner shuts down, a method that waits is cancelled, and runs again when
    the run is resumed.

    - `signal`: the signal; the flow must declare it, as an attribute of its class or in a condition.
    - `timeout`: how long to wait: seconds, or a timedelta; None: without limit.
    - `key`: a name of this wait, unique in the method for this signal. Without one, the method's waits for a signal are known by their
      order; at most one of them may be in progress.

    Raises `SignalTimeoutError` after `timeout`, `LookupError` outside of a method, `UnknownSignalError` for a signal that the flow does
    not declare, `ValueError` for another `timeout`, `StepKeyError` if another wait for this signal without a key is in progress, and
    `LimitExceededError` after 10,000 stored values of one invocation. Whatever ends the run reaches the method as a cancellation.
    """
    scope = current_invocation.get()
    if scope is None:
        raise LookupError("asyncflow.wait_for() is available only inside a method of a flow")
    if not isinstance(signal, Signal):
        raise TypeError(f"wait_for() takes a Signal, not {signal!r}")
    limit = None if timeout is None else seconds(timeout)
    if timeout is not None and limit is None:
        raise ValueError(f"the timeout of wait_for() must be seconds or a timedelta, not {timeout!r}")
    payload: Any = await scope.of_pass.wait_for(scope, signal, limit, key)
    return payload  # type: ignore[no-any-return]  # decoded by the signal's type
