"""What was found by attacking: each was once wrong."""

import asyncio
import collections
import contextlib
import enum
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import pytest
import trio
from loops import on_asyncio
from pydantic import BaseModel, Field, model_validator

import asyncflow
from asyncflow import (
    Flow,
    FlowState,
    MemoryFlowPersistence,
    MethodError,
    SQLiteFlowPersistence,
    errors,
    listen,
    merge,
    persist,
    start,
)
from asyncflow._runs import instance as driving
from asyncflow._runs.cancelling import cancel_stored
from asyncflow.testing.loops import pause, simulated
from asyncflow.testing.simulation import SimulatedStorage


class Slow(Flow[dict]):
    name = "Slow"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inside, self.go_on = anyio.Event(), anyio.Event()

    @start()
    async def work(self) -> str:
        self.inside.set()
        await self.go_on.wait()
        return "done"


# ---- owners --------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("L2", "L4")
@pytest.mark.parametrize("call", ["kickoff", "resume"])
async def test_a_run_that_came_to_be_between_acquiring_and_loading_is_not_driven_twice(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Slow(persistence=SQLiteFlowPersistence("runs.db"))
    load, came = driving.load_owned, []

    async def late(setup: Any, run_id: str, claim: Any) -> Any:
        if not came:  # another process, which this one's registry knows nothing of, makes the run at this moment
            came.append(run_id)
            monkeypatch.setattr("asyncflow._runs.ownership._DRIVEN", {})
            group.start_soon(first.kickoff, {"id": "x"})
            await first.inside.wait()
            monkeypatch.setattr("asyncflow.persistence.sqlite.owners.Owner.may_replace", lambda owner, other: False)
        return await load(setup, run_id, claim)

    monkeypatch.setattr(driving, "load_owned", late)
    async with anyio.create_task_group() as group:
        second = Slow(persistence=SQLiteFlowPersistence("./runs.db"))
        tried = (
            second.kickoff({"id": "x"})
            if call == "kickoff"
            else Slow.resume("x", persistence=SQLiteFlowPersistence("./runs.db"))
        )
        with anyio.fail_after(120), pytest.raises(errors.RunLockedError):
            await tried
        first.go_on.set()

    assert first.status == "finished"
    assert not second.inside.is_set()


@pytest.mark.clauses("L2")
async def test_a_relative_path_is_the_same_file_after_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteFlowPersistence("runs.db") as storage:
        flow = Slow(persistence=storage)
        flow.go_on.set()
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        await flow.kickoff()
        loaded = await Slow.load(flow.run_id, persistence=storage)
        assert os.listdir(tmp_path / "runs.db.owners") != []

    assert loaded.result == "done"
    assert os.listdir(".") == []
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "runs.db"]


FORKED = """
import anyio, os, sys
from asyncflow import Flow, SQLiteFlowPersistence, start, errors

class Work(Flow[dict]):
    @start()
    async def work(self):
        if (pid := os.fork()) == 0:
            try:
                await Work.load("x", persistence=storage)
            except errors.ForkedProcessError:
                os._exit(7)
            finally:
                os._exit(8)
        print("child left with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

storage = SQLiteFlowPersistence("runs.db")

async def main():
    async with storage:
        await Work(persistence=storage).kickoff({"id": "x"})
    print("parent finished", flush=True)

anyio.run(main)
"""


@pytest.mark.clauses("L2")
def test_a_forked_child_neither_uses_nor_takes_what_its_parent_has_open() -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, env=env)

    assert done.stdout.splitlines() == ["child left with 7", "parent finished"]
    assert done.returncode == 0


def test_a_file_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="MemoryFlowPersistence"):
        SQLiteFlowPersistence(":memory:")


# ---- what is stored ------------------------------------------------------------------------------------------------


@pytest.mark.clauses("E4")
@pytest.mark.parametrize("persistence", [MemoryFlowPersistence, lambda: SQLiteFlowPersistence("runs.db")])
async def test_a_method_checkpoint_holds_what_unmarked_methods_did_before(persistence: Any) -> None:
    is_well = False

    class Partly(Flow[dict]):
        @start()
        async def unmarked(self) -> None:
            self.state["x"] = 1

        @persist
        @listen(unmarked)
        async def marked(self) -> None: ...  # looks at no state

        @listen(marked)
        async def last(self) -> Any:
            if not is_well:
                raise RuntimeError
            return self.state.get("x", "lost")

    store = persistence()
    flow = Partly(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    is_well = True

    assert await Partly.resume(flow.run_id, persistence=store) == 1


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(("annotation", "value"), [(list, None), (list, {}), (dict, None), (dict, [1])])
async def test_a_bare_container_is_looked_at(annotation: Any, value: Any) -> None:
    class Holding(FlowState):
        held: annotation = Field(default_factory=annotation)

    class Put(Flow[Holding]):
        persistence = MemoryFlowPersistence()

        @start()
        async def put(self) -> None:
            self.state.held = value

    with pytest.raises(MethodError) as caught:
        await Put().kickoff()

    assert isinstance(caught.value.__cause__, errors.StateNotStorableError)


class WithInit(BaseModel):
    log: list[str] = []

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.log.append("made")


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (WithInit, WithInit()),
        (collections.deque[int], collections.deque([1, 2], maxlen=2)),
        (collections.defaultdict[str, list[int]], collections.defaultdict(lambda: [9], a=[1])),
        (collections.deque[int], collections.deque([True])),
        (set[tuple[int, ...]], {(True,)}),
    ],
    ids=["own __init__", "maxlen", "default_factory", "bool in a deque", "bool in a set"],
)
async def test_what_would_change_unseen_is_refused(annotation: Any, value: Any) -> None:
    class Made(Flow):
        persistence = MemoryFlowPersistence()

        @start()
        async def make(self) -> annotation:
            return value

    with pytest.raises(MethodError) as caught:
        await Made().kickoff()

    assert isinstance(caught.value.__cause__, errors.ResultNotStorableError)


@pytest.mark.clauses("V1")
async def test_what_is_excluded_stays_when_an_int_becomes_a_float() -> None:
    class Mixed(FlowState):
        number: float = 0.0
        client: Any = Field(default=None, exclude=True)

    class Two(Flow[Mixed]):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self) -> None:
            self.state.number = 1
            self.state.client = "client"

        @listen(first)
        async def second(self) -> str:
            return f"{self.state.number} {self.state.client}"

    assert await Two().kickoff() == "1.0 client"


@pytest.mark.clauses("V1")
async def test_an_aware_datetime_from_pydantic_goes_into_a_dict_state() -> None:
    from datetime import datetime

    class When(Flow[dict[str, datetime]]):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self) -> float:
            return self.state["when"].timestamp()

    assert await When().kickoff({"when": "2024-01-01T00:00:00Z"}) == 1704067200.0


@pytest.mark.clauses("V3")
async def test_a_join_whose_method_is_gone_is_named() -> None:
    from asyncflow import and_

    class Joining(Flow):
        name = "Joining"
        persistence = SQLiteFlowPersistence("runs.db")

        @start()
        async def a(self) -> int:
            return 1

        @start()
        async def b(self) -> int:
            while self.pending != ("b:1",):  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.001)
            scope.cancel()
            await anyio.sleep_forever()

        @listen(and_(a, b))
        async def join(self, a: int, b: int) -> int:
            return a + b

    class Without(Flow):
        name = "Joining"
        persistence = SQLiteFlowPersistence("runs.db")

        @start()
        async def a(self) -> int:
            return 1

        @start()
        async def b(self) -> int:
            return 2

    flow = Joining()
    with anyio.CancelScope() as scope:
        await flow.kickoff()
    assert flow.pending == ("b:1",)
    with pytest.raises(errors.FlowDefinitionError, match="join"):
        await Without.resume(flow.run_id)


# ---- versions are never changed --------------------------------------------------------------------------------------


class Item(BaseModel):
    sku: int
    amount: int = 0

    def __hash__(self) -> int:
        return hash(self.sku)


@pytest.mark.clauses("E4", "X1")
async def test_the_elements_of_a_set_are_a_drafts_own() -> None:
    class Items(FlowState):
        items: set[Item] = Field(default_factory=set)

    class Failing(Flow[Items]):
        name = "Failing"

        @start()
        async def first(self) -> None:
            self.state.items.add(Item(sku=1))

        @listen(first)
        async def bad(self) -> None:
            next(iter(self.state.items)).amount = 99
            raise ValueError

    flow = Failing()
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert [item.amount for item in flow.state.items] == [0]


@pytest.mark.clauses("E4")
async def test_a_declared_merge_may_change_its_arguments() -> None:
    def union(base: list[str], ours: list[str], theirs: list[str]) -> list[str]:
        theirs.extend(x for x in ours if x not in theirs)
        return theirs

    class State(FlowState):
        names: Annotated[list[str], union] = Field(default_factory=list)
        most: Annotated[int, max] = 0

    class Both(Flow[State]):
        @start()
        async def a(self) -> None:
            self.state.names.append("a")
            self.state.most = 3

        @start()
        async def b(self) -> None:
            await anyio.sleep(0.02)
            self.state.names.append("b")
            self.state.most = 2

    flow = Both()
    await flow.kickoff()

    assert (flow.state.names, flow.state.most) == (["a", "b"], 3)


async def test_what_says_nothing_about_being_equal_is_no_conflict_while_nobody_changes_it() -> None:
    class Config:
        def __init__(self) -> None:
            self.depth = 1

    class Two(Flow[dict]):
        initial_state = {"config": Config(), "a": 0, "b": 0}  # noqa: RUF012 - what users write

        @start()
        async def a(self) -> None:
            self.state["a"] = self.state["config"].depth

        @start()
        async def b(self) -> None:
            self.state["b"] = self.state["config"].depth

    flow = Two()
    await flow.kickoff()

    assert (flow.state["a"], flow.state["b"]) == (1, 1)


def test_two_new_lists_in_the_place_of_nothing_are_a_conflict() -> None:
    with pytest.raises(merge.Conflict):
        merge.three_way({"x": None}, {"x": ["yes"]}, {"x": ["no"]}, {})


# ---- how a run ends ------------------------------------------------------------------------------------------------


class Stubborn(Flow[dict]):
    """Takes its time to leave when it is cancelled."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inside = anyio.Event()

    @start()
    async def work(self) -> None:
        try:
            self.inside.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)


@pytest.mark.clauses("C4")
async def test_cancel_is_final_even_if_the_kickoff_is_cancelled_meanwhile() -> None:
    flow = Stubborn(persistence=SQLiteFlowPersistence("runs.db"))
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:

            async def cancel_both() -> None:
                await flow.inside.wait()
                group.start_soon(flow.cancel)
                await anyio.sleep(0.02)
                scope.cancel()

            group.start_soon(cancel_both)
            with contextlib.suppress(errors.RunCancelledError):
                await flow.kickoff()

    assert flow.status == "cancelled"
    assert (await Stubborn.load(flow.run_id, persistence=SQLiteFlowPersistence("runs.db"))).status == "cancelled"


@pytest.mark.clauses("C4")
async def test_cancel_at_the_very_beginning_cancels_the_run() -> None:
    flow = Slow(persistence=SQLiteFlowPersistence("runs.db"))
    ended: list[str] = []

    async def kickoff() -> None:
        try:
            await flow.kickoff()
        except errors.RunCancelledError:
            ended.append("cancelled")

    async with anyio.create_task_group() as group:
        group.start_soon(kickoff)
        while not flow._instance.is_busy:
            await anyio.lowlevel.checkpoint()
        await flow.cancel()

    assert (ended, flow.status) == (["cancelled"], "cancelled")


@pytest.mark.clauses("C1", "X4")
async def test_an_error_on_giving_back_does_not_replace_what_ended_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Any, run_id: str, epoch: int) -> None:
        raise errors.StorageBusyError("busy")

    monkeypatch.setattr(SQLiteFlowPersistence, "release", fail)

    class Leaving(Flow):
        @start()
        async def leave(self) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        await Leaving(persistence=SQLiteFlowPersistence("runs.db")).kickoff()


@pytest.mark.clauses("C4")
@on_asyncio
async def test_an_instance_that_was_cancelled_at_its_first_commit_can_be_kicked_off_again() -> None:
    for at in range(12):
        flow = Slow(persistence=SQLiteFlowPersistence("runs.db", durability="process"))
        flow.go_on.set()
        task = asyncio.ensure_future(flow.kickoff())
        for _ in range(at):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await flow.kickoff() == "done"


@pytest.mark.clauses("X2")
async def test_siblings_that_end_together_with_a_failure_do_not_hide_it() -> None:
    class Failing(Flow):
        name = "Failing"
        on_error = "cancel"
        persistence = SQLiteFlowPersistence("runs.db", durability="process")

        @start()
        async def bad(self) -> None:
            await anyio.lowlevel.checkpoint()
            raise ValueError

        @start()
        async def a(self) -> None:
            await anyio.lowlevel.checkpoint()

        @start()
        async def b(self) -> None:
            await anyio.lowlevel.checkpoint()

        @start()
        async def c(self) -> None:
            await anyio.lowlevel.checkpoint()

    ended: list[str] = []

    async def kickoff() -> None:
        try:
            await Failing().kickoff()
        except Exception as error:
            ended.append(type(error).__name__)

    async with Failing.persistence, anyio.create_task_group() as group:
        for _ in range(60):
            group.start_soon(kickoff)

    assert ended == ["MethodError"] * 60


@pytest.mark.clauses("D1")
async def test_outputs_are_shown_when_they_are_committed() -> None:
    seen: list[Any] = []

    class Watching(MemoryFlowPersistence):
        async def append(self, checkpoint: Any) -> None:
            if checkpoint.method:
                seen.append(dict(flow.method_outputs))
            await super().append(checkpoint)

    class One(Flow):
        @start()
        async def one(self) -> int:
            return 1

    flow = One(persistence=Watching())
    await flow.kickoff()

    assert seen == [{}]
    assert flow.method_outputs == {"one": 1}


async def test_a_plain_wrapper_around_an_async_method_is_awaited() -> None:
    def wrapped(function: Any) -> Any:
        def call(self: Any) -> Any:
            return function(self)

        return call

    class Wrapped(Flow):
        @start()
        @wrapped
        async def work(self) -> int:
            await anyio.lowlevel.checkpoint()
            return 5

    assert await Wrapped().kickoff() == 5


async def test_a_run_that_is_stored_does_not_begin_with_the_state_of_another() -> None:
    class Count(Flow[dict]):
        persistence = SQLiteFlowPersistence("runs.db")

        @start()
        async def count(self) -> None:
            self.state["n"] = self.state.get("n", 0) + 1

    for run_id in ("a", "b"):
        await Count().kickoff({"id": run_id})
    with pytest.raises(errors.RunInputsError):
        await Count().kickoff({"id": "a"}, restore_from_state_id="b")


@pytest.mark.parametrize("text", ["1-2345678-1234-1234-1234567890abcdef", "12345678_1234-1234-1234-123456789012"])
async def test_another_spelling_of_a_uuid_is_a_text(text: str) -> None:
    flow = Slow()
    flow.go_on.set()
    await flow.kickoff({"id": text})

    assert flow.run_id == text


# ---- what a reader of the whole found --------------------------------------------------------------------------------


@pytest.mark.clauses("L2", "X2")
async def test_a_run_is_its_drivers_until_the_siblings_of_a_failed_method_have_left() -> None:
    owners: list[Any] = []

    class Failing(Flow[dict]):
        name = "Failing"
        on_error = "cancel"
        persistence = SQLiteFlowPersistence("runs.db")

        @start()
        async def bad(self) -> None:
            raise ValueError

        @start()
        async def slow(self) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with contextlib.closing(sqlite3.connect("runs.db")) as other:
                    owners.extend(other.execute("SELECT status, owner IS NULL FROM runs").fetchall())

    flow = Failing()
    with pytest.raises(MethodError):
        await flow.kickoff()
    with contextlib.closing(sqlite3.connect("runs.db")) as other:
        after = other.execute("SELECT status, owner IS NULL FROM runs").fetchall()

    assert owners == [("failed", 0)]
    assert after == [("failed", 1)]


class Counting(Flow[dict]):
    name = "Counting"

    @start()
    async def count(self) -> int:
        self.state["n"] = self.state.get("n", 0) + 1
        return self.state["n"]


@pytest.mark.parametrize("persistence", [None, MemoryFlowPersistence], ids=["unstored", "stored"])
async def test_a_run_under_another_id_begins_with_the_initial_state(persistence: Any) -> None:
    flow = Counting(persistence=persistence and persistence())
    await flow.kickoff()

    assert await flow.kickoff({"id": "another"}) == 1


async def test_a_refused_restore_changes_nothing() -> None:
    store = MemoryFlowPersistence()
    await Counting(persistence=store).kickoff({"id": "a", "secret": "of a"})
    flow = Counting(persistence=store)
    await flow.kickoff({"id": "b"})
    with pytest.raises(errors.RunInputsError):
        await flow.kickoff({"id": "b"}, restore_from_state_id="a")

    assert flow.state == {"id": "b", "n": 1}


async def test_restoring_on_a_used_instance_is_a_new_run() -> None:
    store = MemoryFlowPersistence()
    flow = Counting(persistence=store)
    await flow.kickoff({"id": "a"})

    assert await flow.kickoff(restore_from_state_id="a") == 2
    assert flow.run_id != "a"
    assert (await Counting.load("a", persistence=store)).state["n"] == 1


@pytest.mark.parametrize("fails_at", ["RunStarted", "MethodFinished"])
async def test_an_observer_that_raises_cannot_hurt_a_run(fails_at: str) -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if fails_at in record.getMessage():
                raise ValueError

    @persist(MemoryFlowPersistence(), verbose=True)
    class Watched(Counting): ...

    logger, handler = logging.getLogger("asyncflow"), Raising()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        flow = Watched()
        assert await flow.kickoff() == 1
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)

    assert flow.status == "finished"


async def test_nothing_is_told_that_is_not_stored(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryFlowPersistence):
        async def append(self, checkpoint: Any) -> None:
            if checkpoint.seq:
                raise errors.StorageWriteError("no")
            await super().append(checkpoint)

    @persist(Failing(), verbose=True)
    class Watched(Counting): ...

    with caplog.at_level(logging.INFO, "asyncflow"), pytest.raises(errors.StorageWriteError):
        await Watched().kickoff()

    assert [record.getMessage().count("RunStarted") for record in caplog.records] == [1]


async def test_a_failure_is_told_with_its_type(caplog: pytest.LogCaptureFixture) -> None:
    @persist(MemoryFlowPersistence(), verbose=True)
    class Failing(Flow):
        name = "Failing"

        @start()
        async def bad(self) -> None:
            raise ZeroDivisionError

    with caplog.at_level(logging.INFO, "asyncflow"), pytest.raises(MethodError):
        await Failing().kickoff()

    assert any("MethodFailed" in r.getMessage() and "ZeroDivisionError" in r.getMessage() for r in caplog.records)


class Bounds(FlowState):
    low: int = 0
    high: int = 9
    items: list["Named"] = Field(default_factory=list)

    @model_validator(mode="after")
    def in_order(self) -> "Bounds":
        assert self.low <= self.high
        return self


class Named(BaseModel):
    name: str
    uid: uuid.UUID = Field(default_factory=uuid.uuid4)


@pytest.mark.parametrize("inputs", [{"low": 5}, {"items": [{"name": "q"}]}], ids=["state moved on", "made values"])
async def test_the_same_line_goes_on_whatever_became_of_the_state(inputs: dict[str, Any]) -> None:
    is_well = False

    class Moving(Flow[Bounds]):
        @start()
        async def a(self) -> None:
            self.state.low, self.state.high = 1, 2

        @listen(a)
        async def b(self) -> str:
            if not is_well:
                raise ValueError
            return "done"

    store = MemoryFlowPersistence()
    with pytest.raises(MethodError):
        await Moving(persistence=store).kickoff({"id": "x", **inputs})
    is_well = True

    assert await Moving(persistence=store).kickoff({"id": "x", **inputs}) == "done"


async def test_an_edit_that_would_be_passed_over_is_refused_with_the_cure() -> None:
    class Fetching(Flow[dict[str, str]]):
        @start()
        async def fetch(self) -> str:
            if self.state["url"] == "bad":
                raise ValueError
            return self.state["url"]

    flow = Fetching(persistence=MemoryFlowPersistence())
    with pytest.raises(MethodError):
        await flow.kickoff({"url": "bad"})
    flow.state["url"] = "good"
    with pytest.raises(errors.StateError, match="update_state"):
        await flow.kickoff()
    await flow.update_state(url="good")

    assert await flow.kickoff() == "good"


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


@pytest.mark.clauses("S5")
async def test_a_message_of_ours_holds_no_part_of_an_input() -> None:
    class Cat(BaseModel):
        kind: Literal["cat"] = "cat"

    class Dog(BaseModel):
        kind: Literal["dog"] = "dog"

    class Pets(FlowState):
        pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()

    class Keep(Flow[Pets]):
        @start()
        async def keep(self) -> None: ...

    with pytest.raises(errors.RunInputsError) as caught:
        await Keep().kickoff({"pet": {"kind": "SECRET"}})

    assert "SECRET" not in str(caught.value)
    assert "pet" in str(caught.value)


async def test_a_fork_of_a_cancelled_run_with_nothing_left_is_finished() -> None:
    store = MemoryFlowPersistence()
    flow = Counting(persistence=store)
    await flow.kickoff()
    await flow.cancel()
    copy = await Counting.fork(flow.run_id, persistence=store)

    assert copy.status == "finished"
    assert await copy.kickoff() == 2


class Plain(FlowState):
    n: int = 1


class Other(FlowState): ...


@pytest.mark.parametrize(
    ("state", "initial"), [(Plain, Other), (Plain, Other()), (Plain, 5), (dict, 5), (dict, Plain()), (dict, Plain)]
)
def test_an_initial_state_of_another_kind_is_refused_by_its_name(state: Any, initial: Any) -> None:
    class Holding(Flow[state]):
        @start()
        def first(self) -> None: ...

    with pytest.raises(errors.FlowDefinitionError, match="initial_state"):
        Holding(initial_state=initial)


def test_a_path_in_the_place_of_a_backend_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(errors.FlowDefinitionError, match="SQLiteFlowPersistence"):

        @persist("runs.db")
        class Stored(Flow):
            @start()
            def first(self) -> None: ...


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_a_static_method_above_a_decorator_is_a_mistake(kind: Any) -> None:
    with pytest.raises(errors.FlowDefinitionError, match="plain function"):

        class Static(Flow):
            @start()
            def first(self) -> None: ...

            @kind
            @listen(first)
            def second(self) -> None: ...


@pytest.mark.clauses("V1")
async def test_the_values_of_a_typed_dict_state_are_stored_by_their_annotation() -> None:
    class Items(Flow[dict[str, Item]]):
        @start()
        async def first(self) -> None:
            self.state["y"] = Item(sku=2)

        @listen(first)
        async def second(self) -> int:
            if not is_well:
                raise ValueError
            return sum(item.sku for key, item in self.state.items() if key != "id")

    is_well = False
    store = SQLiteFlowPersistence("runs.db")
    flow = Items(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff({"x": {"sku": 1}})
    loaded = await Items.load(flow.run_id, persistence=store)
    is_well = True

    assert loaded.state == {"id": flow.run_id, "x": Item(sku=1), "y": Item(sku=2)}
    assert await Items.resume(flow.run_id, persistence=store) == 3


@pytest.mark.clauses("V1")
async def test_a_value_of_another_type_in_a_typed_dict_state_is_refused() -> None:
    class Numbers(Flow[dict[str, int]]):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self) -> None:
            self.state["n"] = "text"

    with pytest.raises(MethodError) as caught:
        await Numbers().kickoff()

    assert isinstance(caught.value.__cause__, errors.StateNotStorableError)
    assert caught.value.__cause__.path == "n"


@pytest.mark.clauses("X1")
def test_a_failure_that_cancels_its_siblings_is_recorded() -> None:
    # a sibling's acknowledgement, on its way then, cancelled what was running: the record of the failure, too
    class Both(Flow[dict[str, int]]):
        on_error = "cancel"

        @start()
        async def well(self) -> None:
            await pause()
            self.state["n"] = 1

        @start()
        async def fails(self) -> None:
            await pause()
            raise ValueError

    class Queued(SimulatedStorage):
        """Stores one after the other, and after a pause: what is cancelled until then is withdrawn."""

        def __init__(self) -> None:
            super().__init__()
            self.turn = anyio.Lock()

        async def append(self, checkpoint: Any) -> None:
            async with self.turn:
                await pause()
                await super().append(checkpoint)

    async def kinds() -> list[str]:
        flow = Both(persistence=Queued())
        with pytest.raises(MethodError):
            await flow.kickoff()
        return [entry.kind for entry in await flow.history()]

    for seed in range(50):
        assert "failed" in simulated(kinds, seed=seed), seed


@pytest.mark.clauses("L2", "C4")
async def test_a_run_that_is_cancelled_again_is_nobodys() -> None:
    store = SQLiteFlowPersistence("runs.db")

    class Idle(Flow[dict[str, int]]):
        @start()
        async def fails(self) -> None:
            raise ValueError

    flow = Idle(persistence=store)
    async with store:
        with pytest.raises(MethodError):
            await flow.kickoff()
        for _ in range(2):
            await flow.cancel()
        with contextlib.closing(sqlite3.connect("runs.db")) as connection:
            assert connection.execute("SELECT owner FROM runs").fetchall() == [(None,)]


@pytest.mark.clauses("C1", "L1")
@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_that_a_run_was_deleted_does_not_replace_what_ended_it(is_cancelled: bool) -> None:
    class Waiting(Flow[dict[str, int]]):
        @start()
        async def wait(self) -> None:
            started.set()
            await go_on.wait()

    async def cancel() -> None:
        await started.wait()
        await cancel_stored(store, flow.run_id)
        assert await store.delete(flow.run_id)
        scope.cancel() if is_cancelled else go_on.set()

    started, go_on, store = anyio.Event(), anyio.Event(), MemoryFlowPersistence()
    flow, fenced = Waiting(persistence=store), False
    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        with anyio.CancelScope() as scope:
            try:
                await flow.kickoff()
            except errors.RunFencedError:
                fenced = True

    assert (scope.cancelled_caught, fenced) == (is_cancelled, not is_cancelled)
    assert flow.status == "interrupted"


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


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_run_that_did_not_begin_takes_nothing_from_the_one_before_it(
    is_stored: bool, is_cancelled: bool
) -> None:
    class Order(FlowState):
        items: list[int] = []  # noqa: RUF012 - pydantic copies it
        count: int = 0

    class Counting(Flow[Order]):
        name = "Counting"

        @start()
        async def count(self) -> str:
            self.state.count += 1
            return self.invocation_id

    flow = Counting(persistence=MemoryFlowPersistence() if is_stored else None)
    await flow.kickoff({"id": "a", "count": 100})
    with anyio.CancelScope() as scope, contextlib.suppress(errors.RunInputsError):
        if is_cancelled:
            scope.cancel()
        await flow.kickoff({"id": "b", "items": list(range(1_000)), **({} if is_cancelled else {"unknown": 1})})

    assert (flow.state.count, flow.state.id) == (101, "a") if flow.run_id == "a" else flow.state.count == 0
    assert await flow.kickoff({"id": "b"}) == "b/1/count:1"
    assert (flow.run_id, flow.state.id, flow.state.count) == ("b", "b", 1)


class Level(enum.IntEnum):
    LOW = 1


async def test_a_result_is_of_its_own_method_s_type_though_another_s_is_the_same_json() -> None:
    """Python has one object for all bytes of one digit."""

    class Measuring(Flow[dict]):
        @start()
        async def number(self) -> int:
            return 1

        @listen(number)
        async def level(self, number: int) -> Level:
            return Level(number)

        @listen(level)
        async def told(self, level: Level) -> str:
            return repr(level)

    assert await Measuring(persistence=MemoryFlowPersistence()).kickoff() == "<Level.LOW: 1>"
