"""CrewAI's flows, and `@persist` with its own SQLite persistence."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from crewai.flow.flow import Flow, and_, listen, or_, router, start
from crewai.flow.persistence import SQLiteFlowPersistence, persist
from pydantic import PrivateAttr

from . import STEPS, Large, Peer, Record, State, Turns, classes

TURNS = {"_turns": PrivateAttr(), "turns": property(lambda self: self._turns)}
"""A flow is a pydantic model, so attributes other than its state are private."""


class InMemory(Peer):
    """Without a store."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.chain_class = self.made("Chain", State, classes.chain(start, listen))
        self.cycle_class = self.made("Cycle", Large, classes.cycle(start, router, listen, or_) | TURNS)
        self.fan_class = cache(lambda width: self.made("Fan", State, classes.fan_out(start, listen, and_, width)))

    def made(self, name: str, state: Any, methods: dict[str, Any]) -> Any:
        return classes.made(name, Flow[state], methods)

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

    def __init__(self, folder: Path) -> None:
        self.store = SQLiteFlowPersistence(str(folder / "flows.db"))
        super().__init__(folder)

    def made(self, name: str, state: Any, methods: dict[str, Any]) -> Any:
        return persist(self.store)(super().made(name, state, methods))

    async def load(self, run_id: str) -> int:
        found = self.store.load_state(run_id)
        assert found is not None
        return int(found["count"])


WAYS: dict[str, Callable[[Path], Peer]] = {"none": InMemory, "sqlite": Stored}
