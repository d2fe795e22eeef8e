"""Hops: the calls, modules and moves of each trip through asyncflow, and the storage calls that it makes.

    python -m benchmarks.hops                 # of this version
    python -m benchmarks.hops --against PATH  # and of another one, such as an exported commit
    python -m benchmarks.hops --against PATH --readme  # writes the table of README.md

A flow of three trivial methods is stored in SQLite, on asyncio, after a warm-up. Counted are Python functions of the package, in all
threads; a coroutine counts once, however often it is resumed. A *move* is a call or a return between two modules, *back* one that
leads into a module that the trip has entered before. A reader who follows the trip opens as many files as it enters modules.
The counts repeat exactly, except for `runner.start`, where the turns of two tasks may differ by a call or two.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import anyio
import anyio.lowlevel

import asyncflow
from asyncflow import Flow, FlowPersistence, FlowRunner, FlowState, SQLiteFlowPersistence, listen, start
from asyncflow.persistence import Catalog, CheckpointHistory, CheckpointLog, Ownership, Retention

PACKAGE = str(Path(asyncflow.__file__).parent) + os.sep
WARM = 3
"""Warm-up rounds before the counted one: they fill the caches."""

VERBS = frozenset(
    name
    for protocol in (FlowPersistence, CheckpointLog, Ownership, CheckpointHistory, Catalog, Retention)
    for name in vars(protocol)
    if inspect.iscoroutinefunction(getattr(protocol, name))
)
"""The coroutine methods of a backend and of its capabilities."""

AIMS = {"one step": 18, "load by id": 12}
"""Modules of a trip, at most."""


@dataclass
class Trip:
    """What a trip took."""

    calls: int = 0
    moves: int = 0
    back: int = 0
    modules: list[str] = field(default_factory=list)
    """In the order in which they are first entered."""
    storage: list[str] = field(default_factory=list)
    """The coroutine methods of the backend that were called."""


class Tracer:
    """Counts the trip that is under way; none at first. It is called for all threads, which never run at the same moment here."""

    def __init__(self) -> None:
        self.trips: dict[str, Trip] = {}
        self.storage: object = None
        self._trip: Trip | None = None
        self._module: str | None = None
        self._known: set[int] = set()
        self._frames: list[FrameType] = []

    def begin(self, name: str) -> None:
        """Count what follows as one trip."""
        self._trip = self.trips[name] = Trip()
        self._module = None
        self._known, self._frames = set(), []

    def end(self) -> None:
        """Count no more."""
        self._trip = None

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call or a return: `sys.setprofile` calls this."""
        trip = self._trip
        if trip is None or event not in ("call", "return"):
            return
        if event == "call":
            module = _module_of(frame.f_code)
            if module is not None:
                self._move(trip, module)
                self._enter(trip, frame)
        elif frame.f_back is not None and _module_of(frame.f_code) is not None:
            module = _module_of(frame.f_back.f_code)
            if module is not None:
                self._move(trip, module)

    def _move(self, trip: Trip, module: str) -> None:
        if module == self._module:
            return
        trip.moves += self._module is not None
        if module in trip.modules:
            trip.back += 1
        else:
            trip.modules.append(module)
        self._module = module

    def _enter(self, trip: Trip, frame: FrameType) -> None:
        if id(frame) in self._known:
            return  # a coroutine or generator that is resumed
        self._known.add(id(frame))
        self._frames.append(frame)  # kept, so that no other frame has its id
        trip.calls += 1
        code = frame.f_code
        if code.co_name in VERBS and frame.f_locals.get("self") is self.storage:
            trip.storage.append(code.co_name)


def _module_of(code: CodeType) -> str | None:
    """The module of a function of the package, as its path; None for any other function."""
    path = code.co_filename
    return path.removeprefix(PACKAGE) if path.startswith(PACKAGE) else None


TRACER = Tracer()
README, BEGIN, END = Path(__file__).with_name("README.md"), "<!-- hops -->", "<!-- end of hops -->"


class Count(FlowState):
    """A state that each method changes."""

    count: int = 0


class Three(Flow[Count]):
    """Three trivial methods, one after the other. `at` is called as each begins and ends."""

    at: Callable[[str], Awaitable[None]]

    @start()
    async def first(self) -> int:
        await self.at("first begins")
        self.state.count += 1
        await self.at("first ends")
        return 1

    @listen(first)
    async def second(self, n: int) -> int:
        await self.at("second begins")
        self.state.count += 1
        await self.at("second ends")
        return n + 1

    @listen(second)
    async def third(self, n: int) -> int:
        await self.at("third begins")
        self.state.count += 1
        await self.at("third ends")
        return n + 1


@contextmanager
def _traced() -> Generator[None, None, None]:
    threading.setprofile(TRACER)
    sys.setprofile(TRACER)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def _marking(**marks: Callable[[], None]) -> Callable[[str], Awaitable[None]]:
    async def at(place: str) -> None:
        mark = marks.get(place.replace(" ", "_"))
        if mark is not None:
            mark()
            await anyio.lowlevel.checkpoint_if_cancelled()

    return at


async def _nowhere(_: str) -> None:
    pass


async def _kickoff(storage: SQLiteFlowPersistence) -> str:
    """Run a flow from its start to its end: three trips."""

    def second_step() -> None:
        TRACER.begin("one step")

    Three.at = staticmethod(
        _marking(
            first_begins=TRACER.end,
            second_ends=second_step,
            third_begins=TRACER.end,
            third_ends=lambda: TRACER.begin("last body until the result"),
        )
    )
    flow = Three(persistence=storage)
    TRACER.begin("kickoff until the first body")
    await flow.kickoff()
    TRACER.end()
    return flow.run_id


async def _resumed(storage: SQLiteFlowPersistence) -> None:
    """Interrupt a run in its second method, and resume it."""
    flow = Three(persistence=storage)
    with anyio.CancelScope() as scope:
        Three.at = staticmethod(_marking(second_begins=scope.cancel))
        await flow.kickoff()
    assert flow.status == "interrupted", flow.status
    Three.at = staticmethod(_marking(second_begins=TRACER.end))
    TRACER.begin("resume until its first body")
    await Three.resume(flow.run_id, persistence=storage)


async def _served(storage: SQLiteFlowPersistence, run_id: str) -> None:
    """Start a run by an id of its own, and look at it when it has ended."""
    Three.at = staticmethod(_nowhere)
    async with FlowRunner(storage, flows=[Three], recover_every=None) as runner:
        TRACER.begin("runner.start with a new run_id")
        handle = await runner.start(Three, run_id=run_id)
        TRACER.end()
        await handle.result()
        look: Any = next(getattr(handle, name) for name in ("snapshot", "look") if hasattr(handle, name))
        TRACER.begin("handle.snapshot")
        await look()
        TRACER.end()


async def _all(folder: Path) -> None:
    storage = SQLiteFlowPersistence(folder / "hops.db")
    TRACER.storage = storage
    async with storage.session():
        for n in range(WARM + 1):
            run_id = await _kickoff(storage)
            TRACER.begin("load by id")
            await Three.load(run_id, persistence=storage)
            TRACER.end()
            await _resumed(storage)
            await _served(storage, f"served-{n}")


def trips() -> dict[str, Trip]:
    """All trips of the version of asyncflow that is imported."""
    with tempfile.TemporaryDirectory(prefix="hops-") as folder, _traced():
        anyio.run(_all, Path(folder))
    return TRACER.trips


def trips_of(tree: Path) -> dict[str, Trip]:
    """All trips of the version of asyncflow in another folder, in a process of its own."""
    command = [sys.executable, "-P", __file__, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True, check=True)
    return {name: Trip(**trip) for name, trip in json.loads(done.stdout).items()}


def table(ours: dict[str, Trip], theirs: dict[str, Trip] | None = None) -> str:
    """The trips as a table: this version's figures, and the other's in brackets. A missed aim is bold."""
    rows = ["| trip | calls | modules | moves | back | storage calls |", "|---|---|---|---|---|---|"]
    for name, trip in ours.items():
        other = None if theirs is None else theirs[name]
        modules = str(len(trip.modules))
        if len(trip.modules) > AIMS.get(name, len(trip.modules)):
            modules = f"**{modules}**"
        cells = [
            (trip.calls, other and other.calls),
            (modules, other and len(other.modules)),
            (trip.moves, other and other.moves),
            (trip.back, other and other.back),
            (", ".join(trip.storage) or "none", other and (", ".join(other.storage) or "none")),
        ]
        rows.append(f"| {name} | " + " | ".join(str(a) if other is None else f"{a} ({b})" for a, b in cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Print the table, and the modules of each trip."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hops")
    parser.add_argument("--against", type=Path, help="a folder that contains another version of the package")
    parser.add_argument("--readme", action="store_true", help="write the table into benchmarks/README.md")
    parser.add_argument("--json", action="store_true", help="print the trips of this version as JSON")
    asked = parser.parse_args()
    ours = trips()
    if asked.json:
        print(json.dumps({name: vars(trip) for name, trip in ours.items()}))
        return
    text = table(ours, None if asked.against is None else trips_of(asked.against))
    if asked.readme:
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    print(text)
    for name, trip in ours.items():
        print(f"\n{name}: {', '.join(trip.modules)}")


if __name__ == "__main__":
    main()
