"""One storage object on several event loops and in several threads at the same time: it opens itself once for each loop."""

import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import trio
from loops import LOOPS

import asyncflow
from asyncflow import Flow, MemoryFlowPersistence, SQLiteFlowPersistence, errors, listen, persist, start

THREADS = 8
TOGETHER = 30.0
"""Seconds that threads wait for one another."""


class Echo(Flow[dict[str, Any]]):
    @start()
    def begin(self) -> int:
        return int(self.state["x"])

    @listen(begin)
    async def end(self, x: int) -> int:
        self.state["y"] = x
        return x


class OnThreads(Flow[dict[str, Any]]):
    """Its method waits until as many others wait in theirs."""

    barrier: threading.Barrier

    @start()
    def meet(self) -> int:
        self.barrier.wait(TOGETHER)
        return int(self.state["x"])


def sqlite() -> SQLiteFlowPersistence:
    return SQLiteFlowPersistence("runs.db")


each_storage = pytest.mark.parametrize("storage", [sqlite, MemoryFlowPersistence], ids=["sqlite", "memory"])


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield pool


@pytest.mark.found("B4")
@each_storage
def test_one_storage_serves_run_in_many_threads_at_once(
    storage: Callable[[], Any], threads: ThreadPoolExecutor
) -> None:
    @persist(storage())
    class Meeting(OnThreads):
        barrier = threading.Barrier(THREADS)

    results = list(threads.map(lambda x: asyncflow.run(Meeting(), {"x": x}), range(5 * THREADS)))

    assert results == list(range(5 * THREADS))


@pytest.mark.found("B4")
@each_storage
@pytest.mark.parametrize("outer", list(LOOPS))
def test_a_flow_is_run_in_a_plain_method_of_another_on_the_same_storage(storage: Callable[[], Any], outer: str) -> None:
    held = storage()

    @persist(held)
    class Child(Echo): ...

    @persist(held)
    class Parent(Flow[dict[str, Any]]):
        @start()
        def ask(self) -> int:
            return int(asyncflow.run(Child(), {"x": 3})) + int(anyio.run(functools.partial(Child().kickoff, {"x": 4})))

    loop, options = LOOPS[outer]

    assert anyio.run(Parent().kickoff, backend=loop, backend_options=options) == 7


@pytest.mark.found("B4")
@each_storage
def test_one_storage_is_entered_on_every_kind_of_loop_at_once(
    storage: Callable[[], Any], threads: ThreadPoolExecutor
) -> None:
    held = storage()
    barrier = threading.Barrier(2 * len(LOOPS))

    async def used(name: str) -> set[str]:
        stack = held if isinstance(held, SQLiteFlowPersistence) else anyio.CancelScope()
        before = [f"{name} {n}" for n in range(5)]
        async with AsyncOf(stack):
            await anyio.to_thread.run_sync(barrier.wait, TOGETHER)
            async with anyio.create_task_group() as group:
                for run_id in before:
                    group.start_soon(Echo(persistence=held).kickoff, {"x": 1, "id": run_id})
            await anyio.to_thread.run_sync(barrier.wait, TOGETHER)
            for run_id in before:
                assert (await Echo.load(run_id, persistence=held)).status == "finished"
            return {entry.run_id for entry in await held.runs(limit=1000)}

    def on(name: str, n: int) -> set[str]:
        loop, options = LOOPS[name]
        return anyio.run(used, f"{name}{n}", backend=loop, backend_options=options)

    found = list(threads.map(on, list(LOOPS) * 2, range(2 * len(LOOPS))))

    assert [len(each) for each in found] == [5 * 2 * len(LOOPS)] * len(found)


class AsyncOf:
    """Enters what has an `async with`, or else what has a `with`."""

    def __init__(self, held: Any) -> None:
        self.held = held

    async def __aenter__(self) -> None:
        await self.held.__aenter__() if hasattr(self.held, "__aenter__") else self.held.__enter__()

    async def __aexit__(self, *error: Any) -> None:
        await self.held.__aexit__(*error) if hasattr(self.held, "__aexit__") else self.held.__exit__(*error)


@pytest.mark.found("B4")
@each_storage
def test_of_threads_that_want_one_run_one_drives_it(storage: Callable[[], Any], threads: ThreadPoolExecutor) -> None:
    held = storage()
    driving = threading.Semaphore(1)
    drivers: list[str] = []
    barrier = threading.Barrier(THREADS)

    class Once(Flow[dict[str, Any]]):
        persistence = held

        @start()
        def work(self) -> None:
            assert driving.acquire(blocking=False)
            drivers.append(str(self.state["id"]))
            time.sleep(0.01)
            driving.release()

    def wanted(n: int) -> str:
        barrier.wait(TOGETHER)
        try:
            asyncflow.run(Once(), {"id": f"run {n // THREADS}"})
        except (errors.RunLockedError, errors.RunFencedError):
            return "refused"
        return "done"

    outcomes = [*threads.map(wanted, range(3 * THREADS))]

    assert len(drivers) == outcomes.count("done") > 0
    assert set(outcomes) <= {"done", "refused"}


@pytest.mark.found("B4")
def test_what_one_loop_closes_stays_open_on_another() -> None:
    held = sqlite()
    opened, closed = threading.Event(), threading.Event()

    async def keep_open() -> str:
        async with held:
            opened.set()
            assert await anyio.to_thread.run_sync(closed.wait, TOGETHER)
            return str(await Echo(persistence=held).kickoff({"x": 5}))

    with ThreadPoolExecutor(1) as pool:
        kept = pool.submit(anyio.run, keep_open)
        assert opened.wait(TOGETHER)
        for name, options in LOOPS.values():
            flow = Echo(persistence=held)
            anyio.run(flow.kickoff, {"x": 1}, backend=name, backend_options=options)
            assert os.path.exists("runs.db-wal"), "the other loop has it open"
        closed.set()

        assert kept.result(TOGETHER) == "5"
    assert os.listdir() == ["runs.db"]


@pytest.mark.found("B4")
@pytest.mark.parametrize("how", ["the storage", "a session"])
async def test_a_session_is_left_on_the_loop_that_it_was_entered_on(how: str, anyio_backend: tuple[str, Any]) -> None:
    held = sqlite()
    session = held if how == "the storage" else held.session()
    name, options = anyio_backend
    async with session:

        def leave() -> None:
            anyio.run(functools.partial(session.__aexit__, None, None, None), backend=name, backend_options=options)

        with pytest.raises(errors.PersistenceLoopError, match="another event loop"):
            await anyio.to_thread.run_sync(leave)

        assert await Echo(persistence=held).kickoff({"x": 2}) == 2
        assert "runs.db-wal" in os.listdir()
    assert os.listdir() == ["runs.db"]


@pytest.mark.found("B4")
def test_what_a_closed_loop_has_left_open_is_ended_by_the_next() -> None:
    held = sqlite()
    leaked: list[Any] = []

    async def leak() -> None:
        leaked.append(held.session())
        await leaked[-1].__aenter__()
        await Echo(persistence=held).kickoff({"x": 2})

    for _ in range(3):
        anyio.run(leak)
    loops = len(held._shared._openings)
    anyio.run(Echo(persistence=held).kickoff, {"x": 1})

    assert loops == 1
    assert not held._shared._openings
    if not version("aiosqlite").startswith(
        "0.21."
    ):  # in which a connection whose loop has ended stays open: so does the log
        assert os.listdir() == ["runs.db"]


@pytest.mark.found("B4")
def test_a_storage_that_many_loops_use_leaves_no_thread_and_no_handle(threads: ThreadPoolExecutor) -> None:
    held = sqlite()
    trio.run(Echo(persistence=held).kickoff, {"x": 0})
    list(threads.map(lambda x: asyncflow.run(Echo(persistence=held), {"x": x}), range(2 * THREADS)))
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        list(threads.map(lambda x: asyncflow.run(Echo(persistence=held), {"x": x}), range(2 * THREADS)))
        trio.run(Echo(persistence=held).kickoff, {"x": 0})
    after = threading.active_count(), len(os.listdir("/proc/self/fd"))

    assert after[0] <= before[0]
    assert after[1] <= before[1]


FORKED = """
import os, threading
import anyio
import asyncflow
from asyncflow import Flow, SQLiteFlowPersistence, errors, start

storage = SQLiteFlowPersistence("runs.db")

class Work(Flow[dict]):
    persistence = storage

    @start()
    def work(self):
        return 1

opened, leave = threading.Event(), threading.Event()

async def keep_open():
    async with storage:
        opened.set()
        await anyio.to_thread.run_sync(leave.wait)

def child(expected):
    if (pid := os.fork()) == 0:
        try:
            asyncflow.run(Work())
            os._exit(7)
        except errors.ForkedProcessError:
            os._exit(8)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == expected

thread = threading.Thread(target=anyio.run, args=(keep_open,))
thread.start()
opened.wait()
child(8)
assert asyncflow.run(Work()) == 1
leave.set()
thread.join()
child(7)
assert asyncflow.run(Work()) == 1
print(sorted(os.listdir()))
"""


@pytest.mark.found("B4")
@pytest.mark.clauses("S4")
def test_a_child_of_a_fork_is_refused_what_any_thread_of_its_parent_has_open() -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, env=env)

    assert (done.stdout, done.returncode) == ("['runs.db']\n", 0), done.stderr
