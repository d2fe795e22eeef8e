"""One run, as it is shown: what it waits for, what failed, what it was copied from."""

import datetime
from typing import Any

import anyio
import pytest

from asyncflow import Flow, Retry, Signal, after, continue_as, errors, inspection, listen, or_, sleep, start, wait_for
from asyncflow.persistence.protocol import RunEntry


class Order(Flow):
    """A flow whose last method fails."""

    @start()
    async def take(self) -> None:
        self.state["customer"] = {"name": "Ada", "password": "secret"}
        self.state["taken"] = datetime.datetime(2026, 1, 2, 3, 4, 5)
        self.state["tags"] = {"b"}

    @listen(take)
    async def price(self) -> None:
        self.state["total"] = 12

    @listen(price)
    async def pay(self) -> None:
        raise ValueError("no money")


async def failed(store: Any) -> str:
    flow = Order(persistence=store)
    with pytest.raises(errors.MethodError):
        await flow.kickoff({"item": "tea"})
    return flow.run_id


def hidden(path: tuple[Any, ...], value: Any) -> Any:
    return "(hidden)" if path[-1] in ("password", "message", "traceback") else value


async def test_a_failed_run_is_shown_with_its_error_and_its_values(store: Any) -> None:
    run_id = await failed(store)

    shown = await inspection.run_detail(store, run_id)

    assert isinstance(shown.entry, RunEntry)
    assert (shown.entry.status, shown.entry.flow, shown.entry.seq) == ("failed", "Order", 3)
    assert shown.driver is None
    assert shown.inputs == {"item": "tea"}
    assert shown.state["taken"] == "2026-01-02T03:04:05"
    assert shown.state["tags"] == ["b"]
    (error,) = shown.errors
    assert (error.invocation, error.type, error.message, error.seq) == ("pay:1", "builtins.ValueError", "no money", 3)
    assert "in pay" in error.traceback
    assert [(each.invocation, each.doing) for each in shown.pending] == [("pay:1", "failed")]
    assert [(m.method, m.state, m.completed) for m in shown.methods] == [
        ("take", "completed", 1),
        ("price", "completed", 1),
        ("pay", "failed", 0),
    ]


async def test_a_hook_sees_every_value_and_hides_some(store: Any) -> None:
    run_id = await failed(store)
    seen = set[tuple[Any, ...]]()

    def hook(path: tuple[Any, ...], value: Any) -> Any:
        seen.add(path)
        return hidden(path, value)

    shown = await inspection.run_detail(store, run_id, redact=hook)

    assert shown.state["customer"] == {"name": "Ada", "password": "(hidden)"}
    assert (shown.errors[0].message, shown.errors[0].traceback) == ("(hidden)", "(hidden)")
    assert "secret" not in repr(vars_of(shown))
    assert {("state",), ("state", "customer", "name"), ("inputs", "item"), ("errors", "message")} <= seen


def vars_of(shown: Any) -> list[Any]:
    return [getattr(shown, name) for name in shown.__dataclass_fields__]


async def test_what_a_run_waits_for_is_shown_with_its_times(store: Any) -> None:
    class Waiting(Flow):
        approved = Signal("approved", str)

        @start()
        async def ask(self) -> None: ...

        @listen(or_(approved, after(ask, 3600)))
        async def answer(self) -> None: ...

        @start()
        async def nap(self) -> None:
            await sleep(7200)

        @start(retry=Retry(attempts=2, initial=1800, maximum=1800, jitter=0))
        async def flaky(self) -> None:
            raise OSError("busy")

        @start()
        async def receive(self) -> None:
            await wait_for(self.approved, timeout=900)

    flow = Waiting(persistence=store)
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        while len((await inspection.run_detail(store, flow.run_id)).waits if flow.status != "new" else ()) < 4:  # noqa: ASYNC110 - no event to wait for
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()

    shown = await inspection.run_detail(store, flow.run_id)

    assert shown.entry.status == "interrupted"
    assert [(w.kind, w.name, w.method) for w in shown.waits] == [
        ("signal", "approved", "receive"),
        ("attempt", "flaky", "flaky"),
        ("timer", "after(ask)", "answer"),
        ("sleep", "sleep #1", "nap"),
    ]
    assert [round(w.due_at - shown.entry.created_at, -1) for w in shown.waits if w.due_at] == [900, 1800, 3600, 7200]
    assert shown.waits[1].attempt == 2
    doing = {each.method: each.doing for each in shown.pending}
    assert doing == {"nap": "waiting", "flaky": "retrying", "receive": "waiting"}
    (flaky,) = [each for each in shown.pending if each.method == "flaky"]
    assert [(each.number, each.message) for each in flaky.errors] == [(1, "busy")]


async def test_a_copy_names_the_run_that_it_was_made_of(store: Any) -> None:
    run_id = await failed(store)

    copy = await Order.fork(run_id, seq=2, persistence=store)
    restored = Order(persistence=store)
    with pytest.raises(errors.MethodError):
        await restored.kickoff(restore_from_state_id=run_id)

    assert (await inspection.run_detail(store, copy.run_id)).forked_from == (run_id, 2)
    assert (await inspection.run_detail(store, restored.run_id)).forked_from == (run_id, 3)
    assert (await inspection.run_detail(store, run_id)).forked_from is None


async def test_the_history_shows_values_before_and_after(store: Any) -> None:
    run_id = await failed(store)

    whole = await inspection.run_history(store, run_id, redact=hidden)
    part = await inspection.run_history(store, run_id, after=0, limit=2)

    assert [entry.seq for entry in whole] == [0, 1, 2, 3]
    assert [entry.seq for entry in part] == [1, 2]
    assert part[1].changed == {"total": 12}
    assert whole[1].changed["customer"] == {"name": "Ada", "password": "(hidden)"}
    assert (set(part[0].changed), part[0].before) == ({"customer", "taken", "tags"}, {})
    assert (whole[3].error, whole[3].traceback) == ("(hidden)", "(hidden)")


async def test_two_states_of_a_run_are_compared(store: Any) -> None:
    flow = Order(persistence=store)
    with pytest.raises(errors.MethodError):
        await flow.kickoff()
    await flow.update_state({"customer": {"name": None, "password": "other"}})

    found = await inspection.diff(store, flow.run_id, 1, redact=hidden)

    assert [(each.path, each.kind, each.before, each.after) for each in found] == [
        (("customer", "name"), "changed", "Ada", None),
        (("customer", "password"), "changed", "(hidden)", "(hidden)"),
        (("total",), "added", None, 12),
    ]
    assert await inspection.state_at(store, flow.run_id, 0) == {"id": flow.run_id}


async def test_the_attempts_of_a_run_have_times(store: Any) -> None:
    run_id = await failed(store)

    spans = await inspection.timeline(store, run_id)

    assert [(span.kind, span.invocation, span.outcome) for span in spans] == [
        ("attempt", "take:1", "completed"),
        ("attempt", "price:1", "completed"),
        ("attempt", "pay:1", "failed"),
    ]
    assert all(span.end is not None and span.end >= span.start for span in spans)


async def test_the_events_of_a_run_are_followed_to_its_end(store: Any) -> None:
    run_id = await failed(store)

    found = [event async for event in inspection.follow(store, run_id)]
    rest = [event async for event in inspection.follow(store, run_id, after=(2, 0))]

    assert [type(event).__name__ for event in found] == [
        "RunStarted",
        "MethodFinished",
        "MethodFinished",
        "MethodFailed",
        "RunFailed",
    ]
    assert rest == found[3:]


async def test_an_error_that_was_overcome_is_shown_as_such(store: Any) -> None:
    class Twice(Flow):
        fails = True

        @start()
        async def only(self) -> None:
            if Twice.fails:
                raise ValueError("not yet")

    flow = Twice(persistence=store)
    with pytest.raises(errors.MethodError):
        await flow.kickoff()
    before = await inspection.run_detail(store, flow.run_id)
    Twice.fails = False
    await flow.kickoff()
    after_it = await inspection.run_detail(store, flow.run_id)

    assert [(error.message, error.is_open) for error in before.errors] == [("not yet", True)]
    assert [(error.message, error.is_open) for error in after_it.errors] == [("not yet", False)]
    assert [(m.method, m.state, m.failed) for m in after_it.methods] == [("only", "completed", 0)]
    spans = await inspection.timeline(store, flow.run_id)
    assert [(span.kind, span.outcome) for span in spans] == [("attempt", "failed"), ("attempt", "completed")]


async def test_a_copy_names_its_source_in_later_passes_too(store: Any) -> None:
    class Passes(Flow):
        @start()
        async def count(self) -> None:
            self.state["n"] = self.state.get("n", 0) + 1
            if self.state["n"] % 2:
                continue_as()

    flow = Passes(persistence=store)
    await flow.kickoff()
    copy = await Passes.fork(flow.run_id, seq=1, persistence=store)
    await copy.kickoff()
    first = await inspection.run_detail(store, copy.run_id)
    await copy.kickoff()
    second = await inspection.run_detail(store, copy.run_id)

    assert first.forked_from == second.forked_from == (flow.run_id, 1)
    assert second.entry.pass_number > first.entry.pass_number
    assert [entry.forked_from for entry in await copy.history()][:2] == [(flow.run_id, 1), None]


class Circling(Flow[dict[str, Any]]):
    @start()
    async def go(self) -> None:
        self.state["n"] = self.state.get("n", 0) + 1
        if self.state["n"] < 5:
            continue_as()


async def test_a_page_of_the_history_of_a_compacted_run_begins_at_its_first_checkpoint(store: Any) -> None:
    flow = Circling(persistence=store)
    await flow.kickoff()
    assert await Circling.compact(flow.run_id, persistence=store) > 0
    whole = await inspection.run_history(store, flow.run_id)
    first = await inspection.run_history(store, flow.run_id, limit=1)

    assert whole[0].seq > 1
    assert [entry.seq for entry in first] == [whole[0].seq]
    assert await inspection.run_history(store, flow.run_id, after=whole[-1].seq, limit=1) == []


async def test_a_hook_that_hides_the_whole_state_hides_it_in_the_history_too(store: Any) -> None:
    flow = Circling(persistence=store)
    await flow.kickoff({"secret": "x"})
    for hidden_as in ("gone", {"kept": 1}):
        shown = await inspection.run_history(
            store, flow.run_id, redact=lambda path, value, h=hidden_as: h if path == ("state",) else value
        )
        assert "'x'" not in repr(shown)
        assert all(entry.removed == () for entry in shown)
