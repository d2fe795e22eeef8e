"""The events of a run, and who observes them. Events are frozen.

A *stored* event is derived from a checkpoint, and its id is (run id, seq of the checkpoint, n within it). A *live* event is not stored:
only observers and readers of that time get it. Its seq is -1, and its n orders it among the live events of this process.

    live     MethodStarted, RunWaiting, RunInterrupted, ChildStarted, Reported, Streamed, EventsLost; and every event of a run without
             persistence, or of a method without a checkpoint
    stored   all others
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

__all__ = [
    "ChildEnded",
    "ChildStarted",
    "Event",
    "EventsLost",
    "MeasuringObserver",
    "MethodFailed",
    "MethodFinished",
    "MethodObserver",
    "MethodRetrying",
    "MethodSkipped",
    "MethodStarted",
    "MethodWaiting",
    "Observer",
    "Reported",
    "RunBegins",
    "RunCancelled",
    "RunFailed",
    "RunFinished",
    "RunInterrupted",
    "RunObserver",
    "RunResumed",
    "RunStarted",
    "RunWaiting",
    "SignalTaken",
    "StateEdited",
    "StepFinished",
    "StepRetrying",
    "Streamed",
    "TimerFired",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of a run."""

    run_id: str
    """The id of the run."""
    flow: str
    """The name of its flow."""
    seq: int
    """The sequence number of the checkpoint that stores it, from 0; -1 for a live event."""
    n: int
    """Its place among the events of that checkpoint, from 0; among live events, a number that rises."""
    at: float
    """The time, in seconds since the Unix epoch."""

    @property
    def id(self) -> tuple[str, int, int]:
        """(run id, seq, n): unique, and ordered among the stored events of a run; of live events, within a process."""
        return self.run_id, self.seq, self.n

    @property
    def position(self) -> tuple[int, int]:
        """(seq, n): its position among the events of its run, for `RunHandle.events(after=)`."""
        return self.seq, self.n

    @property
    def is_live(self) -> bool:
        """Whether it is not stored."""
        return self.seq < 0


@runtime_checkable
class Observer(Protocol):
    """Observes runs: an item of `observers=` of a flow or a runner. One that raises is logged, and not called again.

    An attribute `ignores`, a set of event types, spares the time to make those events for it alone: it may get them all the same."""

    def on_event(self, event: Event, /) -> object:
        """Called with each event, on the event loop of the run, stored events after their commit. It must not block.

        - `event`: the event.
        """
        ...


@runtime_checkable
class MethodObserver(Protocol):
    """An observer that is also entered around the body of each method, in the method's context. A capability of an `Observer`."""

    def around_method(self, started: MethodStarted, /) -> AbstractContextManager[object]:
        """Return what is entered before a method is called and left when it has ended, with its exception if it raised one.
        What it sets in context variables is seen by the method, and by what the method calls.

        - `started`: the event of its start.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBegins:
    """A pass is about to be driven in this process. Its first checkpoint is not stored yet."""

    run_id: str
    """The id of the run."""
    flow: str
    """The name of its flow."""
    pass_number: int
    """The number of the pass, from 1."""
    is_resumed: bool
    """Whether a pass that was stored before continues."""
    parent_id: str = ""
    """The run id of its parent; empty for none."""
    trace: str = ""
    """What `on_begin` returned for the run before, here or in another process, at the newest snapshot; empty if nothing was kept."""


@runtime_checkable
class RunObserver(Protocol):
    """An observer that knows when this process begins and ends to drive a run. A capability of an `Observer`."""

    def on_begin(self, begins: RunBegins, /) -> str:
        """Called in the context of the call that drives the run, before the first checkpoint of the pass is stored.

        - `begins`: the run.

        Return a short text, such as a `traceparent`, or "". That of the first observer with one is stored, with snapshots of the run.
        """
        ...

    def on_leave(self, run_id: str, /) -> object:
        """Called once the call ends that has driven the run, however it ends; also if the start was refused.

        - `run_id`: the id of the run.
        """
        ...


@runtime_checkable
class MeasuringObserver(Protocol):
    """An observer that gets measurements, too. A capability of an `Observer`; without one, nothing is measured."""

    def on_commit(self, run_id: str, flow: str, seconds: float, /) -> object:
        """Called after each commit of a checkpoint.

        - `run_id`: the id of the run.
        - `flow`: the name of its flow.
        - `seconds`: how long the run waited for the commit.
        """
        ...

    def on_recovery(self, run_id: str, flow: str, /) -> object:
        """Called when a runner recovers an interrupted run.

        - `run_id`: the id of the run.
        - `flow`: the name of its flow.
        """
        ...

    def on_waiting(self, count: int, /) -> object:
        """Called by a runner about once a minute.

        - `count`: how many runs of its flows are parked in its storage; not more than 10,000 are counted.
        """
        ...


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
class MethodStarted(Event):
    """An attempt of an invocation starts. Live."""

    invocation: str
    """The invocation, such as `fetch:1`."""
    attempt: int = 1
    """The number of the attempt, from 1."""
    triggers: tuple[str, ...] = ()
    """The invocations whose results it gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodWaiting(Event):
    """A method began to `sleep`, or to `wait_for` a signal."""

    invocation: str
    """The invocation, such as `ask:1`."""
    waits_for: str
    """The name of the signal; "sleep" for a sleep."""
    due: float | None
    """When the wait ends at the latest, in seconds since the Unix epoch; None: it has no limit."""


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
class StepFinished(Event):
    """A `step` within a method completed: its result is stored."""

    invocation: str
    """The invocation, such as `fetch:1`."""
    step: str
    """The step: the name of its function, and its order or its key, such as `pay #1` or `pay =invoice-7`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRetrying(Event):
    """An attempt of a `step` raised an exception, and another attempt follows."""

    invocation: str
    """The invocation, such as `fetch:1`."""
    step: str
    """The step, as in `StepFinished`."""
    attempt: int
    """How many attempts have failed."""
    due: float
    """When the next attempt is due, in seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStarted(Event):
    """A method began to run a child, or to wait for one that was begun before. Live."""

    invocation: str
    """The invocation, such as `fetch:1`."""
    child_id: str
    """The run id of the child."""
    child: str
    """The name of the child's flow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEnded(Event):
    """A child run ended, and its outcome is stored with the method that waits for it."""

    invocation: str
    """The invocation, such as `fetch:1`."""
    child_id: str
    """The run id of the child."""
    status: str
    """How it ended: "finished", "failed" or "cancelled"."""


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
    """The run failed: a method had raised, and all methods that ran at the same time have ended, or are cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled(Event):
    """The run was cancelled permanently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWaiting(Event):
    """The run was parked: it only waits, and no process drives it. Live."""

    waits_for: tuple[str, ...]
    """The names of the signals that it waits for."""
    due: float | None
    """When it is due, in seconds since the Unix epoch; None if it waits for signals only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInterrupted(Event):
    """The run stopped here before its end, and can be resumed. Live."""

    reason: str
    """The type of what stopped it, such as `RunFencedError`, or the exception of a cancellation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported(Event):
    """A method reported its progress by `asyncflow.report`. Live."""

    invocation: str
    """The invocation, such as `fetch:1`."""
    done: float
    """How much of its work is done."""
    total: float | None = None
    """Of how much; None if that is not known."""
    text: str = ""
    """What it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed(Event):
    """A method emitted a value by `asyncflow.stream`. Live."""

    invocation: str
    """The invocation, such as `fetch:1`."""
    value: Any
    """The value, the same object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsLost(Event):
    """This reader was slower than the events, which it has not read: they were dropped before the next one. Live.

    `flow` is empty; `run_id` is that of the run only for a reader of `RunHandle.events`, and empty for others.
    """

    count: int
    """How many events were dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateEdited(Event):
    """The state was edited from outside."""
