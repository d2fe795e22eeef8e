"""Use a synchronous CrewAI backend (`save_state`, `load_state`) as a persistence of asyncflow.

`FromCrewAI` is the adapter. It gives the backend the readable state, as CrewAI does, with one additional key: the complete
checkpoint as text, from which a run resumes. The backend is called in worker threads.
"""

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio.to_thread

from asyncflow import Flow, FlowState, MethodError, listen, start
from asyncflow.persistence import Checkpoint

CHECKPOINT = "__asyncflow_checkpoint__"


class CrewAIBackend(Protocol):
    """The interface of a CrewAI persistence."""

    def save_state(self, flow_uuid: str, method_name: str, state_data: dict[str, Any]) -> None: ...

    def load_state(self, flow_uuid: str) -> dict[str, Any] | None: ...


class FromCrewAI:
    """Adapts a CrewAI backend to `FlowPersistence`."""

    def __init__(self, backend: CrewAIBackend) -> None:
        self.backend = backend

    async def save(self, checkpoint: Checkpoint) -> None:
        state = json.loads(checkpoint.state or b"{}")
        data = {**state, CHECKPOINT: checkpoint.to_bytes().decode()}
        invocation = checkpoint.method or checkpoint.kind  # such as "fetch:1"; CrewAI's methods have no number
        method = invocation.rpartition(":")[0] or invocation
        await anyio.to_thread.run_sync(self.backend.save_state, checkpoint.run_id, method, data)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        data = await anyio.to_thread.run_sync(self.backend.load_state, run_id)
        if data is None or CHECKPOINT not in data:  # a state that CrewAI itself saved has no checkpoint
            return None
        newest = Checkpoint.from_bytes(data[CHECKPOINT].encode())
        return newest if seq in (None, newest.seq) else None


class StatesInSQLite:
    """A typical backend of this kind: synchronous, one row for each saved state."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._connected() as db:
            db.execute("CREATE TABLE IF NOT EXISTS flow_states (flow_uuid TEXT, method_name TEXT, state_json TEXT)")

    def save_state(self, flow_uuid: str, method_name: str, state_data: dict[str, Any]) -> None:
        with self._connected() as db:
            db.execute("INSERT INTO flow_states VALUES (?, ?, ?)", (flow_uuid, method_name, json.dumps(state_data)))

    def load_state(self, flow_uuid: str) -> dict[str, Any] | None:
        newest = "SELECT state_json FROM flow_states WHERE flow_uuid = ? ORDER BY rowid DESC LIMIT 1"
        with self._connected() as db:
            row = db.execute(newest, (flow_uuid,)).fetchone()
        return None if row is None else json.loads(row[0])

    def methods(self) -> list[str]:
        with self._connected() as db:
            return [name for (name,) in db.execute("SELECT method_name FROM flow_states ORDER BY rowid")]

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            yield connection


class Trip(FlowState):
    city: str = ""
    days: int = 0


class Plan(Flow[Trip]):
    is_booked_out = True

    @start()
    def choose(self) -> str:
        print("choosing")
        self.state.city, self.state.days = "Lisbon", 3
        return self.state.city

    @listen(choose)
    def book(self, city: str) -> str:
        if self.is_booked_out:
            raise RuntimeError("no room is free")
        return f"{self.state.days} days in {city}"


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        backend = await anyio.to_thread.run_sync(StatesInSQLite, Path(folder, "crewai.db"))
        flow = Plan(persistence=FromCrewAI(backend))
        try:
            await flow.kickoff()
        except MethodError as error:
            print(error.__cause__)

        saved = await anyio.to_thread.run_sync(backend.load_state, flow.run_id)
        assert saved is not None
        print("readable as before:", {key: saved[key] for key in ("city", "days")})

        Plan.is_booked_out = False
        print("resumed:", await Plan.resume(flow.run_id, persistence=FromCrewAI(backend)))
        print("rows:", *await anyio.to_thread.run_sync(backend.methods))


if __name__ == "__main__":
    anyio.run(main)
