"""Burr: an application of actions, and its `AsyncSQLitePersister`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from burr.core import ApplicationBuilder, ApplicationContext, GraphBuilder, State, action, expr
from burr.core.graph import Graph
from burr.core.parallelism import MapStates
from burr.integrations.persisters.b_aiosqlite import AsyncSQLitePersister
from burr.integrations.serde import pydantic as _serde  # noqa: F401  (says how a pydantic model is stored)

from . import STEPS, Peer, Record, Turns, rest, with_put


@action(reads=["count", "pause"], writes=["count"])
async def step(state: State) -> State:
    if state["pause"]:
        await rest(state["pause"])
    return state.update(count=state["count"] + 1)


@action(reads=["n"], writes=["got"])
async def branch(state: State) -> State:
    return state.update(got=state["n"])


@action(reads=["count"], writes=["count"])
async def begin(state: State) -> State:
    return state.update(count=state["count"] + 1)


class Fan(MapStates):
    """One action over many states at once."""

    def action(self, state: State, inputs: dict[str, Any]) -> Any:
        return branch

    async def states(
        self, state: State, context: ApplicationContext, inputs: dict[str, Any]
    ) -> AsyncGenerator[State, None]:
        for n in range(state["width"]):
            yield state.update(n=n)

    async def reduce(self, state: State, states: AsyncGenerator[State, None]) -> State:
        return state.update(got=[each["got"] async for each in states])

    def is_async(self) -> bool:
        return True

    @property
    def reads(self) -> list[str]:
        return ["width"]

    @property
    def writes(self) -> list[str]:
        return ["got"]


@action(reads=["got"], writes=["done"])
async def join(state: State) -> State:
    return state.update(done=True)


def chain() -> Graph:
    names = [f"step_{n}" for n in range(1, STEPS + 1)]
    return GraphBuilder().with_actions(**dict.fromkeys(names, step)).with_transitions(*pairwise(names)).build()


def cycle(turns: Turns) -> Graph:
    @action(reads=["count", "records"], writes=["count", "records", "done"])
    async def turn(state: State) -> State:
        change = turns.turn()
        if change is not None:
            state = state.update(records=with_put(state["records"], change))
        return state.update(count=state["count"] + 1, done=turns.done)

    @action(reads=[], writes=[])
    async def end(state: State) -> State:
        return state

    return (
        GraphBuilder()
        .with_actions(turn=turn, end=end)
        .with_transitions(("turn", "turn", expr("not done")), ("turn", "end"))
        .build()
    )


class InMemory(Peer):
    """Without a persister."""

    persister: Any = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.chain_graph = chain()
        actions = {"begin": begin, "fan": Fan(), "join": join}
        self.fan_graph = (
            GraphBuilder().with_actions(**actions).with_transitions(("begin", "fan"), ("fan", "join")).build()
        )

    async def run(self, graph: Graph, first: str, last: str, **values: Any) -> tuple[str, State]:
        run_id = str(uuid.uuid4())
        state = State({"id": run_id, "count": 0, "pause": 0.0, "name": "chain", "done": False, **values})
        builder = (
            ApplicationBuilder()
            .with_graph(graph)
            .with_identifiers(app_id=run_id)
            .with_entrypoint(first)
            .with_state(state)
        )
        if self.persister is not None:
            builder = builder.with_state_persister(self.persister)
        app = await builder.abuild()
        _, _, state = await app.arun(halt_after=[last])
        return run_id, state

    async def chain(self, pause: float = 0.0) -> str:
        run_id, state = await self.run(self.chain_graph, "step_1", f"step_{STEPS}", pause=pause)
        assert state["count"] == STEPS
        return run_id

    async def fan_out(self, width: int) -> int:
        _, state = await self.run(self.fan_graph, "begin", "join", width=width)
        return len(state["got"])

    async def cycle(self, records: list[Record], turns: Turns) -> int:
        _, state = await self.run(cycle(turns), "turn", "end", records=records)
        return len(state["records"])


class Stored(InMemory):
    """With the persister for aiosqlite, as it opens its database."""

    async def __aenter__(self) -> Self:
        self.persister = await AsyncSQLitePersister.from_values(str(self.folder / "burr.db"))
        await self.persister.initialize()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.persister.cleanup()

    async def load(self, run_id: str) -> int:
        found = await self.persister.load(None, run_id)
        return int(found["state"]["count"])


WAYS: dict[str, Callable[[Path], Peer]] = {"none": InMemory, "sqlite": Stored}
