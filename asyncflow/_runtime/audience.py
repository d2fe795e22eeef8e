"""Who observes runs: observers, which are called with each event, and readers, which iterate over them in their own time."""

from __future__ import annotations

import contextlib
import itertools
import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Self, TypeVar

import anyio

from .._waiting import call_on, current_loop
from ..events import (
    Event,
    EventsLost,
    MeasuringObserver,
    MethodFinished,
    MethodObserver,
    MethodSkipped,
    MethodStarted,
    Observer,
    RunBegins,
    RunObserver,
)
from ..persistence.checkpoint import Checkpoint
from .observe import events_from
from .timing import now

__all__ = ["LIMIT", "Audience", "EventStream", "Reader", "checked_observers", "joined", "live"]

logger = logging.getLogger("asyncflow")

LIMIT: Final = 1_000
"""Live events that a reader may be behind, and as many stored ones. After that, its oldest ones are dropped."""

E = TypeVar("E", bound=Event)

_numbers: Final = itertools.count()
"""The numbers of the live events of this process."""


def live(kind: type[E], run_id: str, flow: str, at: float, **fields: Any) -> E:
    """Return a live event."""
    return kind(run_id=run_id, flow=flow, seq=-1, n=next(_numbers), at=at, **fields)


class Reader:
    """The events that one reader has not read yet. It never makes a run wait: events that it is too slow for are dropped and counted."""

    __slots__ = (
        *("__weakref__", "_arrivals", "_changed", "_live", "_lost", "_rereads", "_stored"),
        *("has_gap", "is_over", "run_id"),
    )

    def __init__(self, run_id: str | None = None, *, rereads: bool = False) -> None:
        """`run_id`: of the only run whose events it reads; None: it reads those of all runs.

        `rereads`: whether it reads stored events from the storage when they were dropped.
        """
        self.run_id = run_id
        self.is_over = False
        self.has_gap = False
        """Whether stored events have to be read from the storage."""
        self._rereads = rereads
        self._arrivals = 0
        self._live: deque[tuple[int, Event]] = deque()
        self._stored: deque[tuple[int, Event]] = deque()
        self._lost = 0
        self._changed: anyio.Event | None = None

    def put(self, event: Event) -> None:
        """Add an event."""
        lane = self._live if event.is_live else self._stored
        if len(lane) >= LIMIT:
            lane.popleft()
            if self._rereads and not event.is_live:
                self.has_gap = True
            else:
                self._lost += 1
        self._arrivals += 1
        lane.append((self._arrivals, event))
        self.wake()

    def wake(self) -> None:
        """Set `next_change`."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def end(self) -> None:
        """Add no more events: once these are read, there are no others."""
        self.is_over = True
        self.wake()

    def take(self, position: tuple[int, int] | None = None) -> Event | None:
        """Return the next event, and remove it; None if there is none now.

        `position`: that of the last stored event that was read. Where others are missing after it, `has_gap` is set, and this returns None.
        """
        if self._lost:
            count, self._lost = self._lost, 0
            return live(EventsLost, self.run_id or "", "", now(), count=count)
        lanes = [lane for lane in (self._live, self._stored) if lane]
        if not lanes or self.has_gap:
            return None
        lane = min(lanes, key=lambda lane: lane[0][0])
        event = lane[0][1]
        if position is not None and event.seq > position[0] + 1:
            self.has_gap = True
            return None
        lane.popleft()
        return event

    def forget_until(self, position: tuple[int, int]) -> None:
        """Remove the stored events up to this position, and the live events before them: they were read, or are past."""
        before, self.has_gap = 0, False
        while self._stored and self._stored[0][1].position <= position:
            before = self._stored.popleft()[0]
        while self._live and self._live[0][0] < before:
            self._live.popleft()

    @property
    def next_change(self) -> anyio.Event:
        """An event that is set when there is another event, or no more will come, or `wake` is called. It is set if that is so now."""
        if self._live or self._stored or self._lost or self.is_over:
            changed = anyio.Event()
            changed.set()
            return changed
        self._changed = self._changed or anyio.Event()
        return self._changed


class EventStream:
    """The events of runs as they come, to iterate over once: `async for event in flow.events()`.

    It gets what happens from the call on that returned it. If its reader is slow, it drops events, live ones and stored ones, each after
    1,000 that are unread, and an `EventsLost` says how many. Leave it by `aclose`, or as an async context manager, or drop it.

    - `reader`: what keeps the unread events; `events()` makes it.
    """

    def __init__(self, reader: Any) -> None:
        self._reader: Reader = reader

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event. Raises `StopAsyncIteration` once there are no more."""
        while (event := self._reader.take()) is None:
            if self._reader.is_over:
                raise StopAsyncIteration
            await self._reader.next_change.wait()
        return event

    async def aclose(self) -> None:
        """Read no more events."""
        self._reader.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.aclose()


class Audience:
    """All that observe some runs. `outer`: others that observe these runs, too, such as the runner's."""

    __slots__ = (
        "_loop",
        "_measuring",
        "_needs_ends",
        "_observers",
        "_of_methods",
        "_of_runs",
        "_readers",
        "is_of_one",
        "outer",
    )

    def __init__(
        self, observers: Sequence[Observer] = (), outer: Audience | None = None, *, is_of_one: bool = False
    ) -> None:
        """`is_of_one`: it observes one run, and none of its children."""
        self.outer = outer
        self.is_of_one = is_of_one
        self._observe_with(observers)
        self._readers: list[weakref.ref[Reader]] = []
        self._loop: object = None

    def _observe_with(self, observers: Iterable[Observer]) -> None:
        """Sort the observers by what they can do: to ask a protocol costs a microsecond, at each method."""
        self._observers = list(observers)
        ignored = [getattr(observer, "ignores", ()) for observer in self._observers]
        self._needs_ends = any(not {MethodFinished, MethodSkipped} <= set(each) for each in ignored)
        self._of_methods = [observer for observer in self._observers if isinstance(observer, MethodObserver)]
        self._of_runs = [observer for observer in self._observers if isinstance(observer, RunObserver)]
        self._measuring = [observer for observer in self._observers if isinstance(observer, MeasuringObserver)]

    def leave_out(self, others: Audience) -> None:
        """Let go of the observers that others have, too: each is called once for an event."""
        known = {id(observer) for audience in others.all() for observer in audience._observers}
        self._observe_with([observer for observer in self._observers if id(observer) not in known])

    def all(self) -> Iterator[Audience]:
        """Yield this audience and all outer ones."""
        audience: Audience | None = self
        while audience is not None:
            yield audience
            audience = audience.outer

    def reader(self, run_id: str | None = None, *, rereads: bool = False) -> Reader:
        """Return a new reader, which has no events yet. It ends with the runs, or when it is dropped. See `Reader`."""
        with contextlib.suppress(RuntimeError):  # before there is an event loop
            self._loop = current_loop()
        reader = Reader(run_id, rereads=rereads)
        self._readers.append(weakref.ref(reader, self._forget))
        return reader

    def _forget(self, reader: weakref.ref[Reader]) -> None:
        with contextlib.suppress(ValueError):  # `end` has forgotten all
            self._readers.remove(reader)

    def hears(self, run_id: str) -> bool:
        """Whether something observes a run."""
        if self._observers or (self.outer is not None and self.outer.hears(run_id)):
            return True
        return bool(self._readers) and any(self._open_readers(run_id))

    def hears_ends(self, run_id: str) -> bool:
        """Whether something observes also the ends of methods: most events are those, and to make them takes time."""
        return any(each._needs_ends or any(each._open_readers(run_id)) for each in self.all())

    def wake(self, run_id: str) -> None:
        """Let the readers of a run look again: it has ended."""
        for reader in self._open_readers(run_id):
            if reader.run_id == run_id:
                reader.wake()

    def end(self) -> None:
        """End all readers: there are no more events."""
        readers, self._readers = self._readers, []
        for known in readers:
            if (reader := known()) is not None:
                reader.end()

    def _open_readers(self, run_id: str) -> Iterator[Reader]:
        for known in self._readers:
            reader = known()
            if reader is not None and not reader.is_over and reader.run_id in (None, run_id):
                yield reader

    # ---- emitting --------------------------------------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """Pass an event on."""
        for reader in self._open_readers(event.run_id):
            reader.put(event)
        for observer in tuple(self._observers):
            try:
                observer.on_event(event)
            except Exception:  # a user's observer may raise anything
                self.disable(observer, event.run_id)
        if self.outer is not None:
            self.outer.emit(event)

    def emit_stored(self, checkpoint: Checkpoint) -> None:
        """Emit the events of a checkpoint that is durable."""
        is_end = checkpoint.kind == "method" and checkpoint.status == "running"
        if self.hears_ends(checkpoint.run_id) if is_end else self.hears(checkpoint.run_id):
            for event in events_from(checkpoint):
                self.emit(event)

    def emit_live(self, kind: type[Event], run_id: str, flow: str, at: float, **fields: Any) -> None:
        """Emit a live event."""
        if self.hears(run_id):
            self.emit(live(kind, run_id, flow, at, **fields))

    def from_thread(self, call: Callable[[], object]) -> None:
        """Call a function on the event loop of the runs, soon."""
        loop = self._loop or (None if self.outer is None else self.outer._loop)
        if loop is not None:
            call_on(loop, call)

    def around(self, started: MethodStarted) -> AbstractContextManager[object]:
        """Emit the start of a method. Return what is to be entered around it."""
        self._loop = current_loop()
        self.emit(started)
        return Around(tuple(self._around()), started)

    def _around(self) -> Iterator[tuple[Audience, MethodObserver]]:
        """Yield who is to be entered around a method."""
        for audience in self.all():
            for observer in audience._of_methods:
                yield audience, observer

    def begin(self, begins: RunBegins) -> str:
        """Report that a pass is about to be driven. Return what is kept with the run."""
        kept = ""
        for audience in self.all():
            for observer in tuple(audience._of_runs):
                try:
                    kept = kept or str(observer.on_begin(begins))
                except Exception:  # a user's observer may raise anything
                    audience.disable(observer, begins.run_id)
        return kept or begins.trace

    def leave(self, run_id: str) -> None:
        """Report that a run is not driven here any more."""
        for audience in self.all():
            for observer in tuple(audience._of_runs):
                try:
                    observer.on_leave(run_id)
                except Exception:  # as above
                    audience.disable(observer, run_id)

    @property
    def is_measuring(self) -> bool:
        """Whether an observer measures."""
        return bool(self._measuring) or (self.outer is not None and self.outer.is_measuring)

    def measured(self, call: Callable[[MeasuringObserver], object], run_id: str) -> None:
        """Pass a measurement on: `call` calls the observer with it."""
        for audience in self.all():
            for observer in tuple(audience._measuring):
                try:
                    call(observer)
                except Exception:  # as above
                    audience.disable(observer, run_id)

    def disable(self, observer: Any, run_id: str) -> None:
        """Call an observer no more, because it has raised the exception that is being handled."""
        self._observe_with([known for known in self._observers if known is not observer])
        about = {"run_id": run_id}
        logger.exception(
            "observer disabled: it raised at an event of run %s, and is not called again", run_id, extra=about
        )


class Around:
    """What observers give for a method, entered around it. Whatever they raise or suppress, the method does not notice."""

    __slots__ = ("_entered", "_observers", "_started")

    def __init__(self, observers: Sequence[tuple[Audience, MethodObserver]], started: MethodStarted) -> None:
        self._observers = observers
        self._started = started
        self._entered: list[tuple[Audience, MethodObserver, AbstractContextManager[object]]] = []

    def __enter__(self) -> None:
        for audience, observer in self._observers:
            try:
                entered = observer.around_method(self._started)
                entered.__enter__()
            except Exception:  # a user's observer may raise anything
                audience.disable(observer, self._started.run_id)
            else:
                self._entered.append((audience, observer, entered))

    def __exit__(self, *raised: Any) -> None:
        for audience, observer, entered in reversed(self._entered):
            try:
                entered.__exit__(*raised)
            except Exception:  # as above
                audience.disable(observer, self._started.run_id)


def checked_observers(given: Iterable[Any], whose: str) -> tuple[Observer, ...]:
    """Return observers as a tuple. Raises `TypeError` for anything else."""
    observers = tuple(given) if isinstance(given, Iterable) else (given,)
    for observer in observers:
        if not isinstance(observer, Observer) or isinstance(observer, type):
            raise TypeError(
                f"observers of {whose} must be objects with a method on_event(event), such as [MyObserver()]; not {observer!r:.80}"
            )
    return observers


def joined(own: Audience | None, outer: Audience | None) -> Audience | None:
    """Return an audience of both. `own`: of one run, or of the runs of one flow object, which is changed."""
    if own is None or outer is None or own is outer:
        return own or outer
    last = own
    last.leave_out(outer)
    while last.outer is not None and last.outer is not outer:
        last = last.outer
        last.leave_out(outer)
    last.outer = outer
    return own
