"""The vocabulary of a run: happenings in the past tense go in, commands in the imperative come out."""

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
    "RunMethod",
    "Seen",
    "Started",
    "Transition",
]


class Invocation(NamedTuple):
    """One execution of a method for one trigger, numbered by occurrence within its pass."""

    method: str
    occurrence: int
    cycle: str
    """The cycle it belongs to: '' is the run's own, others are named by the key of the completion that opened them."""
    ancestry: frozenset[str]
    """The methods that it descends from within its cycle, itself included."""
    arguments: tuple[tuple[str, str], ...] = ()
    """(parameter, key of the invocation whose result fills it); the parameter '' is the positional one."""

    @property
    def key(self) -> str:
        """Its name within the pass, such as `fetch:3`."""
        return f"{self.method}:{self.occurrence}"


class Seen(NamedTuple):
    """One part of a join that has come."""

    cycle: str
    ancestry: frozenset[str]
    source: str
    """The key of the invocation whose result it brought; '' where nobody will ask for that."""


# ---- happenings ------------------------------------------------------------------------------------------------


class Started(NamedTuple):
    """A pass began."""


class Resumed(NamedTuple):
    """A pass was taken up again, from what was stored."""


class MethodReturned(NamedTuple):
    """An invocation ended well; a router's also brought a label."""

    key: str
    label: str | None = None


class MethodRaised(NamedTuple):
    """An invocation ended with an exception."""

    key: str


Happening = Started | Resumed | MethodReturned | MethodRaised


# ---- commands --------------------------------------------------------------------------------------------------


class RunMethod(NamedTuple):
    """Start this invocation."""

    invocation: Invocation


class Finish(NamedTuple):
    """Nothing is left to run: the pass is over, and this invocation's result is its output."""

    key: str


class Fail(NamedTuple):
    """A method raised, and all that ran beside it has ended."""


Command = RunMethod | Finish | Fail


# ---- what a happening changes ----------------------------------------------------------------------------------


class Transition(NamedTuple):
    """What one happening changes in a `Progress`: the delta that a checkpoint stores, and `Progress.fold` applies."""

    completed: str = ""
    failed: str = ""
    resumed: bool = False
    enabled: tuple[Invocation, ...] = ()
    latched: tuple[tuple[str, str, Seen], ...] = ()
    """(listener, the name that came, how it came)."""
    passed_over: tuple[str, ...] = ()
    """The `or_` listeners that had fired in this cycle already."""

    @property
    def keeps_result(self) -> bool:
        """Whether some invocation or join now waits with the result of the completed one."""
        key = self.completed
        for invocation in self.enabled:
            for _, source in invocation.arguments:
                if source == key:
                    return True
        return any(seen.source == key for _, _, seen in self.latched) if self.latched else False
