"""pydantic-graph: a graph of steps made by its `GraphBuilder`. It has no store of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic_graph import GraphBuilder, StepContext, TypeExpression, reduce_list_append

from . import STEPS, Large, Peer, Record, State, Turns, put, rest

Context: TypeAlias = StepContext[State, None, Any]


@cache
def chain() -> Any:
    async def step(ctx: Context) -> int:
        ctx.state.count += 1
        if ctx.state.pause:
            await rest(ctx.state.pause)
        return int(ctx.state.count)

    g = GraphBuilder(state_type=State, output_type=int, auto_instrument=False)
    steps = [g.step(step, node_id=f"step_{n}") for n in range(1, STEPS + 1)]
    nodes: list[Any] = [g.start_node, *steps, g.end_node]
    g.add(*(g.edge_from(left).to(right) for left, right in pairwise(nodes)))
    return g.build()


@cache
def fan_out() -> Any:
    async def begin(ctx: Context) -> list[int]:
        ctx.state.count += 1
        return list(range(ctx.inputs))

    async def branch(ctx: Context) -> int:
        return int(ctx.inputs)

    async def count(ctx: Context) -> int:
        return len(ctx.inputs)

    g = GraphBuilder(state_type=State, input_type=int, output_type=int, auto_instrument=False)
    first, each, last = g.step(begin), g.step(branch), g.step(count)
    join = g.join(reduce_list_append, initial_factory=list[int])
    g.add(
        g.edge_from(g.start_node).to(first),
        g.edge_from(first).map().to(each),
        g.edge_from(each).to(join),
        g.edge_from(join).to(last),
        g.edge_from(last).to(g.end_node),
    )
    return g.build()


def cycle(turns: Turns) -> Any:
    async def turn(ctx: StepContext[Large, None, Any]) -> Literal["again", "enough"]:
        ctx.state.count += 1
        change = turns.turn()
        if change is not None:
            put(ctx.state.records, change)
        return "enough" if turns.done else "again"

    g = GraphBuilder(state_type=Large, output_type=str, auto_instrument=False)
    step = g.step(turn)
    choice = (
        g.decision()
        .branch(g.match(TypeExpression[Literal["again"]]).to(step))
        .branch(g.match(TypeExpression[Literal["enough"]]).to(g.end_node))
    )
    g.add(g.edge_from(g.start_node).to(step), g.edge_from(step).to(choice))
    return g.build()


class InMemory(Peer):
    """Without a store: there is none."""

    async def chain(self, pause: float = 0.0) -> str:
        state = State(pause=pause)
        assert await chain().run(state=state) == STEPS
        return state.id

    async def fan_out(self, width: int) -> int:
        return int(await fan_out().run(state=State(), inputs=width))

    async def cycle(self, records: list[Record], turns: Turns) -> int:
        state = Large(records=records)
        await cycle(turns).run(state=state)
        return len(state.records)


WAYS: dict[str, Callable[[Path], Peer]] = {"none": InMemory}
