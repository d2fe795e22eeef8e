"""CrewAI's flows, and `@persist` with its own SQLite persistence."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("CREWAI_TRACING_ENABLED", "false")

from crewai.flow.flow import Flow, and_, listen, or_, router, start
from crewai.flow.persistence import SQLiteFlowPersistence, persist
from pydantic import BaseModel, Field, PrivateAttr

from . import STEPS, Peer, Record, Turns, classes


class State(BaseModel):
    """Five fields."""

    id: str = Field(default_factory=lambda: str(uuid.uuid4()))
    count: int = 0
    pause: float = 0.0
    name: str = "chain"
    done: bool = False


class Large(State):
    """With records besides."""

    records: list[Record] = []


class InMemory(Peer):
    """Without a store."""

    def persisted(self, cls: Any) -> Any:
        return cls

    @cached_property
    def chain_class(self) -> Any:
        return self.persisted(classes.made("Chain", Flow[State], classes.chain(start, listen)))

    @cached_property
    def cycle_class(self) -> Any:
        methods = classes.cycle(start, router, listen, or_)
        return self.persisted(classes.made("Cycle", Flow[Large], methods | {"_turns": PrivateAttr(), "turns": property(lambda self: self._turns)}))

    def fan_class(self, width: int) -> Any:
        made: dict[int, Any] = self.__dict__.setdefault("_fans", {})
        if width not in made:
            made[width] = self.persisted(classes.made("Fan", Flow[State], classes.fan_out(start, listen, and_, width)))
        return made[width]

    async def chain(self, pause: float = 0.0) -> str:
        flow = self.chain_class(suppress_flow_events=True)
        assert await flow.kickoff_async({"pause": pause}) == STEPS
        assert flow.state.count == STEPS
        return str(flow.flow_id)

    async def fan_out(self, width: int) -> int:
        flow = self.fan_class(width)(suppress_flow_events=True)
        await flow.kickoff_async()
        return len(flow.method_outputs) - 2

    async def cycle(self, records: list[Record], turns: Turns) -> int:
        flow = self.cycle_class(suppress_flow_events=True, max_method_calls=10**9)
        flow._turns = turns
        await flow.kickoff_async({"records": records})
        return len(flow.state.records)


class Stored(InMemory):
    """With `@persist` on the class."""

    @cached_property
    def store(self) -> SQLiteFlowPersistence:
        return SQLiteFlowPersistence(str(self.folder / "flows.db"))

    def persisted(self, cls: Any) -> Any:
        return persist(self.store)(cls)

    async def load(self, run_id: str) -> int:
        found = self.store.load_state(run_id)
        assert found is not None
        return int(found["count"])


WAYS: dict[str, Callable[[Path], Peer]] = {"none": InMemory, "sqlite": Stored}
