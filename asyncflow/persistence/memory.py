"""Runs remembered in memory: the readable reference of what a persistence does. Gone with the process."""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import islice

import anyio.lowlevel

from ..errors import RunLockedError, StaleCheckpoint
from .checkpoint import Checkpoint, Status, fold, verified
from .protocol import RunEntry, check_retention

__all__ = ["MemoryFlowPersistence"]


class MemoryFlowPersistence:
    """Keeps every checkpoint of every run in this process's memory, as bytes. For tests, and for reading."""

    def __init__(self) -> None:
        self._rows: dict[str, list[bytes]] = {}
        self._epochs: dict[str, int] = {}
        self._entries: dict[str, RunEntry] = {}
        self._driven: set[str] = set()
        self._runs = 0

    async def save(self, checkpoint: Checkpoint) -> None:
        """Store a complete checkpoint after its predecessor."""
        await self.append(checkpoint)

    async def append(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint after its predecessor. Raises `StaleCheckpoint` if it is not that of the newest one."""
        rows = self._rows.get(checkpoint.run_id, [])
        newest = Checkpoint.from_bytes(rows[-1]) if rows else None
        previous, epoch = (b"", checkpoint.epoch) if newest is None else (newest.digest, newest.epoch)
        epoch = self._epochs.get(checkpoint.run_id, epoch)
        if (checkpoint.seq, checkpoint.previous, checkpoint.epoch) != (len(rows), previous, epoch):
            raise StaleCheckpoint(
                f"checkpoint {checkpoint.seq} of run {checkpoint.run_id} does not follow what is stored; it was not saved",
                run_id=checkpoint.run_id,
                seq=checkpoint.seq,
            )
        self._rows.setdefault(checkpoint.run_id, rows).append(checkpoint.to_bytes())
        (self._driven.add if checkpoint.status in ("running", "failed") else self._driven.discard)(checkpoint.run_id)
        self._enter(checkpoint)
        await anyio.lowlevel.cancel_shielded_checkpoint()  # nothing was waited for: let others run
        await anyio.lowlevel.checkpoint_if_cancelled()  # the outcome is known

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        """The newest checkpoint of a run, or the one at `seq`."""
        rows = await self.history(run_id)
        if seq is not None:
            rows = rows[: seq + 1] if 0 <= seq < len(rows) else []
        return fold(rows[rows[-1].base :]) if rows else None

    async def history(self, run_id: str, *, after: int = -1) -> list[Checkpoint]:
        """The checkpoints of a run, in order."""
        return verified((Checkpoint.from_bytes(row) for row in self._rows.get(run_id, [])), whole=True)[after + 1 :]

    @property
    def place(self) -> object:
        """This object itself: nobody else knows its runs."""
        return id(self)

    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        """Become the owner of a run; whoever was it before is fenced off."""
        if run_id not in self._rows:
            return 0
        self._driven.add(run_id)
        self._epochs[run_id] = self._epochs.get(run_id, 1) + 1
        return self._epochs[run_id]

    async def release(self, run_id: str, epoch: int) -> None:
        """Be the owner no longer. Another one is kept away by the runtime, as all are in this process."""
        if epoch == self._epochs.get(run_id, 1):
            self._driven.discard(run_id)

    async def runs(
        self,
        *,
        run_id: str | None = None,
        flow: str | None = None,
        status: Status | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[RunEntry]:
        """The runs, the newest first."""
        asked = run_id, flow, status
        found = (
            e for e in reversed(self._entries.values()) if all(w in (None, h) for w, h in zip(asked, e, strict=False))
        )
        return list(islice((e for e in found if before is None or e.position < before), limit))

    def _enter(self, c: Checkpoint) -> None:
        """Bring a run's line of the catalog up to date."""
        known = self._entries.get(c.run_id)
        self._runs += known is None
        created, position = (c.at, self._runs) if known is None else (known.created_at, known.position)
        self._entries[c.run_id] = RunEntry(c.run_id, c.flow, c.status, c.number, c.seq, False, created, c.at, position)

    async def delete(self, run_id: str) -> bool:
        """Forget a run that nobody drives. Whoever drove it is refused: what it stores next follows nothing."""
        if run_id in self._driven:
            raise RunLockedError(
                f"run {run_id} is being driven by this process; await that, or try again when it has ended",
                run_id=run_id,
            )
        self._epochs.pop(run_id, None)
        self._entries.pop(run_id, None)
        return self._rows.pop(run_id, None) is not None

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        """Forget runs that ended so long ago."""
        check_retention(older_than, keep_last)
        kept: dict[str, int] = {}
        gone = 0
        ended = [entry for entry in await self.runs(limit=len(self._rows)) if entry.status != "running"]
        for entry in ended:
            kept[entry.flow] = kept.get(entry.flow, 0) + 1
            if kept[entry.flow] > keep_last and entry.updated_at < time.time() - older_than:
                with suppress(RunLockedError):  # a sibling of what has failed is at work
                    gone += await self.delete(entry.run_id)
        return gone
