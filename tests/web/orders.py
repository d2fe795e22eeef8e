"""The service of the tests with real servers: `python orders.py` binds a free port, prints it, and serves.

Its flow writes a line to a log outside the database when a method begins and when it ends, each with one appending system call,
which no transaction takes back.
"""

import asyncio
import os
import socket
import sys

import anyio
import uvicorn
from fastapi import FastAPI

from asyncflow import Flow, FlowRunner, FlowState, SQLiteFlowPersistence, listen, start
from asyncflow.integrations.fastapi import flow_router, lifespan

LOG = os.open(os.environ["ORDERS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def log(what: str, run_id: str, method: str) -> None:
    os.write(LOG, f"{what} {run_id} {method} {os.getpid()}\n".encode())


class Order(FlowState):
    n: int
    seconds: float = 0.02
    """That each step takes."""


class Ship(Flow[Order]):
    async def step(self, name: str) -> int:
        log("begin", self.run_id, name)
        await anyio.sleep(self.state.seconds)
        log("end", self.run_id, name)
        self.state.n += 1
        return self.state.n

    @start()
    async def price(self) -> int:
        return await self.step("price")

    @listen(price)
    async def pay(self) -> int:
        return await self.step("pay")

    @listen(pay)
    async def pack(self) -> int:
        return await self.step("pack")

    @listen(pack)
    async def ship(self) -> int:
        return await self.step("ship")


runner = FlowRunner(
    SQLiteFlowPersistence(os.environ["ORDERS_DB"], durability="process"), flows=[Ship], grace=0.2, recover_every=0.1
)
app = FastAPI(lifespan=lifespan(runner))
app.include_router(flow_router(runner, [Ship]))


@app.get("/tasks")
async def tasks() -> int:
    """How many tasks there are, those of connections aside."""
    return sum("RequestResponseCycle" not in repr(task.get_coro()) for task in asyncio.all_tasks())


if __name__ == "__main__":
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    bound.listen(128)  # a client that connects before it serves waits
    print(bound.getsockname()[1], flush=True)
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[bound])
    sys.exit(0)
