"""The requirements for backends that list their runs (catalog), or delete them (retention)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio
import anyio.lowlevel

from ..errors import RunLockedError
from ..persistence.protocol import (
    Catalog,
    CheckpointHistory,
    CheckpointLog,
    FlowPersistence,
    Ownership,
    Retention,
    RunEntry,
)
from ._checkpoints import AT, Chain
from ._promises import Promises, expect, has, in_time, must, needed, refused, session, store

__all__ = ["Forgotten", "Listed"]

OF_FLOW: Final = [f"F {status}" for status in ("cancelled", "finished", "failed", "running")]

QUERIES: Final[Sequence[tuple[dict[str, Any], list[str], str]]] = (
    ({"flow": "F"}, OF_FLOW, "the runs of that flow"),
    ({"status": "failed"}, ["f failed", "F failed"], "the failed ones"),
    ({"flow": "f", "status": "cancelled"}, ["f cancelled"], "what fits both"),
    ({"flow": "unknown"}, [], "nothing"),
    ({"run_id": "F finished"}, ["F finished"], "that run alone"),
    ({"run_id": "f"}, [], "nothing, as no run has that id"),
    ({"run_id": "unknown"}, [], "nothing, as no run has that id"),
    ({"run_id": "F finished", "status": "failed"}, [], "nothing, as the run has another status"),
    ({"status": "unfinished", "limit": 1}, ["f running"], "the newest one of that status, also where others are newer"),
)
"""Queries of two flows' runs, one of each status: what they must list, and that in words."""


class Listed(Promises):
    """The tests of `Catalog`: `runs`."""

    @in_time
    async def test_the_catalog_lists_runs_the_newest_first(self, persistence: FlowPersistence) -> None:
        catalog = needed(persistence, Catalog)
        async with session(persistence):
            assert list(await catalog.runs()) == [], "`runs` of an empty storage must be an empty list"
            chains = [Chain(name) for name in ("b", "a", "c")]
            for n, chain in enumerate(chains):
                for _ in range(n + 1):
                    await store(persistence, chain.add())
            found = await catalog.runs()
        assert [entry.run_id for entry in found] == ["c", "a", "b"], (
            f"`runs` must list the newest run first, and lists {[entry.run_id for entry in found]}"
        )
        for entry, chain in zip(found, reversed(chains), strict=True):
            _check(entry, chain)

    @in_time
    async def test_the_catalog_filters_by_flow_and_status(self, persistence: FlowPersistence) -> None:
        catalog = needed(persistence, Catalog)
        async with session(persistence):
            for flow in ("F", "f"):
                for status in ("running", "failed", "finished", "cancelled"):
                    await store(persistence, Chain(f"{flow} {status}").add(flow=flow, status=status))
            for query, expected, what in QUERIES:
                found = _ids(await catalog.runs(**query))
                assert found == expected, f"`runs` with {_said(query)} must list {what}, {expected}, and lists {found}"
            newest = await catalog.runs(flow="F", limit=2)
            rest = await catalog.runs(flow="F", limit=2, before=newest[-1].position if newest else None)
            driven = [e.run_id for e in await catalog.runs() if e.is_driven and e.status in ("finished", "cancelled")]
        paged = [_ids(newest), _ids(rest)]
        assert paged == [OF_FLOW[:2], OF_FLOW[2:]], (
            f"`runs` of a flow must come in full pages, {OF_FLOW[:2]} and {OF_FLOW[2:]}, and comes as {paged}"
        )
        assert driven == [], f"`runs` must show that a run that has ended has no owner, but shows owners for {driven}"

    @in_time
    async def test_the_catalog_finds_runs_by_the_identities_of_their_flows(self, persistence: FlowPersistence) -> None:
        catalog = needed(persistence, Catalog)
        async with session(persistence):
            for run_id, identity in (("one", "m.F"), ("two", "n.F"), ("old", ""), ("done", "m.F")):
                status = "finished" if run_id == "done" else "running"
                await store(persistence, Chain(run_id).add(flow="F", identity=identity, status=status))
            found = {entry.run_id: entry.identity for entry in await catalog.runs()}
            ours = _ids(await catalog.runs(identities=["m.F", ":F", "unknown"], status="unfinished"))
            first = await catalog.runs(identities=["m.F", ":F"], limit=2)
            rest = await catalog.runs(identities=["m.F", ":F"], limit=2, before=first[-1].position if first else None)
            none = _ids(await catalog.runs(identities=[]))
        expected = {"one": "m.F", "two": "n.F", "old": ":F", "done": "m.F"}
        assert found == expected, f"`RunEntry.identity` must be `Checkpoint.known_by`, {expected}, and is {found}"
        assert ours == ["old", "one"], f"`runs` with identities must list the runs of these flows alone, not {ours}"
        paged = [_ids(first), _ids(rest)]
        assert paged == [["done", "old"], ["one"]], f"`runs` with identities must come in full pages, not as {paged}"
        assert none == [], f"`runs` with no identities must be empty, not {none}"

    @in_time
    async def test_the_catalog_shows_that_a_released_run_has_no_owner(self, persistence: FlowPersistence) -> None:
        catalog = needed(persistence, Catalog)
        owner = needed(persistence, Ownership)
        async with session(persistence):
            await store(persistence, Chain("a").add())
            await owner.release("a", 1)
            driven = [entry.run_id for entry in await catalog.runs() if entry.is_driven]
        assert driven == [], "`runs` must show that a released run has no owner: otherwise no runner recovers it"

    @in_time
    async def test_the_catalog_lists_interrupted_runs_apart_from_those_that_are_driven(
        self, persistence: FlowPersistence
    ) -> None:
        catalog = needed(persistence, Catalog)
        owner = needed(persistence, Ownership)
        async with session(persistence):
            for n in range(6):
                await store(persistence, Chain(f"run {n}").add())
                if n % 2:
                    await owner.release(f"run {n}", 1)
            await store(persistence, Chain("done").add(kind="finished", status="finished"))
            words = {entry.run_id: entry.status for entry in await catalog.runs()}
            driven = _ids(await catalog.runs(status="running"))
            first = await catalog.runs(status="interrupted", limit=2)
            rest = await catalog.runs(status="interrupted", limit=2, before=first[-1].position if first else None)
        expected = {f"run {n}": "interrupted" if n % 2 else "running" for n in range(6)} | {"done": "finished"}
        assert words == expected, (
            f"`RunEntry.status` must be running while an owner lives, else interrupted: {expected}, not {words}"
        )
        assert driven == ["run 4", "run 2", "run 0"], (
            f"`runs` with status='running' must list the runs with a living owner, not {driven}"
        )
        paged = [_ids(first), _ids(rest)]
        assert paged == [["run 5", "run 3"], ["run 1"]], (
            f"`runs` with status='interrupted' must list the unfinished runs without an owner, in full pages, not {paged}"
        )

    @in_time
    async def test_the_catalog_is_read_page_by_page(self, persistence: FlowPersistence) -> None:
        catalog = needed(persistence, Catalog)
        seen: list[str] = []
        before: int | None = None
        async with session(persistence):
            for n in range(7):
                await store(persistence, Chain(f"run {n}").add())
            for n in range(4):
                page = await catalog.runs(before=before, limit=3)
                assert len(page) <= 3, f"`runs` with limit=3 must list three at most, and lists {len(page)}"
                seen += [entry.run_id for entry in page]
                before = page[-1].position if page else before
                await store(persistence, Chain(f"later {n}").add())
        expected = [f"run {n}" for n in reversed(range(7))]
        assert seen == expected, (
            f"`runs` page by page, each before the position of the last, must list every older run once, {expected}, and lists "
            f"{seen}"
        )

    @in_time
    async def test_a_history_begins_after_a_seq(self, persistence: FlowPersistence) -> None:
        keeper = needed(persistence, CheckpointHistory)
        chain = Chain("a")
        async with session(persistence):
            for n in range(6):
                await store(persistence, chain.add(whole=n % 3 == 0 or not has(persistence, CheckpointLog)))
            for after in (-1, 0, 3, 4, 5, 9):
                found = [checkpoint.seq for checkpoint in await keeper.history("a", after=after)]
                expected = list(range(after + 1, 6))
                assert found == expected, f"`history` with after={after} must hold {expected}, and holds {found}"


class Forgotten(Promises):
    """The tests of `Retention`: `delete` and `prune`."""

    @in_time
    async def test_a_deleted_run_stays_unknown(self, persistence: FlowPersistence) -> None:
        retention = needed(persistence, Retention)
        chain, other = Chain("a"), Chain("A")
        async with session(persistence):
            for checkpoint in (chain.add(), other.add(), chain.add()):
                await store(persistence, checkpoint)
            if has(persistence, Ownership):
                await needed(persistence, Ownership).release("a", 1)
            was_there = [await retention.delete("a") for _ in range(2)]
            assert was_there == [True, False], (
                f"`delete` must return whether the run existed: True, then False, not {was_there}"
            )
            assert await persistence.load("a") is None, "`load` of a deleted run must be None"
            if has(persistence, CheckpointHistory):
                left = await needed(persistence, CheckpointHistory).history("a")
                assert list(left) == [], f"`history` of a deleted run must be empty, and holds {len(left)} checkpoints"
            if has(persistence, Catalog):
                listed = [entry.run_id for entry in await needed(persistence, Catalog).runs()]
                assert listed == ["A"], f"`runs` must not list a deleted run: ['A'], not {listed}"
            if has(persistence, CheckpointLog):
                await refused(persistence, chain.add(), "the next checkpoint of a run that was deleted")
                assert not await retention.delete("a"), (
                    "a checkpoint that is refused must leave nothing of a deleted run"
                )
            with must("a deleted id must be free for another run"):
                again = Chain("a")
                await store(persistence, again.add())
                expect(await persistence.load("a"), again.rows[-1], "another run under a deleted id")
            expect(await persistence.load("A"), other.rows[-1], "`delete` must delete only that run")

    @in_time
    async def test_a_run_with_a_living_owner_is_not_deleted(self, persistence: FlowPersistence) -> None:
        retention, owners = needed(persistence, Retention), needed(persistence, Ownership)
        chain = Chain("a")
        async with session(persistence):
            await store(persistence, chain.add())
            for epoch in (1, 2):
                was_refused = False
                try:
                    await retention.delete("a")
                except RunLockedError:
                    was_refused = True
                assert was_refused, "`delete` of a run with a living owner must raise RunLockedError"
                assert await persistence.load("a") is not None, "a run with a living owner must not be deleted"
                await owners.release("a", epoch)
                if epoch == 1:
                    await owners.acquire("a")
            assert await retention.delete("a"), "`delete` must delete a run that was released"

    @in_time
    async def test_only_what_ended_long_ago_is_pruned(self, persistence: FlowPersistence) -> None:
        retention = needed(persistence, Retention)
        async with session(persistence):
            for name, status, at in (
                ("finished", "finished", AT),
                ("cancelled", "cancelled", AT),
                ("failed", "failed", AT),
                ("interrupted", "running", AT),
                ("finished now", "finished", time.time()),
            ):
                await store(persistence, Chain(name).add(status=status, at=at, flow="F"))
                if has(persistence, Ownership):
                    await needed(persistence, Ownership).release(name, 1)
            long = Chain("started long ago, and finished now")
            await store(persistence, long.add(flow="F"))
            await store(persistence, long.add(flow="F", status="finished", at=time.time()))
            gone = await retention.prune(older_than=3600.0)
            assert gone == 3, f"`prune` must delete the three runs that ended long ago, and returned {gone}"
            for name, is_kept in (
                ("finished", False),
                ("cancelled", False),
                ("failed", False),
                ("interrupted", True),
                ("finished now", True),
                (long.run_id, True),
            ):
                assert (await persistence.load(name) is not None) == is_kept, (
                    f"`prune` must {'keep' if is_kept else 'delete'} the run that is {name!r}"
                )

    @in_time
    async def test_a_run_that_is_resumed_while_others_are_pruned_is_kept(self, persistence: FlowPersistence) -> None:
        """Failed runs are resumed, and finish, while `prune` is running: it must not delete a run because of an outdated list."""
        retention, owners = needed(persistence, Retention), needed(persistence, Ownership)
        chains = [Chain(f"run {n}") for n in range(60)]
        resumed: list[Chain] = []

        async def resume_all() -> None:
            for chain in reversed(chains):  # from both ends: a backend deletes from one of them
                for each in (chain, chains[len(resumed)]):
                    epoch = await owners.acquire(each.run_id) if each not in resumed else 0
                    if epoch:
                        each.epoch = epoch
                        await store(persistence, each.add(status="finished", at=time.time()))
                        resumed.append(each)

        async with session(persistence):
            for chain in chains:
                await store(persistence, chain.add(status="failed"))
                await owners.release(chain.run_id, 1)
            gone = 0
            async with anyio.create_task_group() as group:
                group.start_soon(resume_all)
                await anyio.lowlevel.checkpoint()
                gone = await retention.prune(older_than=3600.0)
            for chain in resumed:
                found = await persistence.load(chain.run_id)
                assert (found and found.seq) == 1, (
                    f"`prune` must keep {chain.run_id}, which was resumed and has ended just now: each deletion decides again, in the "
                    "transaction that deletes"
                )
            left = sum([await persistence.load(chain.run_id) is not None for chain in chains])
        assert gone == len(chains) - left, (
            f"`prune` must return the number of runs that it has deleted, {len(chains) - left}, not {gone}"
        )

    @in_time
    async def test_the_newest_of_each_flow_are_kept(self, persistence: FlowPersistence) -> None:
        retention = needed(persistence, Retention)
        async with session(persistence):
            for flow in "FG":
                for n in range(4):
                    await store(persistence, Chain(f"{flow}{n}").add(flow=flow, status="finished"))
                await store(persistence, Chain(f"{flow}4").add(flow=flow))
                if has(persistence, Ownership):
                    await needed(persistence, Ownership).release(f"{flow}4", 1)
            await retention.prune(older_than=3600.0, keep_last=2)
            left = [f"{flow}{n}" for flow in "FG" for n in range(5) if await persistence.load(f"{flow}{n}") is not None]
        expected = ["F2", "F3", "F4", "G2", "G3", "G4"]
        assert left == expected, (
            f"`prune` with keep_last=2 must keep the two newest ended runs of each flow, and all runs that have not "
            f"ended: {expected}, not {left}"
        )


def _check(entry: RunEntry, chain: Chain) -> None:
    newest = chain.rows[-1]
    status = "running" if entry.status == "interrupted" else entry.status  # other tests check for a living owner
    listed = entry.run_id, entry.flow, status, entry.pass_number, entry.seq, entry.created_at, entry.updated_at
    right = newest.run_id, newest.flow, newest.status, newest.pass_number, newest.seq, chain.rows[0].at, newest.at
    assert listed == right, (
        f"`runs` must list id, flow, status, pass, seq, and the times of the first and the last checkpoint: {right}, not {listed}"
    )


def _said(query: Mapping[str, Any]) -> str:
    return " and ".join(f"{name}={value!r}" for name, value in query.items())


def _ids(entries: Sequence[RunEntry]) -> list[str]:
    return [entry.run_id for entry in entries]
