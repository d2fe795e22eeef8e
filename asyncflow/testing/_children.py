"""The requirements for backends that know the parents of runs: no child outlives its parent unnoticed, and trees are deleted whole."""

from __future__ import annotations

import time
from typing import Any

from ..errors import ChildRunError, ParentEndedError, RunLockedError, StaleCheckpoint
from ..persistence.children import Children
from ..persistence.protocol import Catalog, FlowPersistence, Ownership, Retention
from ._checkpoints import AT, Chain
from ._promises import Promises, expect, in_time, must, needed, session, store

__all__ = ["ChildRuns"]

STATUSES = ("running", "failed", "finished", "cancelled")


async def adopted(persistence: FlowPersistence, run_id: str, parent: str, depth: int = 1) -> Chain:
    """Store a child of a run. Return its chain."""
    chain = Chain(run_id, parent=(parent, depth))
    await needed(persistence, Children).append_child(chain.add(), parent)
    return chain


async def family(persistence: FlowPersistence, name: str, *, at: float = AT) -> list[Chain]:
    """Store a run, its child, and that child's child, which nothing drives. Return their chains, the eldest first."""
    chains = [Chain(name)]
    await store(persistence, chains[0].add())
    for depth in (1, 2):
        chains.append(await adopted(persistence, f"{name}{'.' * depth}", chains[-1].run_id, depth))
    for chain in chains:
        await needed(persistence, Ownership).release(chain.run_id, 1)
    await _own(persistence, chains[0])
    await store(persistence, chains[0].add(status="finished", at=at))
    return chains


async def _own(persistence: FlowPersistence, chain: Chain) -> None:
    chain.epoch = await needed(persistence, Ownership).acquire(chain.run_id)


async def _stored(persistence: FlowPersistence, *chains: Chain) -> str:
    """Return the ids of those of the runs that are stored, separated by spaces."""
    return " ".join([chain.run_id for chain in chains if await persistence.load(chain.run_id) is not None])


class ChildRuns(Promises):
    """The tests of `Children`: `append_child`, `children`, `orphans`, and trees of runs in `runs`, `delete` and `prune`."""

    @in_time
    async def test_a_child_is_stored_and_listed_with_its_parent(self, persistence: FlowPersistence) -> None:
        kin, catalog = needed(persistence, Children), needed(persistence, Catalog)
        async with session(persistence):
            for name in ("a", "A", "no parent"):
                await store(persistence, Chain(name).add())
            chains = [await adopted(persistence, f"child {n}", "a") for n in range(3)]
            await adopted(persistence, "other", "A")
            await adopted(persistence, "grandchild", "child 0", 2)
            await store(persistence, chains[1].add(status="finished"))
            expect(await persistence.load("child 1"), chains[1].rows[-1], "a child is stored as any run")
            expected = [("child 0", "running"), ("child 1", "finished"), ("child 2", "running")]
            found = [(entry.run_id, entry.status) for entry in await kin.children("a")]
            assert found == expected, (
                f"`children` must return the direct children of a run in order of creation: {expected}, not {found}"
            )
            of_parent: Any = catalog.runs  # the protocol `Catalog` does not have the argument
            listed = [entry.run_id for entry in await of_parent(parent="a", limit=2)]
            assert listed == ["child 2", "child 1"], f"`runs(parent=...)` must list direct children, not {listed}"
            assert await kin.children("no parent") == await kin.children("unknown") == [], "these have no children"
            parents = {entry.run_id: entry.parent for entry in await catalog.runs()}
            assert (parents["child 1"], parents["grandchild"], parents["a"]) == ("a", "child 0", ""), (
                f"`RunEntry.parent` must name the parent of each run, also after a later checkpoint; it is {parents}"
            )

    @in_time
    async def test_no_child_is_stored_after_the_end_of_its_parent(self, persistence: FlowPersistence) -> None:
        needed(persistence, Children)
        async with session(persistence):
            for status in STATUSES:
                await store(persistence, Chain(status).add(status=status))
            for parent in (*STATUSES, "unknown"):
                is_refused = False
                try:
                    await adopted(persistence, f"child of {parent}", parent)
                except ParentEndedError:
                    is_refused = True
                is_over = parent not in ("running", "failed")
                assert is_refused == is_over, (
                    f"`append_child` must {'raise ParentEndedError' if is_over else 'store the child'} if the parent is {parent}"
                )
                is_stored = await persistence.load(f"child of {parent}") is not None
                assert is_stored != is_over, f"the child of a run that is {parent} must {'not ' * is_over}be stored"

    @in_time
    async def test_a_child_is_stored_once(self, persistence: FlowPersistence) -> None:
        kin = needed(persistence, Children)
        async with session(persistence):
            for name in ("a", "A"):
                await store(persistence, Chain(name).add())
            child = await adopted(persistence, "child", "a")
            for parent in ("a", "A"):
                was_refused = False
                try:
                    await kin.append_child(Chain("child", parent=(parent, 1)).add(state=b'{"other":1}'), parent)
                except StaleCheckpoint:
                    was_refused = True
                assert was_refused, "`append_child` must raise StaleCheckpoint if a run with this id is stored"
            expect(await persistence.load("child"), child.rows[0], "the first child stays")
            assert [entry.run_id for entry in await kin.children("A")] == [], (
                "`append_child` that is refused must change no parent"
            )

    @in_time
    async def test_children_that_have_outlived_their_parents_are_found(self, persistence: FlowPersistence) -> None:
        kin, owners = needed(persistence, Children), needed(persistence, Ownership)
        chains: dict[str, Chain] = {}
        async with session(persistence):
            for status in STATUSES:
                parent = Chain(status)
                await store(persistence, parent.add())
                for each in STATUSES:
                    child = await adopted(persistence, f"{each} of {status}", status)
                    await store(persistence, child.add(status=each))
                    chains[child.run_id] = child
                await store(persistence, parent.add(status=status))
            await store(persistence, Chain("no parent").add())
            expected = [f"{each} of {status}" for status in ("finished", "cancelled") for each in ("running", "failed")]
            found = [entry.run_id for entry in await kin.orphans(9)]
            assert found == expected, f"`orphans` must return {expected}, not {found}"
            assert [entry.run_id for entry in await kin.orphans(1)] == expected[:1], "`orphans` must respect its limit"
            first = chains[expected[0]]
            first.epoch = await owners.acquire(first.run_id, force=True)
            await store(persistence, first.add(kind="cancelled", status="cancelled"))
            assert [entry.run_id for entry in await kin.orphans(9)] == expected[1:], "what is over is no orphan"

    @in_time
    async def test_a_run_is_deleted_with_its_descendants(self, persistence: FlowPersistence) -> None:
        kin, retention = needed(persistence, Children), needed(persistence, Retention)
        async with session(persistence):
            one, other = await family(persistence, "a"), await family(persistence, "A")
            for child in one[1:]:
                was_refused = False
                try:
                    await retention.delete(child.run_id)
                except ChildRunError as error:
                    was_refused = error.parent == one[one.index(child) - 1].run_id
                assert was_refused, "`delete` of a child must raise ChildRunError, which names the parent"
            assert await _stored(persistence, *one) == "a a. a..", "a deletion that is refused must delete nothing"
            assert await retention.delete("a"), "`delete` of a run without a parent must delete it"
            left = await _stored(persistence, *one, *other)
            assert left == "A A. A..", f"`delete` must delete a run, all its descendants and no other; left are {left}"
            assert await kin.children("a") == [], "a deleted run has no children"
            with must("the ids of a deleted tree must be free for other runs"):
                await family(persistence, "a")

    @in_time
    async def test_a_tree_with_a_living_owner_is_kept(self, persistence: FlowPersistence) -> None:
        retention, _ = needed(persistence, Retention), needed(persistence, Children)
        async with session(persistence):
            chains, others = await family(persistence, "a"), await family(persistence, "A")
            await _own(persistence, chains[2])
            was_refused = False
            try:
                await retention.delete("a")
            except RunLockedError:
                was_refused = True
            assert was_refused, "`delete` must raise RunLockedError if a descendant has a living owner"
            gone = await retention.prune(older_than=3600.0)
            left = await _stored(persistence, *chains, *others)
            assert (gone, left) == (3, "a a. a.."), (
                f"`prune` must keep a tree whole if a descendant has a living owner, and delete the other; left are {left}"
            )
            await needed(persistence, Ownership).release(chains[2].run_id, chains[2].epoch)
            assert await retention.delete("a"), "a tree whose owners have all left is deleted"
            assert await _stored(persistence, *chains) == "", "a tree is deleted whole"

    @in_time
    async def test_trees_are_pruned_whole_when_their_root_has_ended(self, persistence: FlowPersistence) -> None:
        retention, _ = needed(persistence, Retention), needed(persistence, Children)
        async with session(persistence):
            old, new = await family(persistence, "old"), await family(persistence, "new", at=time.time())
            root = Chain("root")
            await store(persistence, root.add())
            child = await adopted(persistence, "child", "root")
            await store(persistence, child.add(status="finished"))
            await needed(persistence, Ownership).release("root", 1)
            gone = await retention.prune(older_than=3600.0)
            left = await _stored(persistence, *old, *new, root, child)
            assert (gone, left) == (3, "new new. new.. root child"), (
                "`prune` must delete a run that ended long ago with its descendants, and no child whose root has not ended long ago; it "
                f"returned {gone}, and left {left}"
            )

    @in_time
    async def test_the_newest_runs_that_are_kept_are_runs_without_a_parent(self, persistence: FlowPersistence) -> None:
        retention, _ = needed(persistence, Retention), needed(persistence, Children)
        async with session(persistence):
            chains = [chain for name in "abc" for chain in await family(persistence, name)]
            await retention.prune(older_than=3600.0, keep_last=2)
            left = await _stored(persistence, *chains)
            assert left == "b b. b.. c c. c..", (
                f"`prune` with keep_last=2 must keep the two newest ended runs without a parent, with their descendants, not {left}"
            )

    @in_time
    async def test_a_deep_tree_is_deleted_whole(self, persistence: FlowPersistence) -> None:
        retention, owners = needed(persistence, Retention), needed(persistence, Ownership)
        needed(persistence, Children)
        async with session(persistence):
            chains = [Chain("0")]
            await store(persistence, chains[0].add())
            for depth in range(1, 33):
                chains.append(await adopted(persistence, str(depth), str(depth - 1), depth))
            for chain in chains:
                await owners.release(chain.run_id, 1)
            assert await retention.delete("0"), "`delete` must delete a run with 32 generations below it"
            left = await _stored(persistence, *chains)
            assert left == "", f"`delete` must delete all generations; left are {left}"
