"""Flows that run others as their children, and what their methods did."""

from collections.abc import Callable
from typing import Any

import anyio
from moments import until

from asyncflow import Flow, FlowState, listen, run_child, sleep, start

ran: list[str] = []
"""The methods that have begun, in order."""

fails: set[str] = set()
"""The numbers of the children that fail."""


class Number(FlowState):
    n: int = 0
    gate: str = ""


class Leaf(Flow[Number]):
    """Two methods. The second one waits for a gate, and fails if it is told to."""

    name = "Leaf"

    @start()
    async def first(self) -> int:
        ran.append(f"first {self.state.n}")
        return self.state.n

    @listen(first)
    async def second(self, n: int) -> int:
        ran.append(f"second {n}")
        if self.state.gate:
            await gates[self.state.gate].wait()
        if str(n) in fails:
            raise LookupError("told to")
        return 10 * n


class Parent(Flow[Number]):
    """Runs one child."""

    name = "Parent"

    @start()
    async def go(self) -> int:
        ran.append("go")
        return 1 + await run_child(Leaf, {"n": self.state.n, "gate": self.state.gate})


class Wide(Flow[Number]):
    """Runs several children at once."""

    name = "Wide"

    @start()
    async def go(self) -> list[int]:
        results: dict[int, int] = {}

        async def one(n: int) -> None:
            results[n] = await run_child(Leaf, {"n": n}, key=str(n))

        async with anyio.create_task_group() as group:
            for n in range(self.state.n):
                group.start_soon(one, n)
        return [results[n] for n in sorted(results)]


class Grandparent(Flow[Number]):
    """Runs a child that runs a child."""

    name = "Grandparent"

    @start()
    async def go(self) -> int:
        return 100 + await run_child(Parent, {"n": self.state.n, "gate": self.state.gate})


class Sleeper(Flow[Number]):
    """Sleeps in its only method."""

    name = "Sleeper"

    @start()
    async def nap(self) -> str:
        ran.append("nap")
        await sleep(self.state.n)
        return "slept"


class ParentOfSleeper(Flow[Number]):
    name = "ParentOfSleeper"

    @start()
    async def go(self) -> str:
        return str(await run_child(Sleeper, {"n": self.state.n}))


gates: dict[str, anyio.Event] = {}


def gate(name: str) -> anyio.Event:
    gates[name] = anyio.Event()
    return gates[name]


async def only_child(store: Any, run_id: str) -> Any:
    """The entry of the only child of a run."""
    (entry,) = await store.children(run_id)
    return entry


async def tree(store: Any, run_id: str) -> list[str]:
    """The statuses of a run's descendants: first its children, each followed by its own."""
    statuses = list[str]()
    for entry in await store.children(run_id):
        statuses += [entry.status, *await tree(store, entry.run_id)]
    return statuses


def descends(store: Any, run_id: str, *statuses: str) -> Callable[[], Any]:
    """Whether the descendants of a run have these statuses."""

    async def holds() -> bool:
        return await tree(store, run_id) == list(statuses)

    return holds


def has_run(*methods: str) -> Callable[[], Any]:
    """Whether these methods have begun."""

    async def holds() -> bool:
        return set(methods) <= set(ran)

    return holds


async def once(holds: Callable[[], Any]) -> None:
    await until(holds)
