"""Values and times as text that a page can show."""

import json
import math

import pytest

from asyncflow.integrations.inspector import showing


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text,\n\ttwo lines", "plain text,\n\ttwo lines"),
        ("a\x00b\x1bc\x7f\x85", r"a\u0000b\u001bc\u007f\u0085"),
        ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
        ("\ud800", r"\ud800"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("\U000e0041", r"\udb40\udc41"),
        ("日本語 العربية 🙂", "日本語 العربية 🙂"),
    ],
)
def test_odd_characters_are_written_as_escapes(text: str, shown: str) -> None:
    assert showing.safe(text) == shown


def test_escaped_json_is_the_same_json() -> None:
    value = {"a": 'x\x00\x7f\u202e\U000e0041 "quoted" \\ \n', "b": [1, 2.5, None, True]}

    assert json.loads(showing.safe(showing.json_text(value))) == value


def test_a_long_value_is_cut_with_a_note() -> None:
    text, note = showing.shown("x" * 1_000_000)

    assert len(text) == showing.LONGEST
    assert note == "cut: 6,000 of 1,000,002 characters are shown"


def test_a_traceback_keeps_its_end() -> None:
    text, note = showing.shown_end("a" * 50_000 + "the cause")

    assert text.endswith("the cause")
    assert note == "cut: the last 24,000 of 50,009 characters are shown"


def test_a_value_on_one_line_is_short() -> None:
    assert showing.one_line({"a": [1, 2]}) == '{"a":[1,2]}'
    assert showing.one_line("two\n lines") == "two lines"
    assert showing.one_line("x" * 10**6, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (0.9996, "1.0 s"),
        (3.44, "3.4 s"),
        (59.97, "1 min"),
        (302, "5 min 2 s"),
        (3 * 3_600, "3 h"),
        (50 * 3_600, "2 d 2 h"),
        (-1, "0 ms"),
        (math.inf, "without end"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert showing.seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (None, ""),
        (100.0, "now"),
        (97.0, "3 s ago"),
        (-100.0, "3 min 20 s ago"),
        (160.0, "in 1 min"),
        (math.inf, "never"),
    ],
)
def test_how_long_ago(at: float | None, text: str) -> None:
    assert showing.ago(at, 100.0) == text


def test_times_that_no_clock_shows_are_left_out() -> None:
    assert [showing.moment(at) for at in (None, math.inf, 1e18, -1e18, math.nan)] == [""] * 5
    assert showing.moment(0.0) == "1970-01-01 00:00:00"
    assert showing.clock_time(0.25) == "00:00:00.250"
