"""Trees of runs in a database: what both databases must do, over a storage, a second view of it, and a way to change its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from asyncflow import errors
from asyncflow.persistence._database import pruning
from asyncflow.persistence._database.trees import Trees
from asyncflow.testing._checkpoints import Chain

Change = Callable[..., Any]
"""Executes a statement, in which `runs` is the table and `?` a parameter, and commits it; returns its rows."""

HOUR = 3600.0
ORPHANED = "SELECT count(*) FROM runs r WHERE parent IS NOT NULL AND NOT EXISTS (SELECT 1 FROM runs p WHERE p.run_id = r.parent)"


async def root(storage: Any, run_id: str) -> Chain:
    chain = Chain(run_id)
    await storage.append(chain.add())
    return chain


async def child(storage: Any, run_id: str, parent: str, *, status: str = "running", depth: int = 1) -> Chain:
    chain = Chain(run_id, parent=(parent, depth))
    await storage.append_child(chain.add(), parent)
    if status != "running":
        await storage.append(chain.add(status=status))
    return chain


async def family(storage: Any, name: str, children: int = 2) -> list[str]:
    """Store a run that has ended, with children that have. Return the ids, the root's first."""
    chain = await root(storage, name)
    ids = [f"{name}.{n}" for n in range(children)]
    async with anyio.create_task_group() as group:
        for run_id in ids:
            group.start_soon(lambda each=run_id: child(storage, each, name, status="finished"))
    await storage.append(chain.add(status="finished"))
    return [name, *ids]


async def stored(storage: Any) -> set[str]:
    return {entry.run_id for entry in await storage.runs(limit=1_000_000)}


CHANGES = (
    ("parent", "others"),
    ("parent", "unknown"),
    ("parent", None),
    ("parent_digest", b"\0" * 16),
    ("parent_digest", None),
)


async def a_changed_parent_is_found(storage: Any, change: Change) -> None:
    async with storage:
        await family(storage, "ours")
        await family(storage, "others")
        assert await storage.verify() == []
        for column, value in CHANGES:
            ((before,),) = change(f"SELECT {column} FROM runs WHERE run_id = ?", "ours.1")
            change(f"UPDATE runs SET {column} = ? WHERE run_id = ?", value, "ours.1")
            for found in (await storage.verify(), await storage.verify("ours.1")):
                assert [(type(error), error.run_id) for error in found] == [(errors.CheckpointCorruptError, "ours.1")]
            change(f"UPDATE runs SET {column} = ? WHERE run_id = ?", before, "ours.1")
        assert await storage.verify() == []
        change("UPDATE runs SET parent = NULL, parent_digest = NULL WHERE run_id = ?", "ours.1")
        assert [error.run_id for error in await storage.verify()] == ["ours.1"]  # its first checkpoint names the parent


async def a_run_whose_parent_was_changed_is_not_deleted(storage: Any, change: Change) -> None:
    async with storage:
        await family(storage, "ours")
        others = await family(storage, "others")
        change("UPDATE runs SET parent = ? WHERE run_id = ?", "others", "ours.1")

        with pytest.raises(errors.CheckpointCorruptError):
            await storage.delete("others")
        assert await storage.prune(older_than=HOUR) == 2
        assert await stored(storage) == {"ours.1", *others}

        change("UPDATE runs SET parent = ? WHERE run_id = ?", "ours", "ours.1")
        assert await storage.delete("ours.1"), "its parent is gone, so it is deleted alone"
        assert await storage.delete("others")
        assert await stored(storage) == set()


async def parents_in_a_circle_end_every_call(storage: Any, change: Change) -> None:
    async with storage:
        await family(storage, "one")
        await root(storage, "a")
        await child(storage, "b", "a")
        await storage.release("a", 1)
        await storage.release("b", 1)
        change("UPDATE runs SET parent = ? WHERE run_id = ?", "b", "a")
        change("UPDATE runs SET parent = ? WHERE run_id = ?", "one.0", "one.0")
        with anyio.fail_after(60):
            for run_id in ("a", "b", "one.0"):
                with pytest.raises(errors.ChildRunError):
                    await storage.delete(run_id)
            assert [entry.run_id for entry in await storage.children("b")] == ["a"]
            assert await storage.orphans(9) == []
            assert await storage.prune(older_than=HOUR) == 2
            assert await stored(storage) == {"a", "b", "one.0"}
            assert {error.run_id for error in await storage.verify() if error.run_id} == {"a", "one.0"}


async def a_run_that_is_over_gets_no_child(storage: Any) -> None:
    async with storage:
        for status in ("finished", "cancelled"):
            parent = await root(storage, status)
            await child(storage, f"child of {status}", status)
            await storage.append(parent.add(status=status))
            with pytest.raises(errors.ParentEndedError, match=f"run {status}, is {status}") as caught:
                await child(storage, f"late child of {status}", status)
            assert (caught.value.run_id, caught.value.parent) == (f"late child of {status}", status)
        assert {entry.run_id for entry in await storage.runs() if entry.parent} == {
            "child of finished",
            "child of cancelled",
        }


async def children_that_outlive_their_parents_are_found(storage: Any, change: Change) -> None:
    async with storage:
        for name in ("over", "alive", "missing"):
            parent = await root(storage, name)
            for status in ("running", "failed", "finished", "cancelled"):
                await child(storage, f"{status} of {name}", name, status=status)
            if name == "over":
                await storage.append(parent.add(status="cancelled"))
        change("UPDATE runs SET run_id = ? WHERE run_id = ?", "renamed", "missing")
        expected = [f"{status} of {name}" for name in ("over", "missing") for status in ("running", "failed")]

        assert [entry.run_id for entry in await storage.orphans(9)] == expected
        assert [entry.run_id for entry in await storage.orphans(3)] == expected[:3]


async def a_child_waits_for_the_end_of_its_parent(storage: Any, begin: Callable[[], Any]) -> None:
    """`begin` begins to delete the run `parent` over another connection, and returns that, not committed."""
    async with storage:
        for is_kept in (True, False):
            if is_kept:
                await root(storage, "parent")
            other = begin()
            outcome: list[Any] = []

            async def store(run_id: str, outcome: list[Any] = outcome) -> None:
                try:
                    outcome.append(await child(storage, run_id, "parent"))
                except errors.ParentEndedError as error:
                    outcome.append(error)

            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    group.start_soon(store, f"child {is_kept}")
                    await anyio.sleep(0.3)
                    assert outcome == [], "it does not know yet whether its parent is there"
                    (other.rollback if is_kept else other.commit)()
                    other.close()
            (found,) = outcome
            assert isinstance(found, Chain if is_kept else errors.ParentEndedError)
        assert await stored(storage) == {"child True"}


async def no_child_is_left_by_a_deletion(storage: Any, other: Any, change: Change) -> None:
    """Children are stored in a tree while another process deletes it: either the tree is kept, or the child is refused."""
    outcomes: set[str] = set()
    async with storage, other:
        for n in range(25):
            chain = await root(storage, f"{n}")
            await child(storage, f"{n}.0", f"{n}")
            await child(storage, f"{n}.0.0", f"{n}.0", depth=2)
            await storage.append(chain.add(status="failed"))
            for run_id in (f"{n}", f"{n}.0", f"{n}.0.0"):
                await storage.release(run_id, 1)

            async def begin(name: str = f"{n}") -> None:
                try:
                    await child(storage, f"{name}.0.0.0", f"{name}.0.0", depth=3)
                    outcomes.add("stored")
                except errors.ParentEndedError:
                    outcomes.add("refused")

            async def delete(name: str = f"{n}", delay: float = n / 5000) -> None:
                await anyio.sleep(delay)
                try:
                    assert await other.delete(name)
                    outcomes.add("deleted")
                except errors.RunLockedError:
                    outcomes.add("kept")

            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    for work in (begin, delete) if n % 2 else (delete, begin):
                        group.start_soon(work)
            assert change(ORPHANED) == [(0,)]
    assert {"stored", "kept"} <= outcomes or {"refused", "deleted"} <= outcomes


async def trees_are_pruned_in_batches(storage: Any, monkeypatch: pytest.MonkeyPatch, trees: type[Trees]) -> None:
    """Small ones together, as many as fit into a transaction; a large one alone, and whole."""
    monkeypatch.setattr(pruning, "PORTION", 60.0)
    monkeypatch.setattr(pruning, "CHECKPOINTS", 60)
    deletions: list[int] = []
    delete = trees.delete

    async def counted(self: Trees, ids: Any) -> None:
        deletions.append(len(ids))
        await delete(self, ids)

    monkeypatch.setattr(trees, "delete", counted)
    async with storage:
        for n in range(20):
            await family(storage, f"small {n}", 3)
        large = await family(storage, "large", 100)
        for n in range(20):
            await family(storage, f"none {n}", 0)
        kept = await family(storage, "kept", 3)
        await storage.acquire(kept[2])

        assert await storage.prune(older_than=HOUR) == 20 * 4 + len(large) + 20
        assert await stored(storage) == set(kept)
    assert max(deletions) <= len(large) + 20
    assert len(deletions) <= 15
    assert sum(deletions) == 20 * 4 + len(large) + 20


async def wide_trees_are_listed_and_deleted(storage: Any, count: int) -> None:
    async with storage:
        ids = await family(storage, "wide", count)
        children = await storage.children("wide")
        assert {entry.run_id for entry in children} == set(ids[1:])
        assert [entry.position for entry in children] == sorted(entry.position for entry in children)
        assert len(await storage.runs(parent="wide", limit=count + 1)) == count
        await root(storage, "other")
        with anyio.fail_after(60):
            assert await storage.delete("wide")
        assert await stored(storage) == {"other"}
