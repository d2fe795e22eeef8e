"""Kills processes that run flows, and finds out from a log that no transaction takes back whether anything was lost.

    test  --Life-->  Server  --fork-->  child: opens the database, resumes or begins its runs, and is killed, or ends
    test  <-Death--  Server  <-waits--

This file is three things: what the tests import; the fork server, a subprocess with one thread that has everything
imported (a child of it costs some 10 ms, a new interpreter 300); and what such a child does. A trial is a number of
lives over one folder. `complaints` is the oracle: it reads the log and the database, with no help of the package but the
digest of a checkpoint.
"""

from __future__ import annotations

import gc
import hashlib
import inspect
import json
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn

import aiosqlite
import anyio
from pydantic import Field

from asyncflow import Flow, FlowState, SQLiteFlowPersistence, and_, each, errors, listen, merge, or_, router, start
from asyncflow.persistence.checkpoint import Checkpoint, state_after

DATABASE, LOG, OUTPUT = "runs.db", "effects.log", "output.txt"
LIMIT = 60.0
"""Seconds that a child may live, at most."""

# ---- graphs, drawn from a seed -------------------------------------------------------------------------------------

Condition = str | tuple[str, tuple[Any, ...]]
"""A name or label, or ("or", conditions), or ("and", conditions)."""


@dataclass(frozen=True)
class Step:
    """A method: what it waits for (None: it is a start), and what it takes of that."""

    name: str
    after: Condition | None = None
    takes: tuple[str, ...] = ()
    emits: tuple[str, ...] = ()
    """A router's labels: the first while turns are left, then the last."""
    plain: bool = False
    pause: float = 0.0
    limit: int = 0
    """Of one that runs for each item of what it follows: how many of them at the same time. 0: it runs once."""
    items: int = 0
    """How many items it returns, if it returns a list."""


@dataclass(frozen=True)
class Graph:
    name: str
    steps: tuple[Step, ...]
    turns: int = 0


@cache
def graph_of(shape: str, seed: str) -> Graph:
    """The graph of this shape and seed: the same in every process. Which methods run does not depend on the timing."""
    rng = random.Random(f"{shape}/{seed}")
    steps, turns = _SHAPES[shape](rng)
    drawn = (
        replace(s, plain=rng.random() < 0.15, pause=rng.choice((0.0, 0.0, rng.uniform(0.0002, 0.001)))) for s in steps
    )
    return Graph(f"{shape} {seed}", tuple(drawn), turns)


def _chain(rng: random.Random) -> tuple[list[Step], int]:
    names = [f"s{n}" for n in range(rng.randint(3, 7))]
    return [Step("s0"), *(Step(name, before, ("value",)) for before, name in pairwise(names))], 0


def _fan(rng: random.Random) -> tuple[list[Step], int]:
    lanes = [[f"l{lane}_{n}" for n in range(rng.randint(1, 2))] for lane in range(rng.randint(2, 4))]
    steps = [
        Step(name, before, ("value",)) for lane in lanes for before, name in zip(["begin", *lane], lane, strict=False)
    ]
    ends = tuple(lane[-1] for lane in lanes)
    return [Step("begin"), *steps, Step("join", ("and", ends), ends), Step("end", "join", ("value",))], 0


def _mix(rng: random.Random) -> tuple[list[Step], int]:
    steps: list[Step] = []
    leaves: list[str] = []
    for n in range(rng.randint(4, 7)):
        name = f"m{n}"
        after = None if n == 0 or rng.random() < 0.2 else _tree(rng, leaves, 2)
        emits = (f"label{n}",) if rng.random() < 0.25 else ()
        takes = ("value",) if isinstance(after, str) else ()
        steps.append(Step(name, after, takes, emits))
        leaves.append(emits[0] if emits else name)
    return [*steps, Step("end", ("and", tuple(leaves)))], 0


def _tree(rng: random.Random, leaves: Sequence[str], depth: int) -> Condition:
    if not depth or rng.random() < 0.35:
        return rng.choice(leaves)
    return rng.choice(("or", "and")), tuple(_tree(rng, leaves, depth - 1) for _ in range(rng.randint(2, 3)))


def _loop(rng: random.Random) -> tuple[list[Step], int]:
    lanes = tuple(f"lane{n}" for n in range(rng.randint(1, 3)))
    meet = Step("meet", ("and", lanes), lanes) if len(lanes) > 1 else Step("meet", lanes[0], ("value",))
    look = Step("look", ("or", ("begin", "meet")), emits=("again", "done"))
    return [Step("begin"), look, *(Step(lane, "again") for lane in lanes), meet, Step("end", "done")], rng.randint(1, 3)


def _lists(rng: random.Random) -> tuple[list[Step], int]:
    count, first, then = rng.randint(2, 5), rng.randint(1, 3), rng.randint(1, 3)
    steps = [
        Step("begin", items=count),
        Step("side", "begin", ("value",)),
        Step("each1", "begin", ("value",), limit=first, items=count),
        Step("each2", "each1", ("value",), limit=then, items=count),
    ]
    return [*steps, Step("join", ("and", ("each2", "side")), ("each2", "side")), Step("end", "join", ("value",))], 0


_SHAPES: dict[str, Callable[[random.Random], tuple[list[Step], int]]] = {
    "chain": _chain,
    "fan": _fan,
    "mix": _mix,
    "loop": _loop,
    "lists": _lists,
}


# ---- the flows of these graphs -------------------------------------------------------------------------------------


class Work(FlowState):
    done: list[str] = Field(default_factory=list)
    """In order of commit: compared as a multiset."""
    total: Annotated[int, merge.add] = 0
    values: dict[str, str] = Field(default_factory=dict)
    turns: int = 0


@cache
def flow_of(shape: str, seed: str) -> type[Flow[Work]]:
    graph = graph_of(shape, seed)
    methods: dict[str, Any] = {}
    for step in graph.steps:
        methods[step.name] = _method(step, graph.turns, methods)
    return types.new_class("Drawn", (Flow[Work],), exec_body=lambda body: body.update(methods, name=graph.name))


def _method(step: Step, turns: int, before: dict[str, Any]) -> Any:
    def began(flow: Any) -> str:
        log("started", flow.invocation_id)
        return str(flow.invocation_id.rpartition("/")[2])

    def ended(flow: Any, key: str, received: tuple[object, ...]) -> Any:
        log("effect", flow.invocation_id)
        state = flow.state
        state.done.append(key)
        state.total += len(step.name)
        value = state.values[key] = f"{key}={hashlib.blake2b(repr(received).encode(), digest_size=4).hexdigest()}"
        if step.name == "meet":
            state.turns += 1
        if step.items and not step.limit:
            return [f"{value}.{n}" for n in range(step.items)]
        return (step.emits[0] if state.turns < turns else step.emits[-1]) if step.emits else value

    async def method(self: Any, *args: object, **named: object):
        key = began(self)
        await anyio.sleep(step.pause)
        return ended(self, key, (args, sorted(named.items())))

    def plain(self: Any, *args: object, **named: object):
        key = began(self)
        time.sleep(step.pause)
        return ended(self, key, (args, sorted(named.items())))

    function: Any = plain if step.plain else method
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *step.takes)]
    function.__signature__ = inspect.Signature(parameters)
    if step.limit:
        return listen(each(before[str(step.after)]), limit=step.limit)(function)
    if step.items:
        function.__annotations__ = {"return": list[str]}
    if step.emits:
        function = router(emit=step.emits)(function)
    return (start() if step.after is None else listen(_trigger(step.after)))(function)


def _trigger(condition: Condition) -> Any:
    if isinstance(condition, str):
        return condition
    kind, parts = condition
    return (or_ if kind == "or" else and_)(*map(_trigger, parts))


# ---- the effect log ------------------------------------------------------------------------------------------------

_log_file = -1


def log(*words: object) -> None:
    """One line in one write, which no kill cuts in two and no transaction takes back."""
    os.write(_log_file, (" ".join(map(str, words)) + "\n").encode())


# ---- a child's life ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """What a child is to do: run these graphs side by side in this folder, as `run-0`, `run-1`, ..."""

    folder: str
    graphs: tuple[tuple[str, str], ...]
    loop: str = "asyncio"
    durability: str = "process"
    kill_after: float | None = None
    """Seconds from its beginning to the kill by the server."""
    kill_at: tuple[str, int] | None = None
    """Where it kills itself: the n-th time (from 1) that it reaches "before" or "after" a storage call, or "append"."""


@dataclass(frozen=True)
class Death:
    """How a child ended. `seconds`: from its beginning, its imports being done."""

    status: int
    """Its exit code, or minus the signal."""
    seconds: float
    hung: bool = False

    @property
    def killed(self) -> bool:
        """Whether a kill hit it while it lived."""
        return self.status == -signal.SIGKILL and not self.hung


class _Points:
    """Counts how often the child reached each kind of point, and kills it at the one that is meant."""

    def __init__(self, fatal: tuple[str, int] | None) -> None:
        self.fatal = None if fatal is None else tuple(fatal)
        self.passed: Counter[str] = Counter()

    def reach(self, kind: str) -> None:
        self.passed[kind] += 1
        if (kind, self.passed[kind]) == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(LIMIT)  # the signal is on its way


class _Witnessed(SQLiteFlowPersistence):
    """Logs each acknowledgement when the storage has returned, before any caller can act on it."""

    points = _Points(None)

    async def append(self, checkpoint: Checkpoint) -> None:
        await super().append(checkpoint)
        c = checkpoint
        log("acknowledged", c.run_id, c.seq, c.digest.hex(), c.method)
        self.points.reach("append")


def _watch_calls(points: _Points) -> None:
    """Make each call to the thread of a connection, the writer's or the reader's, two points."""
    execute = aiosqlite.Connection._execute

    async def watched(self: Any, function: Any, *args: Any, **named: Any) -> Any:
        def call() -> Any:
            points.reach("before")
            try:
                return function(*args, **named)
            finally:
                points.reach("after")

        return await execute(self, call)

    aiosqlite.Connection._execute = watched  # type: ignore[method-assign]  # in this child only


async def _live(life: Life) -> None:
    points = _Points(life.kill_at)
    _watch_calls(points)
    durability: Any = life.durability
    async with _Witnessed(Path(life.folder, DATABASE), durability=durability) as persistence:
        persistence.points = points
        for row in stored(Path(life.folder)):
            log("found", row.run_id, row.seq, row.digest.hex(), row.method)
        async with anyio.create_task_group() as group:
            for number, graph in enumerate(life.graphs):
                group.start_soon(_go_on, flow_of(*graph), f"run-{number}", persistence)
    log("passed", json.dumps(points.passed))


async def _go_on(flow: Any, run_id: str, persistence: SQLiteFlowPersistence) -> None:
    try:
        result = await flow.resume(run_id, persistence=persistence)
    except errors.RunNotFoundError:
        result = await flow(persistence=persistence).kickoff({"id": run_id})
    log("result", run_id, json.dumps(result))


def _child(life: Life, alive: int) -> NoReturn:
    """Live, and end without any of the server's clean-up."""
    global _log_file
    status = 1
    try:
        output = os.open(Path(life.folder, OUTPUT), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(output, standard)
        _log_file = os.open(Path(life.folder, LOG), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(alive, b".")
        backend, options = _LOOPS[life.loop]
        anyio.run(partial(_live, life), backend=backend, backend_options=options)
        status = 0
    except BaseException:  # whatever it is: the test is to see it
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(status)


_LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


# ---- the fork server -----------------------------------------------------------------------------------------------


def _serve() -> None:
    """One line of JSON for each life in, one for its death out, until the input ends."""
    for backend, options in _LOOPS.values():
        anyio.run(anyio.sleep, 0, backend=backend, backend_options=options)  # imports what it needs
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        life = Life(**json.loads(line))
        print(json.dumps(asdict(_forked(life))), flush=True)


def _forked(life: Life) -> Death:
    for graph in life.graphs:
        flow_of(*graph)  # made here, once for all its lives
    assert threading.active_count() == 1, "a process with threads must not be forked"
    reading, alive = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        _child(life, alive)
    os.close(alive)
    hung = False
    os.read(reading, 1)  # it begins, or is dead already
    began = time.perf_counter()
    if not _ends_within(reading, LIMIT if life.kill_after is None else life.kill_after):
        hung = life.kill_after is None
        os.kill(pid, signal.SIGKILL)
    seconds = time.perf_counter() - began
    os.close(reading)
    return Death(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seconds, hung)


def _ends_within(reading: int, seconds: float) -> bool:
    """Whether the other end, which the child holds until it ends, is closed by then."""
    return bool(select.select([reading], [], [], seconds)[0])


class Server:
    """The fork server, as the tests see it."""

    def __enter__(self) -> Server:
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=LIMIT)

    def live(self, life: Life) -> Death:
        """Let a child live this life, to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(life)) + "\n")
        self._process.stdin.flush()
        return Death(**json.loads(self._process.stdout.readline()))


# ---- the oracle ----------------------------------------------------------------------------------------------------


def stored(folder: Path) -> list[Checkpoint]:
    """Every checkpoint in the database, by run and seq; read without the package, and without writing."""
    uri = f"{(folder / DATABASE).absolute().as_uri()}?mode=ro"
    names = {"identity": "r.identity"}
    columns = ", ".join(names.get(name, f"c.{name}") for name in Checkpoint._fields[2:])
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        rows = connection.execute(
            f"SELECT r.run_id, r.flow, {columns} FROM checkpoints c JOIN runs r ON r.id = c.run ORDER BY 1, 3"
        )
        return [Checkpoint(*row) for row in rows]


@dataclass
class Log:
    """What the log of a trial says."""

    lines: list[list[str]]

    @classmethod
    def read(cls, folder: Path) -> Log:
        text = Path(folder, LOG).read_text()
        assert text == "" or text.endswith("\n"), "a line of the log is cut off"
        return cls([line.split(" ") for line in text.splitlines()])

    def of(self, *words: str) -> list[list[str]]:
        return [line for line in self.lines if line[0] in words]

    @property
    def acknowledged(self) -> int:
        return len(self.of("acknowledged"))

    @property
    def starts(self) -> Counter[str]:
        return Counter(line[1] for line in self.of("started"))

    @property
    def run_again(self) -> int:
        """How often an invocation was started that had been started before."""
        return sum(count - 1 for count in self.starts.values())

    @property
    def passed(self) -> dict[str, int]:
        """How often the last life reached each kind of point."""
        return dict(json.loads(" ".join(self.of("passed")[-1][1:])))


@dataclass
class Final:
    """What a trial ended with, run by run, in a form in which the order of commits does not matter."""

    states: dict[str, dict[str, Any]]
    invocations: dict[str, set[str]]
    results: dict[str, str]
    last: dict[str, str] = field(default_factory=dict)
    """The invocation that completed last, whose result the run's is: the order may decide which that is."""

    @classmethod
    def read(cls, folder: Path) -> Final:
        final = cls({}, defaultdict(set), {})
        whole: dict[str, bytes | None] = {}
        for row in stored(folder):
            final.invocations[row.run_id].add(row.method)
            final.last[row.run_id] = row.method
            whole[row.run_id] = state_after(whole.get(row.run_id), row)
            if row.state is not None:
                state = json.loads(whole[row.run_id] or b"{}")
                final.states[row.run_id] = {**state, "done": sorted(state["done"])}
        final.results = {line[1]: " ".join(line[2:]) for line in Log.read(folder).of("result")}
        return final

    def is_as(self, other: Final) -> bool:
        """Whether it is the same end, of the same runs."""
        alike = [self.results[run] == other.results[run] for run, last in self.last.items() if last == other.last[run]]
        return (self.states, self.invocations) == (other.states, other.invocations) and all(alike)


def complaints(folder: Path, graphs: Sequence[tuple[str, str]], faults: int, expected: Final | None) -> list[str]:
    """Every promise that a trial, which is over, has seen broken."""
    log = Log.read(folder)
    chains: dict[str, list[Checkpoint]] = defaultdict(list)
    for row in stored(folder):
        chains[row.run_id].append(row)
    found = [*_acknowledged(log, chains), *_database(folder, chains), *_Reading(graphs, chains).complaints(log)]
    found += [f"{i} was started {n} times, with {faults} faults" for i, n in log.starts.items() if n > 1 + faults]
    final = Final.read(folder)
    if len(final.results) != len(graphs):
        found.append(f"not every run has given its result: {final.results}")
    else:
        found += _results(final, graphs)
    if expected is not None and not final.is_as(expected):
        found.append(f"it ended otherwise than undisturbed: {final} instead of {expected}")
    return found


def _results(final: Final, graphs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """A run's result is that of the invocation that completed last."""
    for number, graph in enumerate(graphs):
        run_id = f"run-{number}"
        last, result = final.last[run_id], json.loads(final.results[run_id])
        step = next(step for step in graph_of(*graph).steps if step.name == last.rpartition(":")[0])
        if result not in (step.emits or (final.states[run_id]["values"][last],)):
            yield f"WRONG: the result of {run_id} is {result}, and {last} was the last to complete"


def _acknowledged(log: Log, chains: dict[str, list[Checkpoint]]) -> Iterator[str]:
    """D1, D4: what was acknowledged, or once found, is in the database as it was."""
    known = {(row.run_id, str(row.seq)): row.digest.hex() for chain in chains.values() for row in chain}
    for _, run_id, seq, digest, *_ in log.of("acknowledged", "found"):
        if known.get((run_id, seq)) != digest:
            yield f"LOST: checkpoint {seq} of {run_id} was acknowledged with {digest}; there is {known.get((run_id, seq))}"


def _database(folder: Path, chains: dict[str, list[Checkpoint]]) -> Iterator[str]:
    """D4, E1: the chain has no gaps and holds, its head is the last of it, each invocation is in it once."""
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        ((verdict,),) = connection.execute("PRAGMA integrity_check")
        heads = {run: rest for run, *rest in connection.execute("SELECT run_id, head, head_digest, status FROM runs")}
    if verdict != "ok":
        yield f"integrity_check says {verdict}"
    for run_id, chain in chains.items():
        if [row.seq for row in chain] != list(range(len(chain))):
            yield f"the chain of {run_id} has gaps: {[row.seq for row in chain]}"
        if any(row.previous != before.digest for before, row in pairwise(chain)):
            yield f"the chain of {run_id} is broken"
        if any(row.expected_digest() != row.digest for row in chain):
            yield f"a checkpoint of {run_id} fails its digest"
        if heads[run_id] != [chain[-1].seq, chain[-1].digest, "finished"]:
            yield f"the head of {run_id} is {heads[run_id]}, after {chain[-1]}"
        twice = [method for method, count in Counter(row.method for row in chain if row.method).items() if count > 1]
        if twice:
            yield f"WRONG: {twice} have more than one checkpoint in {run_id}"


@dataclass
class _Reading:
    """Reads a log line by line, knowing what has been acknowledged so far."""

    graphs: Sequence[tuple[str, str]]
    chains: dict[str, list[Checkpoint]]
    heads: Counter[str] = field(default_factory=Counter)
    """By run: how many checkpoints are acknowledged. One stands for those before it, whose waiters may wake after its own."""
    completed: set[tuple[str, str]] = field(default_factory=set)
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By run and method: how many of its invocations, or of its items, have completed."""
    supply: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By run: how often each name or label has come, at most."""

    def complaints(self, log: Log) -> Iterator[str]:
        for word, *rest in log.lines:
            match word:
                case "acknowledged" | "found":
                    self._note(rest[0], int(rest[1]))
                case "started":
                    run_id, _, key = rest[0].split("/")
                    yield from self._started(run_id, key)
                case "result" if self.heads[rest[0]] != len(self.chains[rest[0]]):
                    yield f"the result of {rest[0]} was seen before its end was acknowledged [D1]"

    def _note(self, run_id: str, seq: int) -> None:
        for row in self.chains[run_id][self.heads[run_id] : seq + 1]:
            name = row.method.split(":")[0]
            if not name:
                continue
            self.completed.add((run_id, row.method))
            step = self._step(run_id, name)
            self.ended[run_id, name] += 1
            if not step.limit or self.ended[run_id, name] == step.items:  # a list comes with the last of its items
                self.supply[run_id].update((name, *step.emits))
        self.heads[run_id] = max(self.heads[run_id], seq + 1)

    def _started(self, run_id: str, key: str) -> Iterator[str]:
        name, _, occurrence = key.partition(":")
        if not self.heads[run_id]:
            yield f"{key} of {run_id} was started before the run was acknowledged [D2]"
        if (run_id, key) in self.completed:
            yield f"RUN AGAIN: {key} of {run_id} was started after its acknowledgement [E2]"
        after = self._step(run_id, name).after
        if after is not None and _came(after, self.supply[run_id]) < int(occurrence.partition("[")[0]):
            yield f"{key} of {run_id} was started before what it follows was acknowledged [D1]"

    def _step(self, run_id: str, name: str) -> Step:
        graph = graph_of(*self.graphs[int(run_id.removeprefix("run-"))])
        return next(step for step in graph.steps if step.name == name)


def _came(condition: Condition, supply: Counter[str]) -> int:
    """How often a condition can have come, at most."""
    if isinstance(condition, str):
        return supply[condition]
    kind, parts = condition
    counts = [_came(part, supply) for part in parts]
    return sum(counts) if kind == "or" else min(counts)


if __name__ == "__main__":
    _serve()
