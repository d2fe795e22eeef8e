"""The commands of the guide's page do what the page says, and it names every command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from commands import Cli, with_storage

from asyncflow import Flow

PAGE = Path(__file__).parents[2] / "examples" / "guide" / "command-line.md"


def test_the_commands_of_the_page_run(cli: Cli, tmp_path: Path) -> None:
    text = PAGE.read_text()
    (flow,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    Path("shop.py").write_text(flow)
    for run_id in ("order-1", "order-3"):
        assert cli("start", "--app", "shop.py:Order", "--id", run_id, "--until", "waiting").code == 0
    commands = re.findall(r"^\$ asyncflow (.*)$", text, re.MULTILINE)
    if not hasattr(Flow, "to_mermaid"):
        commands = [command for command in commands if not command.startswith("graph")]
    codes = {}

    for command in commands:
        done = cli(*shlex.split(command))
        codes[command] = done.code
        assert "Traceback" not in done.err, command

    assert {command: code for command, code in codes.items() if code} == {}
    assert len(commands) > 20


def test_the_page_names_every_command() -> None:
    pytest.importorskip("typer")
    from asyncflow.cli.app import COMMANDS

    text = PAGE.read_text()

    assert [name for name in COMMANDS if f"asyncflow {name}" not in text and f"`{name}" not in text] == []


def test_a_newcomer_finds_the_broken_run_its_cause_and_its_cure(cli: Cli) -> None:
    """The path of the page on operations: which run, why, and how it goes on."""
    Path("service.py").write_text(
        "from pathlib import Path\nfrom asyncflow import Flow, start\nclass Report(Flow[dict]):\n    name = 'Report'\n"
        "    @start()\n    async def fetch(self):\n        return Path('rates.csv').read_text()\n"
    )
    assert cli("start", "--app", "service.py:Report").code == 1

    (broken,) = cli("runs", "--status", "failed", "--json").json
    cause = cli("show", broken["run_id"][:8]).out
    Path("rates.csv").write_text("1.08")
    cured = cli("retry", "--app", "service.py:Report", "--yes")

    assert "FileNotFoundError" in cause
    assert "rates.csv" in cause
    assert "in fetch" in cause
    assert (cured.code, cured.out) == (0, "1 of 1 run finished\n")
    assert with_storage("asyncflow.db", lambda storage: storage.runs())[0].status == "finished"
