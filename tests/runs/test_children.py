"""`run_child`: begun once, continued by whatever runs the method again, and a result of its own type."""

from __future__ import annotations

import uuid
from typing import Any

import anyio
import pytest
from family import Grandparent, Leaf, Number, Parent, Wide, fails, gate, has_run, only_child, ran, tree
from moments import interrupted_once, stored, until

from asyncflow import (
    Flow,
    MethodError,
    Retry,
    errors,
    run_child,
    start,
    step,
    this_invocation,
)
from asyncflow.persistence.checkpoint import decode_progress
from asyncflow.testing import FaultyPersistence, crash_everywhere
from asyncflow.testing.faults import Fail


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()
    fails.clear()


@pytest.mark.clauses("K5")
async def test_a_child_is_a_run_of_its_own_and_its_result_is_the_call_s(log: Any) -> None:
    flow = Grandparent(persistence=log)
    assert await flow.kickoff({"n": 4}) == 141

    child = await only_child(log, flow.run_id)
    assert (child.flow, child.status, child.parent) == ("Parent", "finished", flow.run_id)
    assert decode_progress((await log.load(child.run_id)).progress).parent == (flow.run_id, 1)
    grandchild = await only_child(log, child.run_id)
    assert decode_progress((await log.load(grandchild.run_id)).progress).parent == (child.run_id, 2)
    assert ran == ["go", "first 4", "second 4"]


async def test_without_persistence_children_run_in_memory() -> None:
    assert await Grandparent().kickoff({"n": 4}) == 141
    assert await Wide().kickoff({"n": 3}) == [0, 10, 20]


async def test_children_of_one_method_run_at_the_same_time(log: Any) -> None:
    flow = Wide(persistence=log)
    assert await flow.kickoff({"n": 20}) == [10 * n for n in range(20)]
    assert await tree(log, flow.run_id) == ["finished"] * 20


async def test_one_checkpoint_of_the_parent_holds_the_outcome(log: Any) -> None:
    flow = Parent(persistence=log)
    await flow.kickoff({"n": 4})
    assert [entry.kind for entry in await flow.history()] == ["started", "step", "finished"]


# ---- a method that runs again ----------------------------------------------------------------------------------------


@pytest.mark.clauses("K5", "K10")
async def test_a_method_that_runs_again_continues_its_child(log: Any) -> None:
    opened = gate("continued")
    flow = Grandparent(persistence=log)
    await interrupted_once(lambda: flow.kickoff({"n": 4, "gate": "continued"}), has_run("second 4"))
    assert (flow.status, await tree(log, flow.run_id)) == ("interrupted", ["interrupted", "interrupted"])

    opened.set()
    assert await Grandparent.resume(flow.run_id, persistence=log) == 141
    assert ran == ["go", "first 4", "second 4", "go", "second 4"]
    assert await tree(log, flow.run_id) == ["finished", "finished"]


class Twice(Flow[Number]):
    """Runs a child, and then fails once."""

    @start(retry=Retry(attempts=2, initial=0.0))
    async def go(self) -> int:
        result = await run_child(Leaf, {"n": 5})
        if this_invocation().attempt == 1:
            raise LookupError("told to")
        return int(result)


@pytest.mark.clauses("K6")
async def test_the_next_attempt_gets_the_stored_result(log: Any) -> None:
    assert await Twice(persistence=log).kickoff() == 50
    assert ran == ["first 5", "second 5"]


async def test_the_next_attempt_of_an_unstored_run_gets_the_result(log: Any) -> None:
    assert await Twice().kickoff() == 50
    assert ran == ["first 5", "second 5"]


class Listed(Flow[Number]):
    @start()
    async def go(self) -> list[int]:
        return [1]


class Appending(Flow[Number]):
    """Changes the result of its child, in each of its attempts."""

    @start(retry=Retry(attempts=3, initial=0))
    async def go(self) -> list[int]:
        result = await run_child(Listed)
        result.append(2)
        if this_invocation().attempt < 3:
            raise LookupError("told to")
        return result


@pytest.mark.clauses("K6")
@pytest.mark.parametrize("is_stored", [True, False])
async def test_each_attempt_gets_a_result_of_its_own(log: Any, is_stored: bool) -> None:
    assert await Appending(persistence=log if is_stored else None).kickoff() == [1, 2]


class Thrice(Flow[Number]):
    """Runs a child, then waits at a gate."""

    @start()
    async def go(self) -> list[int]:
        results = [await run_child(Leaf, {"n": n}) for n in (1, 2)]
        return [*results, await run_child(Leaf, {"n": 3, "gate": "third"})]


@pytest.mark.clauses("K6")
async def test_a_fork_takes_stored_outcomes_along_and_runs_children_of_its_own(log: Any) -> None:
    opened = gate("third")
    flow = Thrice(persistence=log)
    await interrupted_once(flow.kickoff, has_run("second 3"))
    opened.set()
    ran.clear()
    fork = await Thrice.fork(flow.run_id, persistence=log)
    assert await fork.kickoff() == [10, 20, 30]

    assert ran == ["first 3", "second 3"]
    assert await tree(log, fork.run_id) == ["finished"]
    assert await tree(log, flow.run_id) == ["finished", "finished", "interrupted"]


async def test_a_fork_of_a_child_has_no_parent(log: Any) -> None:
    flow = Parent(persistence=log)
    await flow.kickoff({"n": 4})
    child = await only_child(log, flow.run_id)
    fork = await Leaf.fork(child.run_id, persistence=log)

    assert decode_progress((await log.load(fork.run_id)).progress).parent is None
    await only_child(log, flow.run_id)


async def test_the_next_pass_of_a_child_keeps_its_parent(log: Any) -> None:
    opened = gate("open")
    flow = Parent(persistence=log)
    await interrupted_once(lambda: flow.kickoff({"n": 4, "gate": "open"}), has_run("second 4"))
    child = await only_child(log, flow.run_id)
    opened.set()
    await Leaf.resume(child.run_id, persistence=log)
    await Leaf(persistence=log).kickoff({"id": child.run_id})

    stored = await log.load(child.run_id)
    assert (stored.pass_number, decode_progress(stored.progress).parent) == (2, (flow.run_id, 1))


@pytest.mark.clauses("K5", "K6")
async def test_crashed_at_any_commit_the_parent_ends_as_without_a_crash() -> None:
    await crash_everywhere(Deep, {"n": 2})


class Deep(Flow[Number]):
    @start()
    async def go(self) -> list[int]:
        results = [await run_child(Grandparent, {"n": 1})]

        async def one(n: int) -> None:
            results.append(await run_child(Leaf, {"n": n}, key=str(n)))

        async with anyio.create_task_group() as group:
            for n in range(self.state.n):
                group.start_soon(one, n)
        return sorted(results)


class InStep(Flow[Number]):
    """Runs a child in a step, and another one after it."""

    @start()
    async def go(self) -> list[int]:
        async def inner() -> int:
            return int(await run_child(Leaf, {"n": 1}))

        return [await step(inner, key="inner"), int(await run_child(Leaf, {"n": 2, "gate": "after"}))]


@pytest.mark.clauses("K5")
async def test_a_child_within_a_step_is_named_below_it(log: Any) -> None:
    opened = gate("after")
    flow = InStep(persistence=log)
    await interrupted_once(flow.kickoff, has_run("second 2"))
    opened.set()
    assert await InStep.resume(flow.run_id, persistence=log) == [10, 20]
    assert ran == ["first 1", "second 1", "first 2", "second 2", "second 2"]


# ---- a child that fails ----------------------------------------------------------------------------------------------


@pytest.mark.clauses("K7")
async def test_a_failed_child_is_an_error_with_its_cause_and_a_resume_resumes_it(log: Any) -> None:
    fails.add("4")
    flow = Parent(persistence=log)
    with pytest.raises(MethodError) as raised:
        await flow.kickoff({"n": 4})
    error = raised.value.__cause__
    child = await only_child(log, flow.run_id)

    assert isinstance(error, errors.ChildFailedError)
    assert (error.child_id, error.flow, error.run_id, error.method) == (child.run_id, "Leaf", flow.run_id, "go")
    assert isinstance(error.__cause__, MethodError)
    assert isinstance(error.__cause__.__cause__, LookupError)
    assert child.status == "failed"
    fails.clear()
    assert await Parent.resume(flow.run_id, persistence=log) == 41
    assert ran == ["go", "first 4", "second 4", "go", "second 4"]


@pytest.mark.clauses("K7")
async def test_a_failed_child_whose_state_was_edited_is_resumed_too(log: Any) -> None:
    fails.add("4")
    flow = Parent(persistence=log)
    with pytest.raises(MethodError):
        await flow.kickoff({"n": 4})
    child = await Leaf.load((await only_child(log, flow.run_id)).run_id, persistence=log)
    await child.update_state(n=5)
    fails.clear()

    assert await Parent.resume(flow.run_id, persistence=log) == 41
    assert ran == ["go", "first 4", "second 4", "go", "second 4"]


class Retried(Flow[Number]):
    on: Any = Exception

    @start(retry=Retry(attempts=3, initial=0.0, on=lambda error: isinstance(error, Exception)))
    async def others(self) -> int:
        return int(await run_child(Leaf, {"n": 4}))


class RetriedByName(Flow[Number]):
    @start(retry=Retry(attempts=3, initial=0.0, on=errors.ChildFailedError))
    async def named(self) -> int:
        return int(await run_child(Leaf, {"n": 4}))


@pytest.mark.clauses("K7")
@pytest.mark.parametrize(("made", "calls"), [(Retried, 1), (RetriedByName, 3)])
async def test_a_failed_child_is_resumed_by_a_retry_only_where_the_policy_names_the_error(
    log: Any, made: Any, calls: int
) -> None:
    fails.add("4")
    with pytest.raises(MethodError):
        await made(persistence=log).kickoff()
    assert ran == ["first 4", *["second 4"] * calls]


async def test_a_failed_child_of_an_unstored_run_is_begun_again_by_a_retry() -> None:
    fails.add("4")
    with pytest.raises(MethodError):
        await RetriedByName().kickoff()
    assert ran == ["first 4", "second 4"] * 3


class Handles(Flow[Number]):
    @start()
    async def go(self) -> str:
        try:
            await run_child(Leaf, {"n": 4}, key="a")
        except errors.ChildFailedError:
            fails.clear()
        return str(await run_child(Leaf, {"n": 4}, key="a"))


@pytest.mark.clauses("K7")
async def test_a_method_may_call_again_and_resumes_its_failed_child(log: Any) -> None:
    fails.add("4")
    assert await Handles(persistence=log).kickoff() == "40"
    assert ran == ["first 4", "second 4", "second 4"]


@pytest.mark.clauses("K7")
async def test_a_crash_before_the_report_does_not_resume_a_failed_child(log: Any) -> None:
    fails.add("4")
    faulty = FaultyPersistence(log, Fail(operations=("append",), at=4))  # the started parent; the child: first, failed
    flow = Parent(persistence=faulty)
    with pytest.raises(errors.StorageWriteError):
        await flow.kickoff({"n": 4})
    fails.clear()
    ran.clear()
    with pytest.raises(MethodError, match="ChildFailedError"):
        await Parent.resume(flow.run_id, persistence=log)
    assert ran == ["go"]
    assert await Parent.resume(flow.run_id, persistence=log) == 41
    assert ran == ["go", "go", "second 4"]


class Compensated(Flow[Number]):
    """Undoes what has failed in the method that has caught the failure."""

    @start()
    async def go(self) -> str:
        try:
            await run_child(Leaf, {"n": self.state.n})
        except errors.ChildFailedError:
            await run_child(Leaf, {"n": 0}, key="undo")
            if "crash" in fails:
                await anyio.sleep_forever()
            return "undone"
        return "done"


@pytest.mark.clauses("K7")
async def test_after_a_crash_a_method_that_caught_the_failure_of_a_child_continues_from_there(log: Any) -> None:
    fails.update(("4", "crash"))
    flow = Compensated(persistence=log)
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff, {"n": 4})
        await until(stored(log, flow.run_id, 2))  # the failure, and what undid it
        group.cancel_scope.cancel()
    fails.clear()
    ran.clear()

    assert await Compensated.resume(flow.run_id, persistence=log) == "undone"
    assert ran == []


# ---- calls that are refused ------------------------------------------------------------------------------------------


async def test_it_is_available_in_methods_only() -> None:
    with pytest.raises(LookupError, match="only inside a method"):
        await run_child(Leaf)


class Refused(Flow[Number]):
    call: Any = None

    @start()
    async def go(self) -> object:
        return await type(self).call()


async def refused(call: Any, **init: Any) -> BaseException | None:
    Refused.call = staticmethod(call)
    with pytest.raises(MethodError) as raised:
        await Refused(**init).kickoff()
    return raised.value.__cause__


@pytest.mark.parametrize("flow", [Leaf(), Number, 7, "Leaf"])
async def test_it_takes_a_flow_class_or_a_function_that_returns_a_flow(flow: Any) -> None:
    error = await refused(lambda: run_child(flow))
    assert isinstance(error, TypeError)
    assert "takes a flow class, or a function that returns a flow" in str(error)
    assert ran == []


@pytest.mark.parametrize("key", ["", 3, "k" * 201, "a\nb"])
async def test_a_key_is_printable(key: Any) -> None:
    assert isinstance(await refused(lambda: run_child(Leaf, key=key)), ValueError)
    assert ran == []


async def test_a_function_may_make_the_flow(log: Any) -> None:
    Refused.call = staticmethod(lambda: run_child(lambda: Leaf(max_method_calls=5), {"n": 2}))
    assert await Refused(persistence=log).kickoff() == 20


async def test_two_children_of_a_flow_in_flight_need_keys(log: Any) -> None:
    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(run_child, Leaf)
            group.start_soon(run_child, Leaf)

    error = await refused(both, persistence=log)
    assert isinstance(error, ExceptionGroup)
    assert isinstance(error.exceptions[0], errors.StepKeyError)


async def test_an_id_among_the_inputs_is_refused(log: Any) -> None:
    assert isinstance(await refused(lambda: run_child(Leaf, {"id": "mine"}), persistence=log), errors.RunInputsError)


async def test_inputs_that_the_child_refuses_are_an_error_of_the_call(log: Any) -> None:
    error = await refused(lambda: run_child(Leaf, {"n": "many"}), persistence=log)
    assert isinstance(error, errors.RunInputsError)
    assert [entry.flow for entry in await log.runs()] == ["Refused"]


class Backend(FaultyPersistence):
    pass


async def test_a_backend_without_the_capability_says_what_to_do(store: Any) -> None:
    if hasattr(store, "append_child"):
        return
    error = await refused(lambda: run_child(Leaf), persistence=store)
    assert isinstance(error, errors.CapabilityMissingError)
    assert error.capability == "Children"


class Changing(Flow[Number]):
    given: Any = None

    @start()
    async def go(self) -> int:
        return int(await run_child(Leaf, Changing.given))


@pytest.mark.clauses("K5")
@pytest.mark.parametrize("then", [{"n": 5, "gate": "changing"}, None, {"n": 4}])
async def test_other_inputs_of_a_method_that_runs_again_are_refused(log: Any, then: Any) -> None:
    gate("changing")
    Changing.given = {"n": 4, "gate": "changing"}
    flow = Changing(persistence=log)
    await interrupted_once(flow.kickoff, has_run("second 4"))
    Changing.given = then
    with pytest.raises(MethodError) as raised:
        await Changing.resume(flow.run_id, persistence=log)
    assert isinstance(raised.value.__cause__, errors.StepMismatchError)
    assert ran == ["first 4", "second 4"]


class ChangingAttempt(Flow[Number]):
    """Runs a child, fails, and runs it with other inputs in its next attempt."""

    @start(retry=Retry(attempts=3, initial=0))
    async def go(self) -> int:
        result = await run_child(Leaf, {"n": this_invocation().attempt})
        if this_invocation().attempt == 1:
            raise LookupError("once")
        return result


@pytest.mark.clauses("K5", "K6")
@pytest.mark.parametrize("is_stored", [True, False])
async def test_other_inputs_of_a_child_that_has_ended_are_refused(log: Any, is_stored: bool) -> None:
    with pytest.raises(MethodError) as raised:
        await ChangingAttempt(persistence=log if is_stored else None).kickoff()

    assert isinstance(raised.value.__cause__, errors.StepMismatchError)
    assert ran == ["first 1", "second 1"]


@pytest.mark.clauses("K5")
async def test_a_key_that_is_used_again_for_other_inputs_is_refused(log: Any) -> None:
    async def both() -> None:
        await run_child(Leaf, {"n": 1}, key="a")
        await run_child(Leaf, {"n": 1}, key="a")
        await run_child(Leaf, {"n": 2}, key="a")

    assert isinstance(await refused(both, persistence=log), errors.StepMismatchError)
    assert ran == ["first 1", "second 1"]


@pytest.mark.parametrize(("made", "error"), [(Parent, errors.RunFlowMismatchError), (Leaf, errors.StepMismatchError)])
async def test_a_run_that_has_the_id_of_a_child_is_not_taken_for_it(
    log: Any, made: Any, error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = str(uuid.uuid4())
    await made(persistence=log).kickoff({"id": taken, "n": 4})
    monkeypatch.setattr("asyncflow._runs.child.child_id", lambda *_: taken)
    assert isinstance(await refused(lambda: run_child(Leaf, {"n": 4}), persistence=log), error)


class Endless(Flow[Number]):
    deepest = 0

    @start()
    async def go(self) -> int:
        Endless.deepest = self.state.n
        return int(await run_child(Endless, {"n": self.state.n + 1}))


@pytest.mark.clauses("K5")
async def test_the_thirty_third_level_is_refused(log: Any) -> None:
    with pytest.raises(MethodError) as raised:
        await Endless(persistence=log).kickoff()
    error: BaseException | None = raised.value
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, errors.LimitExceededError)
    assert "33" in str(error)
    assert (Endless.deepest, len(await log.runs(limit=100))) == (32, 33)
