"""A signal, and a time that has come: what was first comes first, whether or not the run was driven meanwhile."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest
from moments import interrupted_once, later, stored, until

from asyncflow import Flow, FlowRunner, Signal, SQLiteFlowPersistence, after, and_, listen, or_, start, wait_for
from asyncflow.errors import SignalTimeoutError
from asyncflow.persistence.inbox import FINISH, NewSignal
from asyncflow.persistence.sqlite import persistence

HOUR = 3_600.0


class Joins(Flow[dict]):
    name = "Joins"
    answered = Signal("answered", str)

    @start()
    async def ask(self) -> None: ...

    @listen(or_(and_(ask, answered), after(ask, HOUR)))
    async def decide(self, answer: str | None) -> str:
        self.state.setdefault("decided", []).append(answer)
        return answer or "too late"


class Either(Joins):
    name = "Either"

    @listen(or_(Joins.answered, after(Joins.ask, HOUR)))
    async def decide(self, answer: str | None) -> str:
        self.state.setdefault("decided", []).append(answer)
        return answer or "too late"


class Within(Flow[dict]):
    name = "Within"
    answered = Signal("answered", str)

    @start()
    async def ask(self) -> str:
        try:
            answer = await wait_for(self.answered, timeout=HOUR)
        except SignalTimeoutError:
            answer = None
        self.state["decided"] = [answer]
        return answer or "too late"


FLOWS: list[Any] = [Joins, Either, Within]


async def waiting(flow: Any, storage: Any, *, is_parked: bool) -> str:
    """A run that waits, and that nothing drives."""
    run = flow(persistence=storage)
    if is_parked:
        await run.kickoff(until="waiting")
    else:
        await interrupted_once(run.kickoff, stored(storage, run.run_id, 1))
    return str(run.run_id)


async def sent(flow: Any, run_id: str, storage: Any, answer: str, seconds: float) -> None:
    """Send an answer, some seconds from now by the sender's clock."""
    with later(seconds):
        await flow.signal(run_id, flow.answered, answer, persistence=storage)


def ways(flow: Any) -> list[bool]:
    return [False] if flow is Within else [False, True]


CASES = [pytest.param(flow, parked, id=f"{flow.__name__}-{parked}") for flow in FLOWS for parked in ways(flow)]


@pytest.mark.clauses("W6")
@pytest.mark.parametrize(("flow", "is_parked"), CASES)
@pytest.mark.parametrize("by", ["resume", "runner"])
async def test_a_signal_that_was_sent_in_time_comes_before_what_is_due(
    flow: Any, is_parked: bool, by: str, storage: Any
) -> None:
    run_id = await waiting(flow, storage, is_parked=is_parked)
    await sent(flow, run_id, storage, "yes", HOUR / 2)
    with later(2 * HOUR), anyio.fail_after(60):
        if by == "resume":
            assert await flow.resume(run_id, persistence=storage) == "yes"
        else:
            async with FlowRunner(storage, flows=[flow]) as runner:
                assert await (await runner.get(run_id)).result() == "yes"
    assert (await flow.load(run_id, persistence=storage)).state["decided"] == ["yes"]
    assert await storage.inbox(run_id) == []


@pytest.mark.clauses("W6")
@pytest.mark.parametrize(("flow", "is_parked"), CASES)
async def test_what_is_due_comes_before_a_signal_that_was_sent_later(flow: Any, is_parked: bool, storage: Any) -> None:
    run_id = await waiting(flow, storage, is_parked=is_parked)
    await sent(flow, run_id, storage, "yes", 1.5 * HOUR)
    with later(2 * HOUR), anyio.fail_after(60):
        await flow.resume(run_id, persistence=storage)
    decided = (await flow.load(run_id, persistence=storage)).state["decided"]
    assert decided[0] is None
    assert decided[1:] == (["yes"] if flow is Either else [])  # there, the signal alone fires the listener again


@pytest.mark.clauses("W6", "W2")
@pytest.mark.parametrize("flow", [Joins, Either])
async def test_a_request_to_finish_that_was_stored_comes_before_what_is_due(flow: Any, storage: Any) -> None:
    run_id = await waiting(flow, storage, is_parked=False)
    await storage.send(run_id, NewSignal(FINISH, b"null", FINISH, "", time.time()))
    with later(2 * HOUR), anyio.fail_after(60):
        await flow.resume(run_id, persistence=storage)
    assert "decided" not in (await flow.load(run_id, persistence=storage)).state


class Between(Flow[dict]):
    """Two timers and the limit of a wait are due one after the other."""

    name = "Between"
    answered = Signal("answered", str)

    def note(self, what: str) -> None:
        order.append(what)

    @start()
    async def begin(self) -> None: ...

    @listen(begin)
    async def ask(self) -> None:
        try:
            self.note(await wait_for(self.answered, timeout=0.8 * HOUR))
        except SignalTimeoutError:
            self.note("too late")

    @listen(after(begin, 0.2 * HOUR))
    async def first(self) -> None:
        self.note("first")

    @listen(after(begin, 0.4 * HOUR))
    async def second(self) -> None:
        self.note("second")


order: list[str] = []


@pytest.mark.clauses("W6", "W1")
@pytest.mark.parametrize(
    ("sent_at", "earlier", "answer"),
    [
        (0.1, 0, "yes"),
        (0.3, 1, "yes"),
        (0.5, 2, "yes"),
        (0.9, 2, "too late"),
        (None, 2, "too late"),
    ],
)
async def test_what_became_due_and_what_was_sent_while_nothing_drove_the_run_comes_in_order(
    sent_at: float | None, earlier: int, answer: str, storage: Any
) -> None:
    """`earlier`: how many timers are due before the answer, or before the limit. They come first; the wait may begin after others."""
    order.clear()
    run = Between(persistence=storage)
    await interrupted_once(run.kickoff, stored(storage, run.run_id, 2))
    if sent_at is not None:
        await sent(Between, run.run_id, storage, "yes", sent_at * HOUR)
    with later(HOUR), anyio.fail_after(60):
        await Between.resume(run.run_id, persistence=storage)
    history = await (await Between.load(run.run_id, persistence=storage)).history()
    _, *kinds = [entry.kind for entry in history if entry.kind in ("timer", "signal", "step")]
    assert kinds.index("signal" if answer == "yes" else "step") >= earlier
    assert sorted(order) == sorted(["first", "second", answer])


class JoinsSoon(Joins):
    name = "JoinsSoon"

    @listen(or_(and_(Joins.ask, Joins.answered), after(Joins.ask, 1.0)))
    async def decide(self, answer: str | None) -> str:
        return answer or "too late"


class WithinSoon(Within):
    name = "WithinSoon"

    @start()
    async def ask(self) -> str:
        try:
            return await wait_for(self.answered, timeout=1.0)
        except SignalTimeoutError:
            return "too late"


@pytest.mark.clauses("W6")
@pytest.mark.parametrize("flow", [JoinsSoon, WithinSoon])
async def test_a_signal_that_the_driver_has_not_seen_yet_comes_before_what_is_due(
    flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another storage object sends it: nothing reports it to the driver, which would look for it an hour later."""
    monkeypatch.setattr(persistence, "LOOK_SECONDS", HOUR)
    async with SQLiteFlowPersistence("runs.db") as storage, SQLiteFlowPersistence("runs.db") as other:
        for _ in range(10):  # a machine that stands still for a second sends it too late
            results: list[Any] = []
            run = flow(persistence=storage)

            async def drive(run: Any = run, results: list[Any] = results) -> None:
                results.append(await run.kickoff())

            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    group.start_soon(drive)
                    began = time.monotonic()
                    await until(stored(other, run.run_id, 1))
                    await flow.signal(run.run_id, flow.answered, "yes", persistence=other)
                    is_in_time = time.monotonic() - began < 0.8
            if is_in_time:
                break
        assert results == ["yes"]
