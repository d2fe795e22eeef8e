"""Checkpoints that are saved at the same time, and what became of each."""

from __future__ import annotations

import anyio

from asyncflow import errors
from asyncflow.persistence import Checkpoint
from asyncflow.persistence.postgres import PostgresFlowPersistence


class Saved:
    """Saves checkpoints of many runs at once, and keeps the outcome of each."""

    def __init__(self, persistence: PostgresFlowPersistence) -> None:
        self.persistence = persistence
        self.told: dict[str, str] = {}

    async def save(self, *checkpoints: Checkpoint) -> None:
        self.told.clear()
        async with anyio.create_task_group() as group:
            for checkpoint in checkpoints:
                group.start_soon(self._save, checkpoint)

    async def _save(self, checkpoint: Checkpoint) -> None:
        try:
            await self.persistence.append(checkpoint)
            self.told[checkpoint.run_id] = "saved"
        except errors.StorageWriteError as error:
            self.told[checkpoint.run_id] = error.outcome
