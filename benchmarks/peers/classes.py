"""The methods of the flow classes, written once for the two libraries whose decorators have the same names: asyncflow and CrewAI."""

from __future__ import annotations

import types
from typing import Any, Literal

from . import STEPS, put, rest


def made(name: str, base: Any, methods: dict[str, Any]) -> Any:
    """A class of these methods, as a `class` statement would make it."""
    return types.new_class(name, (base,), {}, lambda body: body.update(methods))


def chain(start: Any, listen: Any) -> dict[str, Any]:
    """`STEPS` methods, each a listener of the one before."""
    methods = {"step_1": start()(_first)}
    for n in range(2, STEPS + 1):
        methods[f"step_{n}"] = listen(f"step_{n - 1}")(_step(f"step_{n}"))
    return methods


async def _first(self: Any) -> int:
    self.state.count += 1
    if self.state.pause:
        await rest(self.state.pause)
    return 1


def _step(name: str) -> Any:
    async def step(self: Any, n: int) -> int:
        self.state.count += 1
        if self.state.pause:
            await rest(self.state.pause)
        return n + 1

    step.__name__ = name
    return step


_first.__name__ = "step_1"


def fan_out(start: Any, listen: Any, and_: Any, width: int) -> dict[str, Any]:
    """A start, so many listeners of it, and a join of them all."""

    async def begin(self: Any) -> int:
        return width

    async def join(self: Any) -> str:
        return "joined"

    branches = {f"branch_{n}": listen("begin")(_branch(n)) for n in range(width)}
    return {"begin": start()(begin), **branches, "join": listen(and_(*branches))(join)}


def _branch(n: int) -> Any:
    async def branch(self: Any) -> int:
        return n

    branch.__name__ = f"branch_{n}"
    return branch


def cycle(start: Any, router: Any, listen: Any, or_: Any) -> dict[str, Any]:
    """A router that answers itself until `self.turns` are done."""

    async def begin(self: Any) -> None:
        return None

    async def turn(self: Any) -> Literal["again", "enough"]:
        self.state.count += 1
        change = self.turns.turn()
        if change is not None:
            put(self.state.records, change)
        return "enough" if self.turns.done else "again"

    async def end(self: Any) -> None:
        return None

    return {
        "begin": start()(begin),
        "turn": router(or_("begin", "again"))(turn),
        "end": listen("enough")(end),
    }
