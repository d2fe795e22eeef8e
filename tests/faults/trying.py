"""Runs of a flow whose methods fail more often than not, and are tried again: `python trying.py FOLDER LOOP DRIVER` runs or resumes them.

The log is one appending system call a line, which no kill cuts in two and no transaction takes back: an attempt starts, or is about
to fail; a checkpoint is known to be stored; a run has its result.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio

from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    Retry,
    RetryAfter,
    SQLiteFlowPersistence,
    after,
    and_,
    errors,
    listen,
    merge,
    or_,
    router,
    sleep,
    start,
    this_invocation,
)
from asyncflow.persistence import Checkpoint

DATABASE, LOG = "runs.db", "attempts.log"
RUNS = ("run-0", "run-1", "run-2")
PAUSE, LONGEST, LATER = 0.02, 0.08, 0.1
"""Seconds: the first pause, the longest one, and the time of the timer."""
PARK_AFTER = 0.01
"""Seconds from which on a wait parks the run, where a runner drives it."""
EARLY = 0.002
"""Seconds by which an event loop may wake too early: uvloop counts whole milliseconds."""
NEEDED = {"fetch": 4, "left": 5, "right": 4, "tick": 2, "join": 3, "look": 3, "turn": 3, "end": 2}
"""The attempt of each method that does not fail."""
TURNS = 2
TIMES = {"look": TURNS + 1, "turn": TURNS}
EXPECTED = {f"{name}:{n + 1}": needed for name, needed in NEEDED.items() for n in range(TIMES.get(name, 1))}
"""The attempt in which each invocation completes."""


class Unlucky(Exception):
    pass


class Tries(FlowState):
    attempts: dict[str, int] = {}  # noqa: RUF012 - pydantic copies it
    total: Annotated[int, merge.add] = 0
    turns: int = 0


class Trying(Flow[Tries]):
    name = "Trying"
    retry = Retry(attempts=9, initial=PAUSE, maximum=LONGEST, jitter=0)

    @start()
    async def fetch(self) -> int:
        return await self.tried()

    @listen(fetch)
    async def left(self, n: int) -> int:
        return n + await self.tried()

    @listen(fetch)
    def right(self, n: int) -> int:
        self.begin()
        time.sleep(0.004)
        return n + self.end_or_fail()

    @listen(after(fetch, LATER))
    async def tick(self, n: int) -> int:
        return n + await self.tried()

    @listen(and_(left, right, tick))
    async def join(self) -> None:
        await sleep(0.05)
        await self.tried()

    @router(or_(join, "turned"))
    async def look(self) -> Literal["again", "done"]:
        await self.tried()
        return "again" if self.state.turns < TURNS else "done"

    @router("again")
    async def turn(self) -> Literal["turned"]:
        await self.tried()
        self.state.turns += 1
        return "turned"

    @listen("done")
    async def end(self) -> int:
        await self.tried()
        return self.state.total

    async def tried(self) -> int:
        self.begin()
        await anyio.sleep(0.004)
        return self.end_or_fail()

    def begin(self) -> None:
        me = this_invocation()
        log("start", me.run_id, f"{me.method}:{me.occurrence}", me.attempt, time.time())

    def end_or_fail(self) -> int:
        """Change the state, and fail unless the attempt is the one that does not."""
        me = this_invocation()
        self.state.attempts[f"{me.method}:{me.occurrence}"] = me.attempt
        self.state.total += 1
        if me.attempt >= NEEDED[me.method]:
            return me.attempt
        log("fails", me.run_id, f"{me.method}:{me.occurrence}", me.attempt, time.time())
        raise RetryAfter(PAUSE) if me.method == "join" else Unlucky(me.attempt)


# ---- a life ----------------------------------------------------------------------------------------------------------

_log_file = -1


def log(*words: object) -> None:
    os.write(_log_file, (" ".join(map(str, words)) + "\n").encode())


class Witnessed(SQLiteFlowPersistence):
    """Logs each checkpoint once the storage says that it is stored, before anything can act on it."""

    poll_seconds = 0.01

    async def append(self, checkpoint: Checkpoint) -> None:
        await super().append(checkpoint)
        note(checkpoint)


def note(c: Checkpoint) -> None:
    log("stored", c.run_id, c.seq, c.digest.hex(), c.kind, c.method or "-")


async def live(folder: Path, driver: Literal["calls", "runner"]) -> None:
    """Note what is stored, and run or resume each run."""
    async with Witnessed(folder / DATABASE) as persistence:
        for entry in await persistence.runs():
            for checkpoint in await persistence.history(entry.run_id):
                note(checkpoint)
        log("opened")
        await (by_calls(persistence) if driver == "calls" else by_a_runner(persistence))
    log("ended")


async def by_calls(persistence: SQLiteFlowPersistence) -> None:
    async def go_on(run_id: str) -> None:
        try:
            result = await Trying.resume(run_id, persistence=persistence)
        except errors.RunNotFoundError:
            result = await Trying(persistence=persistence).kickoff({"id": run_id})
        log("result", run_id, result)

    async with anyio.create_task_group() as group:
        for run_id in RUNS:
            group.start_soon(go_on, run_id)


async def by_a_runner(persistence: SQLiteFlowPersistence) -> None:
    """Wait for the runs that a runner starts, recovers and, while they only wait, parks."""
    never = 1_000  # it quarantines no run
    async with FlowRunner(
        persistence, flows=[Trying], recover_every=0.05, park_after=PARK_AFTER, max_takeovers=never
    ) as runner:
        known = {entry.run_id for entry in await persistence.runs()}
        handles = [
            await (runner.get(run_id) if run_id in known else runner.start(Trying, run_id=run_id)) for run_id in RUNS
        ]
        for handle in handles:
            log("result", handle.run_id, await handle.result())


def main(folder: Path, loop: str, driver: Literal["calls", "runner"]) -> None:
    global _log_file
    _log_file = os.open(folder / LOG, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    backend = "trio" if loop == "trio" else "asyncio"
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    anyio.run(partial(live, folder, driver), backend=backend, backend_options=options)


# ---- the oracle ------------------------------------------------------------------------------------------------------


def lines_of(folder: Path) -> list[list[str]]:
    path = folder / LOG
    return [line.split(" ") for line in path.read_text().splitlines()] if path.exists() else []


class Row:
    """A checkpoint, read without the package."""

    def __init__(self, kind: str, method: str, digest: bytes) -> None:
        self.kind, self.method, self.digest = kind, method, digest.hex()


def rows_of(folder: Path) -> dict[str, list[Row]]:
    sql = (
        "SELECT r.run_id, kind, method, c.digest FROM checkpoints c JOIN runs r ON r.id = c.run ORDER BY r.run_id, seq"
    )
    found: dict[str, list[Row]] = defaultdict(list)
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        for run_id, *row in connection.execute(sql):
            found[run_id].append(Row(*row))
    return found


class Reading:
    """Reads the log of a trial that is over, line by line, knowing what is stored so far."""

    def __init__(self, folder: Path) -> None:
        self.lines = lines_of(folder)
        self.rows = rows_of(folder)
        self.known: Counter[str] = Counter()
        """By run: how many of its checkpoints are known to be stored."""
        self.failed: Counter[tuple[str, str]] = Counter()
        """By run and invocation: its attempts that are stored as failed."""
        self.completed: set[tuple[str, str]] = set()
        self.starts: Counter[tuple[str, str, int]] = Counter()
        self.times: dict[tuple[str, str, int], float] = {}
        """When each attempt was about to end, or began, the last time."""

    @property
    def begun_again(self) -> int:
        """Attempts that a kill ended, and that were begun again with the same number."""
        return sum(count - 1 for count in self.starts.values())

    def complaints(self, kills: int) -> Iterator[str]:
        for word, *rest in self.lines:
            match word:
                case "stored":
                    yield from self._stored(*rest[:3])
                case "fails":
                    self.times[rest[0], rest[1], int(rest[2])] = float(rest[3])
                case "start":
                    yield from self._start(rest[0], rest[1], int(rest[2]), float(rest[3]))
        for (run_id, key, attempt), count in self.starts.items():
            if count > 1 + kills:
                yield f"attempt {attempt} of {key} of {run_id} was begun {count} times, with {kills} kills"
        results = {rest[0]: rest[1] for word, *rest in self.lines if word == "result"}
        if results != dict.fromkeys(RUNS, str(len(EXPECTED))):
            yield f"WRONG results: {results}"
        for run_id in RUNS:
            yield from self._end(run_id)

    def _stored(self, run_id: str, seq: str, digest: str) -> Iterator[str]:
        """One that is stored stands for those before it, whose waiters may wake after its own."""
        rows = self.rows[run_id]
        if int(seq) >= len(rows) or rows[int(seq)].digest != digest:
            yield f"LOST: checkpoint {seq} of {run_id}"
            return
        for row in rows[self.known[run_id] : int(seq) + 1]:
            if row.kind == "retrying":
                self.failed[run_id, row.method] += 1
            elif row.kind in ("method", "finished") and row.method:
                self.completed.add((run_id, row.method))
        self.known[run_id] = max(self.known[run_id], int(seq) + 1)

    def _start(self, run_id: str, key: str, attempt: int, at: float) -> Iterator[str]:
        self.starts[run_id, key, attempt] += 1
        if (run_id, key) in self.completed:
            yield f"RUN AGAIN: {key} of {run_id} was begun after it had completed"
        if attempt != self.failed[run_id, key] + 1:
            yield f"attempt {attempt} of {key} of {run_id} was begun after {self.failed[run_id, key]} failed attempts"
        if at < self._due(run_id, key, attempt) - EARLY:
            yield f"attempt {attempt} of {key} of {run_id} was begun {self._due(run_id, key, attempt) - at:.3f} s too early"
        self.times[run_id, key, attempt] = at

    def _due(self, run_id: str, key: str, attempt: int) -> float:
        """The earliest end of the pause before an attempt, or of the timer before the first one."""
        if attempt > 1:
            pause = PAUSE if key == "join:1" else min(LONGEST, PAUSE * 2 ** (attempt - 2))
            return self.times.get((run_id, key, attempt - 1), 0.0) + pause
        return self.times.get((run_id, "fetch:1", NEEDED["fetch"]), 0.0) + LATER if key == "tick:1" else 0.0

    def _end(self, run_id: str) -> Iterator[str]:
        rows = self.rows[run_id]
        failed = Counter(row.method for row in rows if row.kind == "retrying")
        if failed != {key: attempt - 1 for key, attempt in EXPECTED.items()}:
            yield f"WRONG attempts of {run_id} are stored: {failed}"
        completed = Counter(row.method for row in rows if row.kind in ("method", "finished") and row.method)
        if completed != dict.fromkeys(EXPECTED, 1):
            yield f"WRONG completions of {run_id} are stored: {completed}"
        kinds = Counter(row.kind for row in rows)
        if (kinds["timer"], kinds["failed"], rows[-1].kind) != (1, 0, "finished"):
            yield f"WRONG checkpoints of {run_id} are stored: {kinds}"


def state_of(folder: Path, run_id: str) -> dict[str, Any]:
    async def load() -> Any:
        return await SQLiteFlowPersistence(folder / DATABASE).load(run_id)

    state: dict[str, Any] = json.loads(anyio.run(load).state)
    return state


def parked(folder: Path) -> int:
    """How many runs are parked."""
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        (found,) = connection.execute(
            "SELECT count(*) FROM runs WHERE status = 'running' AND wake_at IS NOT NULL"
        ).fetchone()
    return int(found)


if __name__ == "__main__":
    logging.getLogger("asyncflow").setLevel(logging.ERROR)  # each failed attempt is a warning
    main(Path(sys.argv[1]), sys.argv[2], "runner" if sys.argv[3] == "runner" else "calls")
