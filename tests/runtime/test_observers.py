"""What observers and readers of a run get, in the order in which it happens."""

import contextlib
import contextvars
import logging
import threading
from contextlib import AbstractContextManager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import asyncflow
from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    Retry,
    Signal,
    events,
    listen,
    or_,
    persist,
    router,
    start,
)
from asyncflow._runtime.readers import LIMIT, Reader

STORAGES = pytest.mark.parametrize("storage", [None, MemoryFlowPersistence], ids=["forgets", "memory"])


class Seen:
    """Keeps all events."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []
        self.threads: set[int] = set()

    def on_event(self, event: events.Event) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())

    @property
    def named(self) -> list[str]:
        return [short(event) for event in self.events]


def short(event: events.Event) -> str:
    return " ".join([type(event).__name__, *filter(None, [getattr(event, "invocation", "")])])


async def double(value: int) -> int:
    return 2 * value


class Busy(Flow[dict[str, Any]]):
    tries = 0

    @start(retry=Retry(attempts=2, initial=0))
    async def fetch(self) -> int:
        Busy.tries += 1
        asyncflow.report(1, 2, "half")
        if Busy.tries % 2:
            raise OSError("away")
        return 1

    @listen(fetch)
    def think(self, value: int) -> int:
        asyncflow.report(1)
        asyncflow.stream({"token": value})
        return value

    @listen(think)
    async def work(self, value: int) -> int:
        return await asyncflow.step(double, value)

    @listen(work)
    async def rest(self) -> None:
        await asyncflow.sleep(0.001)


BUSY = [
    "RunStarted",
    *("MethodStarted fetch:1", "Reported fetch:1", "MethodRetrying fetch:1"),
    *("MethodStarted fetch:1", "Reported fetch:1", "MethodFinished fetch:1"),
    *("MethodStarted think:1", "Reported think:1", "Streamed think:1", "MethodFinished think:1"),
    *("MethodStarted work:1", "StepFinished work:1", "MethodFinished work:1"),
    *("MethodStarted rest:1", "MethodWaiting rest:1", "MethodFinished rest:1"),
    "RunFinished",
]


@pytest.mark.clauses("O1")
@STORAGES
async def test_an_observer_gets_every_event_in_order_on_the_loop(storage: Any) -> None:
    seen, other = Seen(), Seen()
    await Busy(persistence=storage and storage(), observers=[seen, other]).kickoff()

    assert seen.named == other.named == BUSY
    assert seen.threads == {threading.get_ident()}
    attempts = [event.attempt for event in seen.events if isinstance(event, events.MethodStarted)]
    assert attempts == [1, 2, 1, 1, 1]
    triggers = [event.triggers for event in seen.events if isinstance(event, events.MethodStarted)]
    assert triggers == [(), (), ("fetch:1",), ("think:1",), ()]
    assert len({event.id for event in seen.events}) == len(seen.events)
    live = {type(event).__name__ for event in seen.events if event.is_live}
    assert {"MethodStarted", "Reported", "Streamed"} <= live
    assert storage is None or not live & {
        "RunStarted",
        "MethodFinished",
        "StepFinished",
        "MethodRetrying",
        "MethodWaiting",
    }
    half = next(event for event in seen.events if isinstance(event, events.Reported))
    assert (half.done, half.total, half.text) == (1, 2, "half")
    token = next(event for event in seen.events if isinstance(event, events.Streamed))
    assert token.value == {"token": 1}


@STORAGES
async def test_a_reader_gets_the_events_of_the_call_that_follows_and_then_ends(storage: Any) -> None:
    flow = Busy(persistence=storage and storage())
    first = flow.events()
    seen: list[str] = []

    async def read() -> None:
        async for event in first:
            seen.append(short(event))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.sleep(0.01)
            assert seen == []
            await flow.kickoff()
        assert seen == BUSY
        second = flow.events()
        await flow.kickoff()
        assert [short(event) async for event in second] == BUSY


class Slow(Flow[dict[str, Any]]):
    @start()
    async def first(self) -> None:
        await anyio.sleep(0.02)

    @listen(first)
    async def second(self) -> None:
        pass


async def test_a_reader_that_comes_in_the_middle_gets_the_rest() -> None:
    flow = Slow()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            while flow.status != "running":  # noqa: ASYNC110
                await anyio.sleep(0.001)
            seen = [short(event) async for event in flow.events()]

    assert seen == ["MethodFinished first:1", "MethodStarted second:1", "MethodFinished second:1", "RunFinished"]


class Failing(Flow[dict[str, Any]]):
    @start()
    async def go(self) -> None:
        raise ValueError("no")


@STORAGES
async def test_a_failure_and_a_resume_are_seen(storage: Any) -> None:
    seen, where = Seen(), storage and storage()
    flow = Failing(persistence=where, observers=[seen])
    with pytest.raises(asyncflow.MethodError):
        await flow.kickoff()
    assert seen.named == ["RunStarted", "MethodStarted go:1", "MethodFailed go:1", "RunFailed"]
    failed = seen.events[2]
    assert isinstance(failed, events.MethodFailed)
    assert failed.type == "builtins.ValueError"
    if where is not None:
        again = Seen()
        with pytest.raises(asyncflow.MethodError):
            await Failing.resume(flow.run_id, persistence=where, observers=[again])
        assert again.named == ["RunResumed", "MethodStarted go:1", "MethodFailed go:1", "RunFailed"]


class Endless(Flow[dict[str, Any]]):
    @start()
    async def go(self) -> None:
        await anyio.sleep_forever()


@STORAGES
async def test_an_interruption_and_a_cancellation_are_seen(storage: Any) -> None:
    seen, where = Seen(), storage and storage()
    flow = Endless(persistence=where, observers=[seen])
    with anyio.move_on_after(0.02):
        await flow.kickoff()
    assert seen.named == ["RunStarted", "MethodStarted go:1", "RunInterrupted"]
    again = Seen()
    flow = Endless(persistence=where, observers=[again])
    async with anyio.create_task_group() as group:
        group.start_soon(ignoring_cancel, flow)
        while flow.status != "running":  # noqa: ASYNC110
            await anyio.sleep(0.001)
        await flow.cancel()
    assert again.named[-1] == "RunCancelled"
    assert "RunInterrupted" not in again.named


async def ignoring_cancel(flow: Any) -> None:
    with pytest.raises(asyncflow.errors.RunCancelledError):
        await flow.kickoff()


class Late(Flow[dict[str, Any]]):
    run_timeout = 0.02

    @start()
    async def go(self) -> None:
        await anyio.sleep_forever()


@STORAGES
async def test_a_time_limit_is_seen_as_a_failure(storage: Any) -> None:
    seen = Seen()
    with pytest.raises(asyncflow.errors.RunTimeoutError):
        await Late(persistence=storage and storage(), observers=[seen]).kickoff()
    assert seen.named == ["RunStarted", "MethodStarted go:1", "RunFailed"]


class Turning(Flow[dict[str, Any]]):
    @start()
    async def go(self) -> None:
        self.state["n"] = self.state.get("n", 0) + 1
        if self.state["n"] < 3:
            asyncflow.continue_as()


@STORAGES
async def test_the_passes_of_an_endless_run_are_seen(storage: Any) -> None:
    seen = Seen()
    await Turning(persistence=storage and storage(), observers=[seen]).kickoff()
    passes = [event.pass_number for event in seen.events if isinstance(event, events.RunStarted)]
    assert passes == [1, 2, 3]
    assert seen.named.count("MethodFinished go:1") == 3


class Leaf(Flow[dict[str, Any]]):
    @start()
    async def grow(self) -> int:
        return 7


class Tree(Flow[dict[str, Any]]):
    @start()
    async def go(self) -> int:
        return await asyncflow.run_child(Leaf)


@pytest.mark.clauses("O1")
@STORAGES
async def test_children_are_seen_by_the_observers_of_their_parent_and_not_by_its_readers(storage: Any) -> None:
    seen = Seen()
    flow = Tree(persistence=storage and storage(), observers=[seen])
    reader = flow.events()
    await flow.kickoff()

    own = [
        "RunStarted",
        "MethodStarted go:1",
        "ChildStarted go:1",
        "ChildEnded go:1",
        "MethodFinished go:1",
        "RunFinished",
    ]
    assert [short(event) async for event in reader] == own
    begun = next(event for event in seen.events if isinstance(event, events.ChildStarted))
    ended = next(event for event in seen.events if isinstance(event, events.ChildEnded))
    of_child = [event for event in seen.events if event.run_id == begun.child_id]
    assert [short(event) for event in of_child] == [
        *("RunStarted", "MethodStarted grow:1", "MethodFinished grow:1", "RunFinished")
    ]
    assert (ended.child_id, ended.status, begun.child) == (begun.child_id, "finished", "Leaf")


class Entered(Seen):
    """Counts the methods that it is entered around, and raises at the end of one if it is to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = 0
        self.is_bad = False

    def around_method(self, started: events.MethodStarted) -> AbstractContextManager[object]:
        self.entered += 1
        return contextlib.nullcontext()

    def on_event(self, event: events.Event) -> None:
        super().on_event(event)
        if self.is_bad:
            raise ValueError("bad")


class Watched(Flow[dict[str, Any]]):
    @start()
    async def go(self) -> int:
        return 1


class Watching(Flow[dict[str, Any]]):
    @start()
    async def go(self) -> int:
        return await asyncflow.run_child(Watched)


@pytest.mark.parametrize("is_bad", [False, True])
async def test_an_observer_of_parent_child_and_runner_gets_each_event_once(
    is_bad: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Entered()
    seen.is_bad = is_bad
    for flow in (Watched, Watching):
        monkeypatch.setattr(flow, "observers", [seen])
    async with FlowRunner(MemoryFlowPersistence(), observers=[seen]) as runner:
        assert await (await runner.start(Watching)).result() == 1
    ids = [event.id for event in seen.events]
    assert len(ids) == len(set(ids))
    if is_bad:  # once by its parent and all above it, once by the child, which has a list of its own
        assert len(ids) == len([r for r in caplog.records if "observer disabled" in r.message]) == 2
    else:
        assert seen.entered == 2


async def test_parking_and_a_signal_are_seen_by_a_runner() -> None:
    seen = Seen()
    async with FlowRunner(MemoryFlowPersistence(), observers=[seen], park_after=0) as runner:
        stream = runner.events()
        handle = await runner.start(Parked)
        with anyio.fail_after(60):
            while not any(isinstance(event, events.RunWaiting) for event in seen.events):  # noqa: ASYNC110
                await anyio.sleep(0.01)
            await handle.signal("answer", "yes")
            assert await handle.result() == "yes"
        waiting = next(event for event in seen.events if isinstance(event, events.RunWaiting))
        assert (waiting.waits_for, waiting.due) == (("answer",), None)
        assert "SignalTaken" in seen.named
        assert seen.named[-1] == "RunFinished"
    assert [short(event) async for event in stream] == seen.named  # it ends with the runner


async def test_a_handle_shows_the_live_events_of_a_run_that_was_woken() -> None:
    seen = Seen()
    got: list[str] = []
    async with FlowRunner(MemoryFlowPersistence(), observers=[seen], park_after=0) as runner:
        handle = await runner.start(Parked)

        async def listened() -> None:
            got.extend([short(event) async for event in handle.events()])

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(listened)
                while await handle.status() != "waiting":  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                await anyio.sleep(0.05)
                await handle.signal("answer", "yes")
    parked = got.index("RunWaiting")
    assert got[parked:] == seen.named[seen.named.index("RunWaiting") :]
    assert "MethodStarted take:1" in got[parked:]


class Parked(Flow[dict[str, Any]]):
    answer = Signal("answer", str)

    @start()
    async def ask(self) -> None:
        pass

    @listen(answer, keep_open=True)
    async def take(self, text: str) -> str:
        return text


# ---- bad observers ----------------------------------------------------------------------------------------------------


class Raising(Seen):
    def on_event(self, event: events.Event) -> None:
        super().on_event(event)
        raise RuntimeError("boom")


@pytest.mark.clauses("O2")
@STORAGES
async def test_an_observer_that_raises_is_logged_once_and_harms_no_run(
    storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Raising(), Seen()
    with caplog.at_level(logging.ERROR, "asyncflow"):
        await Busy(persistence=storage and storage(), observers=[bad, good]).kickoff()

    assert good.named == BUSY
    assert len(bad.events) == 1
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("observer disabled: ")


@pytest.mark.parametrize("bad", [[object()], [Seen], 3, [None]])
def test_what_is_no_observer_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="on_event"):
        Busy(observers=bad)
    with pytest.raises(TypeError, match="on_event"):
        FlowRunner(MemoryFlowPersistence(), observers=bad)


# ---- around methods ---------------------------------------------------------------------------------------------------

current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="")


class Spans(Seen):
    """Sets a context variable for each method, and keeps how each ended."""

    def __init__(self, *, raises: str = "", suppresses: bool = False) -> None:
        super().__init__()
        self.ends: list[tuple[str, str]] = []
        self.raises, self.suppresses = raises, suppresses

    def around_method(self, started: events.MethodStarted) -> AbstractContextManager[object]:
        if self.raises == "call":
            raise RuntimeError("boom")
        return Span(self, started.invocation)


class Span:
    def __init__(self, of: Spans, invocation: str) -> None:
        self.of, self.invocation = of, invocation

    def __enter__(self) -> None:
        if self.of.raises == "enter":
            raise RuntimeError("boom")
        self.token = current.set(self.invocation)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        current.reset(self.token)
        self.of.ends.append((self.invocation, "" if kind is None else kind.__name__))
        if self.of.raises == "exit":
            raise RuntimeError("boom")
        return self.of.suppresses


class Looking(Flow[dict[str, Any]]):
    looked: list[str]

    @start()
    async def first(self) -> None:
        self.looked = [current.get()]
        await anyio.lowlevel.checkpoint()
        self.looked.append(await anyio.to_thread.run_sync(current.get))

    @listen(first)
    def second(self) -> None:
        self.looked.append(current.get())

    @listen(second)
    async def third(self) -> None:
        raise KeyError("lost")


@pytest.mark.clauses("O2")
@STORAGES
@pytest.mark.parametrize("suppresses", [False, True])
async def test_a_method_runs_within_what_its_observer_gives(storage: Any, suppresses: bool) -> None:
    spans = Spans(suppresses=suppresses)
    flow = Looking(persistence=storage and storage(), observers=[spans])
    with pytest.raises(asyncflow.MethodError) as raised:
        await flow.kickoff()

    assert isinstance(raised.value.__cause__, KeyError)
    assert flow.looked == ["first:1", "first:1", "second:1"]
    assert spans.ends == [("first:1", ""), ("second:1", ""), ("third:1", "KeyError")]
    assert current.get() == ""


@pytest.mark.parametrize("raises", ["call", "enter", "exit"])
async def test_what_an_observer_gives_may_raise(raises: str, caplog: pytest.LogCaptureFixture) -> None:
    spans, good = Spans(raises=raises), Spans()
    flow = Looking(observers=[spans, good])
    with pytest.raises(asyncflow.MethodError, match="raised KeyError"):
        await flow.kickoff()

    assert flow.looked == ["first:1", "first:1", "second:1"]
    assert good.ends == [("first:1", ""), ("second:1", ""), ("third:1", "KeyError")]
    assert sum("observer disabled" in record.getMessage() for record in caplog.records) == 1


# ---- slow readers -----------------------------------------------------------------------------------------------------


class Talking(Flow[dict[str, Any]]):
    @start()
    async def go(self) -> None:
        for n in range(3 * LIMIT):
            asyncflow.stream(n)


async def test_a_slow_reader_loses_the_oldest_live_events_and_learns_how_many() -> None:
    flow = Talking(persistence=MemoryFlowPersistence())
    stream = flow.events()
    await flow.kickoff()
    got = [event async for event in stream]

    lost = got[0]
    assert isinstance(lost, events.EventsLost)
    values = [event.value for event in got if isinstance(event, events.Streamed)]
    assert values == list(range(2 * LIMIT, 3 * LIMIT))
    assert lost.count == 2 * LIMIT + 1  # and `MethodStarted`
    assert [short(event) for event in got if not event.is_live] == ["RunStarted", "MethodFinished go:1", "RunFinished"]


async def test_readers_that_are_dropped_or_closed_are_forgotten() -> None:
    flow = Slow()
    dropped, closed, seen = flow.events(), flow.events(), flow.events()
    audience = flow._instance.setup.audience
    assert audience is not None
    assert audience.hears(flow.run_id)
    del dropped
    await closed.aclose()
    assert len(audience._readers) == 2
    assert [event async for event in closed] == []
    async with seen:
        pass
    assert not audience.hears(flow.run_id)


async def test_a_closed_stream_drops_what_is_unread() -> None:
    flow = Talking()
    stream = flow.events()
    await flow.kickoff()
    assert await anext(stream)
    await stream.aclose()
    assert [event async for event in stream] == []


@pytest.mark.clauses("O2")
def test_what_a_reader_holds_is_bounded() -> None:
    reader = Reader("x", rereads=True)
    for n in range(5 * LIMIT):
        reader.put(events.RunFinished(run_id="x", flow="F", seq=n, n=0, at=0.0))
        reader.put(events.Streamed(run_id="x", flow="F", seq=-1, n=n, at=0.0, invocation="a:1", value=n))
    assert len(reader._live) == len(reader._stored) == LIMIT
    assert reader.has_gap
    first = reader.take()
    assert isinstance(first, events.EventsLost)
    assert first.count == 4 * LIMIT


class Long(Flow[dict[str, Any]]):
    @start()
    async def first(self) -> None:
        asyncflow.report(9)

    @listen(first)
    async def second(self) -> None:
        asyncflow.report(1, 5)
        asyncflow.report(2, 5, "newest")
        await anyio.sleep(0.05)

    @listen(first)
    async def third(self) -> None:
        await anyio.sleep(0.05)


@STORAGES
async def test_a_later_reader_first_gets_the_newest_report_of_each_method_that_runs(storage: Any) -> None:
    flow = Long(persistence=storage and storage())
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            while set(flow.pending) != {"second:1", "third:1"}:  # noqa: ASYNC110
                await anyio.sleep(0.001)
            await anyio.sleep(0.01)
            seen = [event async for event in flow.events()]
    first = seen[0]
    assert isinstance(first, events.Reported)
    assert (first.invocation, first.done, first.total, first.text) == ("second:1", 2, 5, "newest")
    assert sum(isinstance(event, events.Reported) for event in seen) == 1


async def test_reports_of_methods_that_have_ended_are_not_kept() -> None:
    class Many(Flow[dict[str, Any]]):
        @start()
        async def go(self) -> list[int]:
            return list(range(500))

        @listen(asyncflow.each(go), limit=2)
        async def work(self, item: int) -> None:
            asyncflow.report(item)
            self.kept = len(flow._instance._engine._steps._reports)  # type: ignore[union-attr]

    flow: Any = Many()
    await flow.kickoff()
    assert flow.kept < 100


# ---- report and stream --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [lambda: asyncflow.report(1), lambda: asyncflow.stream(1)])
def test_outside_of_a_method_there_is_no_report(call: Any) -> None:
    with pytest.raises(LookupError, match="only inside a method"):
        call()


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("1",), TypeError),
        ((1, "2"), TypeError),
        ((None,), TypeError),
        ((1, 2, 3), TypeError),
        ((-1,), ValueError),
        ((1, -1), ValueError),
        ((float("nan"),), ValueError),
        ((1, float("inf")), ValueError),
    ],
)
async def test_what_is_no_progress_is_refused(args: Any, error: type[Exception]) -> None:
    class Reporting(Flow[dict[str, Any]]):
        @start()
        async def go(self) -> None:
            asyncflow.report(*args)

    with pytest.raises(asyncflow.MethodError) as raised:
        await Reporting().kickoff()
    assert isinstance(raised.value.__cause__, error)


class Leaving(Flow[dict[str, Any]]):
    """Leaves a thread behind that reports after the method has ended."""

    @start()
    async def go(self) -> None:
        context = contextvars.copy_context()
        self.thread = threading.Thread(target=context.run, args=(self._late,))

    def _late(self) -> None:
        asyncflow.report(1)
        asyncflow.stream(1)


async def test_what_a_method_leaves_behind_reports_nothing() -> None:
    seen = Seen()
    flow = Leaving(observers=[seen])
    await flow.kickoff()
    before = seen.named
    flow.thread.start()
    await anyio.to_thread.run_sync(flow.thread.join)
    await anyio.sleep(0.01)
    assert seen.named == before


class OneOf(Flow[dict[str, Any]]):
    """Only its second method has a checkpoint."""

    @start()
    async def first(self) -> None:
        pass

    @persist(MemoryFlowPersistence())
    @listen(first)
    async def second(self) -> None:
        pass


async def test_methods_without_a_checkpoint_are_seen_as_live_events() -> None:
    seen = Seen()
    await OneOf(observers=[seen]).kickoff()
    assert seen.named == [
        "RunStarted",
        *("MethodStarted first:1", "MethodFinished first:1", "MethodStarted second:1", "MethodFinished second:1"),
        "RunFinished",
    ]
    ends = {short(event): event.is_live for event in seen.events if isinstance(event, events.MethodFinished)}
    assert ends == {"MethodFinished first:1": True, "MethodFinished second:1": False}


class Choosing(Flow[dict[str, Any]]):
    @start()
    async def a(self) -> None:
        pass

    @start()
    async def b(self) -> None:
        pass

    @listen(or_(a, b))
    async def either(self) -> None:
        pass

    @router(either)
    async def way(self) -> str:
        return "left"

    @listen("left")
    async def go_left(self) -> None:
        pass


@STORAGES
async def test_what_an_or_has_skipped_is_seen(storage: Any) -> None:
    seen = Seen()
    await Choosing(persistence=storage and storage(), observers=[seen]).kickoff()
    assert [event.method for event in seen.events if isinstance(event, events.MethodSkipped)] == ["either"]
    assert seen.named.count("MethodFinished go_left:1") == 1
