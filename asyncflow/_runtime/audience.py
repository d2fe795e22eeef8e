"""Who observes runs: observers, which are called with each event, and readers."""

from __future__ import annotations

import contextlib
import inspect
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import AbstractContextManager
from typing import Any, Final

from .._waiting import call_on, current_loop
from ..events import (
    Event,
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
from .readers import Reader, live

__all__ = ["Audience", "checked_observers", "joined"]

logger = logging.getLogger("asyncflow")

LONGEST: Final = 1_000
"""Characters of a text of an observer that are kept with a run, at most. A `traceparent` has 55."""


class Audience:
    """All that observe some runs. `outer`: others that observe these runs, too, such as the runner's."""

    __slots__ = (
        "_loop",
        "_measuring",
        "_needs_ends",
        "_observers",
        "_of_methods",
        "_of_runs",
        "_read",
        "_readers",
        "is_of_one",
        "outer",
    )

    def __init__(
        self, observers: Sequence[Observer] = (), outer: Audience | None = None, *, is_of_one: bool = False
    ) -> None:
        """`is_of_one`: it observes one run, and none of its children."""
        self.outer: Audience | None = outer
        self.is_of_one: bool = is_of_one
        self._observe_with(observers)
        self._readers: list[weakref.ref[Reader]] = []
        self._read: Set[str | None] = frozenset()
        """The runs that the readers read, and perhaps others; None: all. Most runs have no reader: to ask each takes time."""
        self._loop: object = None

    def _observe_with(self, observers: Iterable[Observer]) -> None:
        """Sort the observers by what they can do: to ask a protocol costs a microsecond, at each method."""
        self._observers = list(observers)
        ignored = [getattr(observer, "ignores", ()) for observer in self._observers]
        self._needs_ends = any(not {MethodFinished, MethodSkipped} <= set(each) for each in ignored)
        self._of_methods = [observer for observer in self._observers if isinstance(observer, MethodObserver)]
        self._of_runs = [observer for observer in self._observers if isinstance(observer, RunObserver)]
        self._measuring = [observer for observer in self._observers if isinstance(observer, MeasuringObserver)]

    @property
    def of_children(self) -> Audience | None:
        """Who observes the children of these runs, too."""
        return self.outer if self.is_of_one else self

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

    def reader(self, run_id: str | None = None, *, rereads: bool = False, reports: Sequence[Event] = ()) -> Reader:
        """Return a new reader. It ends with the runs, or when it is dropped. See `Reader`.

        `reports`: the newest reports of what runs, which it gets first.
        """
        with contextlib.suppress(RuntimeError):  # before there is an event loop
            self._loop = current_loop()
        reader = Reader(run_id, rereads=rereads)
        for event in reports:
            reader.put(event)
        self._readers.append(weakref.ref(reader, self._forget))
        self._read = {each.run_id for known in tuple(self._readers) if (each := known()) is not None}
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
        if run_id not in self._read and None not in self._read:
            return
        for known in tuple(self._readers):  # `_forget` may be called meanwhile, in any thread
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
            except BaseException as error:  # a user's observer may raise anything
                self.disable(observer, event.run_id, error)
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

    def emit_made(self, run_id: str, make: Callable[[], Event]) -> None:
        """Emit an event that is made only if something observes the run."""
        if self.hears(run_id):
            self.emit(make())

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
                    text = observer.on_begin(begins)
                    kept = kept or _storable(text)
                except BaseException as error:  # a user's observer may raise anything
                    audience.disable(observer, begins.run_id, error)
        return kept or begins.trace

    def leave(self, run_id: str) -> None:
        """Report that a run is not driven here any more."""
        for audience in self.all():
            for observer in tuple(audience._of_runs):
                try:
                    observer.on_leave(run_id)
                except BaseException as error:  # as above
                    audience.disable(observer, run_id, error)

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
                except BaseException as error:  # as above
                    audience.disable(observer, run_id, error)

    def disable(self, observer: Any, run_id: str, error: BaseException) -> None:
        """Call an observer no more, because it has raised an error. What ends the program is raised again."""
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error
        self._observe_with([known for known in self._observers if known is not observer])
        about = {"run_id": run_id}
        logger.error(
            "observer disabled: it raised at an event of run %s, and is not called again",
            run_id,
            exc_info=error,
            extra=about,
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
            except BaseException as error:  # a user's observer may raise anything
                audience.disable(observer, self._started.run_id, error)
            else:
                self._entered.append((audience, observer, entered))

    def __exit__(self, *raised: Any) -> None:
        for audience, observer, entered in reversed(self._entered):
            try:
                entered.__exit__(*raised)
            except BaseException as error:  # as above
                audience.disable(observer, self._started.run_id, error)


def checked_observers(given: Iterable[Any], whose: str) -> tuple[Observer, ...]:
    """Return observers as a tuple. Raises `TypeError` for anything else."""
    observers = tuple(given) if isinstance(given, Iterable) else (given,)
    for observer in observers:
        if not isinstance(observer, Observer) or isinstance(observer, type):
            raise TypeError(
                f"observers of {whose} must be objects with a method on_event(event), such as [MyObserver()]; not {observer!r:.80}"
            )
        if inspect.iscoroutinefunction(observer.on_event):
            raise TypeError(
                f"observers of {whose} must have a plain on_event(event), and that of {observer!r:.80} is async. Iterate over events() in "
                "a task instead"
            )
    return observers


def _storable(text: object) -> str:
    """Return what an observer wants to be kept with a run; "" if it returned something else."""
    return text if isinstance(text, str) and len(text) <= LONGEST and text.isprintable() else ""


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
