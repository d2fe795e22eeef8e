"""What cannot be done is one line that says what to do, with exit code 2 or 3, or 1 for a failure of the storage. Never a traceback."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import FLOWS, Cli, Done, Order, stored, with_storage

READING = [
    "runs",
    "show x",
    "history x",
    "state x",
    "diff x 0",
    "tail x",
    "db info",
    "db check",
    "doctor",
    "export -",
    "retry",
]
WRITING = [
    "cancel x",
    "delete x --yes",
    "prune --older-than 1d --yes",
    f"resume x --app {FLOWS}:Order",
    "db compact --yes",
]


def is_one_line(done: Done, code: int, *words: str) -> None:
    assert done.code == code, done
    assert done.out == ""
    assert len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith("asyncflow: ")
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err


def broken(path: Path, how: Callable[[sqlite3.Connection], object]) -> None:
    stored(str(path))
    with closing(sqlite3.connect(path)) as connection:
        how(connection)
        connection.commit()


@pytest.mark.parametrize("command", READING + WRITING)
def test_a_missing_store(cli: Cli, command: str, tmp_path: Path) -> None:
    is_one_line(cli("--db", "none.db", *command.split()), 3, "does not exist", "--db", "$ASYNCFLOW_DB")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", READING + WRITING)
def test_a_foreign_store(cli: Cli, command: str) -> None:
    with closing(sqlite3.connect("other.db")) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    Path("text.db").write_text("not a database at all, but a text that is long enough" * 20)

    is_one_line(cli("--db", "other.db", *command.split()), 2, "another program", "another file")
    is_one_line(cli("--db", "text.db", *command.split()), 2, "not a SQLite database")


@pytest.mark.parametrize("command", READING + WRITING)
def test_a_newer_store(cli: Cli, command: str) -> None:
    broken(Path("newer.db"), lambda c: c.execute("PRAGMA user_version = 99"))

    is_one_line(cli("--db", "newer.db", *command.split()), 2, "update asyncflow")


@pytest.mark.parametrize("command", READING + WRITING)
def test_an_older_store(cli: Cli, command: str) -> None:
    broken(Path("older.db"), lambda c: c.execute("PRAGMA user_version = 8"))

    is_one_line(cli("--db", "older.db", *command.split()), 2, "asyncflow db migrate")


def test_a_damaged_store(cli: Cli) -> None:
    stored("damaged.db")
    data = bytearray(Path("damaged.db").read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    Path("damaged.db").write_bytes(data)

    for command in ("runs", "show good-1", "db info"):
        is_one_line(cli("--db", "damaged.db", *command.split()), 1, "damaged", "backup")


def test_a_damaged_run(cli: Cli, db: str) -> None:
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("UPDATE checkpoints SET state = x'0a7b7d' WHERE seq = 0")
        connection.commit()

    is_one_line(cli("--db", db, "history", "good-1"), 1, "corrupt", "backup")
    checked = cli("--db", db, "db", "check", "--json")
    assert checked.code == 1
    assert {each["run_id"] for each in checked.json} == {"good-1", "bad-1", "ask-1"}


def test_a_locked_store(cli: Cli, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from asyncflow.persistence.sqlite import database

    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")

        assert cli("--db", db, "runs").code == 0  # readers do not wait for a writer
        is_one_line(cli("--db", db, "cancel", "ask-1"), 1, "locked by another process", "Try again")


def test_an_id_that_is_the_prefix_of_several(cli: Cli) -> None:
    for run_id in ("order-1", "order-2"):
        with_storage("runs.db", lambda s, run_id=run_id: Order(persistence=s).kickoff({"id": run_id}))  # type: ignore[misc]

    is_one_line(cli("--db", "runs.db", "show", "order"), 3, "order-1", "order-2", "more of the id")
    assert cli("--db", "runs.db", "show", "order-1").code == 0


def test_an_unknown_id(cli: Cli, db: str) -> None:
    for command in (
        "show nope",
        "cancel nope",
        "delete nope --yes",
        f"resume nope --app {FLOWS}:Order",
        "state good-1 --at 99",
    ):
        done = cli("--db", db, *command.split())
        is_one_line(done, 3, str(Path(db).absolute()), "check the id", "asyncflow ")
        assert "Persistence" not in done.err
    is_one_line(cli("--db", db, "runs", "--parent", "nope"), 3, "'nope'")


def test_a_storage_without_a_name(cli: Cli, db: str) -> None:
    for named in (("--db", "", "runs"), ("runs", "--db=")):
        is_one_line(cli(*named), 2, "--db is empty")


def test_a_file_and_a_folder_that_may_not_be_read(cli: Cli, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, hidden = os.stat, Path("hidden", "x.db").absolute()

    def of_another_user(path: Any, *rest: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(str(hidden)):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *rest, **options)

    monkeypatch.setattr(os, "stat", of_another_user)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)

    for command in READING + WRITING:
        is_one_line(cli("--db", hidden, *command.split()), 1, "not readable", "permissions", str(hidden))
        is_one_line(cli("--db", db, *command.split()), 1, "not readable", "permissions")


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("nowhere:Order", "no module 'nowhere'"),
        (f"{FLOWS}:Ordr", "Its flows: Order, Ask"),
        (f"{FLOWS}:json", "no flow class"),
        ("nothing", "MODULE:FLOW"),
        ("missing.py:Order", "does not exist"),
        ("raises.py:Order", "ZeroDivisionError: division by zero at raises.py, line 1"),
        ("needs.py:Order", "needs the module 'not_there'"),
        ("leaves.py:Order", "cannot be imported: SystemExit: 7"),
        ("lazy.py:Order", "cannot be read: RuntimeError: no at lazy.py, line 1"),
        ("..lazy:Order", "names nothing to import"),
    ],
)
def test_a_class_that_cannot_be_imported(cli: Cli, db: str, app: str, words: str) -> None:
    Path("raises.py").write_text("1 / 0")
    Path("leaves.py").write_text("raise SystemExit(7)")
    Path("lazy.py").write_text("def __getattr__(name): raise RuntimeError('no')")
    Path("needs.py").write_text("import not_there")

    is_one_line(cli("--db", db, "resume", "bad-1", "--app", app), 2, words)
    is_one_line(cli("graph", app), 2, words)


def test_no_class_is_named(cli: Cli, db: str) -> None:
    for command in ("start", "resume bad-1", "fork bad-1", "signal ask-1 approved", "retry --yes"):
        is_one_line(cli("--db", db, *command.split()), 2, "--app MODULE:FLOW")


def test_the_run_of_another_class(cli: Cli, db: str) -> None:
    is_one_line(cli("--db", db, "resume", "bad-1", "--app", f"{FLOWS}:Ask"), 2, "Order")
    is_one_line(cli("--db", db, "graph", f"{FLOWS}:Ask", "--run", "bad-1"), 2, "Order")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("runs --status broken", "write one of running, waiting"),
        ("runs --since soon", "10m, 2h or 7d"),
        ("prune --older-than sometimes", "30s, 10m"),
        ("retry --since nope", "write a duration"),
        ("export out --status broken", "write one of running"),
        (f"start --app {FLOWS}:Order --inputs {{", "not JSON"),
        (f"start --app {FLOWS}:Order --inputs [1]", "JSON object"),
        (f"start --app {FLOWS}:Order --inputs @none.json", "cannot be read"),
        (f"start --app {FLOWS}:Order --until never", "the methods of Order are price, pay"),
        (f"resume bad-1 --app {FLOWS}:Order --until 0", "--until must be"),
        (f"signal ask-1 aproved true --app {FLOWS}:Ask", "Did you mean 'approved'"),
        (f"signal ask-1 approved {{ --app {FLOWS}:Ask", "not JSON"),
        (f"signal ask-1 approved secret --app {FLOWS}:Ask", "not JSON"),
        (f"graph {FLOWS}:Order --format gif", "mermaid, dot, html"),
        (f"worker {FLOWS}:Order --loop tokio", "asyncio or trio"),
        (f"worker {FLOWS}:Cart", "no FlowRunner"),
        (f"start --app {FLOWS}:Order --id=", "--id is empty"),
        (f'start --app {FLOWS}:Order --id a --inputs {{"id":"b"}}', "different"),
        ("show \udcff", "not valid UTF-8"),
        ("runs --flow \udcff", "not valid UTF-8"),
    ],
)
def test_an_argument_that_makes_no_sense(cli: Cli, db: str, arguments: str, words: str) -> None:
    done = cli("--db", db, *arguments.split())

    is_one_line(done, 2, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nonsense", "no such command 'nonsense'; see asyncflow --help"),
        ("db inf", "Did you mean 'info'? See asyncflow db --help"),
        ("runs --nope", "--nope"),
        ("runs --limit", "--limit"),
        ("show", "missing argument 'ID'; see asyncflow show --help"),
        ("runs --limit 0", "'--limit' / '-n'"),
        ("runs --limit -1", "'--limit' / '-n'"),
        ("runs --limit many", "'--limit' / '-n'"),
        ("runs --before 0", "'--before'"),
        ("diff good-1 x", "'A'"),
        (f"runs --limit {2**63}", "'--limit' / '-n'"),
        (f"runs --before {2**63}", "'--before'"),
        ("runs --n\x1b[31mope", "\\x1b[31mope"),
    ],
)
def test_words_that_are_no_command(cli: Cli, arguments: str, words: str) -> None:
    is_one_line(cli(*arguments.split()), 2, words)


@pytest.mark.parametrize("arguments", [(), ("db",)])
def test_no_command_is_named(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)

    assert done.code == 2
    assert "Commands" in done.out + done.err or "Look at runs" in done.out + done.err


CLASSES = """
from asyncflow import Flow, start
print("imported")
class Made(Flow[dict]):
    def __init__(self, **options):
        raise ValueError("geheim")
    @start()
    async def work(self): ...
class Leaves(Flow[dict]):
    @start()
    async def work(self): raise SystemExit("geheim")
class Talks(Flow[dict]):
    @start()
    async def work(self):
        print("talking")
        return 1
def runner():
    raise KeyError("none")
"""


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("start --app odd.py:Made", "unexpected ValueError at odd.py, line 6"),
        ("signal ask-1 approved true --app odd.py:Made", "unexpected ValueError at odd.py, line 6"),
        ("start --app odd.py:Leaves", "unexpected SystemExit at odd.py, line 11"),
    ],
)
def test_a_class_that_raises_an_unexpected_error(
    cli: Cli, db: str, command: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("odd.py").write_text(CLASSES.replace('print("imported")', ""))

    done = cli("--db", db, *command.split())

    is_one_line(done, 1, words, "ASYNCFLOW_TRACEBACK=1")
    assert "geheim" not in done.err
    monkeypatch.setenv("ASYNCFLOW_TRACEBACK", "1")
    with pytest.raises((ValueError, BaseExceptionGroup)):
        cli("--db", db, *command.split())


def test_a_function_that_returns_no_runner(cli: Cli) -> None:
    Path("odd.py").write_text(CLASSES.replace('print("imported")', ""))

    is_one_line(cli("worker", "odd.py:runner"), 2, "KeyError: 'none' at odd.py, line 18")


def test_what_the_code_of_users_prints_is_not_in_the_json(cli: Cli) -> None:
    Path("odd.py").write_text(CLASSES)

    done = cli("start", "--app", "odd.py:Talks", "--json")

    assert done.json["result"] == 1
    assert done.err.split() == ["imported", "talking"]


def test_inputs_that_do_not_fit_do_not_appear(cli: Cli) -> None:
    done = cli("start", "--app", f"{FLOWS}:Order", "-i", '{"total": "geheim"}')

    is_one_line(done, 2, "total")
    assert "geheim" not in done.err


def test_a_url_of_no_server_and_one_that_cannot_be_read(cli: Cli) -> None:
    is_one_line(cli("runs", "--db", "postgresql://127.0.0.1:1/none?connect_timeout=1"), 1, "cannot be reached")
    is_one_line(cli("runs", "--db", "postgresql://u:geheim@[/none"), 2, "postgresql://user@host")
    is_one_line(cli("runs", "--db", "mysql://u:geheim@host/none"), 2, "'mysql:/' begins a URL", "path alone")
    for url in ("sqlite:///runs.db", "file:runs.db?mode=ro"):
        is_one_line(cli("runs", "--db", url), 2, "begins a URL", "runs.db")


def test_a_server_without_its_driver(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "asyncflow.persistence.postgres", None)

    is_one_line(cli("runs", "--db", "postgresql://127.0.0.1/none"), 2, "postgres")


def test_ctrl_c_while_modules_are_imported(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("asyncflow.cli.app.run", interrupted)

    assert cli("runs") == Done(130, "", "")


def test_without_the_extra_it_says_how_to_install_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "typer" else find(name, *rest))

    is_one_line(cli("runs"), 2, "pip install '.[cli]'")
