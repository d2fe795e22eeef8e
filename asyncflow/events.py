"""The events of a run. Frozen, with plain values, and derived from its checkpoints: every event that is reported is stored.

An event's id is (run id, seq of the checkpoint, n within it).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Event",
    "MethodFailed",
    "MethodFinished",
    "MethodRetrying",
    "MethodSkipped",
    "RunCancelled",
    "RunFailed",
    "RunFinished",
    "RunResumed",
    "RunStarted",
    "SignalTaken",
    "StateEdited",
    "TimerFired",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event in the history of a run."""

    run_id: str
    """The id of the run."""
    flow: str
    """The name of its flow."""
    seq: int
    """The sequence number of the checkpoint that stores it, from 0."""
    n: int
    """Its place among the events of that checkpoint, from 0."""
    at: float
    """The time, in seconds since the Unix epoch."""

    @property
    def id(self) -> tuple[str, int, int]:
        """(run id, seq, n): unique, and ordered within a run."""
        return self.run_id, self.seq, self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A pass started: its state and inputs are stored."""

    pass_number: int
    """The number of the pass, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(Event):
    """A pass was resumed: its pending invocations start again."""

    pass_number: int
    """The number of the pass, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFinished(Event):
    """An invocation completed successfully."""

    invocation: str
    """The invocation that completed, such as `fetch:1`."""
    enabled: tuple[str, ...] = ()
    """The invocations that its completion started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSkipped(Event):
    """A listener of an `or_` was not started again: it had already fired in this cycle."""

    method: str
    """The listener that was not started."""
    invocation: str
    """The invocation whose completion would have started it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFailed(Event):
    """An invocation raised an exception."""

    invocation: str
    """The invocation that raised, such as `fetch:1`."""
    type: str
    """The type of the exception, with its module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRetrying(Event):
    """An attempt of an invocation raised an exception, and another attempt follows."""

    invocation: str
    """The invocation, such as `fetch:1`."""
    attempt: int
    """The number of the attempt that raised, from 1."""
    type: str
    """The type of the exception, with its module."""
    due: float
    """When the next attempt is due, in seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired(Event):
    """The time of a timer came."""

    timer: str
    """The timer in the condition of its listener, such as `after(ask)`."""
    listener: str
    """The method that waits for it."""
    enabled: tuple[str, ...] = ()
    """The invocation that it started; empty if the method waits for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalTaken(Event):
    """A signal was taken from the inbox of the run."""

    signal: str
    """The name of the signal."""
    enabled: tuple[str, ...] = ()
    """The invocations that it started; empty if the methods that wait for it wait for more, or if a running method waited for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The run finished: nothing was left to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(Event):
    """The run failed: a method had raised, and all methods that ran at the same time have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled(Event):
    """The run was cancelled permanently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateEdited(Event):
    """The state was edited from outside."""
