"""Runs remembered in memory: the readable reference of what a persistence does. Gone with the process."""

from __future__ import annotations

import anyio.lowlevel

from ..errors import StaleCheckpoint
from .checkpoint import Checkpoint, fold, verified

__all__ = ["MemoryFlowPersistence"]


class MemoryFlowPersistence:
    """Keeps every checkpoint of every run in this process's memory, as bytes. For tests, and for reading."""

    def __init__(self) -> None:
        self._rows: dict[str, list[bytes]] = {}
        self._epochs: dict[str, int] = {}

    async def save(self, checkpoint: Checkpoint) -> None:
        """Store a complete checkpoint after its predecessor."""
        await self.append(checkpoint)

    async def append(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint after its predecessor. Raises `StaleCheckpoint` if it is not that of the newest one."""
        rows = self._rows.setdefault(checkpoint.run_id, [])
        newest = Checkpoint.from_bytes(rows[-1]) if rows else None
        previous, epoch = (b"", checkpoint.epoch) if newest is None else (newest.digest, newest.epoch)
        epoch = self._epochs.get(checkpoint.run_id, epoch)
        if (checkpoint.seq, checkpoint.previous, checkpoint.epoch) != (len(rows), previous, epoch):
            raise StaleCheckpoint(
                f"checkpoint {checkpoint.seq} of run {checkpoint.run_id} does not follow what is stored; it was not saved",
                run_id=checkpoint.run_id,
                seq=checkpoint.seq,
            )
        rows.append(checkpoint.to_bytes())
        await anyio.lowlevel.cancel_shielded_checkpoint()  # nothing was waited for: let others run
        await anyio.lowlevel.checkpoint_if_cancelled()  # the outcome is known

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        """The newest checkpoint of a run, or the one at `seq`."""
        rows = await self.history(run_id)
        if seq is not None:
            rows = rows[: seq + 1] if 0 <= seq < len(rows) else []
        return fold(rows[rows[-1].base :]) if rows else None

    async def history(self, run_id: str) -> list[Checkpoint]:
        """Every checkpoint of a run, in order."""
        return verified((Checkpoint.from_bytes(row) for row in self._rows.get(run_id, [])), whole=True)

    @property
    def place(self) -> object:
        """This object itself: nobody else knows its runs."""
        return id(self)

    async def acquire(self, run_id: str) -> int:
        """Become the owner of a run; whoever was it before is fenced off."""
        if run_id not in self._rows:
            return 0
        self._epochs[run_id] = self._epochs.get(run_id, 1) + 1
        return self._epochs[run_id]

    async def release(self, run_id: str, epoch: int) -> None:
        """Nothing is held: a run of this process is kept from a second driver by the runtime."""
