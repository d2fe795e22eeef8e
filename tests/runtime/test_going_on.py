"""Going on later: what each call means for a run, by where that run stands, and for a class that has changed since."""

import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel, Field, model_validator

import asyncflow
from asyncflow import (
    Flow,
    FlowState,
    MemoryFlowPersistence,
    MethodError,
    SQLiteFlowPersistence,
    and_,
    errors,
    listen,
    or_,
    persist,
    router,
    start,
)
from asyncflow.persistence import Checkpoint


class TwoVerbs:
    """A backend that only saves and loads."""

    def __init__(self) -> None:
        self.rows: dict[str, list[bytes]] = {}

    async def save(self, checkpoint: Checkpoint) -> None:
        rows = self.rows.setdefault(checkpoint.run_id, [])
        if checkpoint.seq != len(rows):
            raise errors.StaleCheckpoint("not the next one")
        rows.append(checkpoint.to_bytes())

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        rows = self.rows.get(run_id, [])
        last = len(rows) - 1 if seq is None else seq
        return Checkpoint.from_bytes(rows[last]) if 0 <= last < len(rows) else None


STORES: dict[str, Callable[[], Any]] = {
    "memory": MemoryFlowPersistence,
    "sqlite": lambda: SQLiteFlowPersistence("runs.db"),
    "two verbs": TwoVerbs,
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest) -> Any:
    """A store that keeps a history."""
    return STORES[request.param]()


class Work(FlowState):
    done: list[str] = Field(default_factory=list)
    size: int = 0


class Steps(Flow[Work]):
    """Three steps. In the second one it hangs or fails, as told."""

    name = "Steps"

    def __init__(self, mood: Literal["well", "hang", "fail"] = "well", **options: Any) -> None:
        super().__init__(**options)
        self.mood = mood
        self.ran: list[str] = []
        self.hanging = anyio.Event()

    def note(self, name: str) -> None:
        self.ran.append(name)
        self.state.done.append(name)
        self.state.size += 1

    @start()
    async def first(self) -> str:
        self.note("first")
        return "one"

    @listen(first)
    async def second(self, value: str) -> str:
        self.note("second")
        if self.mood == "fail":
            raise ValueError("told to")
        if self.mood == "hang":
            self.hanging.set()
            await anyio.sleep_forever()
        return value + " two"

    @listen(second)
    async def third(self, value: str) -> str:
        self.note("third")
        return value + " three"


ALL = ["first", "second", "third"]
OUTPUT = "one two three"


@asynccontextmanager
async def running(flow: Flow[Any]) -> AsyncIterator[None]:
    """While this lasts, the flow is running, and hangs; at the end it is cancelled as a task, so interrupted."""
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        with anyio.fail_after(120):
            await flow.hanging.wait()
        yield
        group.cancel_scope.cancel()


async def run_that_is(standing: str, store: Any, inputs: dict[str, Any] | None = None) -> str:
    """The id of a run that stands so."""
    flow = Steps("fail" if standing == "failed" else "hang" if standing != "finished" else "well", persistence=store)
    if standing == "finished":
        await flow.kickoff(inputs)
    elif standing == "failed":
        with pytest.raises(MethodError):
            await flow.kickoff(inputs)
    else:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(flow.kickoff, inputs)
                await flow.hanging.wait()
                scope.cancel()
        if standing == "cancelled":
            await (await Steps.load(flow.run_id, persistence=store)).cancel()
    return flow.run_id


UNFINISHED = pytest.mark.parametrize("standing", ["interrupted", "failed"])
ANY = pytest.mark.parametrize("standing", ["interrupted", "failed", "finished", "cancelled"])


# ---- kickoff with an id --------------------------------------------------------------------------------------------


@pytest.mark.clauses("E2", "X3")
@UNFINISHED
async def test_kickoff_with_the_id_of_an_unfinished_run_continues_it(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    flow = Steps(persistence=store)
    output = await flow.kickoff({"id": run_id})

    assert output == OUTPUT
    assert flow.ran == ["second", "third"]
    assert flow.state.done == ALL
    assert (flow.run_id, flow.status) == (run_id, "finished")


async def test_kickoff_with_the_id_of_a_finished_run_is_a_new_pass_over_its_state(store: Any) -> None:
    run_id = await run_that_is("finished", store)
    flow = Steps(persistence=store)
    output = await flow.kickoff({"id": run_id, "size": 100})

    assert output == OUTPUT
    assert flow.ran == ALL
    assert flow.state.done == ALL + ALL
    assert flow.state.size == 103
    assert flow.run_id == run_id


@pytest.mark.clauses("C4")
async def test_kickoff_with_the_id_of_a_cancelled_run_is_refused(store: Any) -> None:
    run_id = await run_that_is("cancelled", store)
    flow = Steps(persistence=store)
    with pytest.raises(errors.RunCancelledError):
        await flow.kickoff({"id": run_id})

    assert flow.ran == []


async def test_kickoff_with_an_unknown_id_is_a_new_run_under_it(store: Any) -> None:
    flow = Steps(persistence=store)
    await flow.kickoff({"id": "order-7"})
    loaded = await Steps.load("order-7", persistence=store)

    assert flow.run_id == flow.state.id == "order-7"
    assert loaded.state == flow.state


@pytest.mark.clauses("L2")
async def test_kickoff_of_a_run_that_is_running_elsewhere_is_refused(store: Any) -> None:
    elsewhere, here = Steps("hang", persistence=store), Steps(persistence=store)
    async with running(elsewhere):
        with pytest.raises(errors.RunLockedError) as caught:
            await here.kickoff({"id": elsewhere.run_id})

    assert caught.value.run_id == elsewhere.run_id
    assert here.ran == []


@pytest.mark.clauses("L4")
async def test_of_two_creators_of_one_id_exactly_one_wins(store: Any) -> None:
    flows = [Steps("hang", persistence=store) for _ in range(5)]
    lost: list[Steps] = []

    async def kickoff(flow: Steps) -> None:
        try:
            await flow.kickoff({"id": "the-one"})
        except errors.RunLockedError:
            lost.append(flow)

    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            for flow in flows:
                group.start_soon(kickoff, flow)
            while len(lost) < 4 or not any(flow.hanging.is_set() for flow in flows):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    assert len(lost) == 4
    assert [flow.ran for flow in lost] == [[]] * 4


# ---- resume --------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("E2", "X3")
@UNFINISHED
async def test_resume_continues_an_unfinished_run(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    output = await Steps.resume(run_id, persistence=store)
    loaded = await Steps.load(run_id, persistence=store)

    assert output == OUTPUT
    assert loaded.state.done == ALL
    assert loaded.status == "finished"


async def test_resume_of_a_finished_run_gives_its_result_and_runs_nothing(store: Any) -> None:
    run_id = await run_that_is("finished", store)
    before = (await Steps.load(run_id, persistence=store)).state

    assert await Steps.resume(run_id, mood="fail", persistence=store) == OUTPUT
    assert (await Steps.load(run_id, persistence=store)).state == before


@pytest.mark.clauses("C4")
async def test_resume_of_a_cancelled_run_is_refused(store: Any) -> None:
    run_id = await run_that_is("cancelled", store)

    with pytest.raises(errors.RunCancelledError):
        await Steps.resume(run_id, persistence=store)


@pytest.mark.clauses("L2")
async def test_resume_of_a_run_that_is_running_elsewhere_is_refused(store: Any) -> None:
    elsewhere = Steps("hang", persistence=store)
    async with running(elsewhere):
        with pytest.raises(errors.RunLockedError):
            await Steps.resume(elsewhere.run_id, persistence=store)


@pytest.mark.clauses("L2")
async def test_a_refused_caller_does_not_free_the_run(store: Any) -> None:
    elsewhere = Steps("hang", persistence=store)
    async with running(elsewhere):
        for _ in range(3):
            with pytest.raises(errors.RunLockedError):
                await Steps.resume(elsewhere.run_id, persistence=store)


# ---- load ----------------------------------------------------------------------------------------------------------


@ANY
async def test_load_shows_a_run_and_runs_nothing(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    flow = await Steps.load(run_id, mood="fail", persistence=store)

    assert (flow.run_id, flow.status) == (run_id, standing)
    assert flow.state.done == (ALL if standing == "finished" else ["first"])
    assert flow.pending == (() if standing == "finished" else ("second:1",))
    assert flow.result == (OUTPUT if standing == "finished" else None)
    assert flow.ran == []


async def test_load_shows_a_run_that_is_running_elsewhere(store: Any) -> None:
    elsewhere = Steps("hang", persistence=store)
    async with running(elsewhere):
        flow = await Steps.load(elsewhere.run_id, persistence=store)

    assert flow.state.done == ["first"]
    assert flow.pending == ("second:1",)


@UNFINISHED
async def test_a_loaded_run_goes_on_by_kickoff(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    flow = await Steps.load(run_id, persistence=store)
    output = await flow.kickoff()

    assert output == OUTPUT
    assert flow.ran == ["second", "third"]
    assert flow.run_id == run_id


@pytest.mark.clauses("D2")
async def test_a_run_can_be_loaded_from_its_first_method_on(store: Any) -> None:
    class Asking(Flow[Work]):
        persistence = store

        @start()
        async def first(self) -> tuple[int, str]:
            known = await Asking.load(self.run_id)
            return known.state.size, known.state.id

    flow = Asking()

    assert await flow.kickoff({"size": 3}) == (3, flow.run_id)


@pytest.mark.parametrize("seq", [0, 1, 2, 3])
async def test_load_at_an_older_seq_shows_the_run_as_of_then(seq: int, store: Any) -> None:
    run_id = await run_that_is("finished", store)
    flow = await Steps.load(run_id, seq=seq, persistence=store)

    assert flow.state.done == ALL[:seq]
    assert flow.pending == (*[f"{name}:1" for name in ALL[seq : seq + 1]],)
    assert flow.status == ("finished" if seq == 3 else "interrupted")


@pytest.mark.parametrize("seq", [4, 99, -1])
async def test_a_seq_that_is_not_stored_is_not_found(seq: int, store: Any) -> None:
    run_id = await run_that_is("finished", store)

    with pytest.raises(errors.RunNotFoundError):
        await Steps.load(run_id, seq=seq, persistence=store)


# ---- fork ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standing", ["interrupted", "failed", "cancelled"])
async def test_a_fork_is_stored_under_a_new_id_and_goes_on_from_there(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    fork = await Steps.fork(run_id, persistence=store)
    stored = await Steps.load(fork.run_id, persistence=store)
    ran_before = list(fork.ran)
    output = await fork.kickoff()
    source = await Steps.load(run_id, persistence=store)

    assert fork.run_id != run_id
    assert (stored.status, stored.state.done, stored.pending) == ("interrupted", ["first"], ("second:1",))
    assert stored.state.id == fork.run_id
    assert ran_before == []
    assert output == OUTPUT
    assert fork.ran == ["second", "third"]
    assert (source.status, source.state.done) == (standing, ["first"])


async def test_a_fork_at_an_older_seq_goes_on_from_there(store: Any) -> None:
    run_id = await run_that_is("finished", store)
    fork = await Steps.fork(run_id, seq=1, persistence=store)
    output = await fork.kickoff()

    assert output == OUTPUT
    assert fork.ran == ["second", "third"]
    assert fork.state.done == ALL


async def test_a_fork_of_a_finished_run_is_finished_and_its_kickoff_a_new_pass(store: Any) -> None:
    run_id = await run_that_is("finished", store)
    fork = await Steps.fork(run_id, persistence=store)
    standing = fork.status, fork.result
    await fork.kickoff()

    assert standing == ("finished", OUTPUT)
    assert fork.ran == ALL
    assert fork.state.done == ALL + ALL
    assert (await Steps.load(run_id, persistence=store)).state.done == ALL


async def test_a_run_that_is_running_elsewhere_can_be_forked(store: Any) -> None:
    elsewhere = Steps("hang", persistence=store)
    async with running(elsewhere):
        fork = await Steps.fork(elsewhere.run_id, persistence=store)
        await fork.kickoff()

    assert fork.ran == ["second", "third"]
    assert elsewhere.state.done == ["first"]


async def test_a_fork_can_be_resumed_by_its_id(store: Any) -> None:
    run_id = await run_that_is("interrupted", store)
    fork = await Steps.fork(run_id, persistence=store)

    assert await Steps.resume(fork.run_id, persistence=store) == OUTPUT


# ---- restore_from_state_id -----------------------------------------------------------------------------------------


@ANY
async def test_restoring_is_a_new_run_from_the_start_over_the_saved_state(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    saved = (await Steps.load(run_id, persistence=store)).state
    flow = Steps(persistence=store)
    await flow.kickoff({"size": 50}, restore_from_state_id=run_id)
    source = await Steps.load(run_id, persistence=store)

    assert flow.run_id != run_id
    assert flow.ran == ALL
    assert flow.state.done == saved.done + ALL
    assert flow.state.size == 53
    assert (source.state, source.status) == (saved, standing)


async def test_restoring_into_an_id_of_ones_own(store: Any) -> None:
    run_id = await run_that_is("finished", store)
    flow = Steps(persistence=store)
    await flow.kickoff({"id": "copy"}, restore_from_state_id=run_id)

    assert flow.run_id == "copy"
    assert (await Steps.load("copy", persistence=store)).state.done == ALL + ALL


# ---- unknown, invalid and foreign ids ------------------------------------------------------------------------------

BY_ID: dict[str, Callable[[Any, Any], Any]] = {
    "kickoff": lambda run_id, store: Steps(persistence=store).kickoff({"id": run_id}),
    "resume": lambda run_id, store: Steps.resume(run_id, persistence=store),
    "load": lambda run_id, store: Steps.load(run_id, persistence=store),
    "fork": lambda run_id, store: Steps.fork(run_id, persistence=store),
    "restore": lambda run_id, store: Steps(persistence=store).kickoff(restore_from_state_id=run_id),
}


@pytest.mark.parametrize("call", ["resume", "load", "fork", "restore"])
async def test_an_unknown_id_is_not_found_and_nothing_is_made(call: str, store: Any) -> None:
    unknown = str(uuid.uuid4())
    with pytest.raises(errors.RunNotFoundError) as caught:
        await BY_ID[call](unknown, store)

    assert caught.value.run_id == unknown
    assert await store.load(unknown) is None


INVALID = ["", " order", "order ", "a\nb", "a\x00b", "a\u200bb", "x" * 129, "\ud800", 7, 1.5, b"bytes", ("a",), True]


@pytest.mark.parametrize("run_id", INVALID, ids=ascii)
@pytest.mark.parametrize("call", BY_ID)
async def test_what_cannot_be_a_run_id_is_refused_before_any_io(call: str, run_id: Any) -> None:
    store = SQLiteFlowPersistence("untouched.db")
    with pytest.raises(errors.InvalidRunIdError):
        await BY_ID[call](run_id, store)

    assert os.listdir() == []


MINE = uuid.UUID("6f9619ff-8b86-d011-b42d-00c04fc964ff")


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (MINE, str(MINE)),
        (str(MINE).upper(), str(MINE)),
        (str(MINE), str(MINE)),
        ("order 7", "order 7"),
        ("Zürich/2024:№5", "Zürich/2024:№5"),
        ("x" * 128, "x" * 128),
        ("'; DROP TABLE runs; --", "'; DROP TABLE runs; --"),
        ("%", "%"),
    ],
)
async def test_a_caller_may_bring_an_id(given: Any, stored: str, store: Any) -> None:
    flow = Steps(persistence=store)
    await flow.kickoff({"id": given})

    assert flow.run_id == flow.state.id == stored
    assert (await Steps.load(given, persistence=store)).run_id == stored
    assert (await Steps.load(stored, persistence=store)).state.done == ALL


@pytest.mark.parametrize("call", BY_ID)
async def test_the_id_of_another_flows_run_is_refused(call: str, store: Any) -> None:
    class Other(Flow[Work]):
        @start()
        async def first(self) -> None: ...

    other = Other(persistence=store)
    await other.kickoff()

    with pytest.raises(errors.RunFlowMismatchError, match="Other"):
        await BY_ID[call](other.run_id, store)


async def test_a_flow_is_known_by_its_name_and_not_by_its_class(store: Any) -> None:
    class Renamed(Steps):
        name = "Steps"

    run_id = await run_that_is("interrupted", store)

    assert await Renamed.resume(run_id, persistence=store) == OUTPUT
    with pytest.raises(errors.RunFlowMismatchError):
        await Steps.load(run_id, name="another name", persistence=store)


@pytest.mark.parametrize("call", BY_ID)
async def test_without_a_storage_the_calls_say_what_is_missing(call: str) -> None:
    if call == "kickoff":
        assert await BY_ID[call]("order-7", None) == OUTPUT
        return

    with pytest.raises(errors.CapabilityMissingError, match="@persist"):
        await BY_ID[call]("order-7", None)


# ---- inputs --------------------------------------------------------------------------------------------------------


@UNFINISHED
async def test_the_same_line_of_code_continues_an_unfinished_run(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store, {"id": "mine", "size": 10})
    flow = Steps(persistence=store)
    await flow.kickoff({"id": "mine", "size": 10})

    assert run_id == "mine"
    assert flow.ran == ["second", "third"]
    assert flow.state.size == 13


@pytest.mark.parametrize(
    "inputs", [{"size": 11}, {"done": ["x"]}, {"size": 10, "done": ["x"]}], ids=["value", "name", "one more"]
)
async def test_other_inputs_for_an_unfinished_run_are_refused(inputs: dict[str, Any], store: Any) -> None:
    run_id = await run_that_is("interrupted", store, {"size": 10})
    flow = Steps(persistence=store)
    with pytest.raises(errors.RunInputsError, match="update_state"):
        await flow.kickoff({"id": run_id, **inputs})

    assert flow.ran == []
    assert (await Steps.load(run_id, persistence=store)).state.size == 11


async def test_no_inputs_continue_a_run_that_was_started_with_some(store: Any) -> None:
    run_id = await run_that_is("interrupted", store, {"size": 10})
    flow = Steps(persistence=store)
    await flow.kickoff({"id": run_id})

    assert flow.state.size == 13


async def test_unknown_inputs_are_refused_for_a_stored_run(store: Any) -> None:
    run_id = await run_that_is("interrupted", store)

    with pytest.raises(errors.RunInputsError, match="sise"):
        await Steps(persistence=store).kickoff({"id": run_id, "sise": 3})


async def test_the_inputs_of_a_later_pass_are_its_own(store: Any) -> None:
    flow = Steps(persistence=store)
    await flow.kickoff({"id": "mine", "size": 10})
    hanging = Steps("hang", persistence=store)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(hanging.kickoff, {"id": "mine", "size": 20})
            await hanging.hanging.wait()
            scope.cancel()

    with pytest.raises(errors.RunInputsError):
        await Steps(persistence=store).kickoff({"id": "mine", "size": 10})
    again = Steps(persistence=store)
    await again.kickoff({"id": "mine", "size": 20})

    assert again.ran == ["second", "third"]
    assert again.state.size == 23


# ---- passes --------------------------------------------------------------------------------------------------------


async def test_a_second_kickoff_on_an_instance_is_a_new_pass_of_the_same_run(store: Any) -> None:
    flow = Steps(persistence=store)
    await flow.kickoff()
    run_id = flow.run_id
    await flow.kickoff({"size": 10})

    assert flow.run_id == run_id
    assert flow.ran == ALL + ALL
    assert flow.state.done == ALL + ALL
    assert flow.state.size == 13


async def test_a_second_kickoff_without_a_storage_is_a_new_pass_too() -> None:
    flow = Steps()
    await flow.kickoff()
    run_id = flow.run_id
    await flow.kickoff()

    assert (flow.run_id, flow.state.done) == (run_id, ALL + ALL)


async def test_the_state_may_be_changed_between_two_passes(store: Any) -> None:
    flow = Steps(persistence=store)
    await flow.kickoff()
    flow.state.size = 70
    await flow.kickoff()

    assert flow.state.size == 73


async def test_a_counter_counts_over_passes_and_instances(store: Any) -> None:
    class Counter(Flow[dict]):
        persistence = store

        @start()
        async def begin(self) -> int:
            self.state["runs"] = self.state.get("runs", 0) + 1
            return self.state["runs"]

    first = Counter()
    outputs = [await first.kickoff()]
    for _ in range(3):
        outputs.append(await Counter().kickoff({"id": first.run_id}))

    assert outputs == [1, 2, 3, 4]


async def test_occurrences_begin_anew_in_each_pass(log: Any) -> None:
    flow = Steps(persistence=log)
    await flow.kickoff()
    await flow.kickoff()
    history = await flow.history()

    assert [(entry.number, entry.method) for entry in history] == [
        (number, method) for number in (1, 2) for method in ("", "first:1", "second:1", "third:1")
    ]


# ---- history -------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("D4", "E1")
async def test_the_history_lists_every_checkpoint(log: Any) -> None:
    flow = Steps(persistence=log)
    await flow.kickoff({"size": 5})
    history = await flow.history()

    assert [entry.seq for entry in history] == [0, 1, 2, 3]
    assert [entry.kind for entry in history] == ["started", "method", "method", "finished"]
    assert [entry.status for entry in history] == ["running", "running", "running", "finished"]
    assert [entry.changed for entry in history[1:]] == [{"done": ALL[:n], "size": 5 + n} for n in (1, 2, 3)]
    assert history[0].changed == {"id": flow.run_id, "done": [], "size": 5}
    assert [entry.at for entry in history] == sorted(entry.at for entry in history)


async def test_the_history_tells_nothing_of_what_did_not_change(log: Any) -> None:
    class Quiet(Flow[Work]):
        persistence = log

        @start()
        async def first(self) -> int:
            return self.state.size

        @listen(first)
        async def second(self) -> None:
            self.state.size = 0

    flow = Quiet()
    await flow.kickoff()

    assert [entry.changed for entry in (await flow.history())[1:]] == [{}, {}]


@pytest.mark.parametrize(
    "values",
    [[[1, 2], [True, 2], [1.0, 2]], [{"a": 1}, {"a": True}], [0.0, -0.0]],
    ids=["in a list", "in a dict", "a sign"],
)
async def test_the_history_shows_a_value_that_changed_and_is_equal(log: Any, values: list[Any]) -> None:
    class Loose(FlowState):
        value: Any = None
        turns: int = 0

    class Turning(Flow[Loose]):
        initial_state = Loose(value=values[0])
        persistence = log

        @start()
        async def first(self) -> None: ...

        @router(or_(first, "more"), emit=["more", "done"])
        async def turn(self) -> str:
            self.state.turns += 1
            self.state.value = values[min(self.state.turns, len(values) - 1)]
            return "more" if self.state.turns < len(values) else "done"

    flow = Turning()
    await flow.kickoff()
    history = await flow.history()

    shown = [entry.changed["value"] for entry in history if "value" in entry.changed]
    assert repr(shown) == repr(values)


async def test_the_history_shows_who_was_passed_over(log: Any) -> None:
    class Diamond(Flow[Work]):
        persistence = log

        @start()
        async def begin(self) -> None: ...

        @listen(begin)
        async def left(self) -> None: ...

        @listen(begin)
        async def right(self) -> None: ...

        @listen(or_(left, right))
        async def once(self) -> None:
            self.state.size += 1

    flow = Diamond()
    await flow.kickoff()

    assert flow.state.size == 1
    passed = [entry for entry in await flow.history() if entry.passed_over]
    assert [entry.passed_over for entry in passed] == [("once",)]
    assert passed[0].method in ("left:1", "right:1")


async def test_the_history_shows_a_key_that_was_deleted(log: Any) -> None:
    class Deleting(Flow[dict]):
        persistence = log

        @start()
        async def first(self) -> None:
            self.state["a"] = {"b": [1]}

        @listen(first)
        async def second(self) -> None:
            del self.state["a"]

    flow = Deleting()
    await flow.kickoff()

    assert [entry.changed for entry in (await flow.history())[1:]] == [{"a": {"b": [1]}}, {"a": None}]


async def test_a_backend_without_history_says_so() -> None:
    flow = Steps(persistence=TwoVerbs())
    await flow.kickoff()

    with pytest.raises(errors.CapabilityMissingError) as caught:
        await flow.history()
    assert caught.value.capability == "CheckpointHistory"


# ---- update_state --------------------------------------------------------------------------------------------------


@UNFINISHED
async def test_an_edit_is_seen_by_what_runs_afterwards(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    flow = await Steps.load(run_id, persistence=store)
    await flow.update_state({"done": ["edited"]}, size=40)
    await flow.kickoff()

    assert flow.ran == ["second", "third"]
    assert (flow.state.done, flow.state.size) == (["edited", "second", "third"], 42)


async def test_an_edit_is_a_checkpoint_of_its_own(log: Any) -> None:
    run_id = await run_that_is("interrupted", log)
    flow = await Steps.load(run_id, persistence=log)
    await flow.update_state(size=40)
    edit = (await flow.history())[-1]

    assert (edit.kind, edit.changed, edit.method, edit.seq) == ("edited", {"size": 40}, "", 2)
    assert flow.state.size == 40
    assert (await Steps.load(run_id, seq=1, persistence=log)).state.size == 1


async def test_an_edit_does_not_change_where_a_finished_run_stands(store: Any) -> None:
    run_id = await run_that_is("finished", store)
    flow = await Steps.load(run_id, persistence=store)
    await flow.update_state(size=40)
    loaded = await Steps.load(run_id, persistence=store)

    assert (loaded.status, loaded.state.size, loaded.result) == ("finished", 40, OUTPUT)


@pytest.mark.parametrize("changes", [{"size": "many"}, {"unknown": 1}, {"id": "another"}])
async def test_an_edit_that_does_not_fit_is_refused(changes: dict[str, Any], store: Any) -> None:
    run_id = await run_that_is("interrupted", store)
    flow = await Steps.load(run_id, persistence=store)
    with pytest.raises(errors.RunInputsError):
        await flow.update_state(changes)

    assert (await store.load(run_id)).seq == 1
    assert (await Steps.load(run_id, persistence=store)).state.size == 1


@pytest.mark.clauses("L2")
async def test_a_run_that_is_running_elsewhere_is_not_edited(store: Any) -> None:
    elsewhere = Steps("hang", persistence=store)
    async with running(elsewhere):
        flow = await Steps.load(elsewhere.run_id, persistence=store)
        with pytest.raises(errors.RunLockedError):
            await flow.update_state(size=3)


async def test_equal_inputs_still_continue_after_an_edit(store: Any) -> None:
    run_id = await run_that_is("interrupted", store, {"size": 10})
    await (await Steps.load(run_id, persistence=store)).update_state(size=90)
    flow = Steps(persistence=store)
    await flow.kickoff({"id": run_id, "size": 10})

    assert flow.state.size == 92


# ---- in the middle of things ---------------------------------------------------------------------------------------


async def interrupted(flow: Any) -> str:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            with anyio.fail_after(120):
                await flow.hanging.wait()
            scope.cancel()
    return flow.run_id


class Hanging(Flow[Work]):
    def __init__(self, hangs: bool, **options: Any) -> None:
        super().__init__(**options)
        self.hangs = hangs
        self.hanging = anyio.Event()
        self.ran: list[str] = []

    async def hang(self) -> None:
        if self.hangs:
            self.hanging.set()
            await anyio.sleep_forever()


@pytest.mark.clauses("V1")
async def test_a_half_full_join_remembers_what_has_come(store: Any) -> None:
    class Join(Hanging):
        @start()
        async def quick(self) -> list[int]:
            self.ran.append("quick")
            return [1]

        @listen(quick)
        async def between(self) -> None:
            await self.hang()

        @listen(between)
        async def slow(self) -> tuple[int, ...]:
            self.ran.append("slow")
            return 2, 3

        @listen(and_(quick, slow))
        async def join(self, slow: tuple[int, ...], quick: list[int]) -> tuple[list[int], tuple[int, ...]]:
            return quick, slow

    run_id = await interrupted(Join(True, persistence=store))
    flow = Join(False, persistence=store)
    output = await flow.kickoff({"id": run_id})

    assert output == ([1], (2, 3))
    assert flow.ran == ["slow"]


async def test_an_or_that_has_fired_does_not_fire_again_after_going_on(store: Any) -> None:
    class Once(Hanging):
        @start()
        async def quick(self) -> None: ...

        @listen(quick)
        async def between(self) -> None: ...

        @listen(between)
        async def slow(self) -> None:
            await self.hang()

        @listen(or_(quick, slow))
        async def either(self) -> None:
            self.state.size += 1

    run_id = await interrupted(Once(True, persistence=store))
    flow = Once(False, persistence=store)
    await flow.kickoff({"id": run_id})

    assert flow.state.size == 1


class Cycle(Hanging):
    @start()
    async def begin(self) -> None: ...

    @listen(or_(begin, "again"))
    async def turn(self) -> int:
        if self.state.size == 7:
            await self.hang()
        self.ran.append("turn")
        self.state.size += 1
        return self.state.size

    @listen(turn)
    async def beside(self, n: int) -> None:
        self.state.done.append(str(n))

    @router(and_(turn, beside))
    async def more(self) -> Literal["again"] | None:
        return "again" if self.state.size < 20 else None


@pytest.mark.clauses("E2")
async def test_a_cycle_goes_on_in_the_middle(store: Any) -> None:
    run_id = await interrupted(Cycle(True, persistence=store))
    flow = Cycle(False, persistence=store)
    await flow.kickoff({"id": run_id})

    assert len(flow.ran) == 13
    assert flow.state.size == 20
    assert flow.state.done == [str(n) for n in range(1, 21)]


@pytest.mark.clauses("E2", "E4")
async def test_a_run_interrupted_at_every_turn_ends_as_an_undisturbed_one(store: Any) -> None:
    class Halting(Hanging):
        @start()
        async def begin(self) -> None: ...

        @listen(or_(begin, "again"))
        async def turn(self) -> None:
            if self.ran:
                await self.hang()
            self.ran.append("turn")
            self.state.size += 1

        @router(turn)
        async def more(self) -> Literal["again"] | None:
            return "again" if self.state.size < 6 else None

    run_id = await interrupted(Halting(True, persistence=store))
    for _ in range(4):
        again = await Halting.load(run_id, hangs=True, persistence=store)
        await interrupted(again)
        assert len(again.ran) == 1
    await Halting.resume(run_id, hangs=False, persistence=store)
    flow = await Halting.load(run_id, hangs=False, persistence=store)

    assert flow.state.size == 6
    assert flow.status == "finished"


async def test_a_run_with_a_dict_state_goes_on(store: Any) -> None:
    class Dict(Flow[dict]):
        def __init__(self, hangs: bool, **options: Any) -> None:
            super().__init__(**options)
            self.hangs, self.hanging = hangs, anyio.Event()

        @start()
        async def first(self) -> None:
            self.state["nested"] = {"numbers": [1, 2], "pair": (1, b"x")}

        @listen(first)
        async def second(self) -> None:
            if self.hangs:
                self.hanging.set()
                await anyio.sleep_forever()
            self.state["nested"]["numbers"].append(3)

    run_id = await interrupted(Dict(True, persistence=store))
    flow = Dict(False, persistence=store)
    await flow.kickoff({"id": run_id})

    assert flow.state == {"id": run_id, "nested": {"numbers": [1, 2, 3], "pair": (1, b"x")}}


# ---- method-level @persist -----------------------------------------------------------------------------------------


class Partly(Hanging):
    """Only `second` has a checkpoint."""

    @start()
    async def first(self) -> None:
        self.ran.append("first")
        self.state.done.append("first")

    @persist
    @listen(first)
    async def second(self) -> None:
        self.ran.append("second")
        self.state.done.append("second")

    @listen(second)
    async def third(self) -> None:
        self.ran.append("third")
        self.state.done.append("third")

    @listen(third)
    async def fourth(self) -> str:
        await self.hang()
        self.ran.append("fourth")
        self.state.done.append("fourth")
        return "end"


async def test_method_level_persist_resumes_from_the_last_checkpoint(store: Any) -> None:
    run_id = await interrupted(Partly(True, persistence=store))
    flow = Partly(False, persistence=store)
    await flow.kickoff({"id": run_id})

    assert flow.ran == ["third", "fourth"]
    assert flow.state.done == ["first", "second", "third", "fourth"]


async def test_only_the_methods_with_persist_have_a_checkpoint(log: Any) -> None:
    flow = Partly(False, persistence=log)
    await flow.kickoff()

    assert [(entry.kind, entry.method) for entry in await flow.history()] == [
        ("started", ""),
        ("method", "second:1"),
        ("finished", "fourth:1"),
    ]


async def test_the_record_of_the_end_holds_the_outcome_only(log: Any) -> None:
    flow = Partly(False, persistence=log)
    await flow.kickoff()
    loaded = await Partly.load(flow.run_id, hangs=False, persistence=log)
    end = (await log.history(flow.run_id))[-1]

    assert (end.state, end.progress) == (None, None)
    assert (loaded.status, loaded.result) == ("finished", "end")
    assert loaded.state.done == ["first", "second"]


async def test_a_finished_run_with_method_level_persist_can_be_loaded(store: Any) -> None:
    flow = Partly(False, persistence=store)
    await flow.kickoff()
    loaded = await Partly.load(flow.run_id, hangs=False, persistence=store)

    assert (loaded.status, loaded.result) == ("finished", "end")
    assert loaded.state.done == ["first", "second"]


@pytest.mark.clauses("X1", "X3")
async def test_a_failed_run_with_method_level_persist_goes_on_from_its_last_checkpoint(store: Any) -> None:
    class Failing(Partly):
        async def fourth(self) -> str:
            if self.hangs:
                raise ValueError
            self.state.done.append("fourth")
            return "end"

    flow = Failing(True, persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    again = await Failing.load(flow.run_id, hangs=False, persistence=store)
    standing = again.status, again.pending
    await again.kickoff()

    assert standing == ("failed", ("third:1",))
    assert again.ran == ["third"]
    assert again.state.done == ["first", "second", "third", "fourth"]


@pytest.mark.clauses("E4")
async def test_a_method_checkpoint_holds_the_whole_merged_state(log: Any) -> None:
    # what is in flight beside it is not in it
    class Beside(Hanging):
        @start()
        async def quick(self) -> None:
            self.state.size = 1

        @persist
        @listen(quick)
        async def saved(self) -> None:
            self.state.done.append("saved")

        @listen(saved)
        async def last(self) -> None:
            await self.hang()

        @start()
        async def slow(self) -> None:
            self.state.done.append("half")
            await self.hang()

    run_id = await interrupted_when(Beside(True, persistence=log), lambda flow: len(flow.committed_state().done) == 1)
    loaded = await Beside.load(run_id, hangs=False, persistence=log)

    assert (loaded.state.size, loaded.state.done) == (1, ["saved"])
    assert sorted(loaded.pending) == ["last:1", "slow:1"]


async def interrupted_when(flow: Any, condition: Callable[[Any], bool]) -> str:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            await flow.hanging.wait()
            while not condition(flow):
                await anyio.lowlevel.checkpoint()
            scope.cancel()
    return flow.run_id


# ---- a class that has changed --------------------------------------------------------------------------------------


@pytest.mark.clauses("V3")
async def test_added_methods_take_part_when_a_run_goes_on(store: Any) -> None:
    class Grown(Steps):
        name = "Steps"

        @listen(Steps.third)
        async def fourth(self, value: str) -> str:
            self.note("fourth")
            return value + " four"

    run_id = await run_that_is("interrupted", store)

    assert await Grown.resume(run_id, persistence=store) == OUTPUT + " four"


@pytest.mark.clauses("V3")
async def test_a_pending_method_that_is_gone_is_named_and_nothing_changes(store: Any) -> None:
    class Shrunk(Flow[Work]):
        name = "Steps"

        @start()
        async def first(self) -> None: ...

    run_id = await run_that_is("interrupted", store)
    with pytest.raises(errors.FlowDefinitionError, match="second"):
        await Shrunk.resume(run_id, persistence=store)

    assert await Steps.resume(run_id, persistence=store) == OUTPUT


@pytest.mark.clauses("V2")
async def test_a_stored_field_that_the_model_lacks_is_named_and_nothing_is_lost(store: Any) -> None:
    class Less(FlowState):
        done: list[str] = Field(default_factory=list)

    class Narrow(Flow[Less]):
        name = "Steps"
        first, second, third = Steps.first, Steps.second, Steps.third

    run_id = await run_that_is("interrupted", store)
    for call in (Narrow.resume, Narrow.load):
        with pytest.raises(errors.StateSchemaError, match="before-validator") as caught:
            await call(run_id, persistence=store)
        assert caught.value.paths == ("size",)

    assert (await Steps.load(run_id, persistence=store)).state.size == 1


@pytest.mark.clauses("V2")
async def test_a_stored_field_of_a_nested_model_that_is_gone_is_named(store: Any) -> None:
    class Inner(BaseModel):
        a: int = 1
        b: int = 2

    class Outer(FlowState):
        inner: Inner = Field(default_factory=Inner)
        many: list[Inner] = Field(default_factory=lambda: [Inner()])

    class Before(Flow[Outer]):
        name = "nested"

        @start()
        async def first(self) -> None: ...

    class LessInner(BaseModel):
        a: int = 1

    class LessOuter(FlowState):
        inner: LessInner = Field(default_factory=LessInner)
        many: list[LessInner] = Field(default_factory=list)

    class After(Flow[LessOuter]):
        name = "nested"

        @start()
        async def first(self) -> None: ...

    flow = Before(persistence=store)
    await flow.kickoff()
    with pytest.raises(errors.StateSchemaError) as caught:
        await After.load(flow.run_id, persistence=store)

    assert caught.value.paths == ("inner.b", "many[0].b")


@pytest.mark.clauses("V2")
async def test_a_stored_value_that_does_not_fit_is_named_without_showing_it(store: Any) -> None:
    class Stricter(FlowState):
        done: list[int] = Field(default_factory=list)
        size: int = 0

    class Strict(Flow[Stricter]):
        name = "Steps"
        first, second, third = Steps.first, Steps.second, Steps.third

    run_id = await run_that_is("interrupted", store)
    with pytest.raises(errors.StateSchemaError) as caught:
        await Strict.load(run_id, persistence=store)

    assert caught.value.paths == ("done.0",)
    assert "'first'" not in str(caught.value)


async def test_an_added_field_takes_its_default(store: Any) -> None:
    class More(Work):
        colour: str = "blue"

    class Wider(Steps, Flow[More]):
        name = "Steps"

    run_id = await run_that_is("interrupted", store)
    flow = await Wider.load(run_id, persistence=store)

    assert (flow.state.colour, flow.state.size) == ("blue", 1)


@pytest.mark.clauses("V2")
async def test_a_before_validator_cures_an_old_state(store: Any) -> None:
    class Cured(FlowState):
        done: list[str] = Field(default_factory=list)
        length: int = 0

        @model_validator(mode="before")
        @classmethod
        def rename(cls, data: Any) -> Any:
            if isinstance(data, dict) and "size" in data:
                data = {**data, "length": data["size"]}
                del data["size"]
            return data

    class Migrated(Flow[Cured]):
        name = "Steps"
        first = Steps.first

        @listen(first)
        async def second(self, value: str) -> int:
            self.state.length += 1
            return self.state.length

    run_id = await run_that_is("interrupted", store)

    assert await Migrated.resume(run_id, persistence=store) == 2


# ---- a process that was killed -------------------------------------------------------------------------------------

KILLED = """
import os, sys, anyio
from asyncflow import *
from asyncflow.persistence import *

class Count(FlowState):
    done: list[str] = []

class Killed(Flow[Count]):
    name = "Killed"
    persistence = SQLiteFlowPersistence("runs.db")

    def note(self, name):
        with open("effects.txt", "a") as file:
            file.write(name + chr(10))
        self.state.done.append(name)

    @start()
    async def first(self) -> str:
        self.note("first")
        return "one"

    @listen(first)
    def second(self, value: str) -> str:
        self.note("second")
        return value + " two"

    @listen(second)
    async def third(self, value: str) -> str:
        self.note("third")
        if HANGS:
            print("ready", flush=True)
            await anyio.sleep_forever()
        return value + " three"

    @listen(third)
    async def fourth(self, value: str) -> str:
        self.note("fourth")
        return value + " four"
"""


@pytest.mark.clauses("D1", "D2", "E2", "E4", "L2")
async def test_a_run_whose_process_was_killed_goes_on_at_once(is_trio: bool) -> None:
    backend = "trio" if is_trio else "asyncio"
    program = f"HANGS = True\n{KILLED}\nanyio.run(Killed().kickoff, {{'id': 'killed'}}, backend={backend!r})"
    names: dict[str, Any] = {"HANGS": False, "__name__": "killed"}
    exec(KILLED, names)
    killed = names["Killed"]
    path = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    async with await anyio.open_process([sys.executable, "-c", program], env=path, stderr=None) as process:
        with anyio.fail_after(120):
            assert process.stdout is not None
            assert (await process.stdout.receive()).strip() == b"ready"
        with pytest.raises(errors.RunLockedError):
            await killed.resume("killed")
        process.kill()
        await process.wait()
    output = await killed.resume("killed")
    loaded = await killed.load("killed")
    effects = await anyio.Path("effects.txt").read_text()

    assert output == "one two three four"
    assert effects.split() == ["first", "second", "third", "third", "fourth"]
    assert loaded.state.done == ["first", "second", "third", "fourth"]
    assert [entry.method for entry in await loaded.history()] == ["", "first:1", "second:1", "third:1", "fourth:1"]


@pytest.mark.clauses("V1")
async def test_what_is_stored_is_json_and_no_pickle(log: Any) -> None:
    flow = Steps(persistence=log)
    await flow.kickoff()
    rows = await log.history(flow.run_id)

    for row in rows:
        for part in (row.state, row.progress, row.changes, row.result, row.inputs, row.outcome):
            assert part is None or json.loads(part) is not None


@pytest.mark.clauses("L2")
@pytest.mark.parametrize("call", ["resume", "kickoff"])
async def test_a_run_that_is_driven_can_be_waited_for(call: str) -> None:
    ran: list[str] = []
    go = anyio.Event()
    store = SQLiteFlowPersistence("runs.db")

    class Slow(Flow[dict[str, int]]):
        @start()
        async def only(self) -> int:
            ran.append("only")
            await go.wait()
            return 1

    async def ask(wait: float) -> Any:
        if call == "resume":
            return await Slow.resume("run", wait=wait, persistence=store)
        return await Slow(persistence=store).kickoff({"id": "run"}, wait=wait)

    async with anyio.create_task_group() as group:
        group.start_soon(Slow(persistence=store).kickoff, {"id": "run"})
        while not ran:  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.001)
        with pytest.raises(errors.RunLockedError):
            await ask(0.03)
        go.set()
        assert await ask(5) == 1

    assert len(ran) == (1 if call == "resume" else 2)  # a kickoff of one that has finished is a new pass


async def test_what_asking_takes_is_part_of_the_wait() -> None:
    class Taken(SQLiteFlowPersistence):
        async def acquire(self, run_id: str, *, force: bool = False) -> int:
            asked.append(run_id)
            await anyio.sleep(0.2)
            raise errors.RunLockedError("taken", run_id=run_id)

    asked: list[str] = []
    with pytest.raises(errors.RunLockedError):
        await Steps.resume("run", wait=0.3, persistence=Taken("runs.db"))

    assert len(asked) in (1, 2), "not six times, as between the pauses alone"
