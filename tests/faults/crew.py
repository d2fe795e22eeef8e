"""Workers that own runs by a `FlowRunner`, killed and replaced; and the log that says who ran what.

`python crew.py WORK`, with a `Work` as JSON, starts its share of the runs, recovers those of dead workers, and ends with its input.
The log is one appending system call a line: a step begins, ends, and is known to be saved.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
import anyio.to_thread

import asyncflow
from asyncflow import Flow, FlowRunner, FlowState, SQLiteFlowPersistence, router, start
from asyncflow.persistence._database.base import DatabasePersistence
from asyncflow.persistence.checkpoint import Checkpoint

AT_ONCE = 200
"""Starts on their way at once."""

AT_A_STEP = ("begin", "end", "saved")
"""The words of a step, in their order."""

SECONDS = 120.0
"""What takes longer hangs."""


@dataclass(frozen=True)
class Work:
    """The arguments of a worker."""

    log: str
    database: str
    """A path of SQLite's; or what reaches PostgreSQL, if there is a schema."""
    schema: str = ""
    lease: float = 30.0
    recover_every: float = 0.5
    share: tuple[int, int] = (0, 0)
    """The numbers of the runs that it starts: from, and up to."""
    steps: int = 3
    seconds: float = 0.02
    """That a step takes."""
    sample_every: float = 0.0
    """Seconds between two lines that say what the worker holds; 0 for none."""

    def storage(self) -> DatabasePersistence[Any]:
        """What keeps the runs."""
        if self.schema:
            from asyncflow.persistence.postgres import PostgresFlowPersistence

            return PostgresFlowPersistence(self.database, schema=self.schema, lease=self.lease)
        return SQLiteFlowPersistence(self.database, lease=self.lease, durability="process")


# ---- a worker --------------------------------------------------------------------------------------------------------


class Job(FlowState):
    steps: int = 1
    seconds: float = 0.0
    done: int = 0


class Labour(Flow[Job]):
    """A loop of some steps, each with effects outside."""

    @start()
    @router()
    async def begin(self) -> str:
        return "again"

    @router("again")
    async def step(self) -> str | None:
        log("begin", self.invocation_id)
        await anyio.sleep(self.state.seconds)
        log("end", self.invocation_id)
        self.state.done += 1
        return "again" if self.state.done < self.state.steps else None


_file = -1


def log(word: str, *what: object) -> None:
    os.write(_file, (" ".join(map(str, (word, os.getpid(), *what))) + "\n").encode())


def _witness(storage: DatabasePersistence[Any]) -> None:
    """Log each acknowledgement of a step, before any caller can act on it."""
    append = storage.append

    async def appended(checkpoint: Checkpoint) -> None:
        await append(checkpoint)
        if checkpoint.method.startswith("step:"):
            log("saved", f"{checkpoint.run_id}/{checkpoint.pass_number}/{checkpoint.method}")

    storage.append = appended  # type: ignore[method-assign]  # in this process only


async def _work(work: Work) -> None:
    storage = work.storage()
    _witness(storage)
    inputs = {"steps": work.steps, "seconds": work.seconds}
    limit = anyio.CapacityLimiter(AT_ONCE)

    async def begin(number: int) -> None:
        async with limit:
            await runner.start(Labour, inputs, run_id=f"run-{number}")

    async with (
        FlowRunner(
            storage, flows=[Labour], max_running=100_000, grace=0, patience=0, recover_every=work.recover_every
        ) as runner,
        anyio.create_task_group() as group,
    ):
        if work.sample_every:
            group.start_soon(_sample, runner, work.sample_every)
        async with anyio.create_task_group() as starting:
            for number in range(*work.share):
                starting.start_soon(begin, number)
        log("ready")
        await anyio.to_thread.run_sync(sys.stdin.read)
        group.cancel_scope.cancel()


async def _sample(runner: FlowRunner, seconds: float) -> None:
    while True:
        await anyio.sleep(seconds)
        log("holds", runner.running, *held().values())


def held() -> dict[str, int]:
    """What this process holds: bytes of resident memory, file handles, threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    return {"bytes": pages * os.sysconf("SC_PAGE_SIZE"), "files": files, "threads": threads}


# ---- the crew, as a test sees it ---------------------------------------------------------------------------------------


@dataclass
class Crew:
    """Starts workers, kills some, and reads what they have logged."""

    work: Work
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """The living, by process id."""
    shares: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The runs that each of them starts."""
    dead: set[str] = field(default_factory=set)
    """The killed."""
    lines: list[list[str]] = field(default_factory=list)
    """The log, as far as it has been read."""
    begun: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The runs of which each has begun a step, as `run/pass/method`."""
    holds: dict[str, list[tuple[int, ...]]] = field(default_factory=lambda: defaultdict(list))
    """What each has said that it holds: runs, bytes, file handles, threads."""
    _read: int = 0

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self.workers.values():
            worker.kill()
            worker.communicate()

    def begin(self, share: tuple[int, int] = (0, 0)) -> str:
        """Start a worker with this share of the runs; its process id."""
        env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
        told = json.dumps(asdict(replace(self.work, share=share)))
        worker = subprocess.Popen([sys.executable, __file__, told], env=env, stdin=subprocess.PIPE)
        self.workers[str(worker.pid)], self.shares[str(worker.pid)] = worker, share
        return str(worker.pid)

    def kill(self, pid: str) -> None:
        """SIGKILL one, while it works."""
        worker = self.workers.pop(pid)
        assert worker.poll() is None, "it has ended by itself"
        self.dead.add(pid)
        worker.kill()
        worker.communicate()

    def replace_one(self, dice: random.Random) -> None:
        """Kill one of the workers within a step, and start another with its share, which knows nothing of it."""
        self.until(lambda: self.kill_at_work(dice.choice(sorted(self.workers, key=int))))

    def kill_at_work(self, pid: str) -> bool:
        """SIGKILL one if it is within a step; it is stopped while that is looked up. Return whether it was killed."""
        os.kill(int(pid), signal.SIGSTOP)
        os.waitpid(int(pid), os.WUNTRACED)
        is_at_work = "begin" in {word for by, word in self.last_words() if by == pid}
        if is_at_work:
            self.kill(pid)
            self.begin(self.shares[pid])
        else:
            os.kill(int(pid), signal.SIGCONT)
        return is_at_work

    def last_words(self) -> list[tuple[str, str]]:
        """Who has logged the last word about each run, and which."""
        last = {what[0].split("/")[0]: (pid, word) for word, pid, *what in self.logged() if word in AT_A_STEP}
        return list(last.values())

    def dismiss(self) -> list[int]:
        """Let all end; what they ended with."""
        for worker in self.workers.values():
            assert worker.stdin is not None
            worker.stdin.close()
            worker.stdin = None
        codes = [worker.wait(SECONDS) for worker in self.workers.values()]
        self.workers.clear()
        return codes

    def logged(self) -> list[list[str]]:
        """All lines until now."""
        if os.path.exists(self.work.log):
            with open(self.work.log, "rb") as file:
                file.seek(self._read)
                whole, _, _ = file.read().rpartition(b"\n")
            if whole:
                self._read += len(whole) + 1
                for line in whole.decode().split("\n"):
                    self._note(line.split(" "))
        return self.lines

    def _note(self, line: list[str]) -> None:
        word, pid, *what = line
        self.lines.append(line)
        if word == "begin":
            self.begun[pid].add(what[0].rpartition(":")[0])
        elif word == "holds":
            self.holds[pid].append(tuple(map(int, what)))

    def until(self, condition: Callable[[], object], pause: float = 0.005, seconds: float = SECONDS) -> None:
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, "it does not come"
            assert all(worker.poll() is None for worker in self.workers.values()), "a worker has ended"
            time.sleep(pause)

    def has_begun(self, pid: str, runs: int) -> bool:
        """Whether this worker has begun a step of so many runs."""
        self.logged()
        return len(self.begun[pid]) >= runs

    def is_ready(self, pid: str) -> bool:
        return ["ready", pid] in self.logged()

    async def until_all_end(self, runs: int, seconds: float = SECONDS) -> None:
        """Wait until so many runs are stored, and all of them have finished."""
        storage = self.work.storage()
        with anyio.fail_after(seconds):
            async with storage:
                while await storage.runs(status="unfinished", limit=1) or await _count(storage) < runs:
                    assert all(worker.poll() is None for worker in self.workers.values()), "a worker has ended"
                    await anyio.sleep(0.05)

    def taken_over(self, owner: str, heir: str, runs: int) -> float:
        """Seconds from the death of the owner of so many runs until the heir has begun a step of each."""
        self.until(lambda: self.is_ready(owner) and self.has_begun(owner, runs) and self.is_ready(heir))
        began = time.monotonic()
        self.kill(owner)
        self.until(lambda: self.has_begun(heir, runs))
        return time.monotonic() - began

    def worked_through(self, runs: int, workers: int, kills: int, dice: random.Random) -> float:
        """Let workers run all these runs, while some are killed and replaced; the seconds until all have finished."""
        share, began = runs // workers, time.monotonic()
        for n in range(workers):
            self.begin((n * share, (n + 1) * share))
        for kill in range(1, kills + 1):  # spread over their work
            done = share * workers * self.work.steps * kill // (kills + 1)
            self.until(lambda done=done: sum(word == "saved" for word, *_ in self.logged()) >= done)
            self.replace_one(dice)
        anyio.run(self.until_all_end, share * workers)
        return time.monotonic() - began

    def complaints(self) -> list[str]:
        """What no worker may do: work on a run that another has, repeat what was saved, leave a step out."""
        reading = _Reading(self.dead)
        for word, pid, *what in self.logged():
            if word in AT_A_STEP:
                reading.line(word, pid, what[0])
        return reading.complaints

    @property
    def run_again(self) -> int:
        """How many steps were begun more than once."""
        counts = Counter(what[0] for word, _, *what in self.logged() if word == "begin")
        return sum(count > 1 for count in counts.values())


async def _count(storage: DatabasePersistence[Any]) -> int:
    count, before = 0, None
    while page := await storage.runs(before=before, limit=1000):
        count, before = count + len(page), page[-1].position
    return count


@dataclass
class _Reading:
    """Goes through a log, line by line: where each run is, and who is at it."""

    dead: set[str]
    complaints: list[str] = field(default_factory=list)
    at: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    """Of each run: the step, the worker, and the last word about it."""

    def line(self, word: str, pid: str, invocation: str) -> None:
        run, _, key = invocation.split("/")
        step = int(key.partition(":")[2])
        was, by, last = self.at.get(run, (0, pid, "saved"))
        if word == "begin":
            is_next = step == was + 1 and (last != "begin" or by in self.dead) and (last == "saved" or by != pid)
            is_again = step == was and last != "saved" and by != pid
            self._check(by == pid or by in self.dead, f"{pid} has begun {invocation}, and {by} lives")
            self._check(is_next or is_again, f"{pid} has begun {invocation} after {by} had {last} {was}")
        else:
            self._check(
                (step, pid) == (was, by), f"{pid} has {word} {invocation}, which {by} has taken from it at {was}"
            )
        self.at[run] = (step, pid, word)

    def _check(self, is_well: bool, complaint: str) -> None:
        if not is_well:
            self.complaints.append(complaint)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    work = Work(**{**told, "share": tuple(told["share"])})
    _file = os.open(work.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    anyio.run(_work, work)
