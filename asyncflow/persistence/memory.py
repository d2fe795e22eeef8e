"""The in-memory backend: a readable reference implementation of the backend interface. Its runs are lost when the process ends."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from itertools import islice
from typing import Literal

import anyio.lowlevel

from ..errors import RunLockedError, StaleCheckpoint
from .checkpoint import Checkpoint, fold, verified
from .children import has_parent, parent_ended
from .compaction import check_first, first_digest
from .inbox import NewSignal, StoredSignal, changed, ended, second, unknown_run
from .memory_inbox import MemoryInbox, MemoryWatches
from .protocol import RunEntry, RunOwner, RunSearch, check_query, check_retention
from .status import Status, status_of

__all__ = ["MemoryFlowPersistence"]

_changing = threading.Lock()
"""A lock held while anything is changed or all entries are read, because event loops in several threads can use one object.

Never held over an await.
"""


def _forked() -> None:
    global _changing
    _changing = threading.Lock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class MemoryFlowPersistence:
    """Keeps every checkpoint of every run in this process's memory, as bytes. For tests, and for reading the code.

    One object serves any number of event loops and threads.
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[bytes]] = {}
        self._firsts: dict[str, tuple[int, bytes]] = {}
        """Of each run whose earlier passes were deleted: the seq of its first checkpoint, and the digest that protects it."""
        self._epochs: dict[str, int] = {}
        self._entries: dict[str, RunEntry] = {}
        self._driven: set[str] = set()
        self._wake_at: dict[str, float] = {}
        """When each parked run is due."""
        self._children: dict[str, list[str]] = {}
        """The ids of the children of each run, in order of creation."""
        self._runs = 0
        self._inbox = MemoryInbox()
        self._woken = MemoryWatches()

    def __repr__(self) -> str:
        return f"<MemoryFlowPersistence, runs: {len(self._rows)}>"

    async def save(self, checkpoint: Checkpoint) -> None:
        """Store a complete checkpoint after its predecessor."""
        await self.append(checkpoint)

    async def append(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint after its predecessor. Raises `StaleCheckpoint` if its predecessor is not the newest stored one."""
        with _changing:
            self._add(checkpoint)
        await self._known()

    async def append_taking(self, checkpoint: Checkpoint, signal: StoredSignal) -> None:
        """Store a checkpoint, and take a signal from the inbox of its run. See `Inbox.append_taking`."""
        with _changing:
            if not self._inbox.has(signal):
                raise _stale(checkpoint)
            self._add(checkpoint)
            self._inbox.remove(signal)
        await self._known()

    async def append_last(self, checkpoint: Checkpoint, newest: int) -> None:
        """Store the last checkpoint of a pass, if no signal has come since the inbox was read. See `Inbox.append_last`."""
        with _changing:
            if not self._inbox.is_read(checkpoint.run_id, newest):
                raise changed(checkpoint.run_id)
            self._add(checkpoint)
            self._inbox.clear(checkpoint.run_id)
        await self._known()

    async def append_child(self, checkpoint: Checkpoint, parent: str) -> None:
        """Store the first checkpoint of a child run, unless its parent is over or not stored. See `Children.append_child`."""
        with _changing:
            known = self._entries.get(parent)
            if known is None or known.status in ("finished", "cancelled"):
                raise parent_ended(checkpoint.run_id, parent, None if known is None else known.status)
            self._add(checkpoint)
            self._entries[checkpoint.run_id] = self._entries[checkpoint.run_id]._replace(parent=parent)
            self._children.setdefault(parent, []).append(checkpoint.run_id)
        await self._known()

    async def children(self, run_id: str) -> list[RunEntry]:
        """Return the direct children of a run, in the order in which they were first stored."""
        with _changing:
            return [self._shown(self._entries[each]) for each in self._children.get(run_id, ())]

    async def orphans(self, limit: int) -> list[RunEntry]:
        """Return children that are not over although their parent is, the oldest first. See `Children.orphans`."""
        with _changing:
            found = (e for e in self._entries.values() if e.parent and _lives(e) and not self._has_living_parent(e))
            return [self._shown(entry) for entry in islice(found, limit)]

    def _has_living_parent(self, entry: RunEntry) -> bool:
        parent = self._entries.get(entry.parent)
        return parent is not None and _lives(parent)

    async def _known(self) -> None:
        """Let other tasks run: nothing was awaited so far. The outcome is known, so a cancellation may be delivered then."""
        await anyio.lowlevel.cancel_shielded_checkpoint()
        await anyio.lowlevel.checkpoint_if_cancelled()

    def _add(self, checkpoint: Checkpoint) -> None:
        rows = self._rows.get(checkpoint.run_id, [])
        newest = Checkpoint.from_bytes(rows[-1]) if rows else None
        previous, epoch = (b"", checkpoint.epoch) if newest is None else (newest.digest, newest.epoch)
        epoch = self._epochs.get(checkpoint.run_id, epoch)
        if (checkpoint.seq, checkpoint.previous, checkpoint.epoch) != (
            self._first(checkpoint.run_id) + len(rows),
            previous,
            epoch,
        ):
            raise _stale(checkpoint)
        self._rows.setdefault(checkpoint.run_id, rows).append(checkpoint.to_bytes())
        (self._driven.add if checkpoint.status in ("running", "failed") else self._driven.discard)(checkpoint.run_id)
        self._enter(checkpoint)
        if checkpoint.status != "running" and self._wake_at.pop(checkpoint.run_id, None) is not None:
            self._woken.call(checkpoint.run_id)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        """Return the newest checkpoint of a run, or the one at `seq`, or None."""
        rows, first = await self.history(run_id), self._first(run_id)
        if seq is not None:
            rows = rows[: seq + 1 - first] if 0 <= seq - first < len(rows) else []
        return fold(rows[rows[-1].base - first :]) if rows else None

    async def history(self, run_id: str, *, after: int = -1, until: int | None = None) -> list[Checkpoint]:
        """Return the checkpoints of a run with a seq above `after`, in order. `until`: the seq of the last one; None: all."""
        first, protected = self._firsts.get(run_id, (0, b""))
        stored = map(Checkpoint.from_bytes, self._rows.get(run_id, []))
        rows = verified(stored, whole=True, first=first)
        if rows:
            check_first(run_id, first, protected, rows[0].digest, b"")
        return rows[max(0, after + 1 - first) : None if until is None else max(0, until + 1 - first)]

    def _first(self, run_id: str) -> int:
        return self._firsts.get(run_id, (0, b""))[0]

    async def compact(self, run_id: str) -> int | None:
        """Delete the checkpoints of a run's earlier passes. See `Compaction.compact`."""
        with _changing:
            rows = self._rows.get(run_id)
            if rows is None:
                return None
            gone, newest = len(rows) - 1, Checkpoint.from_bytes(rows[-1]).pass_number
            while gone and Checkpoint.from_bytes(rows[gone - 1]).pass_number == newest:
                gone -= 1
            if gone:
                first = self._first(run_id) + gone
                digest = Checkpoint.from_bytes(rows[gone]).digest
                self._firsts[run_id] = first, first_digest(run_id, first, digest, b"")
                del rows[:gone]
        await anyio.lowlevel.checkpoint()
        return gone

    @property
    def place(self) -> object:
        """The id of this object: no other object knows its runs."""
        return id(self)

    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        """Become the owner of a run. Its previous owner is fenced off."""
        with _changing:
            if run_id not in self._rows:
                return 0
            self._driven.add(run_id)
            self._wake_at.pop(run_id, None)
            self._epochs[run_id] = epoch = self._epochs.get(run_id, 1) + 1
        self._woken.call(run_id)
        return epoch

    async def release(self, run_id: str, epoch: int) -> None:
        """Release a run. All owners are in this process, and its runtime prevents two drivers of a run."""
        with _changing:
            if epoch == self._epochs.get(run_id, 1):
                self._driven.discard(run_id)

    async def owner_of(self, run_id: str) -> RunOwner | None:
        """Return the owner of a run: this process, or none. See `Owners.owner_of`."""
        process = f"process {os.getpid()} on {socket.gethostname()}"
        return RunOwner("memory", True, True, process) if run_id in self._driven else None

    poll_seconds: float = 0.25

    async def park(self, run_id: str, epoch: int, *, wake_at: float, newest: int = 0) -> None:
        """Release a run that only waits, and remember when it is due. See `Parking.park`."""
        with _changing:
            if epoch == self._epochs.get(run_id, 1) and run_id in self._driven:
                self._driven.discard(run_id)
                if self._entries[run_id].status == "running":
                    self._wake_at[run_id] = wake_at if self._inbox.is_read(run_id, newest) else 0.0

    async def parked(self, identities: Collection[str], *, until: float, limit: int) -> list[RunEntry]:
        """Return parked runs, the earliest wake time first. See `Parking.parked`."""
        with _changing:
            due = sorted((at, run_id) for run_id, at in self._wake_at.items() if at <= until)
            found = [self._shown(self._entries[run_id]) for _, run_id in due]
        return [entry for entry in found if entry.identity in identities][:limit]

    def watch_parked(self, run_id: str, woken: Callable[[], object]) -> AbstractContextManager[object]:
        """Call a function whenever a run may have ceased to be parked. See `Parking.watch_parked`."""
        return self._woken.watch(run_id, woken)

    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        """Store a signal for a run. See `Inbox.send`."""
        with _changing:
            entry = self._entries.get(run_id)
            if entry is None:
                raise unknown_run(run_id)
            is_new = not self._inbox.has_received(run_id, signal)
            if is_new and entry.status in ("finished", "cancelled"):
                raise ended(run_id, entry.status, signal)
            if is_new and seq not in (None, entry.seq):
                raise changed(run_id)
            if is_new and seq is not None and any(s.signal.name == signal.name for s in self._inbox.untaken(run_id)):
                raise second(run_id, signal)
            if is_new:
                self._inbox.add(run_id, signal)
                if run_id in self._wake_at:
                    self._wake_at[run_id] = 0.0
        self._woken.call(run_id)
        await anyio.lowlevel.checkpoint()
        return is_new

    async def inbox(self, run_id: str) -> list[StoredSignal]:
        """Return the signals of a run that were neither taken nor set aside. See `Inbox.inbox`."""
        return self._inbox.untaken(run_id)

    async def set_aside(self, signal: StoredSignal, problem: str) -> None:
        """Keep a signal out of the inbox from now on. See `Inbox.set_aside`."""
        self._inbox.remove(signal)

    def watch(self, run_id: str, arrived: Callable[[], object]) -> AbstractContextManager[object]:
        """Call a function whenever a signal has arrived. See `Inbox.watch`."""
        return self._inbox.watch(run_id, arrived)

    async def runs(
        self,
        *,
        run_id: str | None = None,
        flow: str | None = None,
        status: Status | Literal["unfinished"] | None = None,
        identities: Collection[str] | None = None,
        parent: str | None = None,
        before: int | None = None,
        limit: int = 100,
        search: RunSearch | None = None,
    ) -> list[RunEntry]:
        """Return catalog entries, newest run first. `parent`: only the children of this run. See `Catalog.runs`."""
        check_query(status, limit)
        statuses = ("running", "interrupted") if status == "unfinished" else (status,)
        with _changing:
            found = (
                e
                for e in map(self._shown, reversed(self._entries.values()))
                if run_id in (None, e.run_id)
                and flow in (None, e.flow)
                and (status is None or e.status in statuses)
                and (identities is None or e.identity in identities)
                and parent in (None, e.parent)
                and (search is None or search.fits(e))
            )
            return list(islice((e for e in found if before is None or e.position < before), limit))

    def _shown(self, entry: RunEntry) -> RunEntry:
        """Return a catalog entry as it is shown: a running run without an owner is "interrupted"."""
        is_driven, wake_at = entry.run_id in self._driven, self._wake_at.get(entry.run_id)
        return entry._replace(status=status_of(entry.status, is_driven, is_parked=wake_at is not None), wake_at=wake_at)

    def _enter(self, c: Checkpoint) -> None:
        """Update the catalog entry of a run."""
        known = self._entries.get(c.run_id)
        self._runs += known is None
        created, position, parent = c.at, self._runs, ""
        if known is not None:
            created, position, parent = known.created_at, known.position, known.parent
        head = (c.run_id, c.flow, c.status, c.pass_number, c.seq)
        self._entries[c.run_id] = RunEntry(*head, False, created, c.at, position, 0, c.known_by, None, parent)

    async def delete(self, run_id: str) -> bool:
        """Delete a run that has no living owner, with its descendants.

        Their former owners are fenced off: their next checkpoints follow nothing that is stored.
        """
        with _changing:
            entry = self._entries.get(run_id)
            if entry is not None and entry.parent in self._entries:
                raise has_parent(run_id, entry.parent)
            tree = self._tree(run_id)
            for each in tree:
                if each in self._driven:
                    raise RunLockedError(
                        f"run {each} is owned by this process, which is alive; wait for the run, or try again when it has ended",
                        run_id=each,
                    )
            gone = [each for each in tree if self._forget(each)]
        return run_id in gone

    def _tree(self, run_id: str) -> list[str]:
        """Return the ids of a run and its descendants."""
        tree = [run_id]
        for each in tree:
            tree += self._children.get(each, ())
        return tree

    def _forget(self, run_id: str) -> bool:
        self._epochs.pop(run_id, None)
        self._entries.pop(run_id, None)
        self._children.pop(run_id, None)
        self._inbox.forget(run_id)
        if self._wake_at.pop(run_id, None) is not None:
            self._woken.call(run_id)
        self._firsts.pop(run_id, None)
        return self._rows.pop(run_id, None) is not None

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        """Delete runs that ended more than `older_than` seconds ago, with their descendants. Return the number of all deleted runs.

        It is atomic: nothing changes between listing and deleting.
        """
        check_retention(older_than, keep_last)
        before = time.time() - older_than
        kept: Counter[str] = Counter()
        gone = 0
        with _changing:
            for entry in reversed(list(self._entries.values())):
                if entry.status == "running" or entry.parent:
                    continue
                kept[entry.flow] += 1
                if kept[entry.flow] > keep_last and entry.updated_at < before:
                    tree = self._tree(entry.run_id)
                    if self._driven.isdisjoint(tree):
                        gone += sum([self._forget(each) for each in tree])
        return gone


def _lives(entry: RunEntry) -> bool:
    return entry.status in ("running", "failed")


def _stale(c: Checkpoint) -> StaleCheckpoint:
    return StaleCheckpoint(
        f"checkpoint {c.seq} of run {c.run_id} does not follow the stored checkpoint; it was not saved",
        run_id=c.run_id,
        seq=c.seq,
    )
