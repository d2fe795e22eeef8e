"""Runs that older versions have stored: they load, verify and resume to their right ends; the database is upgraded, or left whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import anyio
import pytest
from ends import ENDS, HERE, VERSIONS, assert_comes_to_its_end, runs_of
from moments import later
from stored_flows import FLOWS, NEED_AN_INBOX, Linear
from write import KILLED, RUNS, described, write

from asyncflow import FlowRunner, Signal, SQLiteFlowPersistence, Waiting, and_, errors, listen
from asyncflow._version import VERSION
from asyncflow.persistence import Checkpoint
from asyncflow.persistence.checkpoint import FORMAT, decode_transition, verified
from asyncflow.persistence.sqlite import database


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def storage(version: str) -> AsyncIterator[SQLiteFlowPersistence]:
    shutil.copy(HERE / version / "runs.db", "runs.db")
    async with SQLiteFlowPersistence("runs.db") as opened:
        yield opened


@pytest.mark.clauses("V6")
async def test_every_run_of_a_file_that_an_older_version_wrote_verifies_and_loads(
    version: str, storage: SQLiteFlowPersistence
) -> None:
    assert await storage.verify() == []
    for run_id, told in runs_of(version).items():
        loaded = await FLOWS[told["flow"]].load(run_id, persistence=storage)
        stored = await storage.load(run_id)

        assert stored is not None
        assert (stored.flow, stored.status, stored.seq) == (told["flow"], told["status"], told["seq"])
        assert (stored.pass_number, stored.digest.hex()) == (told["pass"], told["digest"])
        assert json.loads(stored.state or b"") == told["state"]
        assert [each.seq for each in await loaded.history()] == [*range(told.get("first", 0), told["seq"] + 1)]
        if "shown" in told:
            assert [entry.status for entry in await storage.runs(run_id=run_id)] == [told["shown"]]
        assert [each.signal.key for each in await storage.inbox(run_id)] == told.get("inbox", [])


@pytest.mark.clauses("V6")
async def test_every_run_of_a_file_that_an_older_version_wrote_reaches_its_right_end(
    version: str, storage: SQLiteFlowPersistence
) -> None:
    for run_id, told in runs_of(version).items():
        await assert_comes_to_its_end(run_id, told, storage)

    assert await storage.verify() == []


async def test_every_seq_that_an_older_version_wrote_can_be_forked_and_finishes(
    version: str, storage: SQLiteFlowPersistence
) -> None:
    for run_id in ("cycle-midway", "join-half-full", "patches-midway"):
        told = runs_of(version)[run_id]
        for seq in range(told["seq"] + 1):
            fork = await FLOWS[told["flow"]].fork(run_id, seq=seq, persistence=storage)
            assert await fork.kickoff() == ENDS[told["flow"]]

    assert await storage.verify() == []


async def test_a_run_of_a_file_that_an_older_version_wrote_can_be_edited_and_begun_again(
    version: str, storage: SQLiteFlowPersistence
) -> None:
    flow = await FLOWS["Linear"].load("linear-failed", persistence=storage)
    await flow.update_state(seen=["here"])
    await FLOWS["Linear"].resume("linear-failed", persistence=storage)
    again = FLOWS["Linear"](persistence=storage)
    await again.kickoff({"id": "linear-failed"})

    assert again.state.seen == ["here", "add", "close", "fetch", "add", "close"]
    assert await storage.verify() == []


@pytest.mark.clauses("V6")
async def test_what_a_backend_of_two_verbs_was_given_by_an_older_version_loads_and_resumes(version: str) -> None:
    class Kept:
        async def save(self, checkpoint: Checkpoint) -> None:
            await anyio.Path(f"{checkpoint.run_id}.checkpoint").write_bytes(checkpoint.to_bytes())

        async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
            path = anyio.Path(f"{run_id}.checkpoint")
            return Checkpoint.from_bytes(await path.read_bytes()) if await path.exists() else None

    shutil.copytree(HERE / version / "to_bytes", ".", dirs_exist_ok=True)
    kept = sorted(name.partition(".")[0] for name in os.listdir() if name.endswith(".checkpoint"))

    told = runs_of(version)
    assert kept == sorted(run_id for run_id in told if told[run_id]["flow"] not in NEED_AN_INBOX and run_id != KILLED)
    for run_id in kept:
        await assert_comes_to_its_end(run_id, told[run_id], Kept())


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=False)
async def test_the_runs_that_this_version_writes_reach_their_right_ends() -> None:
    storage = SQLiteFlowPersistence("runs.db", durability="process")
    await write(storage)
    written = await described(storage)

    assert len(written) == len(RUNS)
    with later(3600):
        for run_id, told in written.items():
            await assert_comes_to_its_end(run_id, told, storage)


# ---- the upgrade ---------------------------------------------------------------------------------------------------


def identity_of(path: str) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as connection:
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        ((rows,),) = connection.execute("SELECT count(*) FROM checkpoints").fetchall()
    return version, rows


async def test_a_file_is_upgraded_in_one_transaction_or_refused_whole(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(HERE / version / "runs.db", "runs.db")
    before = identity_of("runs.db")
    if before[0] == len(database.MIGRATIONS):
        return
    statements = database._statements
    broken = [*statements(database.MIGRATIONS[-1])[:-1], "CREATE TABLE no (such syntax"]
    with monkeypatch.context() as patch:
        patch.setattr(
            database, "_statements", lambda name: broken if name == database.MIGRATIONS[-1] else statements(name)
        )
        with pytest.raises(errors.StorageError):
            await SQLiteFlowPersistence("runs.db").load("linear-failed")

    assert identity_of("runs.db") == before

    await SQLiteFlowPersistence("runs.db").load("linear-failed")
    assert identity_of("runs.db") == (len(database.MIGRATIONS), before[1])


OLDER = ("schema.sql", "leases.sql", "takeovers.sql")


def of_an_older_version(statement: str, *values: Any) -> list[Any]:
    """A statement that an older version sends, over a connection of its own."""
    with closing(sqlite3.connect("runs.db")) as connection, connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection.execute(statement, values).fetchall()


async def test_a_process_of_0_1_is_refused_by_an_upgraded_file_and_changes_nothing() -> None:
    shutil.copy(HERE / "0.1" / "runs.db", "runs.db")
    async with SQLiteFlowPersistence("runs.db") as storage:
        await storage.load("linear-failed")
        before = identity_of("runs.db")

        with pytest.raises(sqlite3.OperationalError, match="upgraded by a newer asyncflow: update asyncflow"):
            of_an_older_version(f"INSERT INTO commits VALUES ({', '.join('?' * 20)})", *["x"] * 20)
        with pytest.raises(sqlite3.OperationalError, match="no such column"):
            of_an_older_version("SELECT run_id, flow, status, number FROM runs")

        assert identity_of("runs.db") == before
        assert await storage.verify() == []


# ---- versions to come ----------------------------------------------------------------------------------------------


def upgraded_by(version: str) -> None:
    """Make of the database one of a newer version: its statements are others."""
    with closing(sqlite3.connect("runs.db")) as connection, connection:
        connection.execute("DROP VIEW first_checkpoints")
        connection.execute("ALTER TABLE runs RENAME COLUMN head TO newest")
        connection.execute("INSERT INTO upgrades VALUES (99, ?)", (version,))
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.clauses("S3")
async def test_a_process_with_the_file_open_is_refused_once_a_newer_version_upgrades_it() -> None:
    cls = FLOWS["Linear"]
    async with SQLiteFlowPersistence("runs.db") as storage:
        flow = cls(persistence=storage)
        await flow.kickoff({"id": "x"})
        upgraded_by("9.9")

        for call in (lambda: cls(persistence=storage).kickoff(), lambda: storage.load("x"), lambda: storage.runs()):
            with pytest.raises(errors.StorageVersionError, match=r"asyncflow 9\.9"):
                await call()
    with pytest.raises(errors.StorageVersionError, match=r"asyncflow 9\.9"):
        await SQLiteFlowPersistence("runs.db").load("x")


async def checkpoint_of_today() -> Checkpoint:
    storage = SQLiteFlowPersistence("today.db")
    await FLOWS["Linear"](persistence=storage).kickoff({"id": "x"})
    stored = await storage.load("x")
    assert stored is not None
    return stored


NEWER = {
    "a newer format": {"format": FORMAT + 1, "version": "9.9"},
    "an unknown kind": {"kind": "signalled", "version": "9.9"},
    "an unknown status": {"status": "waiting", "version": "9.9"},
}


@pytest.mark.clauses("S3", "V4", "V6")
@pytest.mark.parametrize("fields", NEWER.values(), ids=NEWER)
async def test_a_checkpoint_of_a_newer_version_is_no_damage_and_names_the_version(fields: dict[str, Any]) -> None:
    newer = (await checkpoint_of_today())._replace(**fields).sealed()

    with pytest.raises(errors.StorageVersionError, match=r"asyncflow 9\.9 wrote it, and this is"):
        Checkpoint.from_bytes(newer.to_bytes())
    with pytest.raises(errors.StorageVersionError, match=r"asyncflow 9\.9") as caught:
        verified([newer])
    assert caught.value.run_id == "x"


async def test_a_field_that_only_a_newer_version_knows_is_no_damage() -> None:
    checksum, _, body = (await checkpoint_of_today()).to_bytes().partition(b"\n")
    newer = json.dumps({**json.loads(body), "timers": [], "version": "9.9"}).encode()
    checksum = hashlib.blake2b(newer, digest_size=16).hexdigest().encode()

    with pytest.raises(errors.StorageVersionError, match=r"unknown field 'timers'; asyncflow 9\.9"):
        Checkpoint.from_bytes(checksum + b"\n" + newer)


@pytest.mark.clauses("V4")
async def test_a_format_that_this_version_claims_to_have_written_and_cannot_have_is_damage() -> None:
    damaged = (await checkpoint_of_today())._replace(format=FORMAT + 1, version=VERSION)

    with pytest.raises(errors.CheckpointCorruptError):
        verified([damaged])


@pytest.mark.clauses("S3")
async def test_a_row_of_a_newer_format_hurts_its_run_alone() -> None:
    cls = FLOWS["Linear"]
    async with SQLiteFlowPersistence("runs.db") as storage:
        for run_id in ("newer", "other"):
            await cls(persistence=storage).kickoff({"id": run_id})
        with closing(sqlite3.connect("runs.db")) as connection, connection:
            connection.execute(f"UPDATE runs SET format = {FORMAT + 1}, version = '9.9' WHERE run_id = 'newer'")

        for call in (
            lambda: cls.load("newer", persistence=storage),
            lambda: cls.resume("newer", persistence=storage),
            lambda: cls(persistence=storage).kickoff({"id": "newer"}),
            lambda: storage.acquire("newer"),
        ):
            with pytest.raises(errors.StorageVersionError, match=r"asyncflow 9\.9"):
                await call()
        assert [type(error) for error in await storage.verify()] == [errors.StorageVersionError]
        assert (await cls.load("other", persistence=storage)).status == "finished"


def test_a_field_added_to_a_transition_has_its_default_in_an_older_format() -> None:
    shorter = b'["a:1","",false,[["b",1,"",["a","b"]]],[]]'

    transition = decode_transition(shorter)

    assert transition.skipped == ()
    assert transition.enabled[0].arguments == ()


async def test_a_process_of_0_2_on_an_upgraded_file_is_refused_and_changes_nothing() -> None:
    shutil.copy(HERE / "0.2" / "runs.db", "runs.db")
    async with SQLiteFlowPersistence("runs.db") as storage:
        await storage.load("linear-failed")
        before = identity_of("runs.db")

        for view, columns in (("first_appends", 23), ("running_appends", 19), ("other_appends", 21)):
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                of_an_older_version(f"INSERT INTO {view} VALUES ({', '.join('?' * columns)})", *["x"] * columns)
        for statement in (
            "SELECT run_id, head, digest FROM runs",
            "UPDATE runs SET owner = 'x', epoch = 9, digest = x'00'",
            "UPDATE runs SET takeovers = 1, taken_at = head",
        ):
            with pytest.raises(sqlite3.OperationalError, match="no such column"):
                of_an_older_version(statement)

        assert identity_of("runs.db") == before
        assert await storage.verify() == []


async def test_the_count_of_takeovers_outlives_the_upgrade() -> None:
    shutil.copy(HERE / "0.2" / "runs.db", "runs.db")
    with closing(sqlite3.connect("runs.db")) as connection, connection:
        connection.execute("UPDATE runs SET takeovers = 3, taken_at = head WHERE run_id = 'linear-killed'")
    async with SQLiteFlowPersistence("runs.db") as storage:
        assert [entry.takeovers for entry in await storage.runs(run_id="linear-killed")] == [3]

        epoch = await storage.acquire("linear-killed")
        assert [entry.takeovers for entry in await storage.runs(run_id="linear-killed")] == [4]
        await storage.release("linear-killed", epoch)


@pytest.mark.clauses("V6")
def test_bytes_of_an_older_format_are_written_back_as_they_were(version: str) -> None:
    for path in sorted((HERE / version / "to_bytes").iterdir()):
        data = path.read_bytes()
        again = Checkpoint.from_bytes(data)
        assert Checkpoint.from_bytes(again.to_bytes()) == again
        fields = json.loads(again.to_bytes().partition(b"\n")[2])
        assert ("number" in fields, "pass_number" in fields) == (version < "0.3", version >= "0.3")


async def test_the_bytes_of_today_name_the_pass() -> None:
    fields = json.loads((await checkpoint_of_today()).to_bytes().partition(b"\n")[2])

    assert (fields["format"], fields["pass_number"]) == (FORMAT, 1)


async def test_a_process_of_0_4_on_an_upgraded_file_is_refused_and_changes_nothing() -> None:
    """Its sends would wake no parked run, and its takeovers would leave the run parked."""
    shutil.copy(HERE / "0.4" / "runs.db", "runs.db")
    async with SQLiteFlowPersistence("runs.db") as storage:
        await storage.load("linear-failed")
        before = identity_of("runs.db")
        for statement in (
            "SELECT run_id, head, row_digest FROM runs",
            "UPDATE runs SET owner = 'x', epoch = 9, row_digest = x'00'",
        ):
            with pytest.raises(sqlite3.OperationalError, match="no such column"):
                of_an_older_version(statement)

        assert identity_of("runs.db") == before
        assert await storage.verify() == []


async def test_a_process_of_0_5_on_an_upgraded_file_is_refused_and_changes_nothing() -> None:
    """It would delete parents without their children."""
    shutil.copy(HERE / "0.5" / "runs.db", "runs.db")
    async with SQLiteFlowPersistence("runs.db") as storage:
        await storage.load("linear-failed")
        before = identity_of("runs.db")
        for statement in (
            "SELECT run_id, head, run_digest FROM runs",
            "UPDATE runs SET owner = 'x', epoch = 9, run_digest = x'00'",
        ):
            with pytest.raises(sqlite3.OperationalError, match="no such column"):
                of_an_older_version(statement)

        assert identity_of("runs.db") == before
        assert await storage.verify() == []


@pytest.mark.clauses("V6", "W11")
@pytest.mark.parametrize("run_id", ["linear-interrupted", "linear-killed"])
async def test_a_run_that_an_older_version_wrote_is_parked_and_woken(
    run_id: str, storage: SQLiteFlowPersistence
) -> None:
    """Its class waits for a person since then."""

    class Signed(Linear):
        name = "Signed"
        formerly = (f"{Linear.__module__}.Linear", "Linear")
        signed = Signal("signed", str)

        @listen(and_(Linear.close, signed))
        async def sign(self, close: str, signed: str) -> str:
            return f"{close}, signed {signed}"

    waiting = await Signed(persistence=storage).kickoff({"id": run_id}, until="waiting")
    assert isinstance(waiting, Waiting)
    assert waiting.waits_for == ("signed",)
    assert (await storage.runs(run_id=run_id))[0].status == "waiting"
    async with FlowRunner(storage, flows=[Signed]) as runner:
        handle = await runner.get(run_id)
        await handle.signal(Signed.signed, "Ada")
        with anyio.fail_after(60):
            assert await handle.result() == f"{ENDS['Linear']}, signed Ada"

    assert await storage.verify(run_id) == []
