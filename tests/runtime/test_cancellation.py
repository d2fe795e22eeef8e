"""Cancellation, native and scoped, at every await: nothing is swallowed, nothing is torn, and the run resumes afterwards."""

import asyncio
import contextlib
import signal
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
from loops import LOOPS, ON_ASYNCIO, on_asyncio
from small import Log, Waiting, cancel_when

from asyncflow import (
    Flow,
    MemoryFlowPersistence,
    Retry,
    SQLiteFlowPersistence,
    after,
    and_,
    errors,
    listen,
    sleep,
    start,
)
from asyncflow.testing import cancelled_at


class Chain(Flow[Log]):
    """Three methods, the second of them in a thread."""

    def __init__(self, effects: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.effects = effects

    def note(self, name: str) -> None:
        self.effects.append(name)
        self.state.done.append(name)

    @start()
    async def first(self) -> int:
        self.note("first")
        await anyio.lowlevel.checkpoint()
        return 1

    @listen(first)
    def second(self, n: int) -> int:
        self.note("second")
        return n + 1

    @listen(second)
    async def third(self, n: int) -> int:
        await anyio.lowlevel.checkpoint()
        self.note("third")
        return n + 1


class Parallel(Flow[Log]):
    """A fan-out of three, one of them in a thread, and a join."""

    def __init__(self, effects: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.effects = effects

    def note(self, name: str) -> int:
        self.effects.append(name)
        self.state.sums[name] = len(name)
        return len(name)

    @start()
    async def begin(self) -> None:
        self.note("begin")

    @listen(begin)
    async def left(self) -> int:
        await anyio.lowlevel.checkpoint()
        return self.note("left")

    @listen(begin)
    def middle(self) -> int:
        return self.note("middle")

    @listen(begin)
    async def right(self) -> int:
        n = self.note("right")
        await anyio.lowlevel.checkpoint()
        return n

    @listen(and_(left, middle, right))
    async def join(self, left: int, middle: int, right: int) -> int:
        self.note("join")
        return left + middle + right


# ---- at every await ------------------------------------------------------------------------------------------------


Kickoff = Callable[[], Coroutine[Any, Any, Any]]


async def by_turns(kickoff: Kickoff, at: int) -> bool:
    """Kick off, cancelled after some turns of the event loop, more with every try: it meets the awaits of all the flow's tasks."""
    turns, ended = int(1.2**at), False

    async def strike() -> None:
        nonlocal turns
        while not ended and turns:
            turns -= 1
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(strike)
            await kickoff()
        ended = True
    return not turns


Way = Callable[[Kickoff, int], Awaitable[bool]]


SCOPED: dict[str, Way] = {
    "scope": partial(cancelled_at, way="scope"),
    "scope-later": partial(cancelled_at, way="scope", later=0.002),
    "turns": by_turns,
}
NATIVE: dict[str, Way] = {
    "native": partial(cancelled_at, way="task"),
    "native-later": partial(cancelled_at, way="task", later=0.002),
    "repeatedly": partial(cancelled_at, way="repeatedly"),
}
"""Ways of asyncio alone: trio has scopes only."""


CANCELLED = [
    pytest.param(loop, way, id=f"{name}-{how}")
    for name, loop in LOOPS.items()
    for how, way in {**(NATIVE if name in ON_ASYNCIO else {}), **SCOPED}.items()
]


cancelled_every_way = pytest.mark.parametrize(("anyio_backend", "cancelled"), CANCELLED, indirect=["anyio_backend"])


async def go_on(flow_class: Any, run_id: str, effects: list[str], persistence: Any) -> Any:
    """Resume the run in whichever way its status asks for; None of it is left over afterwards."""
    try:
        return await flow_class.resume(run_id, effects=effects, persistence=persistence)
    except errors.RunNotFoundError:
        return await flow_class(effects, persistence=persistence).kickoff({"id": run_id})


@cancelled_every_way
@pytest.mark.clauses("C1", "C2", "C3", "C4", "E1", "E2", "E4")
@pytest.mark.parametrize("flow_class", [Chain, Parallel])
async def test_a_run_cancelled_at_any_await_resumes_as_if_undisturbed(flow_class: Any, cancelled: Way) -> None:
    persistence = SQLiteFlowPersistence("runs.db", durability="process")
    undisturbed = flow_class([], persistence=persistence)
    expected = await undisturbed.kickoff()
    struck, at = True, 0
    while struck and at < 60:
        at += 1
        effects: list[str] = []
        flow = flow_class(effects, persistence=persistence)
        with anyio.fail_after(120):
            struck = await cancelled(flow.kickoff, at)
        history = await stored_history(flow)
        completed = [entry.method.split(":")[0] for entry in history if entry.kind in ("method", "finished")]
        before = len(effects)
        output = await go_on(flow_class, flow.run_id, effects, persistence)
        loaded = await flow_class.load(flow.run_id, effects=[], persistence=persistence)
        methods = [entry.method for entry in await loaded.history() if entry.kind in ("method", "finished")]

        assert output == expected, at
        assert fields(loaded.state) == fields(undisturbed.state), at
        assert set(effects[before:]).isdisjoint(completed), at
        assert all(effects.count(name) == 1 for name in completed), at
        assert all(effects.count(name) <= 2 for name in effects), at
        assert sorted(methods) == sorted(f"{name}:1" for name in undisturbed.method_outputs), at

    assert at > 6


@cancelled_every_way
@pytest.mark.clauses("C1", "C2", "C3", "C4", "E2")
async def test_a_resume_cancelled_at_any_await_can_be_resumed_again(cancelled: Way) -> None:
    persistence = SQLiteFlowPersistence("runs.db", durability="process")
    undisturbed = Chain([], persistence=persistence)
    expected = await undisturbed.kickoff()
    struck, at = True, 0
    while struck and at < 40:
        at += 1
        source = await Chain.fork(undisturbed.run_id, seq=1, effects=[], persistence=persistence)
        effects: list[str] = []
        with anyio.fail_after(120):
            struck = await cancelled(partial(Chain.resume, source.run_id, effects=effects, persistence=persistence), at)
        output = await Chain.resume(source.run_id, effects=effects, persistence=persistence)
        loaded = await Chain.load(source.run_id, effects=[], persistence=persistence)
        methods = [entry.method for entry in await loaded.history() if entry.kind in ("method", "finished")]

        assert output == expected, at
        assert loaded.state.done == ["first", "second", "third"], at
        assert "first" not in effects, at
        assert methods == ["second:1", "third:1"], at


@cancelled_every_way
@pytest.mark.clauses("C4", "L2", "C2")
async def test_a_run_has_no_owner_after_its_task_was_cancelled_at_any_await(cancelled: Way) -> None:
    # another process may take it up, although this one keeps the storage open
    persistence = SQLiteFlowPersistence("runs.db", durability="process")
    undisturbed = Chain([], persistence=persistence)
    await undisturbed.kickoff()
    async with persistence:
        for at in range(1, 15):
            source = await Chain.fork(undisturbed.run_id, seq=1, effects=[], persistence=persistence)
            with anyio.fail_after(120):
                await cancelled(partial(Chain.resume, source.run_id, effects=[], persistence=persistence), at)
            with contextlib.closing(sqlite3.connect("runs.db")) as connection:
                owners = connection.execute("SELECT owner FROM runs WHERE run_id = ?", (source.run_id,)).fetchall()

            assert owners == [(None,)], at


def fields(state: Log) -> tuple[list[str], dict[str, int]]:
    return state.done, state.sums


async def stored_history(flow: Any) -> list[Any]:
    try:
        return await flow.history()
    except errors.RunNotFoundError:
        return []


@cancelled_every_way
@pytest.mark.clauses("C2")
async def test_the_storage_is_usable_after_any_cancelled_commit(cancelled: Way) -> None:
    # no open transaction, no held lock: another connection can write at once
    persistence = SQLiteFlowPersistence("runs.db", durability="process")
    other = SQLiteFlowPersistence("./runs.db", durability="process")
    async with persistence:
        for at in range(1, 12):
            await cancelled(Chain([], persistence=persistence).kickoff, at)
            await Chain([], persistence=other).kickoff()
        flow = Chain([], persistence=persistence)
        await flow.kickoff()

    assert flow.status == "finished"


# ---- what the caller sees ------------------------------------------------------------------------------------------


STORES = {"memory": MemoryFlowPersistence, "sqlite": lambda: SQLiteFlowPersistence("runs.db")}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()


@pytest.fixture(params=["none", *STORES])
def storage(request: pytest.FixtureRequest) -> Any:
    return None if request.param == "none" else STORES[request.param]()


@pytest.mark.clauses("C1")
async def test_a_scope_ends_a_kickoff_without_an_error(storage: Any) -> None:
    flow = Waiting(persistence=storage)
    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                group.start_soon(cancel_when, flow.waiting, scope)
                await flow.kickoff()

    assert scope.cancelled_caught
    assert flow.seen == ["cancelled"]
    assert flow.status == "interrupted"
    assert flow.state.done == ["first"]


@pytest.mark.clauses("C1")
async def test_move_on_after_ends_a_kickoff(storage: Any) -> None:
    flow = Waiting(persistence=storage)
    with anyio.move_on_after(0.05) as scope:
        await flow.kickoff()

    assert scope.cancelled_caught
    assert flow.status in ("interrupted", "new")


@pytest.mark.clauses("C1")
async def test_a_cancellation_passes_through_unchanged(storage: Any) -> None:
    # neither swallowed nor wrapped in a group
    flow = Waiting(persistence=storage)
    caught: list[BaseException] = []

    async def kickoff() -> None:
        try:
            await flow.kickoff()
        except BaseException as error:
            caught.append(error)
            raise

    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            group.start_soon(kickoff)
            await flow.waiting.wait()
            group.cancel_scope.cancel()

    assert [type(error) for error in caught] == [anyio.get_cancelled_exc_class()]


@pytest.mark.clauses("C1")
async def test_a_cancelled_run_is_not_recorded_as_failed(store: Any) -> None:
    flow = Waiting(persistence=store)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_when, flow.waiting, scope)
            await flow.kickoff()
    loaded = await Waiting.load(flow.run_id, persistence=store)

    assert [entry.kind for entry in await flow.history()] == ["started", "method"]
    assert loaded.status == "interrupted"
    assert loaded.pending == ("second:1",)


@pytest.mark.clauses("C4")
async def test_a_run_whose_task_was_cancelled_resumes_with_the_same_instance(store: Any) -> None:
    flow = Waiting(persistence=store)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_when, flow.waiting, scope)
            await flow.kickoff()
    output = await flow.kickoff()

    assert output == "end"
    assert flow.state.done == ["first", "second"]


@pytest.mark.clauses("C1")
async def test_finished_siblings_stay_finished(store: Any) -> None:
    ran: list[str] = []
    ended = anyio.Event()

    class Pair(Flow[Log]):
        @start()
        async def quick(self) -> None:
            ran.append("quick")

        @start()
        async def slow(self) -> None:
            ran.append("slow")
            if not ended.is_set():
                await anyio.sleep_forever()

        @listen(quick)
        async def after(self) -> None:
            ran.append("after")

        @listen(after)
        async def last(self) -> None:
            ran.append("last")
            if not ended.is_set():
                ended.set()
                await anyio.sleep_forever()

    flow = Pair(persistence=store)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_when, ended, scope)
            await flow.kickoff()
    del ran[:]
    await Pair.resume(flow.run_id, persistence=store)

    assert sorted(ran) == ["last", "slow"]


@pytest.mark.clauses("C1")
@on_asyncio
async def test_a_task_that_was_cancelled_natively_gets_its_cancelled_error(storage: Any) -> None:
    flow = Waiting(persistence=storage)
    task = asyncio.ensure_future(flow.kickoff())
    await flow.waiting.wait()
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task

    assert task.cancelled()
    assert flow.seen == ["cancelled"]
    assert flow.status == "interrupted"


@pytest.mark.clauses("C1")
@on_asyncio
async def test_asyncio_timeout_ends_a_kickoff_as_a_timeout(storage: Any) -> None:
    flow = Waiting(persistence=storage)

    async def kickoff() -> None:
        async with asyncio.timeout(None) as timeout:
            timeouts.append(timeout)
            await flow.kickoff()

    timeouts: list[asyncio.Timeout] = []
    task = asyncio.ensure_future(kickoff())
    await flow.waiting.wait()
    timeouts[0].reschedule(asyncio.get_running_loop().time())
    with pytest.raises(TimeoutError):
        await task

    assert task.cancelling() == 0
    assert flow.status == "interrupted"


@pytest.mark.clauses("C1")
@on_asyncio
async def test_asyncio_wait_for_ends_a_kickoff_as_a_timeout(storage: Any) -> None:
    for seconds in (0.05, 0.5, 5):  # enough for the run to begin, also on a busy machine
        flow = Waiting(persistence=storage)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flow.kickoff(), seconds)
        if flow.seen:
            break

    assert flow.seen == ["cancelled"]
    assert flow.status == "interrupted"


@pytest.mark.clauses("C1")
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
@on_asyncio
async def test_a_cancellation_that_a_method_meets_by_itself_ends_the_run_resumably(storage: Any, beside: bool) -> None:
    # it awaits a task that another task cancelled

    class Awaiting(Flow[Log]):
        persistence = storage

        @start()
        async def first(self) -> None:
            self.state.done.append("half")
            task = asyncio.ensure_future(asyncio.Event().wait())
            asyncio.get_running_loop().call_soon(task.cancel)
            await task

        if beside:

            @start()
            async def second(self) -> None:
                await anyio.sleep_forever()

    flow = Awaiting()
    with anyio.fail_after(120), pytest.raises(asyncio.CancelledError):
        await flow.kickoff()

    assert (flow.status, flow.state.done) == ("interrupted", [])


@pytest.mark.clauses("C1")
@on_asyncio
async def test_an_asyncio_task_group_that_fails_ends_its_kickoffs() -> None:
    persistence = SQLiteFlowPersistence("runs.db")
    flows = [Waiting(persistence=persistence) for _ in range(5)]

    async def fail() -> None:
        for flow in flows:
            await flow.waiting.wait()
        raise ZeroDivisionError

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            for flow in flows:
                group.create_task(flow.kickoff())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await together()

    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
    assert {flow.status for flow in flows} == {"interrupted"}


@pytest.mark.clauses("X4")
def test_ctrl_c_leaves_trio_as_itself() -> None:
    class Two(Flow):
        @start()
        async def quick(self) -> None: ...

        @start()
        async def slow(self) -> None:
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(Two().kickoff)


class Pausing(Flow):
    @start(retry=Retry(initial=60))
    async def begin(self) -> None:
        raise ValueError


class Timed(Flow):
    @start()
    async def begin(self) -> None: ...

    @listen(after(begin, 60))
    async def then(self) -> None: ...


class Sleeping(Flow):
    @start()
    async def begin(self) -> None:
        await sleep(60)

    @start()
    async def other(self) -> None: ...


@pytest.mark.clauses("X4")
@pytest.mark.parametrize("flow", [Pausing, Timed, Sleeping])
@pytest.mark.parametrize("limit", [None, 60])
def test_ctrl_c_in_a_wait_leaves_trio_as_itself(flow: type[Flow], limit: float | None) -> None:
    threading.Timer(0.1, signal.raise_signal, (signal.SIGINT,)).start()

    with pytest.raises(KeyboardInterrupt):
        trio.run(flow(run_timeout=limit).kickoff)


@pytest.mark.clauses("C1")
async def test_a_backend_that_fails_in_its_own_way_does_not_swallow_a_cancellation() -> None:
    class Broken(MemoryFlowPersistence):
        async def load(self, run_id: str, seq: int | None = None) -> Any:
            raise ConnectionError

    class Cut(Flow[dict[str, int]]):
        @start()
        async def wait(self) -> None:
            scope.cancel()
            await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await Cut(persistence=Broken()).kickoff()

    assert scope.cancelled_caught


# ---- plain methods -------------------------------------------------------------------------------------------------


class Threaded(Flow[Log]):
    """A plain method that is in its thread until it is let go."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inside = threading.Event()
        self.let_go = threading.Event()
        self.ended = False

    @start()
    def first(self) -> None:
        self.inside.set()
        self.let_go.wait(10)
        self.state.done.append("first")
        self.ended = True


async def wait_for(event: threading.Event) -> None:
    assert await anyio.to_thread.run_sync(event.wait, 5)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_plain_method_is_waited_for(storage: Any, times: int) -> None:
    flow = Threaded(persistence=storage)
    after: list[bool] = []

    async def kickoff() -> None:
        try:
            with scope:
                await flow.kickoff()
        finally:
            after.append(flow.ended)

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(kickoff)
        await wait_for(flow.inside)
        for _ in range(times):
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
        waited = not after
        flow.let_go.set()

    assert waited
    assert after == [True]
    assert scope.cancelled_caught
    assert flow.state.done == []


@pytest.mark.clauses("C1")
@pytest.mark.parametrize("times", [1, 3])
@on_asyncio
async def test_a_natively_cancelled_plain_method_is_waited_for(storage: Any, times: int) -> None:
    flow = Threaded(persistence=storage)
    task = asyncio.ensure_future(flow.kickoff())
    await wait_for(flow.inside)
    for _ in range(times):
        task.cancel()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
    waited = not task.done()
    flow.let_go.set()
    await asyncio.wait([task])

    assert waited
    assert flow.ended
    assert task.cancelled()
    assert flow.state.done == []


@pytest.mark.clauses("C1")
async def test_a_plain_method_that_has_not_begun_never_begins() -> None:
    # all threads are taken: what queues for one is given up
    go, inside, began = threading.Event(), [], []

    class Holding(Flow):
        @start()
        def hold(self) -> None:
            inside.append(1)
            go.wait(10)

    class Queued(Flow):
        @start()
        async def before(self) -> None:
            queued.set()

        @listen(before)
        def late(self) -> None:
            began.append(1)

    queued = anyio.Event()
    holders = [Holding() for _ in range(40)]
    async with anyio.create_task_group() as group:
        for holder in holders:
            group.start_soon(holder.kickoff)
        while len(inside) < 40:
            await anyio.lowlevel.checkpoint()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(Queued().kickoff)
                await queued.wait()
                scope.cancel()
        go.set()

    assert began == []
