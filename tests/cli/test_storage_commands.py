"""The commands that look after the storage: `db`, `doctor`, `export` and `import`."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import Cli, Order, with_storage

from asyncflow.cli import examining

OLD = Path(__file__).parents[1] / "stored"


def changed(db: str, sql: str) -> None:
    with closing(sqlite3.connect(db)) as connection:
        connection.execute(sql)
        connection.commit()


def test_information_counts_the_runs(cli: Cli, db: str) -> None:
    info = cli("db", "info", "--db", db, "--json").json

    assert info["runs"] == {"failed": 1, "finished": 1, "waiting": 1}
    assert info["storage"] == os.path.abspath(db)
    assert (info["schema"], info["bytes"]) == (9, os.stat(db).st_size)
    assert "1 failed, 1 finished, 1 waiting" in cli("db", "info", "--db", db).out


def test_an_undamaged_storage_is_said_to_be_so(cli: Cli, db: str) -> None:
    assert cli("db", "check", "--db", db).out.endswith("is undamaged\n")
    assert cli("db", "check", "--db", db, "--run", "good", "--json").json == []


def test_a_backup_is_a_storage_of_its_own(cli: Cli, db: str) -> None:
    done = cli("db", "backup", "copy.db", "--db", db, "--json")
    again = cli("db", "backup", "copy.db", "--db", db)

    assert done.json == {"source": os.path.abspath(db), "copy": "copy.db", "runs": 3}
    assert cli("db", "check", "--db", "copy.db", "--json").json == []
    assert (again.code, len(again.err.splitlines())) == (2, 1)


def test_earlier_passes_are_deleted_and_space_is_returned(cli: Cli) -> None:
    async def passes(storage: Any) -> None:
        for _ in range(5):
            await Order(persistence=storage).kickoff({"id": "order", "city": "x" * 50_000})

    with_storage("runs.db", passes)

    dry = cli("db", "compact", "--db", "runs.db", "--json").json
    done = cli("db", "compact", "--db", "runs.db", "--yes", "--json").json

    assert dry == {"runs": 1, "deleted": False}
    assert (done["runs"], done["checkpoints"], done["note"]) == (1, 12, "")
    assert done["bytes_after"] < done["bytes_before"]
    assert [entry["seq"] for entry in cli("history", "order", "--db", "runs.db", "--json").json] == [12, 13, 14]


def test_free_space_stays_while_another_process_has_the_file_open(cli: Cli, db: str) -> None:
    import subprocess
    import sys

    program = (
        "import anyio\nfrom asyncflow import SQLiteFlowPersistence\n"
        "async def main():\n    async with SQLiteFlowPersistence('runs.db'):\n        print(flush=True); await anyio.sleep(60)\n"
        "anyio.run(main)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        done = cli("db", "compact", "--db", db, "--yes", "--json").json
        info = cli("db", "info", "--db", db, "--json").json
    finally:
        process.kill()
        process.communicate()

    assert done["bytes_after"] is None
    assert f"process {process.pid}" in done["note"]
    assert [name.split(" on ")[0] for name in info["processes"]] == [f"process {process.pid}"]


@pytest.mark.parametrize("version", ["0.3", "0.5"])
def test_an_older_storage_is_upgraded_once_that_is_confirmed(cli: Cli, version: str) -> None:
    (old,) = (OLD / version).glob("*.db")
    shutil.copy(old, "old.db")
    before = Path("old.db").read_bytes()

    refused = cli("runs", "--db", "old.db")
    dry = cli("db", "migrate", "--db", "old.db", "--json")
    copied = cli("db", "backup", "copy.db", "--db", "old.db")
    unchanged = Path("old.db").read_bytes()
    done = cli("db", "migrate", "--db", "old.db", "--yes", "--json")

    assert refused.code == 2
    assert (dry.code, dry.json["needed"], dry.json["upgraded"]) == (0, True, False)
    assert unchanged == before
    assert (copied.code, cli("runs", "--db", "copy.db").code) == (0, 2)
    assert done.json["upgraded"] is True
    assert cli("db", "check", "--db", "old.db", "--json").json == []
    assert cli("db", "migrate", "--db", "old.db", "--json").json["needed"] is False


# ---- doctor ---------------------------------------------------------------------------------------------------------


def findings(cli: Cli, db: str) -> dict[str, tuple[str, str, str]]:
    return {
        each["check"]: (each["level"], each["text"], each["cure"]) for each in cli("doctor", "--db", db, "--json").json
    }


def test_each_finding_of_the_doctor_has_a_line_and_a_cure(cli: Cli, db: str) -> None:
    found = findings(cli, db)
    text = cli("doctor", "--db", db).out

    assert all(check in text for check in found)
    assert all(cure for level, _, cure in found.values() if level in ("warning", "problem"))
    assert found["failed runs"][:2] == ("note", found["failed runs"][1])
    assert "1 run" in found["failed runs"][1]


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((3, 36, 0), "problem"),
        ((3, 40, 1), "warning"),
        ((3, 44, 5), "warning"),
        ((3, 44, 6), "ok"),
        ((3, 50, 6), "warning"),
        ((3, 50, 7), "ok"),
        ((3, 51, 2), "warning"),
        ((3, 51, 3), "ok"),
        ((3, 52, 0), "ok"),
        ((4, 0, 0), "ok"),
    ],
)
def test_the_versions_of_sqlite_with_the_known_bug(version: tuple[int, int, int], level: str) -> None:
    assert [finding.level for finding in examining.sqlite_findings(version)] == [level]


def test_a_file_that_other_users_can_read(cli: Cli, db: str) -> None:
    os.chmod(db, stat.S_IRUSR | stat.S_IWUSR | stat.S_IROTH)

    assert findings(cli, db)["permissions"][0] == "warning"


def test_a_network_file_system_is_a_problem(cli: Cli, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "file_system", lambda path: "nfs4")

    assert cli("doctor", "--db", db).code == 1
    assert findings(cli, db)["file system"][0] == "problem"


@pytest.mark.parametrize(
    ("check", "level", "sql"),
    [
        ("leases", "warning", "UPDATE runs SET wake_at = NULL WHERE run_id = 'ask-1'"),
        (
            "poison runs",
            "problem",
            "UPDATE runs SET wake_at = NULL, takeovers = 7, counted_at = head WHERE run_id = 'ask-1'",
        ),
        ("waiting runs", "warning", "UPDATE runs SET wake_at = 1, updated_at = 1 WHERE run_id = 'ask-1'"),
        ("clocks", "warning", "UPDATE runs SET updated_at = 9e9 WHERE run_id = 'good-1'"),
        ("orphans", "warning", "UPDATE runs SET parent = 'gone', parent_digest = x'00' WHERE run_id = 'ask-1'"),
    ],
)
def test_what_is_wrong_with_runs_is_found(cli: Cli, db: str, check: str, level: str, sql: str) -> None:
    assert findings(cli, db).get(check, ("ok",))[0] == "ok"
    changed(db, sql)

    assert findings(cli, db)[check][0] == level
    assert cli("doctor", "--db", db).code == (1 if level == "problem" else 0)


# ---- export and import ----------------------------------------------------------------------------------------------


def test_an_export_goes_to_stdout_and_comes_from_stdin(cli: Cli, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = cli("export", "-", "--db", db)
    Path("runs.jsonl").write_text(exported.out)
    done = cli("import", "runs.jsonl", "--db", "copy.db", "--json")

    assert exported.out.startswith('{"type":"asyncflow"')
    assert done.json["runs"] == 3
    assert stat.S_IMODE(os.stat("copy.db").st_mode) == 0o600


def test_an_export_takes_a_filter_and_no_existing_file(cli: Cli, db: str) -> None:
    assert cli("export", "some.jsonl", "--flow", "Order", "--status", "failed", "--db", db, "--json").json["runs"] == 1
    assert cli("export", "one.jsonl", "--run", "good", "--db", db, "--json").json["runs"] == 1

    again = cli("export", "one.jsonl", "--db", db)

    assert (again.code, len(again.err.splitlines())) == (2, 1)
    assert stat.S_IMODE(os.stat("one.jsonl").st_mode) == 0o600


def test_an_import_refuses_or_skips_what_exists(cli: Cli, db: str) -> None:
    cli("export", "runs.jsonl", "--db", db)

    refused = cli("import", "runs.jsonl", "--db", db)
    skipped = cli("import", "runs.jsonl", "--db", db, "--skip-existing", "--json")

    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert skipped.json == {"runs": 0, "checkpoints": 0, "signals": 0, "skipped": 3}


def test_a_file_that_is_no_export_is_refused(cli: Cli) -> None:
    Path("other.jsonl").write_text("{}\n")

    for name, words in (("other.jsonl", "Nothing was imported"), ("none.jsonl", "none.jsonl cannot be read")):
        done = cli("import", name, "--db", "copy.db")
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        assert words in done.err
