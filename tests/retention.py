"""What pruning must keep on every database, whatever happens between its list and its deletions."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from asyncflow import errors
from asyncflow.persistence._database import pruning
from asyncflow.persistence._database.trees import Trees
from asyncflow.testing._checkpoints import Chain

HOUR = 3600.0


async def ended(storage: Any, run_id: str, **fields: Any) -> Chain:
    """A run that ended long ago."""
    chain = Chain(run_id)
    await storage.append(chain.add())
    await storage.append(chain.add(**{"status": "failed", "kind": "failed", **fields}))
    with suppress(errors.StorageError):
        await storage.release(run_id, 1)
    return chain


async def resumed(storage: Any, chain: Chain) -> None:
    """It is being driven again."""
    chain.epoch = await storage.acquire(chain.run_id)
    assert chain.epoch


async def goes_on(storage: Any, chain: Chain, **fields: Any) -> None:
    """It has been resumed, and has reached another checkpoint."""
    await resumed(storage, chain)
    await storage.append(chain.add(at=time.time(), **fields))


async def interrupted(storage: Any, chain: Chain) -> None:
    await goes_on(storage, chain)
    await storage.release(chain.run_id, chain.epoch)


async def finished_anew(storage: Any, chain: Chain) -> None:
    await goes_on(storage, chain, status="finished", kind="finished")


async def finished_anew_by_an_old_clock(storage: Any, chain: Chain) -> None:
    """Its time is as old as the one with which it was listed."""
    await resumed(storage, chain)
    await storage.append(chain.add(status="finished", kind="finished"))


MEANWHILE: dict[str, Callable[[Any, Chain], Awaitable[None]]] = {
    "resumed": resumed,
    "resumed and interrupted": interrupted,
    "resumed and finished": finished_anew,
    "finished by an old clock": finished_anew_by_an_old_clock,
}

each_meanwhile = pytest.mark.parametrize("meanwhile", MEANWHILE)


async def what_goes_on_is_kept(storage: Any, other: Any, meanwhile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`other`: the same storage as another process has it."""
    async with storage, other:
        chains = [await ended(storage, f"run {n}") for n in range(4)]
        with monkeypatch.context() as patch:
            opened = storage._shared.current
            listed = await opened.home.run(lambda: opened.reader.ended(HOUR, -1, 100))
            await MEANWHILE[meanwhile](other, chains[1])

            async def as_it_was(older_than: float, after: int, limit: int) -> Any:
                return listed if after < 0 else []

            patch.setattr(opened.reader, "ended", as_it_was)
            gone = await storage.prune(older_than=HOUR)
        kept = await storage.load("run 1")

        assert [await storage.load(chain.run_id) for chain in (chains[0], *chains[2:])] == [None] * 3
        assert gone == 3
        assert kept is not None
        assert kept.digest == chains[1].rows[-1].digest


async def the_newest_are_counted_anew_in_each_batch(storage: Any, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are to be kept. One of the two newest is resumed after the first batch: then an older one is kept instead."""
    monkeypatch.setattr(pruning, "RUNS", 1)
    monkeypatch.setattr(pruning, "PORTION", 0.0)
    async with storage, other:
        chains = [await ended(storage, f"run {n}") for n in range(5)]
        submit = storage._shared.current.commits.submit
        batches: list[Any] = []

        async def submitted(job: Any) -> None:
            await submit(job)
            if isinstance(job, pruning.Prune):
                batches.append(job)
            if len(batches) == 1:
                batches.append(None)
                await interrupted(other, chains[4])

        monkeypatch.setattr(storage._shared.current.commits, "submit", submitted)
        gone = await storage.prune(older_than=HOUR, keep_last=2)
        left = [n for n in range(5) if await storage.load(f"run {n}") is not None]

    assert (gone, left) == (2, [2, 3, 4])


async def what_was_done_before_a_cancellation_is_kept(
    storage: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pruning, "RUNS", 2)
    monkeypatch.setattr(pruning, "PORTION", 0.0)
    monkeypatch.setattr(pruning, "REPORT_EVERY", 0.0)
    caplog.set_level("INFO", logger="asyncflow")
    async with storage:
        for n in range(10):
            await ended(storage, f"run {n}")
        neighbour = Chain("neighbour")
        submit = storage._shared.current.commits.submit
        batches: list[Any] = []
        with anyio.CancelScope() as scope:

            async def submitted(job: Any) -> None:
                await submit(job)
                if isinstance(job, pruning.Prune):
                    batches.append(job)
                    await storage.append(neighbour.add())  # others get between
                if len(batches) == 3:
                    scope.cancel()

            monkeypatch.setattr(storage._shared.current.commits, "submit", submitted)
            await storage.prune(older_than=HOUR)
        left = [n for n in range(10) if await storage.load(f"run {n}") is not None]

    assert scope.cancelled_caught
    assert len(left) == 4
    assert len(neighbour.rows) == 3
    assert "pruning in progress: 4 runs deleted so far" in caplog.text
    assert "pruning done: 6 runs deleted" in caplog.messages[-1]


async def many_runs_take_few_statements(storage: Any, monkeypatch: pytest.MonkeyPatch, trees: type[Trees]) -> None:
    monkeypatch.setattr(pruning, "PORTION", 60.0)
    deletions: list[int] = []
    delete = trees.delete

    async def counted(self: Trees, ids: Any) -> None:
        deletions.append(len(ids))
        await delete(self, ids)

    monkeypatch.setattr(trees, "delete", counted)
    async with storage:
        for first in range(0, 600, 100):
            async with anyio.create_task_group() as group:
                for n in range(first, first + 100):
                    group.start_soon(ended, storage, f"run {n}")
        gone = await storage.prune(older_than=HOUR)

        assert await storage.runs() == []
    assert gone == 600
    assert max(deletions) <= pruning.RUNS
    assert len(deletions) <= 4
