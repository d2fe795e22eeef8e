"""The output of a flow: of the method that is named, whichever method completes last, in this process or another one."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from moments import interrupted_once, stored

from asyncflow import Flow, FlowRunner, listen, or_, persist, router, start
from asyncflow.errors import FlowDefinitionError

WAITS: set[str] = set()
"""The methods that wait until they are cancelled."""


class Two(Flow[dict]):
    """Two last methods in parallel; the one that is not the output is the slower one."""

    name = "Two"

    @start()
    async def draft(self) -> int:
        return 1

    @listen(draft, output=True)
    async def publish(self, n: int) -> dict[str, int]:
        return {"published": n}

    @listen(draft)
    async def log(self, n: int) -> str:
        await anyio.sleep(0.02)
        if "log" in WAITS:
            await anyio.sleep_forever()
        return "logged"


@pytest.fixture(autouse=True)
def _nothing_waits() -> Any:
    WAITS.clear()
    yield
    WAITS.clear()


async def test_the_output_is_that_of_the_named_method_though_another_completes_last(store: Any) -> None:
    flow = Two(persistence=store)

    assert await flow.kickoff() == {"published": 1}
    assert flow.result == {"published": 1}
    assert flow.method_outputs["log"] == "logged"
    loaded = await Two.load(flow.run_id, persistence=store)
    assert (loaded.status, loaded.result) == ("finished", {"published": 1})
    assert await Two.resume(flow.run_id, persistence=store) == {"published": 1}


async def test_without_persistence_it_is_the_same() -> None:
    assert await Two().kickoff() == {"published": 1}


async def test_the_output_of_a_method_that_completed_before_a_resume_is_not_lost(store: Any) -> None:
    WAITS.add("log")
    flow = Two(persistence=store)
    await interrupted_once(flow.kickoff, stored(store, flow.run_id, 2))
    assert flow.pending == ("log:1",)
    WAITS.clear()

    assert await Two.resume(flow.run_id, persistence=store) == {"published": 1}
    assert (await Two.load(flow.run_id, persistence=store)).result == {"published": 1}


async def test_a_runner_and_its_handles_have_the_named_output(log: Any) -> None:
    async with FlowRunner(log, flows=[Two]) as runner:
        handle = await runner.start(Two)
        assert await handle.result() == {"published": 1}


async def test_an_output_that_never_completed_is_none(store: Any) -> None:
    class Skipped(Flow[dict]):
        @start()
        async def first(self) -> int:
            return 1

        @router(first)
        async def choose(self):
            return "that way"

        @listen("this way", output=True)
        async def this(self) -> int:
            return 2

        @listen("that way")
        async def other(self) -> int:
            return 3

    flow = Skipped(persistence=store)

    assert await flow.kickoff() is None
    assert (flow.result, flow.method_outputs["other"]) == (None, 3)
    assert (await Skipped.load(flow.run_id, persistence=store)).result is None


async def test_the_output_of_a_loop_is_the_latest_result_of_the_pass(store: Any) -> None:
    class Loop(Flow[dict]):
        @start()
        async def begin(self) -> None: ...

        @listen(or_(begin, "again"), output=True)
        async def turn(self) -> int:
            self.state["turns"] = self.state.get("turns", 0) + 1
            return self.state["turns"]

        @router(turn)
        async def decide(self) -> str:
            return "again" if self.state["turns"] % 3 else "done"

        @listen("done")
        async def close(self) -> str:
            return "closed"

    flow = Loop(persistence=store)

    assert await flow.kickoff() == 3
    assert await flow.kickoff() == 6  # another pass has an output of its own


async def test_a_router_may_be_the_output(store: Any) -> None:
    class Routed(Flow[dict]):
        @start()
        async def first(self) -> None: ...

        @router(first, output=True)
        async def decide(self) -> str:
            return "yes"

        @listen("yes")
        async def then(self) -> int:
            return 1

    assert await Routed(persistence=store).kickoff() == "yes"


async def test_method_level_checkpoints_store_the_named_output(log: Any) -> None:
    class Partly(Flow[dict]):
        @start()
        async def draft(self) -> int:
            return 1

        @listen(draft, output=True)
        @persist(log)
        async def publish(self, n: int) -> int:
            return n + 1

        @listen(publish)
        async def after_it(self) -> str:
            return "last"

    flow = Partly()

    assert await flow.kickoff() == 2
    assert (await Partly.load(flow.run_id)).result == 2


def test_two_outputs_are_a_mistake() -> None:
    with pytest.raises(
        FlowDefinitionError, match=r"a and b have output=True; the output of a flow is the result of one method"
    ):

        class Wrong(Flow[dict]):
            @start(output=True)
            async def a(self) -> None: ...

            @listen(a, output=True)
            async def b(self) -> None: ...


async def test_a_subclass_may_name_another_output() -> None:
    class Base(Flow[dict]):
        @start(output=True)
        async def a(self) -> str:
            return "a"

        @listen(a)
        async def b(self) -> str:
            return "b"

    class Sub(Base):
        @start()
        async def a(self) -> str:
            return "a"

        @listen(a, output=True)
        async def b(self) -> str:
            return "b"

    assert (await Base().kickoff(), await Sub().kickoff()) == ("a", "b")
