"""What is shown of runs: frozen, with plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .._failure import FailedAttempt
from ..persistence.protocol import RunEntry
from .values import Path

__all__ = [
    "Change",
    "Driver",
    "InboxSignal",
    "MethodActivity",
    "PendingInvocation",
    "RunDetail",
    "RunError",
    "Span",
    "Wait",
]

Doing = Literal["running", "waiting", "retrying", "failed", "held", "interrupted"]
"""What a pending invocation does.

    running       its method runs, as far as the storage shows it
    waiting       its method waits: in `sleep`, `wait_for`, `run_child`, or for the next attempt of a step
    retrying      an attempt of it failed, and the next one is due
    failed        it raised
    held          it has not started, because a method has failed
    interrupted   nothing drives its run
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Who drives a run."""

    owner: str
    """The id of the owner; '' if the storage does not say it."""
    process: str = ""
    """The process, such as "process 4711 on host", if it is known."""
    is_alive: bool = True
    """Whether it is alive, as far as this process knows. Otherwise the run is interrupted."""
    is_here: bool = False
    """Whether it is this process."""
    seconds_left: float | None = None
    """The seconds until its lease expires unless it is renewed; None if it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """One thing that a run waits for."""

    kind: Literal["signal", "timer", "sleep", "attempt", "step", "child", "limit"]
    """What for: a signal; a timer of a listener; the end of a sleep; the next attempt of a method, or of a step in it; a child run; or
    the time limit of the pass, with which it fails."""
    name: str
    """The name of the signal, the timer or the step, the method that is tried again, or the id of the child."""
    invocation: str = ""
    """The invocation that waits, such as `fetch:1`; empty if none runs yet."""
    method: str = ""
    """The method that waits, or that runs next."""
    due_at: float | None = None
    """When it is due, in seconds since the Unix epoch; None: at no time."""
    attempt: int = 0
    """The number of the attempt that follows; 0 for other waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingInvocation:
    """An invocation that has not completed."""

    invocation: str
    """Its key, such as `fetch:1`."""
    method: str
    """The name of the method."""
    doing: Doing
    """What it does."""
    attempts: int = 0
    """How many attempts of it have failed."""
    errors: tuple[FailedAttempt, ...] = ()
    """The newest of these, as far as they are stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunError:
    """An exception that a method of the present pass raised, as it is stored."""

    method: str
    """The name of the method; empty for the time limit of the run."""
    invocation: str
    """The invocation that raised, such as `fetch:1`."""
    type: str
    """The type with its module, such as `builtins.KeyError`."""
    message: str
    """The exception as text."""
    traceback: str = field(default="", repr=False)
    """The traceback as text."""
    seq: int
    """The seq of the checkpoint that stores it."""
    at: float
    """When that was stored, in seconds since the Unix epoch."""
    attempts: tuple[FailedAttempt, ...] = field(default=(), repr=False)
    """The attempts that raised, this one included; the newest 10 at most."""
    is_open: bool = True
    """Whether the invocation still counts as failed: it was not tried again since, by a resume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSignal:
    """A signal that nothing has taken yet."""

    id: int
    """Its position: larger for signals that came later."""
    name: str
    """The name of the signal; `finish` in brackets for the request to end the run."""
    payload: Any
    """What was sent with it."""
    key: str
    """The idempotency key; empty if its sender gave none."""
    sender: str
    """Who sent it; empty if that is unknown."""
    at: float
    """When it was sent, in seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodActivity:
    """What happened to a method in the present pass."""

    method: str
    """The name of the method."""
    state: Literal["completed", "failed", "running", "waiting", "retrying", "held", "interrupted", "skipped"]
    """What its newest invocation does, or did; of several that are pending, the worst: failed before retrying before others."""
    started: int = 0
    """How many invocations of it were begun."""
    completed: int = 0
    """How many have completed."""
    failed: int = 0
    """How many of its pending invocations have failed."""
    attempts_failed: int = 0
    """How many attempts of its pending invocations have failed."""
    skipped: int = 0
    """How often it was not started again, as the listener of an `or_` that had fired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetail:
    """All that is stored of a run, as it is at one moment. Of what a backend does not keep, there is nothing."""

    entry: RunEntry
    """The entry of the catalog: status, flow, pass, seq, times, takeovers."""
    driver: Driver | None = None
    """Who drives the run; None if it has no owner."""
    waits: tuple[Wait, ...] = ()
    """What the run waits for."""
    pending: tuple[PendingInvocation, ...] = ()
    """Its invocations that have not completed."""
    methods: tuple[MethodActivity, ...] = ()
    """What happened to each method in the present pass, as far as it took part."""
    inputs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The inputs that the pass was started with."""
    state: Any = field(default=None, repr=False)
    """The state."""
    result: Any = field(default=None, repr=False)
    """The result of a finished run."""
    errors: tuple[RunError, ...] = ()
    """The exceptions of the present pass, the oldest first."""
    inbox: tuple[InboxSignal, ...] = ()
    """The signals that nothing has taken, the oldest first."""
    parent: str = ""
    """The id of the parent of a child run."""
    children: tuple[RunEntry, ...] = ()
    """Its direct children, in the order in which they were first stored."""
    forked_from: tuple[str, int] | None = None
    """(id, seq) of the run that this one is a copy of, as of that checkpoint; None for others."""
    deadline: float | None = None
    """When the time limit of the pass passes, in seconds since the Unix epoch; None if it has none."""
    ending: str = ""
    """"finish", "continue" or "stop" if the pass is ending before its time."""
    version: str = ""
    """The version of asyncflow that wrote the newest checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference between two states."""

    path: Path
    """The place in the state, such as `("items", 3, "name")`."""
    kind: Literal["added", "removed", "changed"]
    """Whether the place exists only after it, only before it, or in both."""
    before: Any = None
    """The earlier value; None where it was added."""
    after: Any = None
    """The later value; None where it was removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of the time of a run: an attempt of an invocation, or a wait."""

    kind: Literal["attempt", "pause", "timer", "sleep", "signal", "held"]
    """An attempt of a method; the pause before the next attempt; the wait of a listener's timer; a wait in `sleep` or `wait_for`; or the
    time for which an invocation was held back, because another one had failed."""
    name: str
    """The method, the timer or the signal."""
    invocation: str
    """The invocation that it belongs to; empty for a timer."""
    start: float
    """When it began, in seconds since the Unix epoch, as far as the checkpoints show it."""
    end: float | None
    """When it ended; None if it has not. The time at which a process died is not stored: then the time of the resume."""
    outcome: Literal["completed", "failed", "retrying", "interrupted", "dropped", "open"]
    """How it ended."""
    seq: int
    """The seq of the checkpoint with which it began."""
