"""Whatever an observer raises, returns or does, at whatever point: it harms no run, no other observer and no reader."""

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import anyio
import pytest

import asyncflow
from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, events, listen, start
from asyncflow._runtime import audience
from asyncflow._runtime.readers import Reader

STORAGES = pytest.mark.parametrize("storage", [None, MemoryFlowPersistence], ids=["forgets", "memory"])


class Talks(Flow[dict[str, Any]]):
    @start()
    async def first(self) -> None:
        asyncflow.report(1)

    @listen(first)
    def second(self) -> None:
        asyncflow.stream("from a thread")

    @listen(second)
    async def third(self) -> int:
        return 3


class Own(BaseException):
    pass


class Bad:
    """Raises an error at one point: at an event of that name, or in a call of that name."""

    def __init__(self, raised: Callable[[], BaseException], where: str) -> None:
        self.raised, self.where = raised, where

    def _at(self, where: str) -> None:
        if where == self.where:
            raise self.raised()

    def on_event(self, event: events.Event) -> None:
        self._at(type(event).__name__)

    def on_begin(self, begins: events.RunBegins) -> str:
        self._at("begin")
        return ""

    def on_leave(self, run_id: str) -> None:
        self._at("leave")

    def around_method(self, started: events.MethodStarted) -> AbstractContextManager[object]:
        self._at("around")
        return Entered(self)

    def on_commit(self, run_id: str, flow: str, seconds: float) -> None:
        self._at("commit")

    def on_recovery(self, run_id: str, flow: str) -> None: ...

    def on_waiting(self, count: int) -> None: ...


class Entered:
    def __init__(self, of: Bad) -> None:
        self.of = of

    def __enter__(self) -> None:
        self.of._at("enter")

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.of._at("exit")


POINTS = ["RunStarted", "MethodStarted", "Reported", "Streamed", "MethodFinished", "RunFinished"]
CALLS = ["begin", "leave", "around", "enter", "exit", "commit"]


@pytest.mark.clauses("O2")
@pytest.mark.parametrize("where", [*POINTS, *CALLS])
async def test_what_is_no_exception_of_a_program_harms_no_run_either(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as the cancellation of a future that the observer asked for its result, which is none of the run."""
    kinds: list[Callable[[], BaseException]] = [
        *(Own, GeneratorExit, StopAsyncIteration, asyncio.CancelledError),
        lambda: BaseExceptionGroup("several", [Own()]),
    ]
    for kind in kinds:
        flow = Talks(persistence=MemoryFlowPersistence(), observers=[Bad(kind, where)])
        with anyio.fail_after(30):
            assert await flow.kickoff() == 3
        assert flow.status == "finished"
    disabled = [line for line in caplog.records if line.getMessage().startswith("observer disabled: ")]
    assert len(disabled) == len(kinds)
    assert all(line.exc_info for line in disabled)


@pytest.mark.parametrize("where", ["MethodStarted", "begin", "enter"])
async def test_what_ends_the_program_is_passed_on(where: str) -> None:
    with pytest.raises(SystemExit):
        await Talks(observers=[Bad(SystemExit, where)]).kickoff()


async def test_an_observer_whose_on_event_is_async_is_refused() -> None:
    class Async:
        async def on_event(self, event: events.Event) -> None: ...

    with pytest.raises(TypeError, match="plain on_event"):
        Talks(observers=[Async()])
    with pytest.raises(TypeError, match="plain on_event"):
        FlowRunner(MemoryFlowPersistence(), observers=[Async()])


# ---- what `on_begin` returns -----------------------------------------------------------------------------------------


class Begins:
    def __init__(self, kept: Any) -> None:
        self.kept, self.begun = kept, list[str]()

    def on_event(self, event: events.Event) -> None: ...

    def on_begin(self, begins: events.RunBegins) -> Any:
        self.begun.append(begins.trace)
        return self.kept

    def on_leave(self, run_id: str) -> None: ...


async def test_each_observer_knows_that_a_run_begins_and_the_first_text_is_kept() -> None:
    storage = MemoryFlowPersistence()
    observers = [Begins(None), Begins("one"), Begins("two")]
    flow = Talks(persistence=storage, observers=observers)
    await flow.kickoff()
    await flow.kickoff()

    assert [observer.begun for observer in observers] == [["", "one"]] * 3


@pytest.mark.parametrize("kept", [None, b"x", 3, "\ud800", "a\nb", "x" * (audience.LONGEST + 1)])
async def test_what_is_no_short_text_is_not_kept(kept: Any) -> None:
    storage = MemoryFlowPersistence()
    flow = Talks(persistence=storage, observers=[Begins(kept)])
    assert await flow.kickoff() == 3

    stored = await storage.load(flow.run_id)
    assert stored is not None
    assert b"trace" not in (stored.progress or b"")


# ---- observers that act on their run -----------------------------------------------------------------------------------


class Acts:
    """Reads, closes and drops readers of its run within its callback."""

    def __init__(self) -> None:
        self.flow: Any = None
        self.streams: list[Any] = []

    def on_event(self, event: events.Event) -> None:
        self.streams.append(self.flow.events())
        if len(self.streams) > 2:
            self.streams[0]._reader.close()
            del self.streams[0]


@STORAGES
async def test_an_observer_may_open_close_and_drop_readers_within_its_callback(
    storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    acts = Acts()
    acts.flow = flow = Talks(persistence=storage and storage(), observers=[acts])
    with caplog.at_level(logging.ERROR):
        stream = flow.events()
        assert await flow.kickoff() == 3
    seen = [type(event).__name__ async for event in stream]

    assert seen.count("MethodFinished") == 3
    assert (seen[0], seen[-1]) == ("RunStarted", "RunFinished")
    assert caplog.records == []


@pytest.mark.clauses("O2")
def test_a_reader_that_is_dropped_while_an_event_is_passed_on_costs_no_other_reader_the_event() -> None:
    """The garbage collector drops it, at any moment and in any thread."""
    heard = audience.Audience()
    dropped, kept = [heard.reader()], heard.reader()

    class First(Reader):
        def put(self, event: events.Event) -> None:
            dropped.clear()
            gc.collect()

    first = First()
    heard._readers.insert(1, audience.weakref.ref(first, heard._forget))
    heard.emit(events.RunFinished(run_id="x", flow="F", seq=0, n=0, at=0.0))

    assert len(heard._readers) == 2
    assert kept.take() is not None


async def test_a_run_without_a_reader_asks_none_of_those_of_other_runs() -> None:
    heard = audience.Audience()
    readers = [heard.reader("a"), heard.reader("b")]
    heard._readers.append(lambda: pytest.fail("a reader of another run was asked"))  # type: ignore[arg-type]

    assert not heard.hears("c")
    assert not heard.hears_ends("c")

    heard._readers.pop()
    assert heard.hears("a")
    readers.clear()
    of_all = heard.reader()
    assert heard.hears("a")
    assert heard.hears_ends("c")
    del of_all
    assert not heard.hears("a")
