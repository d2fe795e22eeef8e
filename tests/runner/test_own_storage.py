"""A flow that names a storage of its own, in a runner that stores elsewhere."""

from typing import Any

import pytest

from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, SQLiteFlowPersistence, persist, start


def marked(storage: Any) -> Any:
    @persist(storage)
    class Marked(Flow):
        @start()
        async def run(self) -> str:
            return "ran"

    return Marked


def attributed(storage: Any) -> Any:
    class Attributed(Flow):
        persistence = storage

        @start()
        async def run(self) -> str:
            return "ran"

    return Attributed


def made(storage: Any) -> Any:
    cls = attributed(None)
    return lambda: cls(persistence=storage)


@pytest.mark.found("T11")
@pytest.mark.parametrize("how", [marked, attributed, made], ids=lambda how: how.__name__)
@pytest.mark.parametrize("known", ["flows=", "start"])
async def test_a_runner_that_stores_elsewhere_than_a_flow_says_so_once(
    how: Any, known: str, caplog: pytest.LogCaptureFixture
) -> None:
    flow = how(SQLiteFlowPersistence("its_own.db"))
    async with FlowRunner(MemoryFlowPersistence(), flows=[flow] if known == "flows=" else []) as runner:
        for _ in range(3):
            assert await runner.run(flow) == "ran"

    (record,) = [r for r in caplog.records if r.name == "asyncflow"]
    assert record.levelname == "WARNING"
    assert "its_own.db" in record.getMessage()
    assert "MemoryFlowPersistence" in record.getMessage()


@pytest.mark.found("T11")
async def test_a_runner_that_stores_where_a_flow_does_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    memory = MemoryFlowPersistence()
    for flow, storage in (
        (marked(memory), memory),
        (attributed(SQLiteFlowPersistence("same.db")), SQLiteFlowPersistence("same.db")),  # another object of one file
        (attributed(None), memory),
        (persist(attributed(None)), memory),  # the default: it names none
    ):
        async with FlowRunner(storage) as runner:
            assert await runner.run(flow) == "ran"

    assert [r for r in caplog.records if r.name == "asyncflow"] == []
