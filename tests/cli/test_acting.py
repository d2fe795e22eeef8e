"""The commands that act on runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import FLOWS, Cli


def test_a_run_is_started_and_its_result_printed(cli: Cli) -> None:
    done = cli("start", "--app", f"{FLOWS}:Order", "--inputs", '{"city": "Rome"}', "--id", "new-1")

    assert (done.code, json.loads(done.out)) == (0, "paid")
    assert cli("runs", "--json").json[0]["run_id"] == "new-1"


def test_inputs_come_from_a_file(cli: Cli) -> None:
    Path("inputs.json").write_text('{"city": "Oslo", "id": "new-2"}')

    done = cli("start", "--app", f"{FLOWS}:Order", "-i", "@inputs.json", "--json")

    assert done.json == {"run_id": "new-2", "status": "finished", "result": "paid", "error": None}
    assert cli("state", "new-2", "--json").json["city"] == "Oslo"


def test_a_run_that_fails_says_where_and_not_with_what_value(cli: Cli) -> None:
    done = cli("start", "--app", f"{FLOWS}:Order", "-i", '{"city": "Nowhere"}', "--id", "new-3", "--json")

    assert done.code == 1
    assert done.json["status"] == "failed"
    assert len(done.err.splitlines()) == 1
    assert "pay raised RuntimeError" in done.err
    assert "declined" not in done.err
    assert "asyncflow show new-3" in done.err


def test_a_flow_is_imported_from_a_file(cli: Cli) -> None:
    Path("flows.py").write_text(
        "from asyncflow import Flow, start\nclass Hello(Flow[dict]):\n    @start()\n    async def hi(self): return 'hi'\n"
    )

    assert json.loads(cli("start", "--app", "flows.py:Hello").out) == "hi"


def test_a_signal_is_sent_and_the_run_resumed(cli: Cli, db: str) -> None:
    app = ("--app", f"{FLOWS}:Ask", "--db", db)

    sent = cli("signal", "ask", "approved", "true", *app, "--key", "k", "--json")
    again = cli("signal", "ask", "approved", "true", *app, "--key", "k", "--json")
    resumed = cli("resume", "ask-1", *app)

    assert (sent.json["is_new"], again.json["is_new"]) == (True, False)
    assert (resumed.code, json.loads(resumed.out)) == (0, "approved: True")


def test_a_run_is_started_until_it_waits(cli: Cli) -> None:
    done = cli("start", "--app", f"{FLOWS}:Ask", "--until", "waiting", "--json")

    assert (done.code, done.json["status"], done.json["result"]["waits_for"]) == (0, "waiting", ["approved"])


@pytest.mark.parametrize("until", ["price", "1"])
def test_a_run_is_stepped(cli: Cli, until: str) -> None:
    app = ("--app", f"{FLOWS}:Order", "--until", until)

    started = cli("start", *app, "--id", "step-1")
    resumed = cli("resume", "step-1", "--app", f"{FLOWS}:Order", "--until", "1", "--json")

    assert (started.code, started.out) == (
        0,
        "run step-1 has stopped after price:1; resume continues with pay:1\n",
    )
    assert (resumed.code, resumed.json["status"], resumed.json["result"]) == (0, "finished", "paid")


def test_a_stopped_run_is_interrupted_in_json(cli: Cli) -> None:
    done = cli("start", "--app", f"{FLOWS}:Order", "--until", "price", "--json").json

    assert (done["status"], done["result"]["after"], done["result"]["pending"]) == ("interrupted", "price:1", ["pay:1"])


def test_a_run_is_forked_at_a_checkpoint(cli: Cli, db: str) -> None:
    copy = cli("fork", "good-1", "--at", 1, "--copy-only", "--app", f"{FLOWS}:Order", "--db", db, "--json").json
    run = cli("fork", "good-1", "--at", 1, "--app", f"{FLOWS}:Order", "--db", db, "--json").json

    assert cli("state", copy["run_id"], "--db", db, "--json").json["items"] == []
    assert run["result"] == "paid"


def test_failed_runs_are_listed_and_then_resumed(cli: Cli, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("--db", db, "--app", f"{FLOWS}:Order")

    listed = cli("retry", *given)
    failed = cli("retry", *given, "--yes", "--json")
    monkeypatch.setenv("PAYS", "1")
    resumed = cli("retry", *given, "--yes")

    assert "bad-1" in listed.out
    assert "--yes" in listed.err
    assert (failed.code, failed.json) == (
        1,
        [{"run_id": "bad-1", "status": "failed", "error": "pay raised RuntimeError"}],
    )
    assert (resumed.code, resumed.out) == (0, "1 of 1 run finished\n")
    assert cli("retry", *given, "--json").json == []


WAITING = """
import os
from asyncflow import Flow, Signal, listen, sleep, start, wait_for


class Listens(Flow[dict]):
    name = "Listens"
    approved = Signal("approved", bool)

    @start()
    async def check(self):
        if "PASSES" not in os.environ:
            raise RuntimeError("not yet")

    @listen(approved, keep_open=True)
    async def end(self, ok):
        return ok


class Awaits(Listens):
    name = "Awaits"

    @listen(Listens.check)
    async def ask(self):
        return await wait_for(self.approved)


class Sleeps(Listens):
    name = "Sleeps"

    @listen(Listens.check)
    async def rest(self):
        await sleep(3600)
"""


@pytest.mark.parametrize("flow", ["Listens", "Awaits", "Sleeps"])
def test_a_resumed_run_that_reaches_a_wait_is_not_followed(
    cli: Cli, flow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("waiting_flows.py").write_text(WAITING)
    app = ("--app", f"waiting_flows.py:{flow}")
    assert cli("start", *app, "--id", "w-1").code == 1
    monkeypatch.setenv("PASSES", "1")

    done = cli("retry", *app, "--yes")

    assert (done.code, done.out) == (0, "0 of 1 run finished, 1 waits\n")
    assert cli("show", "w-1", "--json").json["entry"]["status"] in ("waiting", "interrupted")


def test_a_run_is_cancelled(cli: Cli, db: str) -> None:
    done = cli("cancel", "ask-1", "--db", db, "--json")

    assert (done.code, done.json) == (0, {"run_id": "ask-1", "status": "cancelled"})
    assert cli("cancel", "good-1", "--db", db, "--json").json["status"] == "finished"


def test_deleting_needs_a_yes(cli: Cli, db: str) -> None:
    dry = cli("delete", "good", "--db", db, "--json")
    wet = cli("delete", "good", "--db", db, "--json", "--yes")

    assert (dry.code, dry.json["deleted"]) == (0, False)
    assert (wet.code, wet.json["deleted"]) == (0, True)
    assert cli("show", "good-1", "--db", db).code == 3


def test_pruning_needs_a_yes(cli: Cli, db: str) -> None:
    dry = cli("prune", "--older-than", "0s", "--db", db, "--json")
    kept = cli("prune", "--older-than", "1d", "--yes", "--db", db, "--json")
    wet = cli("prune", "--older-than", "0s", "--yes", "--db", db, "--json")

    assert dry.json == {"deleted": 0, "ended": 2}
    assert kept.json == {"deleted": 0}
    assert wet.json == {"deleted": 2}
    assert [entry["run_id"] for entry in cli("runs", "--db", db, "--json").json] == ["ask-1"]


@pytest.mark.parametrize(
    "command",
    ["cancel x", "delete x", "prune --older-than 1d --yes", "signal x approved", "resume x", "db compact --yes"],
)
def test_acting_creates_no_storage(cli: Cli, command: str, tmp_path: Path) -> None:
    app = ("--app", f"{FLOWS}:Ask") if command.startswith(("signal", "resume")) else ()

    done = cli(*command.split(), *app)

    assert (done.code, len(done.err.splitlines())) == (3, 1)
    assert list(tmp_path.iterdir()) == []
