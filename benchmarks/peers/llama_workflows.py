"""llama-index-workflows: steps that answer events with events; and the SQLite store of its server (llama-agents-server).

The server is used as its own routes use it, without HTTP: through its service.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from llama_agents.server import HandlerQuery, SqliteWorkflowStore, WorkflowServer
from pydantic import Field
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from . import STEPS, Large, Peer, Record, State, Turns, put, rest


class Begin(StartEvent):
    """What a run is started with."""

    pause: float = 0.0
    width: int = 0
    records: list[Record] = Field(default_factory=list)


EVENTS: list[type[Event]] = [type(f"Event{n}", (Event,), {"__module__": __name__}) for n in range(STEPS)]
"""What leads from one step of the chain to the next."""
globals().update({event.__name__: event for event in EVENTS})  # where they are looked for when a stored one is read


def _step(n: int) -> Any:
    async def method(self: Any, ctx: Context[State], ev: Any) -> Any:
        async with ctx.store.edit_state() as state:
            state.count += 1
            if n == 1:
                state.pause = ev.pause
            count, pause = state.count, state.pause
        if pause:
            await rest(pause)
        return EVENTS[n]() if n < STEPS else StopEvent(result=count)

    answers = EVENTS[n] if n < STEPS else StopEvent
    method.__annotations__ = {"ctx": Context[State], "ev": Begin if n == 1 else EVENTS[n - 1], "return": answers}
    method.__name__, method.__qualname__ = f"step_{n}", f"Chain.step_{n}"
    return step(method)


Chain = type("Chain", (Workflow,), {f"step_{n}": _step(n) for n in range(1, STEPS + 1)})


class Each(Event):
    """Starts a branch."""

    n: int


class Done(Event):
    """Ends one."""

    n: int


class Fan(Workflow):
    """One step for each event, so many at once, and one that collects what they answer."""

    @step
    async def begin(self, ctx: Context[State], ev: Begin) -> Each | None:
        async with ctx.store.edit_state() as state:
            state.count = ev.width
        for n in range(ev.width):
            ctx.send_event(Each(n=n))
        return None

    @step(num_workers=1_000)
    async def branch(self, ev: Each) -> Done:
        return Done(n=ev.n)

    @step
    async def join(self, ctx: Context[State], ev: Done) -> StopEvent | None:
        width = (await ctx.store.get_state()).count
        got = ctx.collect_events(ev, [Done] * width)
        return None if got is None else StopEvent(result=len(got))


TURNS: dict[str, Turns] = {}
"""Those of each cycle, by its number: they are the harness's, and not stored."""


class Turn(Event):
    """Another turn."""


class Cycle(Workflow):
    """Turns."""

    @step
    async def begin(self, ctx: Context[Large], ev: Begin) -> Turn:
        async with ctx.store.edit_state() as state:
            state.records = ev.records
            state.name = str(ev.width)
        return Turn()

    @step
    async def turn(self, ctx: Context[Large], ev: Turn) -> Turn | StopEvent:
        async with ctx.store.edit_state() as state:
            turns = TURNS[state.name]
            change = turns.turn()
            if change is not None:
                put(state.records, change)
            state.count += 1
            size = len(state.records)
        return StopEvent(result=size) if turns.done else Turn()


class InMemory(Peer):
    """Without a store."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.flows = {cls.__name__: cls(timeout=None) for cls in (Chain, Fan, Cycle)}

    async def run(self, name: str, event: Begin) -> tuple[str, Any]:
        handler = self.flows[name].run(start_event=event)
        return str(handler.run_id), await handler

    async def chain(self, pause: float = 0.0) -> str:
        run_id, count = await self.run("Chain", Begin(pause=pause))
        assert count == STEPS
        return run_id

    async def fan_out(self, width: int) -> int:
        return int((await self.run("Fan", Begin(width=width)))[1])

    async def cycle(self, records: list[Record], turns: Turns) -> int:
        number = len(TURNS)
        TURNS[str(number)] = turns
        return int((await self.run("Cycle", Begin(width=number, records=records)))[1])


class Stored(InMemory):
    """With the server's SQLite store."""

    async def __aenter__(self) -> Self:
        self.stack = AsyncExitStack()
        self.store = SqliteWorkflowStore(str(self.folder / "workflows.db"))
        self.server = WorkflowServer(workflow_store=self.store)
        for name, flow in self.flows.items():
            self.server.add_workflow(name, flow)
        await self.stack.enter_async_context(self.server.contextmanager())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stack.aclose()

    async def run(self, name: str, event: Begin) -> tuple[str, Any]:
        handler_id = str(uuid.uuid4())
        service = self.server._service
        handler = await service.start_workflow(self.flows[name], handler_id, event)
        ended = await service.await_workflow(handler)
        assert ended.result is not None, ended
        return handler_id, ended.result.load_event().result

    async def load(self, run_id: str) -> int:
        [handler] = await self.store.query(HandlerQuery(handler_id_in=[run_id]))
        assert handler.run_id is not None
        state = await self.store.create_state_store(handler.run_id, State).get_state()
        return int(state.count)


WAYS: dict[str, Callable[[Path], Peer]] = {"none": InMemory, "sqlite": Stored}
