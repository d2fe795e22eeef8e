"""Crashes a flow at every commit, resumes it, and compares the end with that of an undisturbed run. For tests of your own flows.

    for each schedule:  undisturbed -> its end
    for each commit:    crash before it is stored, or stored but never acknowledged -> a new object resumes -> the same end?

A crash here ends a run as the death of its process would: nothing is stored from then on, the flow object's attributes are
lost, and the attributes of its class are reset. It finds what a flow keeps there and not in its state. Unlike in a real crash,
`finally` blocks of methods run, and everything else in the process survives: modules, and objects that were created before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
from pydantic_core import to_jsonable_python

from .._runtime.timing import now
from .._values.copying import copied
from ..errors import MethodError, RunNotFoundError
from ..flow import Flow
from ..persistence.checkpoint import Checkpoint, decode_progress
from ..persistence.inbox import NewSignal, StoredSignal
from ..persistence.memory import MemoryFlowPersistence
from .loops import EPOCH, Loop, pause, running_loop, simulated

__all__ = ["Crash", "CrashReport", "End", "SimulatedStorage", "crash_everywhere"]

T = TypeVar("T")

RUN_ID: Final = "00000000-0000-4000-8000-000000000000"
"""The id of a simulated run, unless its inputs have another id."""

LIMIT: Final = 30 * 86_400.0
"""The default limit of a run, in virtual seconds."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a run."""

    status: str
    """The status: "finished", "failed" or "cancelled"."""
    result: Any
    """The result of kickoff; of a failed run, the types of the exceptions by method."""
    state: Any
    """The state, as the flow's model or dict."""
    outside: Any = None
    """What `outside` returned; only your own `compare` compares it."""


@dataclass(frozen=True, slots=True)
class Crash:
    """The death of the process at the `at`-th commit (from 1): before it is stored, or after it is stored and never acknowledged."""

    at: int
    is_stored: bool

    @property
    def when(self) -> str:
        """When the process dies, relative to storing the commit: "before" or "after"."""
        return "after" if self.is_stored else "before"


@dataclass(frozen=True, slots=True)
class CrashReport:
    """The number of schedules, commits and crashes that were tried."""

    schedules: int
    """The schedules that were tried."""
    commits: int
    """In all undisturbed runs."""
    crashes: int
    """Each was resumed, and reached the undisturbed end."""


class Crashed(BaseException):
    """Ends a run as the death of its process would."""


class SimulatedStorage(MemoryFlowPersistence):
    """A memory backend that answers after virtual pauses, and simulates the death of the process at a commit."""

    def __init__(self) -> None:
        super().__init__()
        self.crash: Crash | None = None
        self.commits: int = 0
        self.died_at: str | None = None
        self.time: float = EPOCH
        """The virtual time of the last commit, in seconds since the Unix epoch: a new process does not start before it."""

    async def append(self, checkpoint: Checkpoint) -> None:
        await self._committed(
            checkpoint.method or checkpoint.kind, lambda: super(SimulatedStorage, self).append(checkpoint)
        )

    async def append_taking(self, checkpoint: Checkpoint, signal: StoredSignal) -> None:
        await self._committed(
            checkpoint.method, lambda: super(SimulatedStorage, self).append_taking(checkpoint, signal)
        )

    async def append_last(self, checkpoint: Checkpoint, newest: int) -> None:
        await self._committed(checkpoint.kind, lambda: super(SimulatedStorage, self).append_last(checkpoint, newest))

    async def append_child(self, checkpoint: Checkpoint, parent: str) -> None:
        await self._committed("child", lambda: super(SimulatedStorage, self).append_child(checkpoint, parent))

    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        return await self._committed("send", lambda: super(SimulatedStorage, self).send(run_id, signal, seq=seq))

    async def _committed(self, at: str, store: Callable[[], Awaitable[T]]) -> T:
        """Do what a transaction does, after a virtual pause; or die before or after it."""
        self._live()
        self.commits += 1
        self.time = now()
        crash = self.crash if self.crash is not None and self.crash.at == self.commits else None
        if crash is not None:
            if crash.is_stored:
                await store()
            self.died_at = at
            raise Crashed
        stored = await store()
        with anyio.CancelScope(shield=True):
            await pause()
        self._live()
        return stored

    async def inbox(self, run_id: str) -> list[StoredSignal]:
        self._live()
        await pause()
        return await super().inbox(run_id)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        self._live()
        await pause()
        return await super().load(run_id, seq)

    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        self._live()
        if run_id in self._wake_at:
            return await self._committed("wake", lambda: super(SimulatedStorage, self).acquire(run_id, force=force))
        return await super().acquire(run_id, force=force)

    async def park(self, run_id: str, epoch: int, *, wake_at: float, newest: int = 0) -> None:
        park = partial(super().park, run_id, epoch, wake_at=wake_at, newest=newest)
        await self._committed("park", park)

    async def release(self, run_id: str, epoch: int) -> None:
        self._live()

    async def is_parallel(self) -> bool:
        """Whether two invocations of a run were ever pending at the same time: then the order in which they end is random."""
        for run_id, rows in self._rows.items():
            for seq in range(len(rows)):
                checkpoint = await super().load(run_id, seq)
                if checkpoint is None:
                    continue
                progress = decode_progress(checkpoint.progress or b"")
                if sum(not progress.is_by_items(key) for key in progress.pending) > 1:
                    return True
        return False

    def restarted(self) -> None:
        """Simulate a new process, which finds the stored checkpoints."""
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
    """Run `flow()` under several schedules, crash it at each commit of each schedule, resume it, and compare the ends.

    - `flow`: creates a new flow each time: the class itself, or a function. The flow is stored in memory, whatever its class
      declares, and runs on an event loop of its own, in virtual time, of the same kind as the calling loop.
    - `inputs`: the inputs of each run.
    - `outside`: creates what survives a crash, such as a fake bank: a new one for each run, and the same one when that run is
      resumed; the flow is then `flow(outside())`.
    - `schedules`: how many schedules to try, from 1.
    - `seed`: the seed of the first schedule; the next ones have `seed + 1`, `seed + 2`, ...
    - `compare`: selects the parts of an end that must be equal; by default state, result and status, with lists in any order if
      methods run in parallel.
    - `limit`: the longest time that a run may take, in virtual seconds.

    Raises `AssertionError` if a resumed run ends differently, with the schedule and commit that reproduce it; if the undisturbed
    runs end differently from each other; and if a run waits for something that never happens. Python's `random` is seeded, too.
    """
    if schedules < 1:
        raise ValueError(f"schedules must be at least 1, not {schedules}")
    if isinstance(flow, Flow):
        raise TypeError(
            f"each run needs a new flow: pass the class {type(flow).__name__}, or a function that creates one"
        )
    trial = _Trial(flow, dict(inputs or {}), running_loop(), limit, outside)
    return await anyio.to_thread.run_sync(lambda: _crash_everywhere(trial, range(seed, seed + schedules), compare))


def _crash_everywhere(trial: _Trial, seeds: range, compare: Callable[[End], Any] | None) -> CrashReport:
    undisturbed = [
        trial.undisturbed(seed) for seed in (*seeds, seeds[0])
    ]  # the first seed twice: not all randomness is seeded
    compare = compare or (in_any_order if any(one.is_parallel for one in undisturbed) else as_plain)
    expected = compare(undisturbed[0].end)
    for one in undisturbed[1:]:
        how = f"without a crash, the run ends differently under schedules {seeds[0]} and {one.seed}"
        _check(how, expected, compare(one.end), _CHANCE)
    crashes = 0
    for one in undisturbed[:-1]:
        for crash in _crashes(one.commits):
            end, commit = trial.crashed(one.seed, crash)
            where = f"{crash.when} commit {crash.at} ({commit}) was stored"
            how = f"crashed {where} and resumed, under schedule {one.seed}, the run ends differently"
            _check(how, expected, compare(end), "does a method keep data in `self`, or elsewhere outside the state?")
            crashes += 1
    return CrashReport(len(seeds), sum(one.commits for one in undisturbed[:-1]), crashes)


_CHANCE: Final = (
    "the end depends on time, on randomness, or on something that an earlier run left in this process, such as a shared fake (see "
    "`outside`); select with `compare` what must be equal"
)


def _check(how: str, expected: Any, found: Any, cure: str) -> None:
    if expected != found:
        where, was, becomes = _difference(expected, found)
        raise AssertionError(f"{how}: {where or 'it'} is {becomes!r}, not {was!r}; {cure}")


def _difference(a: Any, b: Any, path: str = "") -> tuple[str, Any, Any]:
    """Return the path where two plain values first differ, and the two values at that path."""
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        pairs = [(f"{path}.{key}" if path else str(key), a[key], b[key]) for key in a]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(f"{path}[{n}]", *both) for n, both in enumerate(zip(a, b, strict=True))]
    return next((_difference(x, y, where) for where, x, y in pairs if x != y), (path, a, b))


def as_plain(end: End) -> Any:
    """Return an end as JSON values: only its stored form can be compared."""
    shown = {"status": end.status, "result": end.result, "state": end.state}
    return to_jsonable_python(shown, inf_nan_mode="strings", bytes_mode="hex", fallback=repr)


def in_any_order(end: End) -> Any:
    """Return the same as `as_plain`, with all lists sorted: parallel methods may append in any order."""
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
    """The flow under test, and how to run it repeatedly."""

    flow: Callable[..., Flow[Any]]
    inputs: dict[str, Any]
    loop: Loop
    limit: float
    outside: Callable[[], Any] | None
    classes: dict[type, dict[str, Any]] = field(default_factory=dict)
    """The attributes of the flow's classes before the first flow was created; if a function creates it, right after that."""

    def __post_init__(self) -> None:
        if isinstance(self.flow, type):
            self._keep(self.flow)

    def undisturbed(self, seed: int) -> _Undisturbed:
        """Run without a crash, and return the end."""
        storage, around = SimulatedStorage(), self._around()

        async def run() -> _Undisturbed:
            end = await self._run(storage, around)
            return _Undisturbed(seed, end, storage.commits, await storage.is_parallel())

        return simulated(run, seed=seed, loop=self.loop)

    def crashed(self, seed: int, crash: Crash) -> tuple[End, str]:
        """Crash the run, and resume it as in another process. Return its end, and the method or kind of the crashed commit."""
        storage, around = SimulatedStorage(), self._around()
        storage.crash = crash
        try:
            simulated(lambda: self._run(storage, around), seed=seed, loop=self.loop)
        except Crashed:
            died_at = str(storage.died_at)
            storage.restarted()
            restarted = partial(self._run, storage, around)
            return simulated(restarted, seed=seed, loop=self.loop, start_at=storage.time), died_at
        raise AssertionError(
            f"{self._name} reached no commit {crash.at} under schedule {seed}, but did before: its course depends on something "
            "outside the state, such as a clock or randomness"
        )

    def _keep(self, flow: type) -> None:
        self.classes.update({cls: _kept_in(cls) for cls in _own_classes(flow)})

    def _around(self) -> tuple[Any, ...]:
        """Return the arguments to create the flow with."""
        return () if self.outside is None else (self.outside(),)

    async def _run(self, storage: SimulatedStorage, around: tuple[Any, ...]) -> End:
        """Run or resume the flow from its stored checkpoint, and return its end."""
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
                f"{self._name} did not end within {self.limit:.0f} virtual seconds: it waits for something that never happens, or "
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


# ---- the attributes of a class -------------------------------------------------------------------------------------


def _own_classes(cls: type) -> list[type]:
    """Return a flow's class and its base classes, below `Flow`."""
    return [base for base in cls.__mro__ if issubclass(base, Flow) and base is not Flow]


def _kept_in(cls: type) -> dict[str, Any]:
    """Return the data attributes of a class; containers as copies."""
    return {name: _copied(value) for name, value in vars(cls).items() if _is_data(name, value)}


def _restore(cls: type, before: dict[str, Any]) -> None:
    """Restore the data attributes that a class had when the simulated process started."""
    for name, value in list(vars(cls).items()):
        if name not in before and _is_data(name, value):
            delattr(cls, name)
    for name, value in before.items():
        setattr(cls, name, _copied(value))


def _is_data(name: str, value: Any) -> bool:
    is_ours = name in vars(Flow) or name in Flow.__annotations__  # those declare the flow, and are not data of a run
    return not (is_ours or name.startswith("__") or callable(value) or hasattr(type(value), "__get__"))


def _copied(value: Any) -> Any:
    return copied(value) if isinstance(value, (list, dict, set, bytearray, deque)) else value
