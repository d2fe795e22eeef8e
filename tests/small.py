"""Small flows and states that several test modules use."""

from typing import Any

import anyio
from pydantic import BaseModel

from asyncflow import Flow, FlowState, listen, start


class Counter(BaseModel):
    count: int = 0


class Log(FlowState):
    done: list[str] = []  # noqa: RUF012 - pydantic copies it
    sums: dict[str, int] = {}  # noqa: RUF012 - pydantic copies it


class Waiting(Flow[Log]):
    """`first` ends, `second` waits without limit."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.waiting = anyio.Event()
        self.seen: list[str] = []

    @start()
    async def first(self) -> None:
        self.state.done.append("first")

    @listen(first)
    async def second(self) -> str:
        self.state.done.append("second")
        if not self.waiting.is_set():
            self.waiting.set()
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                self.seen.append("cancelled")
                raise
        return "end"


async def cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class Slow(Flow[dict]):
    name = "Slow"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inside, self.go_on = anyio.Event(), anyio.Event()

    @start()
    async def work(self) -> str:
        self.inside.set()
        await self.go_on.wait()
        return "done"


class Counting(Flow[dict]):
    name = "Counting"

    @start()
    async def count(self) -> int:
        self.state["n"] = self.state.get("n", 0) + 1
        return self.state["n"]
