"""How children end with their parents: cancelled, interrupted, out of time; whatever process does it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from family import (
    Grandparent,
    Leaf,
    Number,
    Parent,
    ParentOfSleeper,
    Sleeper,
    fails,
    gate,
    has_run,
    only_child,
    ran,
    tree,
)
from moments import interrupted_once, later, until

from asyncflow import Flow, MethodError, errors, listen, run_child, start
from asyncflow._runs.cancelling import cancel_stored
from asyncflow.testing import FaultyPersistence
from asyncflow.testing.faults import Fail


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()
    fails.clear()


async def kept(call: Any, errors_of: list[BaseException]) -> None:
    try:
        await call()
    except Exception as error:
        errors_of.append(error)


# ---- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("K8")
async def test_a_cancelled_run_cancels_its_children_and_theirs(log: Any) -> None:
    gate("never")
    flow, raised = Grandparent(persistence=log), list[BaseException]()
    async with anyio.create_task_group() as group:
        group.start_soon(kept, lambda: flow.kickoff({"n": 4, "gate": "never"}), raised)
        await until(has_run("second 4"))
        await flow.cancel()
        assert await tree(log, flow.run_id) == ["cancelled", "cancelled"]
    assert isinstance(raised[0], errors.RunCancelledError)


@pytest.mark.clauses("K8")
@pytest.mark.parametrize("driven", [True, False])
async def test_cancelled_by_its_storage_a_run_cancels_its_children_too(log: Any, driven: bool) -> None:
    gate("never")
    flow, raised = Grandparent(persistence=log), list[BaseException]()
    call: Any = lambda: flow.kickoff({"n": 4, "gate": "never"})  # noqa: E731
    if not driven:
        await interrupted_once(call, has_run("second 4"))
        await cancel_stored(log, flow.run_id)
        assert await tree(log, flow.run_id) == ["cancelled", "cancelled"]
        return
    async with anyio.create_task_group() as group:
        group.start_soon(kept, call, raised)
        await until(has_run("second 4"))
        await cancel_stored(log, flow.run_id)
        assert await tree(log, flow.run_id) == ["cancelled", "cancelled"]
    assert isinstance(raised[0], errors.RunFencedError)


@pytest.mark.clauses("K8")
async def test_to_cancel_again_cancels_what_a_crash_has_left(log: Any) -> None:
    gate("never")
    flow = Grandparent(persistence=log)
    await interrupted_once(lambda: flow.kickoff({"n": 4, "gate": "never"}), has_run("second 4"))
    with pytest.raises(errors.StorageWriteError):
        await cancel_stored(FaultyPersistence(log, Fail(operations=("append",), at=3)), flow.run_id)
    assert await tree(log, flow.run_id) == ["cancelled", "interrupted"]

    await cancel_stored(log, flow.run_id)
    assert await tree(log, flow.run_id) == ["cancelled", "cancelled"]


class Watches(Flow[Number]):
    @start()
    async def go(self) -> str:
        try:
            await run_child(Leaf, {"n": 4, "gate": "never"}, key="a")
        except errors.ChildCancelledError as error:
            return error.flow
        return ""


@pytest.mark.clauses("K8")
async def test_a_child_that_is_cancelled_alone_is_an_error_of_the_call(log: Any) -> None:
    gate("never")
    flow, results = Watches(persistence=log), list[str]()

    async def kick() -> None:
        results.append(await flow.kickoff())

    async with anyio.create_task_group() as group:
        group.start_soon(kick)
        await until(has_run("second 4"))
        await cancel_stored(log, (await only_child(log, flow.run_id)).run_id)
    assert results == ["Leaf"]


@pytest.mark.clauses("K8")
async def test_an_interrupted_child_of_a_run_that_is_over_is_cancelled_when_it_would_be_resumed(log: Any) -> None:
    opened = gate("open")
    flow = Parent(persistence=log)
    await interrupted_once(lambda: flow.kickoff({"n": 4, "gate": "open"}), has_run("second 4"))
    opened.set()
    child = await only_child(log, flow.run_id)
    with pytest.raises(errors.StorageWriteError):
        await cancel_stored(FaultyPersistence(log, Fail(operations=("append",), at=2)), flow.run_id)
    with pytest.raises(errors.RunCancelledError):
        await Leaf.resume(child.run_id, persistence=log)

    assert await tree(log, flow.run_id) == ["cancelled"]
    assert ran == ["go", "first 4", "second 4"]


async def test_an_interrupted_child_can_be_resumed_by_itself_while_its_parent_is_not_over(log: Any) -> None:
    opened = gate("open")
    flow = Parent(persistence=log)
    await interrupted_once(lambda: flow.kickoff({"n": 4, "gate": "open"}), has_run("second 4"))
    opened.set()
    assert await Leaf.resume((await only_child(log, flow.run_id)).run_id, persistence=log) == 40
    assert await Parent.resume(flow.run_id, persistence=log) == 41
    assert ran == ["go", "first 4", "second 4", "second 4", "go"]


# ---- the end of the parent -------------------------------------------------------------------------------------------


@pytest.mark.clauses("K8")
async def test_the_end_before_its_time_cancels_the_children_that_run(log: Any) -> None:
    gate("never")
    flow = Parent(persistence=log)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: flow.kickoff({"n": 4, "gate": "never"}))
        await until(has_run("second 4"))
        await flow._instance.finish()
    assert (flow.status, await tree(log, flow.run_id)) == ("finished", ["cancelled"])


@pytest.mark.clauses("K8")
async def test_a_stored_run_that_is_finished_from_outside_cancels_its_children(log: Any) -> None:
    gate("never")
    flow = Parent(persistence=log)
    await interrupted_once(lambda: flow.kickoff({"n": 4, "gate": "never"}), has_run("second 4"))
    await Parent.finish_run(flow.run_id, persistence=log)
    assert await tree(log, flow.run_id) == ["cancelled"]


class Leaves(Flow[Number]):
    """Starts a child, and does not wait for its end."""

    @start()
    async def go(self) -> str:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: run_child(Leaf, {"n": 4, "gate": "never"}))
                await until(has_run("second 4"))
                scope.cancel()
        return "left"


@pytest.mark.clauses("K8")
async def test_a_child_that_its_method_has_left_is_cancelled_at_the_end_of_the_parent(log: Any) -> None:
    gate("never")
    flow = Leaves(persistence=log)
    assert await flow.kickoff() == "left"
    assert await tree(log, flow.run_id) == ["cancelled"]


class Ignores(Flow[Number]):
    @start()
    async def go(self) -> str:
        try:
            await run_child(Leaf, {"n": 4})
        except errors.ChildFailedError:
            return "ignored"
        return ""


@pytest.mark.clauses("K8")
async def test_a_failed_child_is_over_once_its_parent_has_finished(log: Any) -> None:
    fails.add("4")
    flow = Ignores(persistence=log)
    assert await flow.kickoff() == "ignored"
    assert await tree(log, flow.run_id) == ["cancelled"]


async def test_a_failed_parent_leaves_its_children_as_they_are(log: Any) -> None:
    fails.add("4")
    flow = Grandparent(persistence=log)
    with pytest.raises(MethodError):
        await flow.kickoff({"n": 4})
    assert await tree(log, flow.run_id) == ["failed", "failed"]


# ---- what ends the parent's pass reaches the method as a cancellation ------------------------------------------------


class Siblings(Flow[Number]):
    """One method runs a child, another one fails meanwhile."""

    swallowed: Any = None

    @start()
    async def runs(self) -> object:
        try:
            return await run_child(Leaf, {"n": 4, "gate": "sibling"})
        except Exception as error:
            Siblings.swallowed = error
            raise

    @start()
    async def breaks(self) -> None:
        await until(has_run("second 4"))
        if "breaks" in fails:
            raise LookupError("told to")

    @listen(breaks)
    async def later(self) -> None:
        pass


@pytest.mark.clauses("K10")
async def test_once_a_method_has_failed_the_child_of_another_is_interrupted_and_a_resume_continues_it(log: Any) -> None:
    opened = gate("sibling")
    fails.add("breaks")
    flow = Siblings(persistence=log)
    with pytest.raises(MethodError):
        await flow.kickoff()
    assert (flow.status, await tree(log, flow.run_id)) == ("failed", ["interrupted"])
    fails.clear()
    opened.set()
    await Siblings.resume(flow.run_id, persistence=log)
    assert (ran, Siblings.swallowed) == (["first 4", "second 4", "second 4"], None)


@pytest.mark.clauses("K10")
@pytest.mark.parametrize("at", [2, 3])
async def test_an_error_of_the_storage_in_the_child_ends_the_parent_and_is_no_error_of_the_call(
    log: Any, at: int
) -> None:
    """The second append is that of the child's first method; the third, of its second one."""

    gate("sibling").set()
    faulty = FaultyPersistence(log, Fail(operations=("append",), at=at))
    flow = Watched(persistence=faulty)
    with pytest.raises(errors.StorageWriteError):
        await flow.kickoff()
    assert Watched.swallowed is None
    assert await Watched.resume(flow.run_id, persistence=log) == 40


@pytest.mark.clauses("K10")
async def test_an_error_of_the_storage_at_the_outcome_is_no_error_of_the_call(log: Any) -> None:
    gate("sibling").set()
    flow = Watched(persistence=FaultyPersistence(log, Fail(operations=("append",), at=4)))
    with pytest.raises(errors.StorageWriteError):
        await flow.kickoff()
    assert Watched.swallowed is None
    assert await Watched.resume(flow.run_id, persistence=log) == 40
    assert ran == ["first 4", "second 4"]


class Watched(Flow[Number]):
    swallowed: Any = None

    @start()
    async def go(self) -> int:
        try:
            return int(await run_child(Leaf, {"n": 4, "gate": "sibling"}))
        except Exception as error:
            Watched.swallowed = error
            raise


@pytest.mark.clauses("K1", "K10")
async def test_a_child_of_a_run_that_is_over_is_not_begun(log: Any) -> None:
    opened = gate("late")
    flow, raised = Late(persistence=log), list[BaseException]()
    async with anyio.create_task_group() as group:
        group.start_soon(kept, flow.kickoff, raised)
        await until(has_run("late"))
        await cancel_stored(log, flow.run_id)
        opened.set()
    assert Late.swallowed is None
    assert isinstance(raised[0], errors.ParentEndedError | errors.RunFencedError)
    assert await tree(log, flow.run_id) == []


class Late(Flow[Number]):
    swallowed: Any = None

    @start()
    async def go(self) -> int:
        from family import gates

        ran.append("late")
        await gates["late"].wait()
        try:
            return int(await run_child(Leaf, {"n": 4}))
        except Exception as error:
            Late.swallowed = error
            raise


# ---- time limits -----------------------------------------------------------------------------------------------------


@pytest.mark.clauses("K11")
async def test_a_child_inherits_the_rest_of_its_parent_s_time_and_a_new_limit(log: Any) -> None:
    flow = ParentOfSleeper(persistence=log, run_timeout=3600)
    await interrupted_once(lambda: flow.kickoff({"n": 100}), has_run("nap"))
    limit, inherited = [await deadline(log, run_id) for run_id in (flow.run_id, await child_of(log, flow.run_id))]
    assert limit == inherited > 0

    with later(7200):
        with pytest.raises(errors.RunTimeoutError):
            await ParentOfSleeper.resume(flow.run_id, persistence=log)
        assert await ParentOfSleeper.resume(flow.run_id, persistence=log, run_timeout=3600) == "slept"
    assert await tree(log, flow.run_id) == ["finished"]


@pytest.mark.clauses("K11")
async def test_a_child_that_ran_out_of_its_parent_s_time_elsewhere_continues_with_the_new_limit(log: Any) -> None:
    flow = ParentOfSleeper(persistence=log, run_timeout=3600)
    await interrupted_once(lambda: flow.kickoff({"n": 100}), has_run("nap"))
    with later(7200):
        with pytest.raises(errors.RunTimeoutError):
            await Sleeper.resume(await child_of(log, flow.run_id), persistence=log)
        assert await tree(log, flow.run_id) == ["failed"]
        assert await ParentOfSleeper.resume(flow.run_id, persistence=log, run_timeout=None) == "slept"


@pytest.mark.clauses("K11")
async def test_a_limit_of_the_child_s_own_that_is_shorter_is_its_failure(log: Any) -> None:
    flow = ParentOfBrief(persistence=log, run_timeout=3600)
    with pytest.raises(MethodError) as raised:
        await flow.kickoff()
    assert isinstance(raised.value.__cause__, errors.ChildFailedError)
    assert isinstance(raised.value.__cause__.__cause__, errors.RunTimeoutError)


class Brief(Sleeper):
    name = "Brief"
    run_timeout = 0.05


class ParentOfBrief(Flow[Number]):
    @start()
    async def go(self) -> str:
        return str(await run_child(Brief, {"n": 3600}))


async def child_of(store: Any, run_id: str) -> str:
    return str((await only_child(store, run_id)).run_id)


async def deadline(store: Any, run_id: str) -> float:
    from asyncflow.persistence.checkpoint import decode_progress

    return decode_progress((await store.load(run_id)).progress).deadline
