"""Signals of stored runs: sent once, taken once, whatever happens to the run, its process or its sender."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from flows import STORES
from moments import interrupted_once, later, stored, until
from pydantic import BaseModel

from asyncflow import (
    Flow,
    FlowRunner,
    MethodError,
    Retry,
    Signal,
    after,
    and_,
    errors,
    events,
    finish,
    listen,
    or_,
    persist,
    router,
    sleep,
    start,
    this_invocation,
    wait_for,
)
from asyncflow._runtime import signals, timing
from asyncflow.persistence import MemoryFlowPersistence, NewSignal, SQLiteFlowPersistence, memory_inbox
from asyncflow.persistence._database import inboxes
from asyncflow.persistence.inbox import FINISH
from asyncflow.testing import Delay, Fail, FaultyPersistence, LoseReply, crash_everywhere


class Decision(BaseModel):
    ok: bool
    why: str = ""


class Approval(Flow[dict]):
    """Drafts, and publishes what is approved."""

    name = "Approval"
    decided = Signal("decided", Decision)

    @start()
    async def draft(self) -> str:
        return "draft"

    @listen(and_(draft, decided))
    async def publish(self, draft: str, decided: Decision) -> str:
        self.state["published"] = self.state.get("published", 0) + 1
        return f"{draft}: {decided.ok} {decided.why}".strip()


YES = Decision(ok=True)


async def waiting(store: Any, flow: type[Flow[Any]] = Approval) -> str:
    """An interrupted run that waits for a signal. Return its id."""
    run = flow(persistence=store)
    await interrupted_once(run.kickoff, stored(store, run.run_id, 1))
    assert run.status in ("waiting", "interrupted")
    return run.run_id


async def driven(run: Flow[Any], *then: Callable[[], Awaitable[object]], seq: int = 1) -> Any:
    """Run a flow, and do something once its run has a checkpoint. Return its result."""
    results: list[Any] = []

    async def drive() -> None:
        results.append(await run.kickoff())

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(drive)
            await until(stored(run._instance.setup.persistence, run.run_id, seq))
            for call in then:
                await call()
    return results[0]


# ---- sending and taking ----------------------------------------------------------------------------------------------


@pytest.mark.clauses("W6")
async def test_a_signal_to_a_running_run_is_taken_in_one_checkpoint(log: Any) -> None:
    run = Approval(persistence=log)
    result = await driven(run, lambda: Approval.signal(run.run_id, Approval.decided, YES, persistence=log))
    rows = await log.history(run.run_id)

    assert (result, run.status, run.result) == ("draft: True", "finished", "draft: True")
    assert [row.kind for row in rows] == ["started", "method", "signal", "method", "finished"]
    assert rows[2].method == "decided:1"
    assert (await Approval.load(run.run_id, persistence=log)).result == "draft: True"


@pytest.mark.clauses("W6")
async def test_a_signal_that_was_sent_before_the_run_waited_is_kept(log: Any) -> None:
    class Slow(Approval):
        name = "Slow"

        @start()
        async def draft(self) -> str:
            await Slow.signal(self.run_id, Slow.decided, YES, persistence=log)
            return "late draft"

    assert await Slow(persistence=log).kickoff() == "late draft: True"


@pytest.mark.clauses("W6")
async def test_an_interrupted_run_stores_its_signals_and_takes_them_when_it_is_resumed(log: Any) -> None:
    run_id = await waiting(log)
    assert await Approval.signal(run_id, "decided", YES, persistence=log, key="click") is True
    assert await Approval.signal(run_id, "decided", YES, persistence=log, key="click") is False

    assert await Approval.resume(run_id, persistence=log) == "draft: True"
    loaded = await Approval.load(run_id, persistence=log)
    assert loaded.state["published"] == 1
    assert await Approval.signal(run_id, "decided", YES, persistence=log, key="click") is False  # also afterwards


@pytest.mark.clauses("W6")
async def test_a_failed_run_stores_its_signals_and_takes_none_before_it_is_resumed(log: Any) -> None:
    class Failing(Approval):
        name = "Failing"
        fails = True

        @listen(Approval.draft)
        async def check(self) -> None:
            if Failing.fails:
                raise ValueError("no")

    run = Failing(persistence=log)
    with pytest.raises(MethodError):
        await run.kickoff()
    assert await Failing.signal(run.run_id, Failing.decided, YES, persistence=log)
    assert len(await log.inbox(run.run_id)) == 1

    Failing.fails = False
    await Failing.resume(run.run_id, persistence=log)
    assert (await Failing.load(run.run_id, persistence=log)).state["published"] == 1


@pytest.mark.clauses("W6")
async def test_a_signal_of_another_opening_of_the_file_is_noticed() -> None:
    here, there = SQLiteFlowPersistence("runs.db"), SQLiteFlowPersistence("runs.db")
    run = Approval(persistence=here)

    assert (
        await driven(run, lambda: Approval.signal(run.run_id, Approval.decided, YES, persistence=there))
        == "draft: True"
    )


@pytest.mark.clauses("W6")
async def test_crashed_at_any_checkpoint_a_signal_is_neither_lost_nor_taken_twice() -> None:
    class Sends(Flow[dict]):
        name = "Sends"
        go = Signal("go", int)

        @start()
        async def begin(self) -> int:
            for n in range(3):
                store = self._instance.setup.persistence
                await Sends.signal(self.run_id, Sends.go, n, persistence=store, key=f"go {n}")
            return 0

        @listen(or_(begin, "again"))
        async def ask(self) -> None: ...

        @router(and_(ask, go), emit=["again", "done"])
        async def note(self, go: int) -> str:
            self.state.setdefault("seen", []).append(go)
            return "again" if len(self.state["seen"]) < 3 else "done"

        @listen("done")
        async def end(self) -> list[int]:
            return list(self.state["seen"])

    report = await crash_everywhere(Sends)
    assert report.crashes > 30


# ---- endings ---------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("W9")
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_run_that_has_ended_takes_no_signal(log: Any, cancelled: bool) -> None:
    run_id = await waiting(log)
    if cancelled:
        await (await Approval.load(run_id, persistence=log)).cancel()
    else:
        await Approval.signal(run_id, Approval.decided, YES, persistence=log)
        await Approval.resume(run_id, persistence=log)

    with pytest.raises(errors.RunEndedError, match="takes no signal") as raised:
        await Approval.signal(run_id, Approval.decided, YES, persistence=log)
    assert raised.value.run_id == run_id


@pytest.mark.clauses("W9")
async def test_a_signal_that_comes_as_the_pass_ends_is_taken_first(log: Any) -> None:
    """Its sender was told that it is stored, and a method waits for it while the pass lives."""

    class Noting(Flow[dict]):
        name = "Noting"
        note = Signal("note", int)

        @start()
        async def begin(self) -> None: ...

        @listen(note, keep_open=False)
        async def noted(self, note: int) -> int:
            self.state["noted"] = note
            return note

    class SendsFirst(type(log)):  # type: ignore[misc]
        ends = 0

        async def append_last(self, checkpoint: Any, newest: int) -> None:
            SendsFirst.ends += 1
            if SendsFirst.ends == 1:
                await self.send(checkpoint.run_id, NewSignal("note", b"7", "k", "", 0.0))
            await super().append_last(checkpoint, newest)

    store = SendsFirst() if isinstance(log, MemoryFlowPersistence) else SendsFirst("ends.db")
    run = Noting(persistence=store)

    assert await run.kickoff() == 7
    loaded = await Noting.load(run.run_id, persistence=store)
    assert (loaded.status, loaded.state["noted"], SendsFirst.ends) == ("finished", 7, 2)
    assert [row.seq for row in await store.history(run.run_id)] == list(range(5))


@pytest.mark.clauses("W9")
async def test_what_nothing_took_does_not_reach_the_next_pass(log: Any) -> None:
    run_id = await waiting(log)
    for key in ("a", "b"):
        await Approval.signal(run_id, Approval.decided, YES, persistence=log, key=key)
    await Approval.resume(run_id, persistence=log)
    assert await log.inbox(run_id) == []

    again = Approval(persistence=log)
    await interrupted_once(lambda: again.kickoff({"id": run_id}), stored(log, run_id, 6))
    assert again.status in ("waiting", "interrupted")


@pytest.mark.clauses("W8")
async def test_keep_open_holds_a_run_until_its_signal_came_and_its_output_is_the_last_methods(log: Any) -> None:
    class Lone(Flow[dict]):
        name = "Lone"
        go = Signal("go")

        @start()
        async def begin(self) -> int:
            return 1

        @listen(go, keep_open=True)
        async def gone(self) -> int:
            return 2

    run = Lone(persistence=log)
    assert await driven(run, lambda: Lone.signal(run.run_id, Lone.go, persistence=log)) == 2


async def test_the_output_of_a_run_that_nothing_follows_is_that_of_its_last_method(store: Any) -> None:
    class Open(Flow[dict]):
        go = Signal("go")

        @start()
        async def begin(self) -> str:
            return "first"

        @listen(go, keep_open=False)
        async def gone(self) -> str:
            return "second"

    if isinstance(store, MemoryFlowPersistence | SQLiteFlowPersistence):
        run = Open(persistence=store)
        assert await run.kickoff() == "first"
        assert (await Open.load(run.run_id, persistence=store)).result == "first"


# ---- what cannot be sent ---------------------------------------------------------------------------------------------


async def test_a_key_stands_for_one_payload(log: Any) -> None:
    run_id = await waiting(log)
    await Approval.signal(run_id, Approval.decided, YES, persistence=log, key="k")

    with pytest.raises(errors.SignalKeyError, match="'k'"):
        await Approval.signal(run_id, Approval.decided, Decision(ok=False), persistence=log, key="k")


@pytest.mark.parametrize("key", ["", " k", "k ", "a\nb", "x" * 201, 3])
async def test_a_key_must_be_printable(log: Any, key: Any) -> None:
    with pytest.raises(ValueError, match="the key of a signal"):
        await Approval.signal("x", Approval.decided, YES, persistence=log, key=key)


async def test_an_unknown_signal_is_refused_with_the_known_ones(log: Any) -> None:
    with pytest.raises(errors.UnknownSignalError, match="Did you mean 'decided'"):
        await Approval.signal("x", "decide", YES, persistence=log)
    with pytest.raises(errors.UnknownSignalError, match="with another payload"):
        await Approval.signal("x", Signal("decided", int), 3, persistence=log)


@pytest.mark.parametrize("payload", [None, "yes", {"ok": "perhaps"}, 3])
async def test_a_payload_that_does_not_fit_is_refused(log: Any, payload: Any) -> None:
    run_id = await waiting(log)
    with pytest.raises(errors.SignalPayloadError, match="decided"):
        await Approval.signal(run_id, Approval.decided, payload, persistence=log)
    assert await log.inbox(run_id) == []


async def test_each_fault_of_a_payload_is_found_without_its_value(log: Any) -> None:
    run_id = await waiting(log)
    with pytest.raises(errors.SignalPayloadError) as caught:
        await Approval.signal(run_id, Approval.decided, {"ok": "SECRET"}, persistence=log)

    error = pickle.loads(pickle.dumps(caught.value))
    (fault,) = error.found
    assert (fault["type"], fault["loc"], fault["msg"]) == ("bool_parsing", ("ok",), error.detail.removeprefix("ok: "))
    assert error.paths == ("ok",)
    assert "SECRET" not in f"{error} {error.found}"


async def test_each_error_names_the_signal_and_the_run(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asking(Approval):
        name = "Asking"
        hurry = Signal("hurry", early="refuse")

        @listen(and_("published", hurry))
        async def rest(self) -> None: ...

        @router("publish", emit=["published"])
        async def choose(self) -> str:
            return "published"

    async def raised(kind: type[errors.SignalError], *sent: Any, key: str | None = None) -> None:
        with pytest.raises(kind) as caught:
            await Asking.signal(run_id, *sent, persistence=log, key=key)
        name = sent[0] if isinstance(sent[0], str) else sent[0].name
        assert (type(caught.value), caught.value.signal, caught.value.run_id) == (kind, name, run_id)

    run_id = await waiting(log, Asking)
    await raised(errors.UnknownSignalError, "decide", YES)
    await raised(errors.UnknownSignalError, Signal("decided", int), 3)
    await raised(errors.SignalPayloadError, Asking.decided, 3)
    await raised(errors.NotWaitingError, Asking.hurry)
    await Asking.signal(run_id, Asking.decided, YES, persistence=log, key="k")
    await raised(errors.SignalKeyError, Asking.decided, Decision(ok=False), key="k")
    for module in (memory_inbox, inboxes):
        monkeypatch.setattr(module, "CAPACITY", 1)
    await raised(errors.InboxFullError, Asking.decided, YES)
    with pytest.raises(errors.InboxFullError) as full:
        await log.send(run_id, NewSignal(FINISH, b"null", FINISH, "", 0.0))
    assert full.value.signal == ""
    await (await Asking.load(run_id, persistence=log)).cancel()
    await raised(errors.RunEndedError, Asking.decided, YES)
    await raised(errors.RunEndedError, Asking.hurry)


def test_a_payload_must_be_a_type() -> None:
    with pytest.raises(errors.FlowDefinitionError, match="no type that pydantic knows"):

        class Wrong(Flow[dict]):
            go = Signal("go", 3)

            @start()
            async def begin(self) -> None: ...

    with pytest.raises(ValueError, match="must be a type, not its name"):
        Signal("go", "Decision")
    for name in ("a b", "class", "", "x" * 201, 3):
        with pytest.raises(ValueError, match="must be the name of a parameter"):
            Signal(name)  # type: ignore[call-overload]


async def test_only_a_run_of_this_flow_gets_its_signals(log: Any) -> None:
    class Other(Flow[dict]):
        name = "Other"
        decided = Approval.decided

        @start()
        async def begin(self) -> None: ...

    run_id = await waiting(log)
    with pytest.raises(errors.RunFlowMismatchError):
        await Other.signal(run_id, Approval.decided, YES, persistence=log)
    with pytest.raises(errors.RunNotFoundError):
        await Approval.signal("unknown", Approval.decided, YES, persistence=log)


@pytest.mark.parametrize("payload", [b"{", b'{"ok": []}', b"\xff", b'"\\ud800"'])
async def test_a_stored_payload_that_does_not_fit_is_set_aside_and_the_run_continues(
    log: Any, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A sender that does not know the class stores unchecked JSON."""
    run_id = await waiting(log)
    await log.send(run_id, NewSignal("decided", payload, "wrong", "curl", 0.0))
    await log.send(run_id, NewSignal("decided", b'{"ok": true, "why": "fits"}', "right", "curl", 0.0))
    with caplog.at_level(logging.ERROR, "asyncflow"):
        assert await Approval.resume(run_id, persistence=log) == "draft: True fits"

    assert "signal set aside" in caplog.text
    assert await log.inbox(run_id) == []


@pytest.mark.parametrize("is_stored", [True, False])
async def test_signals_that_nothing_took_are_logged_at_the_end_of_their_pass(
    is_stored: bool, log: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Their senders were told that they are stored."""

    class Once(Flow[dict]):
        name = "Once"
        go, other, third = Signal("go", int), Signal("other", int), Signal("third", int)

        @start()
        async def begin(self) -> None: ...

        @listen(and_(begin, go))
        async def end(self, go: int) -> int:
            for number in range(3):
                await self.signal(self.run_id, self.go, number, **storage)
            await self.signal(self.run_id, self.other, 1, **storage)
            finish()
            return go

        @listen(and_(end, other, third))
        async def never(self) -> None: ...

    storage: dict[str, Any] = {"persistence": log} if is_stored else {}
    run = Once(**storage)

    async def send() -> None:
        while not run.method_outputs:  # noqa: ASYNC110 - no event reports it
            await anyio.sleep(0.002)
        await Once.signal(run.run_id, Once.go, 7, **storage)

    with caplog.at_level(logging.WARNING, "asyncflow"), anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(send)
            assert await run.kickoff() == 7

    (logged,) = [record.getMessage() for record in caplog.records if "signals not taken" in record.getMessage()]
    assert logged.endswith("nothing took go (3), other (1); they are set aside")


async def test_signals_need_a_backend_that_stores_them() -> None:
    store = STORES["two verbs"]()
    with pytest.raises(errors.CapabilityMissingError, match="signals need a backend"):
        await Approval(persistence=store).kickoff()
    with pytest.raises(errors.CapabilityMissingError, match="signals need a backend"):
        await Approval.signal("x", Approval.decided, YES, persistence=store)


def test_signals_need_a_checkpoint_of_every_method() -> None:
    with pytest.raises(errors.FlowDefinitionError, match="Decorate the class"):

        class Partly(Flow[dict]):
            go = Signal("go")

            @persist()
            @start()
            async def begin(self) -> None: ...


class Refusing(Flow[dict]):
    name = "Refusing"
    answer = Signal("answer", int, early="refuse")

    @start()
    async def ask(self) -> None: ...

    @listen(ask)
    async def prepare(self) -> None: ...

    @listen(and_(prepare, answer))
    async def take(self, answer: int) -> int:
        return answer


async def test_a_signal_that_nothing_waits_for_yet_can_be_refused(log: Any) -> None:
    run = Refusing(persistence=log)
    await interrupted_once(run.kickoff, stored(log, run.run_id, 0))
    if run.pending:
        with pytest.raises(errors.NotWaitingError, match="nothing waits for answer"):
            await Refusing.signal(run.run_id, Refusing.answer, 1, persistence=log)
    await interrupted_once(lambda: Refusing(persistence=log).kickoff({"id": run.run_id}), stored(log, run.run_id, 2))

    assert await Refusing.signal(run.run_id, Refusing.answer, 1, persistence=log, key="click")
    assert await Refusing.signal(run.run_id, Refusing.answer, 1, persistence=log, key="click") is False
    with pytest.raises(errors.NotWaitingError, match="another signal answer"):
        await Refusing.signal(run.run_id, Refusing.answer, 2, persistence=log)
    assert await Refusing.resume(run.run_id, persistence=log) == 1
    # A repeated call whose reply was lost must not hear that the signal was not stored.
    assert await Refusing.signal(run.run_id, Refusing.answer, 1, persistence=log, key="click") is False


async def test_a_repeated_signal_that_was_taken_is_recognized_though_nothing_waits_any_more(log: Any) -> None:
    class Twice(Refusing):
        name = "Twice"

        @listen(Refusing.take)
        async def hold(self) -> None:
            await anyio.sleep_forever()

    run = Twice(persistence=log)
    await interrupted_once(run.kickoff, stored(log, run.run_id, 2))
    assert await Twice.signal(run.run_id, Twice.answer, 1, persistence=log, key="click")
    await interrupted_once(lambda: Twice(persistence=log).kickoff({"id": run.run_id}), stored(log, run.run_id, 4))

    assert await Twice.signal(run.run_id, Twice.answer, 1, persistence=log, key="click") is False
    with pytest.raises(errors.NotWaitingError, match="nothing waits"):
        await Twice.signal(run.run_id, Twice.answer, 1, persistence=log, key="another")


# ---- wait_for --------------------------------------------------------------------------------------------------------


class Asks(Flow[dict]):
    """Waits in a method."""

    name = "Asks"
    answer = Signal("answer", int, early="refuse")

    @start(retry=Retry(initial=0, on=KeyError))
    async def ask(self) -> tuple[int, int]:
        answer = await wait_for(Asks.answer)
        if this_invocation().attempt == 1 and answer == 7:
            raise KeyError("again")
        return answer, this_invocation().attempt


@pytest.mark.clauses("W10")
@pytest.mark.parametrize(("payload", "expected"), [(3, (3, 1)), (7, (7, 2))])
async def test_a_method_that_runs_again_gets_the_same_payload(log: Any, payload: int, expected: Any) -> None:
    run = Asks(persistence=log)

    assert await driven(run, lambda: Asks.signal(run.run_id, Asks.answer, payload, persistence=log)) == expected


@pytest.mark.clauses("W10")
async def test_a_wait_is_continued_by_a_resume(log: Any) -> None:
    run_id = await waiting(log, Asks)
    await Asks.signal(run_id, Asks.answer, 3, persistence=log)

    assert await Asks.resume(run_id, persistence=log) == (3, 1)


@pytest.mark.clauses("W10")
async def test_a_wait_ends_after_its_time_over_an_interruption_and_stays_ended(log: Any) -> None:
    class Limited(Flow[dict]):
        name = "Limited"
        answer = Signal("answer", int)

        @start(retry=Retry(attempts=2, initial=0))
        async def ask(self) -> str:
            try:
                await wait_for(Limited.answer, timeout=timedelta(hours=1))
            except errors.SignalTimeoutError:
                if this_invocation().attempt == 1:
                    # Its sender's clock is an hour behind, so it would be in time for a wait that began again.
                    await log.send(self.run_id, NewSignal("answer", b"1", "late", "ann", time.time()))
                    raise ValueError("again") from None
                return "late"
            return "in time"

    run_id = await waiting(log, Limited)
    with later(3601), anyio.fail_after(60):
        assert await Limited.resume(run_id, persistence=log) == "late"


@pytest.mark.clauses("W10")
async def test_waits_are_known_by_their_order_or_a_key(log: Any) -> None:
    class Several(Flow[dict]):
        name = "Several"
        answer = Signal("answer", int)

        @start()
        async def ask(self) -> list[int]:
            found: dict[str, int] = {}

            async def ask(key: str) -> None:
                found[key] = await wait_for(Several.answer, key=key)

            async with anyio.create_task_group() as group:
                group.start_soon(ask, "a")
                group.start_soon(ask, "b")
            return [*sorted(found.values()), await wait_for(Several.answer), await wait_for(Several.answer)]

    run = Several(persistence=log)

    async def send() -> None:
        for n in range(4):
            await Several.signal(run.run_id, Several.answer, n, persistence=log)

    assert await driven(run, send) == [0, 1, 2, 3]


async def test_two_waits_at_once_without_keys_are_refused(log: Any) -> None:
    class Twice(Flow[dict]):
        answer = Signal("answer", int)

        @start()
        async def ask(self) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(wait_for, Twice.answer)
                group.start_soon(wait_for, Twice.answer)

    with pytest.raises(MethodError) as raised:
        await Twice(persistence=log).kickoff()
    assert "StepKeyError" in str(raised.value) + repr(raised.value.failures[0].exception)


async def test_wait_for_takes_a_declared_signal_inside_a_method_only() -> None:
    with pytest.raises(LookupError, match="only inside a method"):
        await wait_for(Asks.answer)

    class Undeclared(Flow[dict]):
        @start()
        async def ask(self) -> None:
            await wait_for(Asks.answer)

    with pytest.raises(MethodError, match="does not declare"):
        await Undeclared().kickoff()


@pytest.mark.clauses("W10")
async def test_a_failure_ends_a_wait_and_a_resume_continues_it(log: Any) -> None:
    class Two(Flow[dict]):
        name = "Two"
        answer = Signal("answer", int)
        fails = True

        @start()
        async def ask(self) -> int:
            return await wait_for(Two.answer)

        @start()
        async def bad(self) -> None:
            if Two.fails:
                raise ValueError("no")

    run = Two(persistence=log)
    with anyio.fail_after(60), pytest.raises(MethodError):
        await run.kickoff()
    assert sorted((await Two.load(run.run_id, persistence=log)).pending) == ["ask:1", "bad:1"]

    Two.fails = False
    await Two.signal(run.run_id, Two.answer, 5, persistence=log)
    await Two.resume(run.run_id, persistence=log)
    assert (await Two.load(run.run_id, persistence=log)).status == "finished"


class Reports(Flow[dict]):
    """Collects what its waits return, each within a limited time."""

    name = "Reports"
    go = Signal("go", int)

    @start()
    async def ask(self) -> list[int]:
        found: list[int] = []
        for _ in range(4):
            with anyio.move_on_after(0.1):
                found.append(await wait_for(Reports.go))
        return found


@pytest.mark.clauses("W10")
async def test_what_is_taken_for_a_wait_that_is_cancelled_is_for_the_next_one(log: Any) -> None:
    slow = FaultyPersistence(log, Delay(operations=("append_taking",), seconds=0.3))
    run = Reports(persistence=slow)

    assert await driven(run, lambda: Reports.signal(run.run_id, Reports.go, 7, persistence=log), seq=1) == [7]


@pytest.mark.clauses("W10")
async def test_names_of_waits_do_not_meet(log: Any) -> None:
    class Named(Flow[dict]):
        name = "Named"
        go = Signal("go", int)

        @start()
        async def ask(self) -> list[int]:
            refused = []
            async with anyio.create_task_group() as group:

                async def again() -> None:
                    try:
                        await wait_for(Named.go, key="k")
                    except errors.StepKeyError:
                        refused.append(1)
                        group.cancel_scope.cancel()

                group.start_soon(again)
                group.start_soon(again)
            return [
                *refused,
                await wait_for(Named.go),
                await wait_for(Named.go, key="1"),
                await wait_for(Named.go, key="#1"),
            ]

    run = Named(persistence=log)

    async def send() -> None:
        for n in (2, 3, 4):
            await Named.signal(run.run_id, Named.go, n, persistence=log)

    assert await driven(run, send) == [1, 2, 3, 4]


@pytest.mark.parametrize("is_stored_late", [False, True])
async def test_a_wait_that_its_method_has_left_ends_with_an_error_and_takes_nothing(
    is_stored_late: bool, log: Any
) -> None:
    """`is_stored_late`: the method has ended before it is stored that the wait has begun."""
    found: list[BaseException] = []

    class Leaving(Approval):
        name = "Leaving"
        go = Signal("go", int)

        @start()
        async def draft(self) -> str:
            async def late() -> None:
                try:
                    await wait_for(Leaving.go)
                except errors.StateError as error:
                    found.append(error)

            group.start_soon(late)
            await anyio.sleep(0.01 if is_stored_late else 0.05)
            return "draft"

    run = Leaving(persistence=FaultyPersistence(log, *([Delay(at=2, seconds=0.1)] if is_stored_late else [])))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:

            async def send() -> None:
                await Leaving.signal(run.run_id, Leaving.go, 1, persistence=log)
                await Leaving.signal(run.run_id, Leaving.decided, YES, persistence=log)

            assert await driven(run, send, seq=0 if is_stored_late else 2) == "draft: True"
    assert "code that it did not await" in str(found[0])


async def test_wait_for_takes_the_signal_as_it_is_declared() -> None:
    class Asking(Flow[dict]):
        answer = Signal("answer", int)

        @start()
        async def ask(self) -> None:
            await wait_for(Signal("answer", str))

    with pytest.raises(MethodError, match="or not in this way"):
        await Asking().kickoff()


# ---- with the rest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [True, False])
async def test_a_loop_of_asking_and_revising_with_a_limit_of_time(log: Any, answered: bool) -> None:
    class Asking(Flow[dict]):
        name = "Asking"
        decided = Signal("decided", Decision)

        @start()
        async def draft(self) -> None: ...

        @listen(or_(draft, "revise"))
        async def ask(self) -> None:
            self.state["asked"] = self.state.get("asked", 0) + 1

        @router(or_(and_(ask, decided), after(ask, timedelta(hours=1))), emit=["revise", "done"])
        async def decide(self, decided: Decision | None = None) -> str:
            return "revise" if decided is not None and not decided.ok else "done"

        @listen("done")
        async def end(self) -> int:
            return int(self.state["asked"])

    run = Asking(persistence=log)
    await interrupted_once(run.kickoff, stored(log, run.run_id, 2))
    if not answered:
        with later(3601), anyio.fail_after(60):
            assert await Asking.resume(run.run_id, persistence=log) == 1
        return
    for n in range(3):
        await Asking.signal(run.run_id, Asking.decided, Decision(ok=n == 2), persistence=log)
    with anyio.fail_after(60):
        assert await Asking.resume(run.run_id, persistence=log) == 3


async def test_a_fork_of_a_waiting_run_waits_with_an_empty_inbox(log: Any) -> None:
    run_id = await waiting(log)
    await Approval.signal(run_id, Approval.decided, YES, persistence=log)
    fork = await Approval.fork(run_id, persistence=log)
    assert await log.inbox(fork.run_id) == []

    await Approval.signal(fork.run_id, Approval.decided, Decision(ok=False), persistence=log)
    assert await fork.kickoff() == "draft: False"
    assert await Approval.resume(run_id, persistence=log) == "draft: True"


async def test_an_edit_keeps_what_a_run_waits_for(log: Any) -> None:
    run_id = await waiting(log)
    loaded = await Approval.load(run_id, persistence=log)
    await loaded.update_state(note="edited")
    await Approval.signal(run_id, Approval.decided, YES, persistence=log)

    assert await Approval.resume(run_id, persistence=log) == "draft: True"


async def test_the_time_limit_of_a_pass_ends_a_wait(log: Any) -> None:
    run = Approval(persistence=log, run_timeout=0.2)
    with anyio.fail_after(60), pytest.raises(errors.RunTimeoutError):
        await run.kickoff()


async def test_a_waiting_run_is_cancelled(log: Any) -> None:
    run = Approval(persistence=log)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:

            async def drive() -> None:
                with pytest.raises(errors.RunCancelledError):
                    await run.kickoff()

            group.start_soon(drive)
            await until(stored(log, run.run_id, 1))
            await run.cancel()
    assert (await Approval.load(run.run_id, persistence=log)).status == "cancelled"


async def test_a_runner_s_handle_sends_and_its_events_report_what_was_taken(log: Any) -> None:
    async with FlowRunner(log, flows=[Approval], grace=0.1) as runner:
        handle = await runner.start(Approval)
        assert await handle.signal(Approval.decided, YES, key="k") is True
        assert await handle.result() == "draft: True"
        assert await handle.signal("decided", YES, key="k") is False
        with pytest.raises(errors.RunEndedError):
            await handle.signal("decided", YES)
        found = [event async for event in handle.events()]

    (taken,) = [event for event in found if isinstance(event, events.SignalTaken)]
    assert (taken.signal, taken.enabled) == ("decided", ("publish:1",))


async def test_a_runner_that_shuts_down_leaves_a_waiting_run_to_the_next_one(log: Any) -> None:
    async with FlowRunner(log, flows=[Approval], grace=0.05) as runner:
        handle = await runner.start(Approval)
        await until(stored(log, handle.run_id, 1))
    await Approval.signal(handle.run_id, Approval.decided, YES, persistence=log)
    async with FlowRunner(log, flows=[Approval]) as runner:
        with anyio.fail_after(60):
            assert await (await runner.start(Approval, run_id=handle.run_id)).result() == "draft: True"


async def test_a_run_without_persistence_gets_signals_while_it_runs() -> None:
    run = Approval()
    results: list[Any] = []

    async def drive() -> None:
        results.append(await run.kickoff())

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(drive)
            while not run.method_outputs:  # noqa: ASYNC110 - nothing is stored
                await anyio.sleep(0.001)
            assert await Approval.signal(run.run_id, Approval.decided, YES, key="k") is True
            assert await Approval.signal(run.run_id, Approval.decided, YES, key="k") is False
    assert results == ["draft: True"]
    with pytest.raises(errors.RunNotFoundError):
        await Approval.signal(run.run_id, Approval.decided, YES)


async def test_a_run_without_persistence_gets_what_its_first_method_sends_and_refuses_what_is_early() -> None:
    class Sends(Flow[dict]):
        name = "Sends itself"
        go = Signal("go", int)
        early = Signal("early", int, early="refuse")

        @start()
        async def begin(self) -> int:
            with pytest.raises(errors.NotWaitingError):
                await Sends.signal(self.run_id, Sends.early, 1)
            await Sends.signal(self.run_id, Sends.go, 5)
            return await wait_for(Sends.go)

    assert await Sends().kickoff() == 5


@pytest.mark.clauses("W8")
async def test_what_a_listener_without_keep_open_holds_keeps_nothing_open(log: Any) -> None:
    class Both(Flow[dict]):
        name = "Both"
        a, b = Signal("a"), Signal("b")

        @start()
        async def draft(self) -> None: ...

        @listen(and_(draft, a))
        async def publish(self) -> str:
            return "published"

        @listen(and_(a, b), keep_open=False)
        async def rare(self) -> None: ...

    run = Both(persistence=log)
    assert await driven(run, lambda: Both.signal(run.run_id, Both.a, persistence=log)) == "published"


async def test_a_run_whose_class_has_lost_its_signals_is_ended_by_a_resume(log: Any) -> None:
    def version(waits: bool) -> type[Flow[Any]]:
        class Changing(Flow[dict], name="Changing"):
            @start()
            async def begin(self) -> int:
                return 1

            if waits:

                @listen(Signal("go"), keep_open=True)
                async def gone(self) -> None: ...

        return Changing

    run_id = await waiting(log, version(True))
    await version(False).resume(run_id, persistence=log)

    assert (await version(False).load(run_id, persistence=log)).status == "finished"


class Sleeps(Flow[dict]):
    @start()
    async def nap(self) -> None:
        await sleep(3600)


class Reminds(Flow[dict]):
    @start()
    async def ask(self) -> None: ...

    @listen(after(ask, 3600))
    async def remind(self) -> None: ...


class Retries(Flow[dict]):
    @start(retry=Retry(initial=3600, maximum=3600))
    async def call(self) -> None:
        raise ValueError("no")


@pytest.mark.parametrize("flow", [Approval, Asks, Sleeps, Reminds, Retries])
async def test_a_run_that_waits_notices_that_it_was_cancelled_elsewhere(
    flow: Any, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(timing, "LONGEST", 0.05)
    run = flow(persistence=log)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:

            async def drive() -> None:
                with pytest.raises(
                    (errors.RunFencedError, errors.RunCancelledError), match=r"while it waited|cancelled"
                ):
                    await run.kickoff()

            group.start_soon(drive)
            await until(stored(log, run.run_id, 1))
            async with FlowRunner(log) as runner:
                await runner.cancel(run.run_id)
    assert (await flow.load(run.run_id, persistence=log)).status == "cancelled"


async def test_a_runner_does_not_spend_its_grace_on_runs_that_only_wait(log: Any) -> None:
    with anyio.fail_after(60):
        async with FlowRunner(log, flows=[Approval, Asks], grace=3600) as runner:
            for flow in (Approval, Asks):
                handle = await runner.start(flow)
                await until(stored(log, handle.run_id, 1))


# ---- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("W6")
async def test_a_sender_whose_reply_was_lost_sends_again_and_the_signal_is_there_once(log: Any) -> None:
    run_id = await waiting(log)
    faulty = FaultyPersistence(log, LoseReply(operations=("send",)))
    with pytest.raises(errors.StorageWriteError):
        await Approval.signal(run_id, Approval.decided, YES, persistence=faulty, key="k")

    assert await Approval.signal(run_id, Approval.decided, YES, persistence=faulty, key="k") is False
    assert len(await log.inbox(run_id)) == 1


@pytest.mark.clauses("W6")
@pytest.mark.parametrize("fault", [Fail, LoseReply])
@pytest.mark.parametrize("operation", ["inbox", "append_taking", "append_last"])
async def test_a_fault_while_a_signal_is_taken_loses_nothing(log: Any, fault: Any, operation: Any) -> None:
    run_id = await waiting(log)
    await Approval.signal(run_id, Approval.decided, YES, persistence=log)
    faulty = FaultyPersistence(log, fault(operations=(operation,)))
    with anyio.fail_after(60), pytest.raises(errors.StorageError):
        await Approval.resume(run_id, persistence=faulty)

    assert await Approval.resume(run_id, persistence=log) == "draft: True"
    assert (await Approval.load(run_id, persistence=log)).state["published"] == 1
