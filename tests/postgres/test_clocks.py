"""Processes whose clocks differ share a server: due times count by the server's clock, whichever process stores or compares them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import anyio
import pytest
from moments import interrupted_once, until

from asyncflow import Flow, FlowRunner, Retry, Signal, after, listen, sleep, start, this_invocation, wait_for
from asyncflow._runtime.timing import clock_of, virtual_clock
from asyncflow.errors import RunTimeoutError
from asyncflow.persistence._database.lease import Moment
from asyncflow.persistence.checkpoint import decode_progress
from asyncflow.persistence.postgres import PostgresFlowPersistence
from asyncflow.persistence.postgres.clock import ServerClock
from asyncflow.testing import FaultyPersistence

HOUR = 3600.0
NEAR = 1.0
"""Seconds that pass at most between two readings of a clock which are compared."""
REAL = time.time

Set = Callable[[float], AbstractContextManager[None]]


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Sets the wall clock of this process forward, or back, while a block runs."""

    @contextmanager
    def set_by(seconds: float) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: REAL() + seconds)
            yield

    return set_by


class Waits(Flow[dict]):
    """Waits in one of four ways."""

    delay = HOUR

    @start(retry=Retry(attempts=2, initial=HOUR, maximum=HOUR, jitter=0))
    async def ask(self) -> str:
        if this_invocation().attempt == 1 and self.name == "Pauses":
            raise ValueError("not yet")
        if self.name == "Sleeps":
            await sleep(type(self).delay)
        if self.name == "Lasts":
            await anyio.sleep_forever()
        return "asked"


class Timer(Waits):
    name = "Timer"

    @listen(after(Waits.ask, lambda state: Timer.delay))
    async def remind(self) -> str:
        return "fired"


class Sleeps(Waits):
    name = "Sleeps"


class Pauses(Waits):
    name = "Pauses"


class Lasts(Waits):
    name = "Lasts"
    run_timeout = HOUR


KINDS = [Timer, Sleeps, Pauses, Lasts]


@pytest.fixture
def another(conninfo: str, schema: str) -> Callable[[], PostgresFlowPersistence]:
    """The storage as another process opens it: that has measured nothing yet."""
    return lambda: PostgresFlowPersistence(conninfo, schema=schema)


async def due_at(storage: Any, run_id: str) -> float:
    """When the run is due, as it is stored."""
    view = await (await FlowRunner(storage).get(run_id)).snapshot()
    progress = decode_progress((await storage.load(run_id)).progress)
    due = progress.deadline or view.due_at
    assert due
    return due


async def begun(flow: type[Waits], storage: Any) -> str:
    """The id of a run that was interrupted while it waited."""
    run = flow(persistence=storage)

    async def waits() -> bool:
        newest = await storage.load(run.run_id)
        return newest is not None and (newest.seq >= 1 or flow is Lasts)

    await interrupted_once(run.kickoff, waits)
    return run.run_id


@pytest.mark.clauses("W15")
@pytest.mark.parametrize("skew", [HOUR, -HOUR], ids=["ahead", "behind"])
@pytest.mark.parametrize("flow", KINDS)
async def test_a_process_whose_clock_is_wrong_stores_the_due_times_of_the_server(
    flow: type[Waits], skew: float, persistence: PostgresFlowPersistence, wrong: Set
) -> None:
    began = REAL()
    with wrong(skew):
        async with persistence:
            run_id = await begun(flow, persistence)
            newest = await persistence.load(run_id)
            due = await due_at(persistence, run_id)

    assert began + HOUR - NEAR < due < REAL() + HOUR + NEAR
    assert newest is not None
    assert began - NEAR < newest.at < REAL() + NEAR


@pytest.mark.clauses("W15", "W1", "W5", "R2", "R7")
@pytest.mark.parametrize("flow", KINDS)
async def test_a_process_whose_clock_is_ahead_fires_nothing_early(
    flow: type[Waits],
    persistence: PostgresFlowPersistence,
    another: Callable[[], PostgresFlowPersistence],
    wrong: Set,
) -> None:
    async with persistence:
        run_id = await begun(flow, persistence)
        due = await due_at(persistence, run_id)
        with wrong(2 * HOUR):
            async with another() as elsewhere:
                assert -2 * HOUR - NEAR < elsewhere.clock_offset < -2 * HOUR + NEAR
                with anyio.move_on_after(0.5) as waited:
                    await flow.resume(run_id, persistence=elsewhere)
                assert waited.cancelled_caught
                assert await due_at(elsewhere, run_id) == due


@pytest.mark.clauses("W15", "W11")
@pytest.mark.parametrize("skew", [2 * HOUR, -HOUR], ids=["ahead", "behind"])
async def test_a_runner_whose_clock_is_wrong_looks_for_the_runs_that_are_due(
    skew: float, persistence: PostgresFlowPersistence, another: Callable[[], PostgresFlowPersistence], wrong: Set
) -> None:
    async with persistence:
        waiting = await Timer(persistence=persistence).kickoff(until="waiting")
        with wrong(skew):
            elsewhere = another()
            errors: list[float] = []
            parked = elsewhere.parked

            async def looking(*args: Any, until: float, limit: int) -> Any:
                errors.append(until - REAL())
                return await parked(*args, until=until, limit=limit)

            elsewhere.parked = looking  # type: ignore[method-assign]
            async with FlowRunner(elsewhere, flows=[Timer]) as runner:
                with anyio.fail_after(60):
                    while len(errors) < 3:  # noqa: ASYNC110 - no event reports a look
                        await anyio.sleep(0.01)
                await runner._background.sweep.sweep()
                assert await (await runner.get(waiting.run_id)).status() == "waiting"
        assert all(abs(error) < NEAR for error in errors)


@pytest.mark.clauses("W15", "W1", "W5")
@pytest.mark.parametrize("flow", [Timer, Sleeps])
async def test_a_process_whose_clock_is_behind_fires_in_time(
    flow: type[Waits],
    persistence: PostgresFlowPersistence,
    another: Callable[[], PostgresFlowPersistence],
    wrong: Set,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow, "delay", 0.5)
    async with persistence:
        run_id = await begun(flow, persistence)
        with wrong(-HOUR), anyio.fail_after(60):
            result = await flow.resume(run_id, persistence=another())

    assert result == ("fired" if flow is Timer else "asked")


class Asks(Flow[dict]):
    name = "Asks"
    answered = Signal("answered", str)

    @start()
    async def ask(self) -> str:
        return await wait_for(self.answered)


@pytest.mark.clauses("W15", "W6")
@pytest.mark.parametrize("skew", [HOUR, -HOUR], ids=["ahead", "behind"])
async def test_a_signal_is_sent_at_the_servers_time_so_that_what_was_first_comes_first(
    skew: float, persistence: PostgresFlowPersistence, another: Callable[[], PostgresFlowPersistence], wrong: Set
) -> None:
    async with persistence:
        run = Asks(persistence=persistence)

        async def waits() -> bool:
            newest = await persistence.load(run.run_id)
            return newest is not None and newest.seq >= 1

        await interrupted_once(run.kickoff, waits)
        began = REAL()
        with wrong(skew):
            await Asks.signal(run.run_id, Asks.answered, "yes", persistence=another())
        (sent,) = await persistence.inbox(run.run_id)

    assert began - NEAR < sent.signal.at < REAL() + NEAR


@pytest.mark.clauses("W15", "R7")
async def test_a_new_time_limit_is_by_the_servers_clock(
    persistence: PostgresFlowPersistence, another: Callable[[], PostgresFlowPersistence], wrong: Set
) -> None:
    run_id = await begun(Lasts, persistence)
    with wrong(-HOUR):
        with anyio.fail_after(60), pytest.raises(RunTimeoutError):
            await Lasts.resume(run_id, persistence=another(), run_timeout=0.2)


@pytest.mark.clauses("W15")
async def test_a_clock_that_is_set_is_measured_again_when_the_lease_is_renewed(
    conninfo: str, schema: str, persistence: PostgresFlowPersistence, wrong: Set
) -> None:
    storage = PostgresFlowPersistence(conninfo, schema=schema, lease=0.6)
    clock = clock_of(storage)
    async with storage:
        await begun(Sleeps, storage)
        for skew in (HOUR, -HOUR, 0.0):
            with wrong(skew):

                async def is_right() -> bool:
                    return abs(clock() - REAL()) < NEAR

                await until(is_right)


@pytest.mark.clauses("W15")
async def test_the_offset_is_that_of_the_inner_storage_and_0_before_it_is_opened(
    persistence: PostgresFlowPersistence, wrong: Set
) -> None:
    assert persistence.clock_offset == 0.0
    with wrong(HOUR):
        async with persistence:
            assert FaultyPersistence(persistence).clock_offset == persistence.clock_offset  # type: ignore[attr-defined]
        assert -HOUR - NEAR < persistence.clock_offset < -HOUR + NEAR  # it stays known

        token = virtual_clock.set(lambda: 5.0)
        try:
            assert clock_of(persistence)() == 5.0  # that of the testing kit
        finally:
            virtual_clock.reset(token)


@pytest.mark.clauses("W15")
def test_half_the_round_trip_is_assumed_and_what_a_slow_one_leaves_open_changes_nothing() -> None:
    def measured(clock: ServerClock, at: float, sent: Moment, received: Moment) -> float:
        clock.measured(at, sent, received)
        return clock.offset

    clock = ServerClock()
    assert measured(clock, 100.1, (5.0, 100.0), (5.2, 100.2)) == 0.0  # the clocks may agree: this one is used as it is
    assert measured(clock, 200.0, (6.0, 100.0), (6.2, 100.2)) == pytest.approx(99.9)
    assert measured(clock, 204.0, (9.0, 100.0), (14.0, 105.0)) == pytest.approx(99.9)  # a slow one
    assert measured(clock, 110.0, (20.0, 110.0), (20.2, 50.2)) == pytest.approx(59.9)  # set back by a minute meanwhile
