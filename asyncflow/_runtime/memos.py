"""The memos of methods: the values that an invocation has stored, under the names of its own steps, such as `sleep #1`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, Protocol

import anyio

from .._scheduling.progress import Progress
from ..errors import LimitExceededError, StateError, StepKeyError
from .journal import Journal
from .recorder import Recorder
from .scope import Scope
from .starts import confirm_ownership

__all__ = ["MEMOS", "Memos", "OfPass", "kind_in"]

MEMOS: Final = 10_000
"""How many values an invocation can store."""


class OfPass(Protocol):
    """What memos need of the pass that they belong to."""

    running: dict[str, Scope]

    def stop(self, why: BaseException) -> None: ...


class Memos:
    """The memos of the invocations of one pass, and the names of the steps that are in progress."""

    __slots__ = (
        "_begun",
        "_checkpoints_all",
        "_has_shown_progress",
        "_journal",
        "_open",
        "_pass",
        "_progress",
        "_recorder",
        "_thread",
        "abandoned",
    )

    def __init__(
        self, journal: Journal, recorder: Recorder | None, of_pass: OfPass, thread: int, checkpoints_all: bool
    ) -> None:
        """`thread`: the id of the thread that runs the event loop."""
        self._journal = journal
        self._progress: Progress = journal.progress
        self._recorder = recorder
        self._pass = of_pass
        self._thread = thread
        self._checkpoints_all = checkpoints_all
        self._has_shown_progress = False
        self._begun: dict[tuple[str, str], tuple[Scope, int]] = {}
        """Of each invocation and kind of step: what they belong to, an attempt of the method or of a step, and how many have begun."""
        self._open: set[tuple[str, str]] = set()
        """The steps that are in progress, or have begun and not ended in this process, by invocation and name."""
        self.abandoned: dict[tuple[str, str], list[str]] = {}
        """Of each invocation and kind of step: the names of those that were cancelled. What was taken for them is for the next one."""

    @contextmanager
    def named(self, scope: Scope, call: str, kind: str, key: str | None) -> Iterator[str]:
        """Give a step its name, which is the same when the method runs again. Raises `StateError`, `StepKeyError`.

        `call`: the function of asyncflow that was called. `kind`: what the name begins with, and within which steps without a key are
        counted; also what an error calls the step.
        """
        kind = kind_in(scope, kind)
        method, place, owner = scope.method.name, (scope.key, kind), scope if scope.step else scope.whole
        is_running = scope.is_open and scope.whole.is_open and self._pass.running.get(scope.key) is scope.whole
        if not is_running or threading.get_ident() != self._thread:
            raise StateError(
                f"asyncflow.{call}() was called in code that {method} does not await on the run's event loop",
                run_id=scope.run_id,
                method=method,
            )
        of, number = self._begun.get(place, (owner, 0))
        number = number + 1 if of is owner else 1
        name = f"{kind} #{number}" if key is None else f"{kind} ={key}"
        is_unnamed_open = key is None and any(
            of == scope.key and each.startswith(f"{kind} #") for of, each in self._open
        )
        if is_unnamed_open or (scope.key, name) in self._open:
            raise StepKeyError(
                f"{method} began a {call} while another one of the same name was in progress; give each a key: {call}(..., key=...)",
                run_id=scope.run_id,
                method=method,
            )
        if key is None:
            if place not in self._begun:
                self._begun = {known: begun for known, begun in self._begun.items() if known[0] in self._pass.running}
            self._begun[place] = (owner, number)
        self._open.add((scope.key, name))
        try:
            yield name
        except anyio.get_cancelled_exc_class():
            self.abandoned.setdefault(place, []).append(name)
            raise
        finally:
            self._open.discard((scope.key, name))

    def of(self, scope: Scope) -> dict[str, Any]:
        """Return the memos of an invocation, by name."""
        known = self._progress.attempts.get(scope.key)
        return (known.memos if known is not None else None) or {}

    async def note(self, scope: Scope, name: str, value: Any, *, is_last: bool = False) -> None:
        """Store a value under the name of a step, in place of an earlier one. `is_last`: see `Journal.step_stored`.

        Raises `LimitExceededError`. What the backend raises ends the run.
        """
        if scope.key not in self._progress.pending:
            return  # the end of the pass has dropped it
        memos = self.of(scope)
        if name not in memos and len(memos) >= MEMOS:
            raise LimitExceededError(
                f"{scope.method.name} has stored {MEMOS} values in one invocation, the maximum; split the method",
                run_id=scope.run_id,
                method=scope.method.name,
            )
        checkpoint = self._journal.step_stored(scope.key, name, value, is_last, is_recorded=self._checkpoints_all)
        if checkpoint is not None and self._recorder is not None:
            try:
                await self._recorder.commit(checkpoint)
            except Exception as error:  # a backend may raise anything
                await self.end_run(error)

    async def end_run(self, error: Exception) -> NoReturn:
        """End the run with an error that is not the method's: it reaches the method as a cancellation."""
        self._pass.stop(error)
        await anyio.sleep_forever()
        raise AssertionError("only a cancellation ends the sleep")

    async def show_progress(self) -> None:
        """After a method that was run again has reached its step: reset the count of takeovers, which no checkpoint does here."""
        if self._recorder is not None and self._recorder.fence is not None and not self._has_shown_progress:
            self._has_shown_progress = True
            try:
                await confirm_ownership(self._recorder, always=True)
            except Exception as error:  # a backend may raise anything
                await self.end_run(error)

    def leave(self, scope: Scope) -> None:
        """Forget which steps of a method were cancelled, as it has ended."""
        if self.abandoned:
            self.abandoned = {place: names for place, names in self.abandoned.items() if place[0] != scope.key}


def kind_in(scope: Scope, kind: str) -> str:
    """Return a kind of step as it is named in this scope: what a step's function waits for has names below the step's."""
    return f"{kind} in {scope.step}" if scope.step else kind
