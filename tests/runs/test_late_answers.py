"""The answers of a storage arrive in another order than the checkpoints were stored in: a pass that ends early still ends."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest

from asyncflow import Flow, continue_as, finish, sleep, start
from asyncflow.persistence import MemoryFlowPersistence

DAY = 86_400.0


class Reversed(MemoryFlowPersistence):
    """Answers for later checkpoints first."""

    def __init__(self) -> None:
        super().__init__()
        self.delay = 0.12

    async def append(self, checkpoint: Any) -> None:
        await super().append(checkpoint)
        self.delay = max(0.0, self.delay - 0.02)
        await anyio.sleep(self.delay)


class Ends(Flow[dict[str, Any]]):
    """One method asks for the end of the pass, and two others wait, or end, while that is being stored."""

    others: Literal["wait", "end"] = "wait"
    asks: Literal["finish", "continue"] = "finish"

    @start()
    async def ask(self) -> str:
        if self.asks == "continue" and not self.state.get("continued"):
            continue_as({"continued": True})
        else:
            finish()
        return "asked"

    @start()
    async def one(self) -> None:
        await self._go_on(0.005)

    @start()
    async def two(self) -> None:
        await self._go_on(0.01)

    async def _go_on(self, after: float) -> None:
        await anyio.sleep(after)
        if self.others == "wait":
            await sleep(DAY)


@pytest.mark.clauses("W13")
@pytest.mark.parametrize("asks", ["finish", "continue"])
@pytest.mark.parametrize("others", ["wait", "end"])
async def test_a_pass_ends_in_whatever_order_the_storage_answers(others: Any, asks: Any) -> None:
    flow = type("Ends", (Ends,), {"others": others, "asks": asks})(persistence=Reversed())
    with anyio.fail_after(3):
        result = await flow.kickoff()

    assert (result, flow.status) == ("asked", "finished")
