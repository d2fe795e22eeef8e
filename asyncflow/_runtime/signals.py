"""The signals of one pass: take them from the inbox when a listener can fire with them, and end the pass when nothing waits for more."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, Final, Protocol, cast

import anyio

from .._definition.signals import Signal
from .._scheduling.messages import Command, EndAsked, PassEnded, SignalTaken
from .._scheduling.progress import Progress
from .._scheduling.signals import expected, is_waiting, next_signal
from ..errors import InboxChanged
from ..persistence.inbox import FINISH, Inbox, StoredSignal
from .codecs import Codecs
from .journal import Journal
from .owner_check import OwnerCheck
from .payloads import Problem, kept_of
from .recorder import Recorder
from .scope import Scope
from .settings import Settings
from .timing import virtual_clock
from .unstored import UnstoredInboxes

__all__ = ["OpenWait", "Signals", "Source", "Step"]

logger = logging.getLogger("asyncflow")

CHECK_SECONDS: Final = 5.0
"""Seconds between two looks at the owner of a run that only waits."""


Step = Callable[[Scope, int], Coroutine[Any, Any, tuple[Command, ...]]]


class Source(Protocol):
    """Where the signals of a pass come from: a backend with `Inbox` or, for runs that are not stored, this process's memory."""

    async def inbox(self, run_id: str) -> list[StoredSignal]: ...
    async def set_aside(self, signal: StoredSignal, problem: str) -> None: ...
    def watch(self, run_id: str, arrived: Callable[[], object]) -> AbstractContextManager[object]: ...


class Working(Protocol):
    """What works on a pass."""

    tasks: int

    async def take_turn(self) -> bool: ...
    def let_others_run(self) -> None: ...


class OpenWait:
    """A method that waits for a signal, in `wait_for`."""

    __slots__ = ("is_left", "is_received", "key", "signal", "step", "until")

    def __init__(self, key: str, step: str, signal: str, until: float | None) -> None:
        self.key = key
        """Of its invocation."""
        self.until = until
        """When it ends, in seconds since the Unix epoch; None: never."""
        self.step = step
        """The name under which the payload is stored."""
        self.signal = signal
        self.is_left = False
        """Whether its method has ended without it."""
        self.is_received = anyio.Event()
        """Set once the payload is durable."""


class Signals:
    """Takes the signals of one pass, one after the other."""

    __slots__ = (
        *(
            "_check",
            "_clock",
            "_codecs",
            "_definition",
            "_is_stale",
            "_journal",
            "_known",
            "_logged",
            "_progress",
            "_recorder",
            "_run_id",
            "_source",
        ),
        *("_has_ended", "_settling", "_taking", "_wait", "_waits"),
    )

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        codecs: Codecs,
        recorder: Recorder | None,
        run_id: str,
        source: Source,
        check: OwnerCheck | None,
        clock: Callable[[], float],
    ) -> None:
        """`check`: notices that another owner has the run, if nothing else does."""
        self._check = check
        self._clock = clock
        self._definition = settings.definition
        self._journal = journal
        self._progress: Progress = journal.progress
        self._codecs = codecs
        self._recorder = recorder
        self._run_id = run_id
        self._logged = {"run_id": run_id, "flow": settings.name}
        """The fields of its log lines."""
        self._source = source
        self._known: list[StoredSignal] = []
        self._is_stale = True
        self._wait: anyio.Event | None = None
        self._waits: list[OpenWait] = []
        """In the order in which they began."""
        self._taking: tuple[str, str, anyio.Event] | None = None
        """The invocation and the step for which a signal is being taken, and what is set when that is done."""
        self._settling: list[tuple[float, anyio.Event]] = []
        """The due times before which signals are taken first, and what is set when none is left. See `earlier`."""
        self._has_ended = False

    async def work(
        self,
        launch: Callable[[tuple[Command, ...]], object],
        is_over: Callable[[], bool],
        parks: Callable[[int], bool],
        steps: Working,
    ) -> None:
        """Take signals until the pass ends, and end it when nothing is left to run or to wait for.

        `launch`: executes commands. `is_over`: whether the pass fails or ends. `parks`: stops the pass here if it only waits, and
        returns whether it does; its argument is the largest id of the signals that are known. `steps`: what works on the pass.
        """
        with self._settling_at_the_end():
            while not (is_over() or self._progress.failed):
                if self._is_stale:
                    await self._read()
                    continue  # the pass may have ended meanwhile
                if (request := self._request_to_finish()) is not None:
                    launch(await self._stop(request))
                    continue
                if self._progress.ending:
                    if self._progress.is_open or self._journal.following is not None:
                        await self._wait_for_change()
                    else:
                        launch(await self._end())
                    continue
                if (found := self._next()) is not None:
                    if await steps.take_turn():
                        continue
                    steps.tasks += 1
                    try:
                        launch(await self._take(*found))
                    finally:
                        steps.tasks -= 1
                    steps.let_others_run()
                elif self._progress.is_open or is_waiting(self._definition, self._progress):
                    if parks(max((stored.id for stored in self._known), default=0)):
                        return
                    await self._wait_for_change()
                else:
                    launch(await self._end())

    @contextmanager
    def _settling_at_the_end(self) -> Iterator[None]:
        """At the end of the work, let everything continue that waits until no signal is left to take first. See `earlier`."""
        try:
            yield
        finally:
            self._has_ended = True
            for _, settled in self._settling:
                settled.set()

    def watching(self) -> AbstractContextManager[object]:
        """Return a context manager for the pass, within which it learns of its signals."""
        if isinstance(self._source, UnstoredInboxes):
            return self._source.open(
                self._run_id, self._arrived, self._expected, lambda: self._journal.following is not None
            )
        return self._source.watch(self._run_id, self._arrived)

    def _expected(self) -> frozenset[str]:
        return expected(self._definition, self._progress) | {wait.signal for wait in self._waits}

    async def _read(self) -> None:
        self._is_stale = False
        self._known = await self._source.inbox(self._run_id)

    async def is_empty(self) -> bool:
        """Before `work`: read the inbox, and return whether it is empty."""
        await self._read()
        return not self._known

    @asynccontextmanager
    async def earlier(self, due: float) -> AsyncIterator[None]:
        """First take the signals that were sent before a due time, wherever they were sent. Those that came later wait meanwhile.

        Whether a run is driven at that time does not decide which comes first.
        """
        entry = due, anyio.Event()
        self._settling.append(entry)
        try:
            if not self._has_ended:
                self._arrived()
                await entry[1].wait()
            yield
        finally:
            self._settling.remove(entry)
            self.changed()

    def _due_first(self) -> tuple[float, anyio.Event] | None:
        return min(self._settling, key=lambda entry: entry[0], default=None)

    async def _wait_for_change(self) -> None:
        """Wait until the progress or the inbox has changed. Check the owner now and then, if nothing else does."""
        self._wait = anyio.Event()
        first = self._due_first()
        if first is not None and (self._progress.ending or self._first_timer() >= first[0]):  # else a timer comes first
            first[1].set()
        if self._check is None or virtual_clock.get() is not None:
            await self._wait.wait()
            return
        with anyio.move_on_after(CHECK_SECONDS) as scope:
            await self._wait.wait()
        if scope.cancelled_caught:
            await self._check()

    def is_declared(self, signal: Signal[Any]) -> bool:
        """Whether the flow declares a signal."""
        return self._definition.signals.get(signal.name) == signal

    async def is_durable(self, key: str, step: str) -> None:
        """Wait while a signal is being taken for a step of an invocation."""
        if self._taking is not None and self._taking[:2] == (key, step):
            await self._taking[2].wait()

    @contextmanager
    def waited_for(self, wait: OpenWait) -> Iterator[None]:
        """Take a signal for a method that waits for it."""
        self._waits.append(wait)
        self.changed()
        try:
            yield
        finally:
            self._waits.remove(wait)

    def _next(self) -> tuple[StoredSignal, OpenWait | None] | None:
        """Return the signal to take next, and the method that waits for it; None in its place: it is for listeners."""
        known = self._before(self._first_timer())
        if (first := self._due_first()) is not None:
            known = [each for each in known if each.signal.at < first[0]]
        for wait in self._waits:
            stored = next((each for each in self._before(wait.until, known) if each.signal.name == wait.signal), None)
            if stored is not None and not wait.is_left and not wait.is_received.is_set():
                return stored, wait
        place = next_signal(self._definition, self._progress, [stored.signal.name for stored in known])
        return None if place is None else (known[place], None)

    def _first_timer(self) -> float:
        return min((timer.due for timer in self._progress.timers.values()), default=math.inf)

    def _before(self, due: float | None, known: list[StoredSignal] | None = None) -> list[StoredSignal]:
        """Return the signals that were sent before a due time that has passed; if it has not, all: what is due is not late yet."""
        known = self._known if known is None else known
        if due is None or due > self._clock():
            return known
        return [each for each in known if each.signal.at < due]

    async def _take(self, stored: StoredSignal, wait: OpenWait | None) -> tuple[Command, ...]:
        """Take a signal out of the inbox, for a method that waits for it or for listeners. Return the commands that follow."""
        self._known.remove(stored)
        if wait is None:
            return await self._record(stored, None)
        settled = anyio.Event()
        self._taking = wait.key, wait.step, settled
        try:
            return await self._record(stored, wait)
        finally:
            self._taking = None
            settled.set()

    def _request_to_finish(self) -> StoredSignal | None:
        """Return the signal that asks the run to finish, unless it does so already, or its next pass has to take it."""
        if self._journal.following is not None or self._progress.ending in ("finish", "stop"):
            return None
        return next((each for each in self._known if each.signal.name == FINISH), None)

    async def _stop(self, stored: StoredSignal) -> tuple[Command, ...]:
        """Take the signal that asks the run to finish. Return the commands that follow."""
        self._known.remove(stored)
        commands, checkpoint = self._journal.noticed(EndAsked())
        if self._recorder is not None and checkpoint is not None:
            await self._recorder.commit(checkpoint, lambda c: self._storage.append_taking(c, stored))
        else:
            await self._source.set_aside(stored, "")
        return commands

    def notified_by(self, step: Step) -> Step:
        """Return a function that makes a step, and lets this look again: the step has changed the progress."""

        async def notifying(scope: Scope, turn: int) -> tuple[Command, ...]:
            commands = await step(scope, turn)
            self.changed()
            return commands

        return notifying

    def changed(self) -> None:
        """Look again, because the progress has changed, or the pass fails or ends."""
        if self._wait is not None:
            self._wait.set()

    def _arrived(self) -> None:
        self._is_stale = True
        self.changed()

    @property
    def _storage(self) -> Inbox:
        assert self._recorder is not None, "asked only for stored runs"
        return cast(Inbox, self._recorder.persistence)

    async def _record(self, stored: StoredSignal, wait: OpenWait | None) -> tuple[Command, ...]:
        """Record that a signal is taken, or set it aside if its payload does not fit. Return the commands that follow."""
        kept = kept_of(stored, self._codecs, is_encoded=self._recorder is not None)
        if isinstance(kept, Problem):
            logger.error(
                "signal set aside: the payload of %s, sent to run %s, does not fit its type: %s",
                stored.signal.name,
                self._run_id,
                kept.text,
                extra=self._logged,
            )
            await self._source.set_aside(stored, kept.text)
            return ()
        taken = (
            SignalTaken(stored.signal.name) if wait is None else SignalTaken(stored.signal.name, wait.key, wait.step)
        )
        commands, checkpoint = self._journal.noticed(taken, kept)
        if self._recorder is not None and checkpoint is not None:
            await self._recorder.commit(checkpoint, lambda c: self._storage.append_taking(c, stored))
        else:
            await self._source.set_aside(stored, "")
        if wait is not None:
            wait.is_received.set()
        return commands

    async def _end(self) -> tuple[Command, ...]:
        """End the pass, unless a signal has arrived since the inbox was read. Return the commands that follow."""
        newest = max((stored.id for stored in self._known), default=0)
        before = None if self._recorder is None else self._recorder.chain.position()
        commands, checkpoint = self._journal.noticed(PassEnded())
        if self._recorder is None or checkpoint is None or before is None:
            if isinstance(self._source, UnstoredInboxes) and not self._source.end(self._run_id, newest):
                self._is_stale = True
                return ()
            self._report_left()
            return commands
        try:
            await self._recorder.commit(checkpoint, lambda c: self._storage.append_last(c, newest))
        except InboxChanged:
            self._recorder.chain.return_to(before)
            self._is_stale = True
            return ()
        self._report_left()
        return commands

    def _report_left(self) -> None:
        """Log which signals the pass has left: to their senders, they were stored."""
        left = Counter(stored.signal.name for stored in self._known if stored.signal.name != FINISH)
        if left and self._journal.following is None:
            logger.warning(
                "signals not taken: the pass of run %s has ended, and nothing took %s; they are set aside",
                self._run_id,
                ", ".join(f"{name} ({count})" for name, count in sorted(left.items())),
                extra=self._logged,
            )
