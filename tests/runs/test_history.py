"""`history`: what each checkpoint of a run says, and in which form it is stored."""

import json
from typing import Any

import pytest
from flows import ALL, Steps, TwoVerbs, Work

from asyncflow import Flow, FlowState, errors, listen, or_, router, start


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


async def test_the_history_leaves_out_fields_that_did_not_change(log: Any) -> None:
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
    passed = [entry for entry in await flow.history() if entry.skipped]
    assert [entry.skipped for entry in passed] == [("once",)]
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


@pytest.mark.clauses("V1")
async def test_what_is_stored_is_json_and_no_pickle(log: Any) -> None:
    flow = Steps(persistence=log)
    await flow.kickoff()
    rows = await log.history(flow.run_id)

    for row in rows:
        for part in (row.state, row.progress, row.changes, row.result, row.inputs, row.outcome):
            assert part is None or json.loads(part) is not None
