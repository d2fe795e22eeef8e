"""Virtual time beside a `FlowRunner`: days pass at once, and its own tasks notice everything when it happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    Signal,
    SQLiteFlowPersistence,
    after,
    and_,
    listen,
    or_,
    sleep,
    start,
)
from asyncflow.testing import simulated

DAY = 86_400.0

SOON = 1.0
"""A runner scans and looks at least once a second."""

MOST = 1_000
"""Looks and scans that days may take; with one for each half second, they would be hundreds of thousands."""


class Asks(Flow[dict]):
    """Parks until it is answered, or two days have passed."""

    answered = Signal("answered", str)

    @start()
    async def ask(self) -> str:
        return "?"

    @listen(or_(and_(ask, answered), after(ask, 2 * DAY)))
    async def end(self, given: str) -> str:
        return given


class Sleeps(Flow[dict]):
    """Waits in its method for two days."""

    @start()
    async def nap(self) -> str:
        await sleep(2 * DAY)
        return "slept"


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    stored: Any = MemoryFlowPersistence() if request.param == "memory" else SQLiteFlowPersistence(tmp_path / "runs.db")
    looks = 0

    def counted(look: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def looked(*given: Any, **named: Any) -> Any:
            nonlocal looks
            looks += 1
            if looks > MOST:
                pytest.fail("a step is made for each look, and not only where something happens")
            return await look(*given, **named)

        return looked

    stored.runs, stored.parked = counted(stored.runs), counted(stored.parked)
    return stored


@pytest.fixture(params=["asyncio", "trio"])
def in_virtual_time(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    return lambda main: simulated(main, seed=1, loop=request.param)


def days_since(began: float) -> Any:
    return pytest.approx((anyio.current_time() - began) / DAY, abs=SOON / DAY)


def test_days_pass_at_once_and_exactly(storage: Any, in_virtual_time: Any) -> None:
    async def main() -> None:
        began = anyio.current_time()
        async with FlowRunner(storage) as runner:
            assert await runner.run(Asks) == "?"
            assert days_since(began) == 2
            assert await runner.run(Sleeps) == "slept"
            assert days_since(began) == 4
            assert await Asks(persistence=storage).kickoff() == "?"
            assert days_since(began) == 6

    in_virtual_time(main)


def test_a_run_that_others_have_parked_is_woken_when_it_is_due(storage: Any, in_virtual_time: Any) -> None:
    async def main() -> None:
        async with FlowRunner(storage, flows=[Asks]):
            await anyio.sleep(DAY)
            waiting = await Asks(persistence=storage).kickoff(until="waiting")
            await anyio.sleep(2 * DAY - SOON)
            assert [run.status for run in await storage.runs(run_id=waiting.run_id)] == ["waiting"]
            await anyio.sleep(2 * SOON)
            assert [run.status for run in await storage.runs(run_id=waiting.run_id)] == ["finished"]

    in_virtual_time(main)


def test_a_signal_that_its_class_sends_wakes_a_run(storage: Any, in_virtual_time: Any) -> None:
    async def main() -> None:
        async with FlowRunner(storage) as runner:
            run_id = (await runner.start(Asks)).run_id
            await anyio.sleep(DAY)
            assert [run.status for run in await storage.runs()] == ["waiting"]
            await Asks.signal(run_id, Asks.answered, "yes", persistence=storage)
            await anyio.sleep(SOON)
            assert [run.status for run in await storage.runs()] == ["finished"]

    in_virtual_time(main)


def test_an_interrupted_run_is_recovered_and_followed_by_its_handles(storage: Any, in_virtual_time: Any) -> None:
    async def main() -> None:
        began = anyio.current_time()
        async with FlowRunner(storage, flows=[Sleeps]) as runner:
            with anyio.move_on_after(DAY):
                await Sleeps(persistence=storage).kickoff({"id": "interrupted"})
            await anyio.sleep(SOON)
            assert [run.status for run in await storage.runs()] == ["running"]
            assert await (await runner.get("interrupted")).result() == "slept"
            assert days_since(began) == 2

    in_virtual_time(main)


def test_a_handle_gets_the_result_of_a_run_that_another_call_drives(storage: Any, in_virtual_time: Any) -> None:
    async def main() -> None:
        began = anyio.current_time()
        async with FlowRunner(storage) as runner, anyio.create_task_group() as group:
            group.start_soon(Sleeps(persistence=storage).kickoff, {"id": "beside"})
            await anyio.sleep(DAY)
            assert await (await runner.get("beside")).result() == "slept"
            assert days_since(began) == 2

    in_virtual_time(main)
