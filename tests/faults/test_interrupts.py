"""Ctrl-C at any line: the program ends, nothing is held, and the run can be resumed."""

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest
import trio
from figures import FACTOR, SEED, tell
from held_up import AtLine

from asyncflow import Flow, FlowRunner, SQLiteFlowPersistence, and_, listen, start
from asyncflow._runs.ownership import _DRIVEN
from asyncflow.persistence._database.loop_host import current_loop_host

STRIDE = max(1, int(43 / FACTOR))
"""Every so many lines are struck; the long form strikes each of them."""

HANGS: float = 120
"""Seconds after which a program is taken to hang: it prints where, and ends."""


class Steps(Flow[dict[str, int]]):
    name = "Steps"

    @start()
    async def first(self) -> int:
        return 1

    @listen(first)
    async def left(self, n: int) -> int:
        await anyio.lowlevel.checkpoint()
        return n + 1

    @listen(first)
    def right(self, n: int) -> int:
        return n + 2

    @listen(and_(left, right))
    async def both(self, left: int, right: int) -> int:
        return left + right


async def kicked_off(run_id: str) -> None:
    await Steps(persistence=SQLiteFlowPersistence("runs.db", durability="process")).kickoff({"id": run_id})


async def entered(run_id: str) -> None:
    async with SQLiteFlowPersistence("runs.db", durability="process") as storage:
        await Steps(persistence=storage).kickoff({"id": run_id})


async def run_by_a_runner(run_id: str) -> None:
    storage = SQLiteFlowPersistence("runs.db", durability="process")
    async with FlowRunner(storage, flows=[Steps], recover_every=None, grace=0.05, patience=0.05) as runner:
        await runner.run(Steps, run_id=run_id)


def by_trio(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    trio.run(main)


def by_asyncio(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """asyncio's own handler turns the first Ctrl-C into a cancellation of the main task, which becomes KeyboardInterrupt at its end."""
    asyncio.run(main())


LOOPS = {"trio": by_trio, "asyncio": by_asyncio}


@contextlib.contextmanager
def noticed_if_it_hangs() -> Iterator[None]:
    faulthandler.dump_traceback_later(HANGS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def struck_at(
    at: int, run: Callable[[Any], None], main: Callable[[str], Coroutine[Any, Any, None]], run_id: str
) -> AtLine:
    """Ctrl-C before the n-th line, as the system's handler has it: raised there, or kept until the program waits."""

    def strike() -> None:
        handler = signal.getsignal(signal.SIGINT)
        assert callable(handler)
        frame = sys._getframe(1)
        while frame.f_code.co_filename == AtLine.arm.__code__.co_filename:
            assert frame.f_back is not None
            frame = frame.f_back
        handler(signal.SIGINT, frame)

    async def armed() -> None:
        line.arm()
        try:
            await main(run_id)
        finally:
            line.disarm()

    line = AtLine(at, strike)
    with noticed_if_it_hangs():
        try:
            run(armed)
        except KeyboardInterrupt:
            pass
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is None:
                raise
        finally:
            line.disarm()
    return line


@pytest.mark.found("D1")
@pytest.mark.clauses("X4")
@pytest.mark.parametrize("main", [kicked_off, entered, run_by_a_runner])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
def test_an_interrupt_at_any_line_leaves_nothing_held_and_a_run_that_can_be_resumed(
    loop: str, main: Callable[[str], Coroutine[Any, Any, None]]
) -> None:
    at, struck, before = 1 + SEED % STRIDE, 0, dict(_DRIVEN)
    LOOPS[loop](lambda: main("a first one"))
    threads = threading.active_count()
    while True:
        run_id = f"run {at}"
        line = struck_at(at, LOOPS[loop], main, run_id)
        if not line.has_struck:
            break
        assert before == _DRIVEN, line.where
        assert threading.active_count() <= threads + 10, line.where
        with noticed_if_it_hangs():
            assert anyio.run(goes_on, run_id) == 5, line.where
        assert not os.path.exists("runs.db.owners"), line.where
        at, struck = at + STRIDE, struck + 1
    tell("R32", trials=struck, faults=struck)
    assert struck > 30


async def goes_on(run_id: str) -> Any:
    """Another process takes it up at once; also one that had not begun."""
    async with SQLiteFlowPersistence("runs.db", durability="process") as storage:
        with anyio.fail_after(60):
            return await Steps(persistence=storage)._instance.start(run_id, {})


class CancelledWhenAsked(asyncio.Future[None]):
    """A Ctrl-C cancels the main task, and what it waits for, right after a caller asked whether the future is done."""

    def done(self) -> bool:
        was_done = super().done()
        self.cancel()
        return was_done


@pytest.mark.found("D1")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_interrupt_while_a_commit_wakes_its_waiters_stops_no_other_waiter() -> None:
    home = await current_loop_host()
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    for waiter in (CancelledWhenAsked(), cancelled):
        home.wake(waiter)
    home.close()


@pytest.mark.found("D1")
@pytest.mark.clauses("X4")
def test_a_method_that_never_waits_can_be_interrupted_on_trio() -> None:
    class Busy(Flow[dict[str, int]]):
        @start()
        async def spin(self) -> None:
            signal.raise_signal(signal.SIGINT)
            until = time.monotonic() + HANGS
            while time.monotonic() < until:
                pass
            raise AssertionError("it was not interrupted")

    with pytest.raises(KeyboardInterrupt):
        trio.run(Busy(persistence=SQLiteFlowPersistence("runs.db")).kickoff)


@pytest.mark.found("B19")
@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)  # a loop of trio's has imported it
async def test_a_trio_that_another_thread_is_importing_is_not_taken_for_the_loop(
    monkeypatch: pytest.MonkeyPatch, anyio_backend: Any
) -> None:
    for module in (types.ModuleType("trio"), with_half_a_lowlevel()):
        monkeypatch.setitem(sys.modules, "trio", module)
        async with SQLiteFlowPersistence("runs.db", durability="process") as storage:
            assert await Steps(persistence=storage).kickoff() == 5
        assert await Steps().kickoff() == 5


def with_half_a_lowlevel() -> types.ModuleType:
    half = types.ModuleType("trio")
    half.lowlevel = types.ModuleType("trio.lowlevel")  # type: ignore[attr-defined]
    return half
