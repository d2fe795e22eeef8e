"""Crash a flow at every commit, resume it, and compare its end with the undisturbed one. For tests of one's own flows.

    for each schedule:  undisturbed -> its end
    for each commit:    crash before it is stored, or stored but never acknowledged -> a new object goes on -> the same end?

A crash here ends a run as the death of its process would: nothing is stored from then on, what the flow's object knows is
gone, and its class is as it was. It finds what a flow keeps there and not in its state. Unlike in a real one, `finally` blocks
of methods are run, and whatever else is in the process lives on: modules, and what was made before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import anyio.to_thread
from pydantic_core import to_jsonable_python

from .._values import copied
from ..errors import MethodError, RunNotFoundError
from ..flow import Flow
from ..persistence.checkpoint import Checkpoint, decode_progress
from ..persistence.memory import MemoryFlowPersistence
from .loops import Loop, pause, running_loop, simulated

__all__ = ["Crash", "CrashReport", "End", "SimulatedStorage", "crash_everywhere"]

RUN_ID: Final = "00000000-0000-4000-8000-000000000000"
"""Of a simulated run, unless its inputs bring another."""

LIMIT: Final = 86_400.0
"""Virtual seconds that a run may take, by default."""


@dataclass(frozen=True, slots=True)
class End:
    """What a run came to."""

    status: str
    """ "finished", "failed" or "cancelled"."""
    result: Any
    """What kickoff returned; where it failed, the types of the exceptions by method."""
    state: Any
    outside: Any = None
    """What `outside` had made; it is compared by your `compare` alone."""


@dataclass(frozen=True, slots=True)
class Crash:
    """The death of the process at the `at`-th commit (from 1): before it is stored, or stored and never acknowledged."""

    at: int
    is_stored: bool

    @property
    def when(self) -> str:
        """ "before" or "after"."""
        return "after" if self.is_stored else "before"


@dataclass(frozen=True, slots=True)
class CrashReport:
    """How much was tried."""

    schedules: int
    commits: int
    """In all undisturbed runs."""
    crashes: int
    """Each was resumed, and came to the undisturbed end."""


class Crashed(BaseException):
    """Ends a run as the death of its process would."""


class SimulatedStorage(MemoryFlowPersistence):
    """Memory that answers after virtual pauses, and where the process may die at a commit."""

    def __init__(self) -> None:
        super().__init__()
        self.crash: Crash | None = None
        self.commits = 0
        self.died_at: str | None = None

    async def append(self, checkpoint: Checkpoint) -> None:
        self._live()
        self.commits += 1
        crash = self.crash if self.crash is not None and self.crash.at == self.commits else None
        if crash is None or crash.is_stored:
            await super().append(checkpoint)
        if crash is not None:
            self.died_at = checkpoint.method or checkpoint.kind
            raise Crashed
        with anyio.CancelScope(shield=True):
            await pause()
        self._live()

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        self._live()
        await pause()
        return await super().load(run_id, seq)

    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        self._live()
        return await super().acquire(run_id, force=force)

    async def release(self, run_id: str, epoch: int) -> None:
        self._live()

    async def is_parallel(self) -> bool:
        """Whether two invocations of a run were ever to be run at the same time: then the order of their ends is chance."""
        for run_id, rows in self._rows.items():
            for seq in range(len(rows)):
                checkpoint = await super().load(run_id, seq)
                if checkpoint is not None and len(decode_progress(checkpoint.progress or b"").pending) > 1:
                    return True
        return False

    def restarted(self) -> None:
        """Another process: it finds what is stored."""
        self.crash, self.died_at = None, None

    def _live(self) -> None:
        if self.died_at is not None:
            raise Crashed


async def crash_everywhere(
    flow: Callable[..., Flow[Any]],
    inputs: Mapping[str, Any] | None = None,
    *,
    outside: Callable[[], Any] | None = None,
    schedules: int = 3,
    seed: int = 0,
    compare: Callable[[End], Any] | None = None,
    limit: float = LIMIT,
) -> CrashReport:
    """Run `flow()` with the inputs under some schedules, crash it at each commit of each, resume it, and compare the ends.

    `flow` makes a new flow each time: the class itself, or a function. It is stored in memory, whatever the class says, and
    runs on an event loop of its own, of the kind that this is called on, in virtual time. `outside` makes what a crash does
    not take, such as a fake bank: anew for each run, and the same when that is resumed; the flow is `flow(outside())` then.
    `schedules`, from 1: the seeds are `seed`, `seed + 1`, ... `compare`: what of an end is to be the same; by default
    state, result and status, with lists in any order where methods run in parallel. `limit`: virtual seconds.

    Raises `AssertionError` where a resumed run ends otherwise, with the schedule and commit that replay it; where the undisturbed
    runs end in different ways; and where one waits for something that never comes. Python's `random` is seeded, too.
    """
    if schedules < 1:
        raise ValueError(f"schedules is at least 1, not {schedules}")
    if isinstance(flow, Flow):
        raise TypeError(
            f"a new flow is needed for each run: give the class {type(flow).__name__}, or a function that makes one"
        )
    trial = _Trial(flow, dict(inputs or {}), running_loop(), limit, outside)
    return await anyio.to_thread.run_sync(lambda: _crash_everywhere(trial, range(seed, seed + schedules), compare))


def _crash_everywhere(trial: _Trial, seeds: range, compare: Callable[[End], Any] | None) -> CrashReport:
    undisturbed = [
        trial.undisturbed(seed) for seed in (*seeds, seeds[0])
    ]  # the first once more: not all chance is seeded
    compare = compare or (in_any_order if any(one.is_parallel for one in undisturbed) else as_plain)
    expected = compare(undisturbed[0].end)
    for one in undisturbed[1:]:
        how = f"undisturbed, under schedules {seeds[0]} and {one.seed}, it ends differently"
        _check(how, expected, compare(one.end), _CHANCE)
    crashes = 0
    for one in undisturbed[:-1]:
        for crash in _crashes(one.commits):
            end, commit = trial.crashed(one.seed, crash)
            where = f"{crash.when} commit {crash.at} ({commit}) was stored"
            how = f"crashed {where}, and resumed, under schedule {one.seed}, it ends differently"
            _check(
                how, expected, compare(end), "does a method keep something in `self`, or elsewhere outside the state?"
            )
            crashes += 1
    return CrashReport(len(seeds), sum(one.commits for one in undisturbed[:-1]), crashes)


_CHANCE: Final = (
    "time or chance decides, or what an earlier run has left in this process, such as a fake that all share (see `outside`); say "
    "with `compare` what is to be the same"
)


def _check(how: str, expected: Any, found: Any, cure: str) -> None:
    if expected != found:
        where, was, becomes = _difference(expected, found)
        raise AssertionError(f"{how}: {where or 'it'} is {becomes!r} and not {was!r}; {cure}")


def _difference(a: Any, b: Any, path: str = "") -> tuple[str, Any, Any]:
    """Where two plain values first differ, and what stands there."""
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        pairs = [(f"{path}.{key}" if path else str(key), a[key], b[key]) for key in a]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(f"{path}[{n}]", *both) for n, both in enumerate(zip(a, b, strict=True))]
    return next((_difference(x, y, where) for where, x, y in pairs if x != y), (path, a, b))


def as_plain(end: End) -> Any:
    """An end as values of JSON: what is stored of it, and nothing else of it, can be compared."""
    told = {"status": end.status, "result": end.result, "state": end.state}
    return to_jsonable_python(told, inf_nan_mode="strings", bytes_mode="hex", fallback=repr)


def in_any_order(end: End) -> Any:
    """The same, with all lists sorted: for what is appended in the order in which parallel methods end."""
    return _sorted(as_plain(end))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in value.items()}
    return sorted(map(_sorted, value), key=repr) if isinstance(value, list) else value


def _crashes(commits: int) -> Iterator[Crash]:
    for at in range(1, commits + 1):
        yield Crash(at, is_stored=False)
        yield Crash(at, is_stored=True)


@dataclass(frozen=True, slots=True)
class _Undisturbed:
    seed: int
    end: End
    commits: int
    is_parallel: bool


@dataclass(frozen=True, slots=True)
class _Trial:
    """What is run, again and again."""

    flow: Callable[..., Flow[Any]]
    inputs: dict[str, Any]
    loop: Loop
    limit: float
    outside: Callable[[], Any] | None
    classes: dict[type, dict[str, Any]] = field(default_factory=dict)
    """What stood in the flow's classes before the first was made; where a function makes it, after that."""

    def __post_init__(self) -> None:
        if isinstance(self.flow, type):
            self._keep(self.flow)

    def undisturbed(self, seed: int) -> _Undisturbed:
        """How it goes if nothing is in its way."""
        storage, around = SimulatedStorage(), self._around()

        async def run() -> _Undisturbed:
            end = await self._run(storage, around)
            return _Undisturbed(seed, end, storage.commits, await storage.is_parallel())

        return simulated(run, seed=seed, loop=self.loop)

    def crashed(self, seed: int, crash: Crash) -> tuple[End, str]:
        """How it ends if it is crashed, and goes on in another process; and what the commit was about."""
        storage, around = SimulatedStorage(), self._around()
        storage.crash = crash
        try:
            simulated(lambda: self._run(storage, around), seed=seed, loop=self.loop)
        except Crashed:
            died_at = str(storage.died_at)
            storage.restarted()
            return simulated(lambda: self._run(storage, around), seed=seed, loop=self.loop), died_at
        raise AssertionError(
            f"{self._name} has come to no commit {crash.at} under schedule {seed}, but had before: something that is not in the "
            "state, such as a clock or chance, decides what it does"
        )

    def _keep(self, flow: type) -> None:
        self.classes.update({cls: _kept_in(cls) for cls in _own_classes(flow)})

    def _around(self) -> tuple[Any, ...]:
        """What the flow is made with."""
        return () if self.outside is None else (self.outside(),)

    async def _run(self, storage: SimulatedStorage, around: tuple[Any, ...]) -> End:
        """To its end, from where it stands in the storage."""
        for cls, before in self.classes.items():
            _restore(cls, before)
        flow = self.flow(*around)
        if not self.classes:
            self._keep(type(flow))
        flow._instance.store_in(storage)
        given = {"id": RUN_ID, **self.inputs}
        try:
            with anyio.fail_after(self.limit):
                result = await self._to_its_end(flow, given)
        except MethodError as error:
            result = sorted((failure.method, type(failure.exception).__qualname__) for failure in error.failures)
        except TimeoutError:
            raise AssertionError(
                f"{self._name} has not ended in {self.limit:g} virtual seconds: it waits for something that never comes, or "
                "that takes real time, such as a socket or a thread of its own"
            ) from None
        return End(flow.status, result, flow.state, *around)

    @staticmethod
    async def _to_its_end(flow: Flow[Any], inputs: dict[str, Any]) -> Any:
        try:
            return await flow._instance.resume(str(inputs["id"]))
        except RunNotFoundError:
            return await flow.kickoff(inputs)

    @property
    def _name(self) -> str:
        return getattr(self.flow, "__qualname__", repr(self.flow))


# ---- what a class keeps --------------------------------------------------------------------------------------------


def _own_classes(cls: type) -> list[type]:
    """A flow's class and its bases, below `Flow`."""
    return [base for base in cls.__mro__ if issubclass(base, Flow) and base is not Flow]


def _kept_in(cls: type) -> dict[str, Any]:
    """What a class holds that is data: containers as copies."""
    return {name: _copied(value) for name, value in vars(cls).items() if _is_data(name, value)}


def _restore(cls: type, before: dict[str, Any]) -> None:
    """Let a class hold what it did when the process began."""
    for name, value in list(vars(cls).items()):
        if name not in before and _is_data(name, value):
            delattr(cls, name)
    for name, value in before.items():
        setattr(cls, name, _copied(value))


def _is_data(name: str, value: Any) -> bool:
    is_ours = name in vars(Flow) or name in Flow.__annotations__  # what a class sets of those is no memory of a run
    return not (is_ours or name.startswith("__") or callable(value) or hasattr(type(value), "__get__"))


def _copied(value: Any) -> Any:
    return copied(value) if isinstance(value, (list, dict, set, bytearray, deque)) else value
