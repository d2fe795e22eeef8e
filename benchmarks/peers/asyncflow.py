"""asyncflow itself, with each of its stores."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from asyncflow import Flow, FlowState, SQLiteFlowPersistence, and_, listen, or_, router, start

from . import STEPS, Peer, Record, Turns, classes


class State(FlowState):
    """Five fields: `id` and these."""

    count: int = 0
    pause: float = 0.0
    name: str = "chain"
    done: bool = False


class Large(State):
    """With records besides."""

    records: list[Record] = Field(default_factory=list)


Chain = classes.made("Chain", Flow[State], classes.chain(start, listen))
Cycle = classes.made("Cycle", Flow[Large], {**classes.cycle(start, router, listen, or_), "max_method_calls": None})


@cache
def fan(width: int) -> type[Flow[State]]:
    cls: type[Flow[State]] = classes.made("Fan", Flow[State], classes.fan_out(start, listen, and_, width))
    return cls


@cache
def per_item(most: int | None) -> type[Flow[State]]:
    """A list as long as `count` says, an invocation for each item, at most so many at a time, and a join."""
    from asyncflow import each  # a build that this one is compared with may lack it

    class PerItem(Flow[State]):
        @start()
        async def begin(self) -> list[int]:
            return list(range(self.state.count))

        @listen(each(begin), limit=most)
        async def work(self, item: int) -> int:
            return item

        @listen(work)
        async def join(self, results: list[int]) -> int:
            return len(results)

    return PerItem


class InMemory(Peer):
    """Without a store."""

    store: Any = None

    async def chain(self, pause: float = 0.0) -> str:
        flow = Chain(persistence=self.store)
        assert await flow.kickoff({"pause": pause}) == STEPS
        assert flow.state.count == STEPS
        return str(flow.run_id)

    async def fan_out(self, width: int) -> int:
        flow = fan(width)(persistence=self.store)
        await flow.kickoff()
        return len(flow.method_outputs) - 2

    async def items(self, count: int, limit: int | None) -> int:
        found: int = await per_item(limit)(persistence=self.store).kickoff({"count": count})
        return found

    async def cycle(self, records: list[Record], turns: Turns) -> int:
        flow = Cycle(persistence=self.store)
        flow.turns = turns
        await flow.kickoff({"records": records})
        return len(flow.state.records)


class Stored(InMemory):
    """With one of the stores."""

    def __init__(self, folder: Path, store: Callable[[Path], Any]) -> None:
        super().__init__(folder)
        self.store = store(folder / "runs.db")

    async def __aenter__(self) -> Self:
        await self.store.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.store.__aexit__(*error)

    async def load(self, run_id: str) -> int:
        count: int = (await Chain.load(run_id, persistence=self.store)).state.count
        return count


def _postgres(folder: Path) -> Any:
    from asyncflow.persistence.postgres import PostgresFlowPersistence

    return PostgresFlowPersistence(
        os.environ["BENCHMARKS_POSTGRES"].format(database="postgres"), schema=f"b{uuid.uuid4().hex}"
    )


WAYS: dict[str, Callable[[Path], Peer]] = {
    "none": InMemory,
    "process": partial(Stored, store=partial(SQLiteFlowPersistence, durability="process")),
    "full": partial(Stored, store=SQLiteFlowPersistence),
    "postgres": partial(Stored, store=_postgres),
}
