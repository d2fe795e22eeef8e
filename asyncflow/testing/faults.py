"""A backend that injects a fault at its n-th operation: it fails, delays, hangs, loses the reply, or kills the process.

    storage = FaultyPersistence(SQLiteFlowPersistence("runs.db"), Fail(at=3))

Operations are counted from 1, over all runs: `save`, `append`, `load`, `history`, `acquire`, `release`, `runs`, `delete`, `prune`,
`send`, `inbox`, `append_taking`, `append_last`, `set_aside`, `park`, `parked`, `append_child`, `children` and `orphans`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, Self, TypeVar, cast, get_args

import anyio
import anyio.lowlevel

from .._waiting import to_its_end
from ..errors import StorageWriteError
from ..persistence.checkpoint import Checkpoint
from ..persistence.children import Children
from ..persistence.fence import Fence
from ..persistence.inbox import Inbox, NewSignal, StoredSignal
from ..persistence.parking import Parking
from ..persistence.protocol import (
    Catalog,
    CheckpointHistory,
    CheckpointLog,
    Clocked,
    Fencing,
    FlowPersistence,
    Owners,
    Ownership,
    Retention,
    RunEntry,
    RunOwner,
    Sessions,
    offers,
)

__all__ = ["Delay", "Fail", "Fault", "FaultyPersistence", "Hang", "Kill", "LoseReply", "Operation"]

T = TypeVar("T")

Operation = Literal[
    "save",
    "append",
    "load",
    "history",
    "acquire",
    "release",
    "runs",
    "delete",
    "prune",
    "send",
    "inbox",
    "append_taking",
    "append_last",
    "append_child",
    "children",
    "orphans",
    "set_aside",
    "park",
    "parked",
]

WRITING: Final[tuple[Operation, ...]] = ("save", "append", "append_taking", "append_last", "append_child")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """The operations that a fault hits: the `at`-th (from 1) of the named ones, and those that follow, `times` in all (None: no limit)."""

    at: int = 1
    """The first of these operations that is hit, counted from 1 over all runs."""
    operations: tuple[Operation, ...] = WRITING
    """The names of the operations that are counted."""
    times: int | None = 1
    """How many of them are hit in a row; None: no limit."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a fault that would never strike: a test with it would prove nothing."""
        unknown = [name for name in self.operations if name not in get_args(Operation)]
        if unknown or not self.operations:
            raise ValueError(
                f"operations must be a tuple of some of {', '.join(get_args(Operation))}, not {self.operations!r}"
            )
        if self.at < 1 or (self.times is not None and self.times < 1):
            raise ValueError(f"at and times must be at least 1, not {self.at} and {self.times}: it would never strike")

    def strikes(self, nth: int) -> bool:
        """Whether the fault strikes the n-th of its operations.

        - `nth`: the number of the operation, from 1.
        """
        return self.at <= nth and (self.times is None or nth < self.at + self.times)


@dataclass(frozen=True, kw_only=True)
class Fail(Fault):
    """The operation raises, and does nothing."""

    error: Callable[[], BaseException] = lambda: _error("not saved", "failed, as this test requested")
    """Creates the exception; by default a `StorageWriteError` "not saved"."""


@dataclass(frozen=True, kw_only=True)
class LoseReply(Fault):
    """The operation is done, but raises."""

    error: Callable[[], BaseException] = lambda: _error(
        "unknown", "completed, but its reply was lost, as this test requested"
    )
    """Creates the exception; by default a `StorageWriteError` "unknown"."""


@dataclass(frozen=True, kw_only=True)
class Delay(Fault):
    """The operation is done, and its reply is `seconds` late; a cancellation is delivered only then."""

    seconds: float = 0.01
    """Seconds between the end of the operation and its reply."""


@dataclass(frozen=True, kw_only=True)
class Hang(Fault):
    """The operation does nothing: it waits until it is cancelled, or until `let_go()`, then raises a `StorageWriteError` "not saved"."""

    times: int | None = None
    """How many operations hang in a row; None: no limit."""


@dataclass(frozen=True, kw_only=True)
class Kill(Fault):
    """The operation kills the process with SIGKILL, which runs no clean-up."""

    after: bool = False
    """Whether the operation is done before the process dies."""


class FaultyPersistence:
    """Wraps a backend and injects faults. It offers exactly the capabilities of that backend.

    - `inner`: the backend that does the operations.
    - `faults`: what to inject, and where.
    """

    def __new__(cls, inner: FlowPersistence, *faults: Fault) -> Self:
        """Create an instance of a class that has the methods of the inner backend's capabilities."""
        offered = tuple(part for capability, part in _PARTS.items() if offers(inner, capability))
        return cast(Self, object.__new__(_with(cast(Any, cls), offered)))

    def __init__(self, inner: FlowPersistence, *faults: Fault) -> None:
        self.inner: Any = inner
        self.faults: tuple[Fault, ...] = faults
        self.asked: list[Operation] = []
        """Every operation, in order."""
        self._hits = 0
        self._let_go = anyio.Event()

    @property
    def hits(self) -> int:
        """How many operations a fault has hit."""
        return self._hits

    async def save(self, checkpoint: Checkpoint) -> None:
        await self._struck("save", lambda: self.inner.save(checkpoint))

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return await self._struck("load", lambda: self.inner.load(run_id, seq))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"

    def heal(self) -> None:
        """Remove all faults, and let hanging operations fail."""
        self.faults = ()
        self.let_go()

    def let_go(self) -> None:
        """Let hanging operations fail."""
        self._let_go.set()
        self._let_go = anyio.Event()

    async def _struck(self, operation: Operation, do: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self.asked.append(operation)
        fault = self._fault(operation)
        self._hits += fault is not None
        match fault:
            case Fail(error=error):
                raise error()
            case Hang():
                await self._let_go.wait()
                raise _error("not saved", "hung, and was released")
            case Kill(after=False):
                _kill()
        result = await do()
        match fault:
            case LoseReply(error=error):
                raise error()
            case Delay(seconds=seconds):
                await to_its_end(lambda: anyio.sleep(seconds))
                await anyio.lowlevel.checkpoint_if_cancelled()
            case Kill():
                _kill()
        return result

    def _fault(self, operation: Operation) -> Fault | None:
        for fault in self.faults:
            if operation in fault.operations and fault.strikes(sum(a in fault.operations for a in self.asked)):
                return fault
        return None


# ---- optional capabilities of a backend --------------------------------------------------------------------------


class _Log(FaultyPersistence):
    async def append(self, checkpoint: Checkpoint) -> None:
        await self._struck("append", lambda: self.inner.append(checkpoint))


class _History(FaultyPersistence):
    async def history(self, run_id: str, *, after: int = -1) -> list[Checkpoint]:
        return await self._struck("history", lambda: self.inner.history(run_id, after=after))


class _Ownership(FaultyPersistence):
    @property
    def place(self) -> object:
        return self.inner.place

    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        return await self._struck("acquire", lambda: self.inner.acquire(run_id, force=force))

    async def release(self, run_id: str, epoch: int) -> None:
        await self._struck("release", lambda: self.inner.release(run_id, epoch))


class _Owners(FaultyPersistence):
    async def owner_of(self, run_id: str) -> RunOwner | None:
        return cast("RunOwner | None", await self.inner.owner_of(run_id))


class _Fencing(FaultyPersistence):
    def fence(self) -> Fence | None:
        return cast("Fence | None", self.inner.fence())


class _Clocked(FaultyPersistence):
    @property
    def clock_offset(self) -> float:
        return float(self.inner.clock_offset)


class _Sessions(FaultyPersistence):
    @asynccontextmanager
    async def session(self) -> AsyncIterator[object]:
        async with self.inner.session() as session:
            yield session


class _Catalog(FaultyPersistence):
    async def runs(self, **options: Any) -> list[RunEntry]:
        return await self._struck("runs", lambda: self.inner.runs(**options))


class _Retention(FaultyPersistence):
    async def delete(self, run_id: str) -> bool:
        return await self._struck("delete", lambda: self.inner.delete(run_id))

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        return await self._struck("prune", lambda: self.inner.prune(older_than=older_than, keep_last=keep_last))


class _Inbox(FaultyPersistence):
    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        return await self._struck("send", lambda: self.inner.send(run_id, signal, seq=seq))

    async def inbox(self, run_id: str) -> list[StoredSignal]:
        return await self._struck("inbox", lambda: self.inner.inbox(run_id))

    async def append_taking(self, checkpoint: Checkpoint, signal: StoredSignal) -> None:
        await self._struck("append_taking", lambda: self.inner.append_taking(checkpoint, signal))

    async def append_last(self, checkpoint: Checkpoint, newest: int) -> None:
        await self._struck("append_last", lambda: self.inner.append_last(checkpoint, newest))

    async def set_aside(self, signal: StoredSignal, problem: str) -> None:
        await self._struck("set_aside", lambda: self.inner.set_aside(signal, problem))

    def watch(self, run_id: str, arrived: Callable[[], object]) -> AbstractContextManager[object]:
        return cast("AbstractContextManager[object]", self.inner.watch(run_id, arrived))


class _Parking(FaultyPersistence):
    @property
    def poll_seconds(self) -> float:
        return float(self.inner.poll_seconds)

    async def park(self, run_id: str, epoch: int, *, wake_at: float, newest: int = 0) -> None:
        await self._struck("park", lambda: self.inner.park(run_id, epoch, wake_at=wake_at, newest=newest))

    async def parked(self, identities: Collection[str], *, until: float, limit: int) -> list[RunEntry]:
        return await self._struck("parked", lambda: self.inner.parked(identities, until=until, limit=limit))

    def watch_parked(self, run_id: str, woken: Callable[[], object]) -> AbstractContextManager[object]:
        return cast("AbstractContextManager[object]", self.inner.watch_parked(run_id, woken))


class _Children(FaultyPersistence):
    async def append_child(self, checkpoint: Checkpoint, parent: str) -> None:
        await self._struck("append_child", lambda: self.inner.append_child(checkpoint, parent))

    async def children(self, run_id: str) -> list[RunEntry]:
        return await self._struck("children", lambda: self.inner.children(run_id))

    async def orphans(self, limit: int) -> list[RunEntry]:
        return await self._struck("orphans", lambda: self.inner.orphans(limit))


_PARTS: Final[dict[Callable[..., Any], type[FaultyPersistence]]] = {
    CheckpointLog: _Log,
    Clocked: _Clocked,
    CheckpointHistory: _History,
    Ownership: _Ownership,
    Owners: _Owners,
    Fencing: _Fencing,
    Sessions: _Sessions,
    Catalog: _Catalog,
    Retention: _Retention,
    Inbox: _Inbox,
    Parking: _Parking,
    Children: _Children,
}


@cache
def _with(cls: type[FaultyPersistence], parts: tuple[type[FaultyPersistence], ...]) -> type[FaultyPersistence]:
    return type(cls.__name__, (*parts, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def _error(outcome: str, what: str) -> StorageWriteError:
    return StorageWriteError(f"the storage {what}; resume the run when the storage is available", outcome=outcome)


def _kill() -> None:
    if sys.platform == "win32":
        os._exit(9)
    os.kill(os.getpid(), signal.SIGKILL)
    while True:  # the signal is not delivered yet
        signal.pause()
