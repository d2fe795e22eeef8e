"""Texts of users reach no terminal as they are: control characters, bidirectional overrides and markup are shown, and long ones cut."""

from __future__ import annotations

import json

import pytest
from commands import Cli, Order, with_storage
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import Flow, listen, start
from asyncflow.cli.safe_text import block, compact, cut, json_text, one_line, pretty

HOSTILE = "\x1b[31mred\x07 \u202eabc\u202c [bold]b[/bold] \x9b2J \u2066x \u200b \ud800 <script> \r\n\tend \U000e0041"
UNSAFE = "\x1b\x07\x9b\u202e\u202c\u2066\u200b\ud800\r\U000e0041\x7f"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode, 漢字, 👩\u200d🚀", "plain, ünïcode, 漢字, 👩\u200d🚀"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202eevil", "\\u202eevil"),
        ("\x9b2J", "\\x9b2J"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("[red]not markup[/red]", "[red]not markup[/red]"),
    ],
)
def test_a_line_is_safe(text: str, shown: str) -> None:
    assert one_line(text) == shown


@given(st.text(alphabet=st.characters()))
def test_no_text_gets_a_control_character_through(text: str) -> None:
    for shown in (one_line(text), block(text).replace("\n", ""), json_text(text), compact([text])):
        assert not any(unsafe in shown for unsafe in UNSAFE + "\n\t")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    )
)
def test_json_is_lossless(value: object) -> None:
    assert json.loads(json_text(value)) == value


def test_infinity_is_a_text_in_json() -> None:
    assert json.loads(json_text([float("inf"), float("-inf"), float("nan")])) == ["Infinity", "-Infinity", "NaN"]


def test_a_long_text_is_cut_with_a_note() -> None:
    assert cut("x" * 5, 3) == "xxx… (2 more characters)"
    assert len(one_line("x" * 1_000_000)) < 5_000
    assert "999,800 more characters" in compact("x" * 999_998)
    assert "more characters" in pretty({"big": "x" * 1_000_000})


class Hostile(Flow[dict]):
    name = "[bold]Hos\u202etile"

    @start()
    async def work(self) -> str:
        self.state["text"], self.state["big"] = "\x1b[31mred \u202e [bold]b[/bold]", "y" * 1_000_000
        return "done"

    @listen(work)
    async def fail(self) -> None:
        raise RuntimeError("\x1b]0;title\x07 \u202e [link=x]y[/link]" + "z" * 1_000_000)


@pytest.mark.parametrize(
    "command",
    ["runs", "show hostile", "history hostile", "state hostile", "diff hostile 0", "tail hostile", "retry", "doctor"],
)
@pytest.mark.parametrize("option", ["", "--json"])
def test_every_command_shows_hostile_values_safely(cli: Cli, command: str, option: str) -> None:
    async def run(storage: object) -> None:
        with pytest.raises(Exception, match="Fix the cause"):
            await Hostile(persistence=storage).kickoff({"id": "hostile"})  # type: ignore[arg-type]

    with_storage("runs.db", run)

    done = cli("--db", "runs.db", *command.split(), *filter(None, [option]))

    assert done.code == 0, done.err
    assert not any(unsafe in done.out + done.err for unsafe in "\x1b\x07\u202e")
    if option:
        assert json.loads(done.out.splitlines()[0] if command.startswith("tail") else done.out) is not None
    else:
        assert len(done.out) < 500_000
        if command.startswith(("show", "state", "diff")):
            assert "more characters" in done.out


def test_a_run_id_with_spaces_and_colours_is_shown(cli: Cli) -> None:
    with_storage("runs.db", lambda storage: Order(persistence=storage).kickoff({"id": "[red]x[/red] 1"}))

    assert "[red]x[/red] 1" in cli("runs", "--db", "runs.db").out
