"""LangGraph: a compiled `StateGraph` with pydantic state, and its `AsyncSqliteSaver`, waiting for each checkpoint (durability="sync")."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self, TypedDict

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import Field

from . import STEPS, Change, Peer, Record, State, Turns, rest, with_put


def changed(records: list[Record], change: list[Record] | Change) -> list[Record]:
    """The reducer: an update is the first list, or what to change."""
    return with_put(records, change) if isinstance(change, tuple) else change


class Large(State):
    """With records besides."""

    records: Annotated[list[Record], changed] = Field(default_factory=list)


class Fan(State):
    """With what the branches answer."""

    got: Annotated[list[int], lambda left, right: left + right] = Field(default_factory=list)


class Item(TypedDict):
    """What a branch of `Send` gets."""

    item: int


async def step(state: State) -> dict[str, Any]:
    if state.pause:
        await rest(state.pause)
    return {"count": state.count + 1}


def chain(saver: Any) -> Any:
    names = [f"step_{n}" for n in range(1, STEPS + 1)]
    return StateGraph(State).add_sequence([(name, step) for name in names]).add_edge(START, names[0]).compile(saver)


def fan_out(width: int, saver: Any) -> Any:
    async def branch(n: int, state: Fan) -> dict[str, Any]:
        return {"got": [n]}

    async def nothing(state: Fan) -> dict[str, Any]:
        return {"count": state.count + 1}

    graph = StateGraph(Fan).add_node("begin", nothing).add_node("join", nothing).add_edge(START, "begin")
    for n in range(width):
        graph.add_node(f"branch_{n}", partial(branch, n)).add_edge("begin", f"branch_{n}")
    return graph.add_edge([f"branch_{n}" for n in range(width)], "join").compile(saver)


def per_item(saver: Any) -> Any:
    async def work(state: Item) -> dict[str, Any]:
        return {"got": [state["item"]]}

    async def join(state: Fan) -> dict[str, Any]:
        return {"name": "joined"}

    def sends(state: Fan) -> list[Send]:
        return [Send("work", {"item": n}) for n in range(state.count)]

    graph = StateGraph(Fan).add_node("work", work).add_node("join", join).add_edge("work", "join")
    return graph.add_conditional_edges(START, sends, ["work"]).compile(saver)


def cycle(turns: Turns, saver: Any) -> Any:
    async def turn(state: Large) -> dict[str, Any]:
        change = turns.turn()
        update = {"count": state.count + 1}
        return update if change is None else {**update, "records": change}

    graph = StateGraph(Large).add_node("turn", turn).add_edge(START, "turn")
    return graph.add_conditional_edges("turn", lambda _: END if turns.done else "turn", ["turn", END]).compile(saver)


class InMemory(Peer):
    """Without a checkpointer."""

    saver: Any = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.graphs: dict[Any, Any] = {}

    async def run(self, graph: Any, inputs: dict[str, Any], **more: Any) -> tuple[str, dict[str, Any]]:
        run_id = str(uuid.uuid4())
        config = {"configurable": {"thread_id": run_id}, "recursion_limit": 10**9, **more}
        durability = {} if self.saver is None else {"durability": "sync"}
        return run_id, await graph.ainvoke({"id": run_id, **inputs}, config, **durability)

    def graph(self, build: Callable[..., Any], *args: Any) -> Any:
        if (build, *args) not in self.graphs:
            self.graphs[build, *args] = build(*args, self.saver)
        return self.graphs[build, *args]

    async def chain(self, pause: float = 0.0) -> str:
        run_id, state = await self.run(self.graph(chain), {"pause": pause})
        assert state["count"] == STEPS
        return run_id

    async def fan_out(self, width: int) -> int:
        _, state = await self.run(self.graph(fan_out, width), {})
        return len(state["got"])

    async def items(self, count: int, limit: int | None) -> int:
        _, state = await self.run(self.graph(per_item), {"count": count}, max_concurrency=limit)
        return len(state["got"])

    async def cycle(self, records: list[Record], turns: Turns) -> int:
        _, state = await self.run(cycle(turns, self.saver), {"records": records})
        return len(state["records"])


class Stored(InMemory):
    """With the SQLite saver."""

    async def __aenter__(self) -> Self:
        self.stack = AsyncExitStack()
        saver = AsyncSqliteSaver.from_conn_string(str(self.folder / "checkpoints.db"))
        self.saver = await self.stack.enter_async_context(saver)
        self.saver.serde = JsonPlusSerializer(allowed_msgpack_modules=[Record])
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stack.aclose()

    async def load(self, run_id: str) -> int:
        snapshot = await self.graph(chain).aget_state({"configurable": {"thread_id": run_id}})
        return int(snapshot.values["count"])


WAYS: dict[str, Callable[[Path], Peer]] = {"none": InMemory, "sqlite": Stored}
