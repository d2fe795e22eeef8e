"""A run of a runner, over a driver that runs no flow."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import pytest

from asyncflow._runtime.audience import Audience
from asyncflow.persistence import Checkpoint
from asyncflow.runner.capacity import Limits, Places
from asyncflow.runner.live import Live


class Fake:
    """A driver (`runner.driver.Driver`) that lists what it is asked, and ends when it is let."""

    run_id, flow_name, epoch = "made", "Fake", 1

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ends = anyio.Event()
        self.on_started: Callable[[], Awaitable[None]] | None = None

    @property
    def is_served(self) -> bool:
        return self.on_started is not None

    def serve(
        self,
        on_started: Callable[[], Awaitable[None]],
        on_checkpoint: Callable[[Checkpoint], object],
        turn: object,
        park_after: float,
        audience: object,
    ) -> None:
        self.on_started = on_started

    async def _driven(self, call: str) -> Any:
        self.asked.append(call)
        assert self.on_started is not None
        await self.on_started()
        self.asked.append("method")
        await self.ends.wait()
        return "done"

    async def kickoff(self, inputs: Mapping[str, Any] | None, from_run: str | None) -> Any:
        return await self._driven("kickoff")

    async def start(self, run_id: str, inputs: Mapping[str, Any] | None) -> Any:
        return await self._driven(f"start {run_id}")

    async def resume(self, run_id: str) -> Any:
        return await self._driven(f"resume {run_id}")

    async def cancel(self) -> None:
        self.asked.append("cancel")

    def wind_down(self) -> None:
        self.asked.append("wind_down")

    def stop(self) -> None:
        self.asked.append("stop")

    def fence(self) -> None:
        self.asked.append("fence")


def places(waiting: int) -> Places:
    return Places(Limits(1, waiting, "wait", grace=0, patience=0, max_takeovers=None))


def live(driver: Fake, run_id: str | None, inputs: dict[str, Any] | None, room: Places, *, again: bool = False) -> Live:
    return Live(driver, run_id, inputs, room, lambda run: None, Audience(), again=again)


@pytest.mark.parametrize(
    ("run_id", "inputs", "again", "call"),
    [
        (None, {}, False, "kickoff"),
        ("a", {}, False, "start a"),
        ("a", None, False, "start a"),
        ("a", None, True, "resume a"),
    ],
)
async def test_a_run_is_started_according_to_its_id_and_inputs(
    run_id: str | None, inputs: dict[str, Any] | None, again: bool, call: str
) -> None:
    driver = Fake()
    driver.ends.set()
    run = live(driver, run_id, inputs, places(waiting=0), again=again)

    await run.drive()

    assert driver.asked == [call, "method"]
    assert (run.run_id, run.result, run.error) == (run_id or "made", "done", None)


async def test_a_run_without_a_slot_is_stored_and_none_of_its_methods_starts() -> None:
    shared = places(waiting=1)
    first, second = Fake(), Fake()
    async with anyio.create_task_group() as group:
        one, two = live(first, "1", {}, shared), live(second, "2", {}, shared)
        group.start_soon(one.drive)
        await one.admitted.wait()
        group.start_soon(two.drive)
        await two.admitted.wait()
        asked = list(second.asked)
        first.ends.set()
        second.ends.set()

    assert asked == ["start 2"]
    assert second.asked == ["start 2", "method"]


async def test_what_the_runner_asks_of_a_run_reaches_its_driver() -> None:
    driver = Fake()
    run = live(driver, "a", {}, places(waiting=0))
    run.wind_down()
    run.stop()
    run.fence()
    await run.cancel()

    assert driver.asked == ["wind_down", "stop", "fence", "cancel"]
