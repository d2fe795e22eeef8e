"""A right backend, with its sessions and its fence, and how a wrong one is noted."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from asyncflow import FlowPersistence, MemoryFlowPersistence, errors
from asyncflow.persistence import Checkpoint

WRONG: list[tuple[type[FlowPersistence], str]] = []
"""(wrong backend, name of the test that must fail)."""


ON_ASYNCIO_ALONE: set[type[FlowPersistence]] = set()
"""Those whose mistake does no harm on trio."""


def caught_by(*tests: str) -> Callable[[type[Any]], type[Any]]:
    def noted(wrong: type[Any]) -> type[Any]:
        WRONG.extend((wrong, f"test_{test}") for test in tests)
        return wrong

    return noted


class Right(MemoryFlowPersistence):
    """What most of the others are made of."""

    async def store(self, checkpoint: Checkpoint) -> None:
        """What `save` and `append` do."""
        await super().append(checkpoint)

    async def append(self, checkpoint: Checkpoint) -> None:
        await self.store(checkpoint)

    def view(self) -> FlowPersistence:
        """Another one, of the same storage."""
        other = type(self)()
        other._rows, other._epochs = self._rows, self._epochs
        return other

    def put(self, checkpoint: Checkpoint) -> None:
        """Store it, without looking at what is stored."""
        self._rows.setdefault(checkpoint.run_id, []).append(checkpoint.to_bytes())

    def newest(self, run_id: str) -> Checkpoint | None:
        rows = self._rows.get(run_id)
        return Checkpoint.from_bytes(rows[-1]) if rows else None

    async def changed(self, run_id: str, seq: int | None, **fields: Any) -> Checkpoint | None:
        """What is loaded, but with these fields."""
        found = await super().load(run_id, seq)
        return None if found is None else found._replace(**fields)


class Opened(Right):
    """The same, with something to be opened and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.users = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        self.users += 1
        try:
            await self.opened()
            yield
        finally:
            self.users -= 1
            self.left()

    async def opened(self) -> None:
        await anyio.lowlevel.checkpoint()

    def left(self) -> None: ...


class Fenced(Right):
    """The same, with a fence that never falls."""

    stretch = 0

    def fence(self) -> Any:
        return self

    def holds(self, stretch: object) -> bool:
        return True

    async def confirm(self, run_id: str, epoch: int) -> object:
        if run_id not in self._driven or self._epochs.get(run_id, 1) != epoch:
            raise errors.StaleCheckpoint(f"{run_id} is another's", run_id=run_id)
        return self.stretch
