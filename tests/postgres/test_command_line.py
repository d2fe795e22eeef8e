"""Every command of the command line on PostgreSQL, and runs that move between the two databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from commands import FLOWS, Cli, runs_here, stored

from asyncflow.persistence.default import storage_at

SHOWN = [
    "runs",
    "show bad-1",
    "history bad-1",
    "state good-1",
    "diff good-1 0",
    "tail good-1",
    "retry",
    "doctor",
    "db info",
    "db check",
    "db migrate",
    "db compact",
]


@pytest.fixture
def url(conninfo: str, schema: str, sql: psycopg.Connection) -> Iterator[str]:
    info = psycopg.conninfo.conninfo_to_dict(conninfo)
    yield f"postgresql://{info.get('user', '')}@/{info.get('dbname', '')}?host={info['host']}&schema={schema}"
    sql.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")  # type: ignore[arg-type]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runs_here(capfd)


@pytest.mark.parametrize("command", SHOWN)
def test_every_command_that_looks(cli: Cli, url: str, command: str) -> None:
    stored(url)

    text, as_json = cli(*command.split(), "--db", url), cli(*command.split(), "--db", url, "--json")

    code = 1 if command == "doctor" else 0  # the server of the tests has fsync off
    assert (text.code, as_json.code) == (code, code), text.err
    assert ("fsync is off" in text.out) == (command == "doctor")
    assert text.out
    assert as_json.err == ""
    assert (
        all(isinstance(json.loads(line), dict) for line in as_json.out.splitlines())
        if command.startswith("tail")
        else as_json.json is not None
    )


@pytest.mark.parametrize("command", ["runs", "show x", "cancel x", "delete x --yes", "db info", "db check", "doctor"])
def test_a_missing_schema_is_not_created(
    cli: Cli, url: str, schema: str, command: str, sql: psycopg.Connection
) -> None:
    done = cli(*command.split(), "--db", url)

    assert (done.code, len(done.err.splitlines())) == (3, 1)
    assert sql.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchall() == []


def test_runs_are_acted_on(cli: Cli, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(url)
    monkeypatch.setenv("PAYS", "1")

    assert cli("signal", "ask", "approved", "true", "--app", f"{FLOWS}:Ask", "--db", url).code == 0
    assert cli("resume", "ask", "--app", f"{FLOWS}:Ask", "--db", url, "--json").json["result"] == "approved: True"
    assert cli("retry", "--app", f"{FLOWS}:Order", "--yes", "--db", url, "--json").json[0]["status"] == "finished"
    assert cli("fork", "good-1", "--at", 1, "--app", f"{FLOWS}:Order", "--db", url, "--json").json["result"] == "paid"
    assert cli("start", "--app", f"{FLOWS}:Ask", "--id", "ask-2", "--until", "waiting", "--db", url).code == 0
    assert cli("cancel", "ask-2", "--db", url, "--json").json["status"] == "cancelled"
    assert cli("delete", "ask-2", "--yes", "--db", url).code == 0
    assert cli("prune", "--older-than", "0s", "--yes", "--db", url, "--json").json == {"deleted": 4}
    assert cli("db", "compact", "--yes", "--db", url, "--json").json["runs"] == 0


def test_a_backup_names_the_servers_own_tool(cli: Cli, url: str, schema: str) -> None:
    stored(url)

    done = cli("db", "backup", "copy.db", "--db", url)

    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert f"pg_dump --schema={schema}" in done.err


def test_an_unknown_id_names_the_schema_and_no_password(cli: Cli, url: str, schema: str) -> None:
    stored(url)

    done = cli("show", "nope", "--db", url.replace("@", ":geheim@", 1))

    assert (done.code, len(done.err.splitlines())) == (3, 1)
    assert f"schema {schema!r} of database" in done.err
    assert "geheim" not in done.err


@pytest.mark.parametrize("to_postgres", [True, False])
def test_runs_move_between_the_databases(cli: Cli, url: str, to_postgres: bool) -> None:
    source, target = ("runs.db", url) if to_postgres else (url, "runs.db")
    stored(source)
    cli("signal", "ask", "approved", "true", "--app", f"{FLOWS}:Ask", "--db", source)

    exported = cli("export", "runs.jsonl", "--db", source, "--json").json
    imported = cli("import", "runs.jsonl", "--db", target, "--json").json

    assert imported == exported
    assert (imported["runs"], imported["signals"]) == (3, 1)
    assert cli("db", "check", "--db", target, "--json").json == []
    for run_id in ("good-1", "bad-1"):
        before, after = (cli("history", run_id, "--db", place, "--json").json for place in (source, target))
        assert before == after
    assert cli("resume", "ask", "--app", f"{FLOWS}:Ask", "--db", target, "--json").json["result"] == "approved: True"
    again = cli("export", "again.jsonl", "--db", target, "--run", "good-1", "--json").json
    assert again["runs"] == 1
    lines = [set(Path(name).read_text().splitlines()) for name in ("runs.jsonl", "again.jsonl")]
    assert len(lines[0] & lines[1]) == 1 + 1 + 3  # the first line, the run, and its checkpoints


def test_a_url_may_name_its_schema(schema: str) -> None:
    storage = storage_at(f"postgresql://user@host/db?schema={schema}&connect_timeout=3")

    assert storage._target.schema == schema  # type: ignore[attr-defined]
    assert "schema" not in storage._target.conninfo  # type: ignore[attr-defined]
    assert "connect_timeout=3" in storage._target.conninfo  # type: ignore[attr-defined]
