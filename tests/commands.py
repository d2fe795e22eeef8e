"""Run the command line within this process, and flows whose runs it shows. Each file of runs has the same ones."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from asyncflow import Flow, Signal, and_, listen, start
from asyncflow.cli import main
from asyncflow.errors import MethodError
from asyncflow.persistence.default import storage_at

FLOWS = "commands"
"""The module of the flows, for `--app`."""


class Cart(BaseModel):
    city: str = ""
    total: int = 0
    items: list[str] = []


class Order(Flow[Cart]):
    name = "Order"

    @start()
    async def price(self) -> int:
        self.state.total = 42
        return 42

    @listen(price)
    async def pay(self, total: int) -> str:
        if self.state.city == "Nowhere" and "PAYS" not in os.environ:
            raise RuntimeError("declined")
        self.state.items.append("paid")
        return "paid"


class Ask(Flow[Cart]):
    name = "Ask"
    approved = Signal("approved", bool)

    @start()
    async def ask(self) -> None:
        self.state.total = 1

    @listen(and_(ask, approved))
    async def done(self, ok: bool) -> str:
        return f"approved: {ok}"


@dataclass
class Done:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Done]


def runs_here(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Return what runs a command in this process."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        root, ours = logging.getLogger(), logging.getLogger("asyncflow")
        before = root.level, ours.level, root.handlers[:]
        try:
            code = main([str(each) for each in arguments])
        finally:  # a worker sets up the logs of its process, which is that of all tests here
            root.setLevel(before[0])
            ours.setLevel(before[1])
            root.handlers[:] = before[2]
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return run


def stored(place: str) -> None:
    """Store a finished, a failed and a waiting run."""

    async def store() -> None:
        async with storage_at(place) as storage:
            await Order(persistence=storage).kickoff({"id": "good-1", "city": "Rome"})
            with pytest.raises(MethodError):
                await Order(persistence=storage).kickoff({"id": "bad-1", "city": "Nowhere"})
            await Ask(persistence=storage).kickoff({"id": "ask-1"}, until="waiting")

    anyio.run(store)


def with_storage(place: str, use: Callable[[Any], Awaitable[Any]]) -> Any:
    """Use a storage, and return the result."""

    async def used() -> Any:
        async with storage_at(place) as storage:
            return await use(storage)

    return anyio.run(used)
