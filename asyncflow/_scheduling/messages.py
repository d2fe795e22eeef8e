"""The scheduler's messages: happenings in the past tense go in, commands in the imperative come out."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "Command",
    "Fail",
    "Finish",
    "Happening",
    "Invocation",
    "MethodRaised",
    "MethodReturned",
    "Resumed",
    "RunLater",
    "RunMethod",
    "Seen",
    "Started",
    "Timing",
    "Transition",
]


class Invocation(NamedTuple):
    """One execution of a method for one trigger, numbered by occurrence within its pass."""

    method: str
    occurrence: int
    cycle: str
    """The cycle it belongs to: '' is the run's own, others are named by the key of the completion that opened them."""
    ancestry: frozenset[str]
    """The methods that it descends from within its cycle, its own method included."""
    arguments: tuple[tuple[str, str], ...] = ()
    """(parameter, key of the invocation whose result fills it); the parameter '' is the positional one."""

    @property
    def key(self) -> str:
        """The key within the pass, such as `fetch:3`."""
        return f"{self.method}:{self.occurrence}"


class Seen(NamedTuple):
    """One part of a join that has arrived."""

    cycle: str
    ancestry: frozenset[str]
    source: str
    """The key of the invocation whose result it carries; '' if that result will not be needed."""


# ---- happenings ------------------------------------------------------------------------------------------------


class Started(NamedTuple):
    """A pass started."""

    deadline: float = 0.0
    """When its time limit passes, in seconds since the Unix epoch; 0 if it has none."""


class Resumed(NamedTuple):
    """A pass was resumed from storage."""

    deadline: float | None = None
    """A new time limit, as in `Started`; None: the present one stays."""


class MethodReturned(NamedTuple):
    """An invocation completed successfully; a router's completion also carries a label."""

    key: str
    label: str | None = None


class MethodRaised(NamedTuple):
    """An attempt of an invocation raised an exception."""

    key: str
    retry_at: float | None = None
    """When the next attempt is due, in seconds since the Unix epoch; None if there is none: then the invocation has failed."""


Happening = Started | Resumed | MethodReturned | MethodRaised


# ---- commands --------------------------------------------------------------------------------------------------


class RunMethod(NamedTuple):
    """Start this invocation."""

    invocation: Invocation


class RunLater(NamedTuple):
    """Start a further attempt of this invocation at a time, unless the pass is failing by then."""

    invocation: Invocation
    at: float = 0.0
    """In seconds since the Unix epoch; 0: now."""


class Finish(NamedTuple):
    """Nothing is left to run: the pass is over, and this invocation's result is its output."""

    key: str


class Fail(NamedTuple):
    """A method raised, and all methods that ran at the same time have ended."""


Command = RunMethod | RunLater | Finish | Fail


# ---- what a happening changes ----------------------------------------------------------------------------------


class Timing(NamedTuple):
    """What one happening changes in the attempts and time limits of a pass. Most happenings change nothing of these."""

    retried: tuple[str, float] | None = None
    """(key, time): an attempt of this pending invocation failed, and its next attempt is due then."""
    deadline: float | None = None
    """The pass's time limit, if this happening sets another one; 0 removes it."""


class Transition(NamedTuple):
    """What one happening changes in a `Progress`: the delta that a checkpoint stores, and that `Progress.fold` applies."""

    completed: str = ""
    failed: str = ""
    resumed: bool = False
    enabled: tuple[Invocation, ...] = ()
    latched: tuple[tuple[str, str, Seen], ...] = ()
    """(listener, the name that arrived, how it arrived)."""
    skipped: tuple[str, ...] = ()
    """The `or_` listeners that had already fired in this cycle."""
    timing: Timing | None = None
    """What it changes in attempts and time limits, if anything."""

    @property
    def keeps_result(self) -> bool:
        """Whether an invocation or a join now needs the result of the completed invocation."""
        key, _, _, enabled, latched, _, _ = self
        for *_, arguments in enabled:
            for _, source in arguments:
                if source == key:
                    return True
        return any(seen.source == key for _, _, seen in latched) if latched else False
