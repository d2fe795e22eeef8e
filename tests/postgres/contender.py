"""A process that begins or resumes runs that others begin or resume too, until all are finished. See test_processes.py.

Its log is one `write` a line, to a file that all append to: what a body does, and which process.
"""

from __future__ import annotations

import os
import random
import signal
import sys

import anyio

from asyncflow import Flow, FlowState, errors, listen, or_, router, start
from asyncflow.persistence.postgres import PostgresFlowPersistence

TURNS = 5


class Turns(FlowState):
    turns: int = 0


class Round(Flow[Turns]):
    """A loop of some turns: a body, and a router; never two bodies at a time."""

    @start()
    async def begin(self) -> None:
        await self.act("begin")

    @listen(or_(begin, "again"))
    async def turn(self) -> None:
        await self.act("turn")
        self.state.turns += 1

    @router(turn)
    async def look(self) -> str:
        await self.act("look")
        return "again" if self.state.turns < TURNS else "done"

    async def act(self, method: str) -> None:
        """A body: what it does outside of the storage is to enter and to leave."""
        log("enter", str(self.invocation_id))
        await anyio.sleep(random.uniform(0, 0.004))
        log("leave", str(self.invocation_id))


def log(word: str, what: str) -> None:
    global fatal
    os.write(file, f"{word} {what} {os.getpid()}\n".encode())
    fatal -= 1
    if not fatal:
        os.kill(os.getpid(), signal.SIGKILL)


async def drive(persistence: PostgresFlowPersistence, run_id: str) -> bool:
    """Take part in a run. Whether it is finished."""
    try:
        await Round.resume(run_id, persistence=persistence)
    except errors.RunNotFoundError:
        try:
            await Round(persistence=persistence).kickoff({"id": run_id})
        except (errors.RunLockedError, errors.RunFencedError, errors.StaleCheckpoint):
            return False
    except (errors.RunLockedError, errors.RunFencedError):
        await anyio.sleep(random.uniform(0, 0.02))
        return False
    return True


async def contend(conninfo: str, schema: str, runs: int, lease: float) -> None:
    async with PostgresFlowPersistence(conninfo, schema=schema, lease=lease) as persistence:
        left = [f"run-{n}" for n in range(runs)]
        while left:
            random.shuffle(left)
            left = [run_id for run_id in left if not await drive(persistence, run_id)]


if __name__ == "__main__":
    conninfo, schema, path, runs, lease, kill, loop = sys.argv[1:]
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    fatal = int(kill)
    anyio.run(contend, conninfo, schema, int(runs), float(lease), backend=loop)
