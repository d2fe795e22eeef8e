"""The commands that look at runs: what they print for people and as JSON."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import FLOWS, Cli, Order, with_storage

from asyncflow import Flow, start


def test_runs_are_listed_newest_first(cli: Cli, db: str) -> None:
    done = cli("runs", "--db", db)

    assert done.code == 0
    header, *rows = done.out.splitlines()
    assert header.split() == ["ID", "FLOW", "STATUS", "PASS", "SEQ", "CHANGED", "NOTE"]
    assert [row.split()[:3] for row in rows] == [
        ["ask-1", "Ask", "waiting"],
        ["bad-1", "Order", "failed"],
        ["good-1", "Order", "finished"],
    ]
    assert "\x1b" not in done.out


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (("--flow", "Order"), ["bad-1", "good-1"]),
        (("--status", "failed"), ["bad-1"]),
        (("--status", "waiting"), ["ask-1"]),
        (("--id", "ood"), ["good-1"]),
        (("--since", "1h"), ["ask-1", "bad-1", "good-1"]),
        (("--until", "2001-01-01"), []),
        (("--since", "1h", "--until", "2001-01-01"), []),  # old runs that have just changed: there are none here
        (("--flow", "Order", "--status", "finished"), ["good-1"]),
        (("--limit", "1"), ["ask-1"]),
    ],
)
def test_filters_choose_runs(cli: Cli, db: str, arguments: tuple[str, ...], ids: list[str]) -> None:
    done = cli("runs", "--db", db, "--json", *arguments)

    assert [entry["run_id"] for entry in done.json] == ids
    assert done.err == ""


def test_a_page_says_how_to_get_the_next_one(cli: Cli, db: str) -> None:
    first = cli("runs", "--db", db, "--limit", 2)
    position = first.err.split()[-1]

    second = cli("runs", "--db", db, "--limit", 2, "--before", position)

    assert "--before" in first.err
    assert [row.split()[0] for row in second.out.splitlines()[1:]] == ["good-1"]
    assert second.err == ""


@pytest.mark.parametrize("before", [True, False])
def test_the_storage_and_json_may_be_named_before_or_after_the_command(cli: Cli, db: str, before: bool) -> None:
    named = ("--db", db, "--json")

    done = cli(*named, "runs") if before else cli("runs", *named)

    assert len(done.json) == 3


def test_the_environment_names_the_storage(cli: Cli, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCFLOW_DB", db)

    assert len(cli("runs", "--json").json) == 3


def test_a_run_is_shown_with_its_error_and_its_traceback(cli: Cli, db: str) -> None:
    done = cli("show", "bad", "--db", db)

    assert done.code == 0
    for part in (
        "bad-1",
        "failed",
        "pay:1",
        "builtins.RuntimeError: declined",
        "Traceback",
        "in pay",
        '"city": "Nowhere"',
    ):
        assert part in done.out
    assert "asyncflow resume bad-1" in done.err


def test_a_failure_is_shown_once(cli: Cli, db: str) -> None:
    (pending,) = (line for line in cli("show", "bad", "--db", db).out.splitlines() if line.startswith("pending"))

    assert pending.split() == ["pending", "pay:1", "failed"]


def test_a_run_is_shown_as_one_object(cli: Cli, db: str) -> None:
    shown = cli("show", "bad-1", "--db", db, "--json").json

    assert shown["entry"]["status"] == "failed"
    assert shown["errors"][-1]["message"] == "declined"
    assert shown["state"]["total"] == 42


def test_with_its_class_the_signal_that_a_run_waits_for_is_shown(cli: Cli, db: str) -> None:
    assert "the signal approved" in cli("show", "ask-1", "--db", db, "--app", f"{FLOWS}:Ask").out
    without = cli("show", "ask-1", "--db", db).out
    assert "the signal approved" not in without
    assert "a signal; --app MODULE:Ask shows which" in without


def test_the_history_lists_what_each_checkpoint_changed(cli: Cli, db: str) -> None:
    text, entries = cli("history", "good-1", "--db", db).out, cli("history", "good-1", "--db", db, "--json").json

    assert "total = 42" in text
    assert [entry["kind"] for entry in entries] == ["started", "method", "finished"]
    assert [entry["seq"] for entry in cli("history", "good-1", "--db", db, "--json", "--after", 1).json] == [2]


def test_the_state_is_shown_as_of_a_checkpoint(cli: Cli, db: str) -> None:
    assert cli("state", "good-1", "--db", db, "--json").json["items"] == ["paid"]
    assert cli("state", "good-1", "--db", db, "--at", 0, "--json").json["total"] == 0
    assert cli("state", "good-1", "--db", db).out.startswith("{\n")


@pytest.mark.parametrize("command", ["show", "state"])
def test_a_long_text_hides_no_other_value_and_is_complete_as_json(cli: Cli, command: str) -> None:
    with_storage("runs.db", lambda s: Order(persistence=s).kickoff({"id": "long-1", "city": "x" * 30_000}))

    shown, as_json = cli(command, "long-1", "--db", "runs.db"), cli(command, "long-1", "--db", "runs.db", "--json").json

    assert len(shown.out) < 5_000
    assert "29,000 more characters" in shown.out
    assert '"total": 42' in shown.out
    assert "asyncflow state long-1 --json" in shown.err
    assert len(as_json.get("state", as_json)["city"]) == 30_000


def test_the_children_of_a_run_are_found_by_the_beginning_of_its_id(cli: Cli, db: str) -> None:
    assert cli("runs", "--parent", "good", "--db", db, "--json").json == []


def test_the_difference_of_two_states_is_shown(cli: Cli, db: str) -> None:
    text, changes = cli("diff", "good-1", 0, "--db", db).out, cli("diff", "good-1", 0, 1, "--db", db, "--json").json

    assert "- total = 0" in text
    assert '+ items[0] = "paid"' in text
    assert [change["path"] for change in changes] == [["total"]]


def test_the_events_of_a_run_that_has_ended_are_followed_to_the_end(cli: Cli, db: str) -> None:
    done = cli("tail", "good-1", "--db", db)
    lines = cli("tail", "good-1", "--db", db, "--json").out.splitlines()

    assert done.code == 0
    assert "run finished" in done.out.splitlines()[-1]
    assert len(lines) == len(done.out.splitlines())


def test_looking_changes_nothing(cli: Cli, db: str) -> None:
    before = Path(db).read_bytes()

    for command in (
        "runs",
        "show good-1",
        "history good-1",
        "state good-1",
        "diff good-1 0",
        "tail good-1",
        "doctor",
        "db info",
        "db check",
    ):
        assert cli(*command.split(), "--db", db).code == 0, command

    assert Path(db).read_bytes() == before
    assert not os.path.exists("runs.db.owners")


def test_the_run_of_a_class_that_is_gone_is_shown_undecoded(cli: Cli) -> None:
    class Gone(Flow[dict]):  # no command can import it
        name = "Gone"

        @start()
        async def work(self) -> set[int]:
            return {1, 2}

    with_storage("runs.db", lambda storage: Gone(persistence=storage).kickoff({"id": "gone-1"}))

    shown = cli("show", "gone-1", "--db", "runs.db")
    resumed = cli("resume", "gone-1", "--db", "runs.db", "--app", f"{FLOWS}:Order")

    assert shown.code == 0
    assert "Gone" in shown.out
    assert (resumed.code, len(resumed.err.splitlines())) == (2, 1)


def test_watching_shows_the_list_again_and_again(cli: Cli, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import anyio

    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(anyio, "sleep", sleep)

    done = cli("runs", "--db", db, "--watch", "--json", "--every", 0.5)

    assert done.code == 130
    assert len(done.out.splitlines()) == 3
    assert slept == [0.5] * 3
    assert done.err == ""


@pytest.mark.parametrize("form", ["mermaid", "dot", "html"])
def test_a_run_is_drawn(cli: Cli, db: str, form: str) -> None:
    app = ("graph", f"{FLOWS}:Order", "--format", form, "--db", db)

    plain, failed, finished = cli(*app), cli(*app, "--run", "bad"), cli(*app, "--run", "good")

    assert failed.code == 0, failed.err
    assert len({plain.out, failed.out.replace("bad-1", ""), finished.out.replace("good-1", "")}) == 3
