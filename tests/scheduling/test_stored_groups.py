"""Groups of items as they are stored: what cannot be is refused at once, whatever numbers it has."""

import json
import time
from typing import Any

import pytest

from asyncflow._definition.mapping import HIGHEST_LIMIT, MOST_WITHOUT_LIMIT
from asyncflow.persistence.encoding import decode_progress, decode_transition

HUGE = 10**18


def progress(*group: Any, pending: str = "work") -> bytes:
    """A stored progress with one group: its count, its limit, how many have started, the results, and what was dropped."""
    stored = {
        "pending": [[pending, 1, "", ["fetch", "work"], [["", "fetch:1"]]]],
        "failed": [],
        "held": [],
        "counts": {"fetch": 1, "work": 1},
        "latches": {},
        "fired": {"": ["fetch", "work"]},
        "results": {"fetch:1": "[]"},
        "groups": {"work:1": group},
    }
    return json.dumps(stored).encode()


@pytest.mark.parametrize(
    ("group", "running"),
    [
        ((0, 0, 0, {}, []), 0),
        ((3, 0, 3, {"0": "1", "2": "1"}, []), 1),
        ((3, 2, 3, {"0": "1"}, [1]), 1),
        ((5, 1, 2, {"0": "1", "4": "1"}, []), 1),
        ((HUGE, HIGHEST_LIMIT, HIGHEST_LIMIT, {}, []), HIGHEST_LIMIT),
        ((HUGE, 0, MOST_WITHOUT_LIMIT, {}, []), MOST_WITHOUT_LIMIT),
    ],
)
def test_what_can_be_stored_loads_with_its_pending_items(group: tuple[Any, ...], running: int) -> None:
    loaded = decode_progress(progress(*group))

    assert loaded.groups["work:1"].running == running
    assert len(loaded.pending) == 1 + running


@pytest.mark.clauses("V4")
@pytest.mark.parametrize(
    "group",
    [
        (HUGE, HUGE, HUGE, {}, []),
        (HUGE, HIGHEST_LIMIT, HIGHEST_LIMIT + 1, {}, []),
        (HUGE, 0, HUGE, {}, []),
        (HUGE, 0, MOST_WITHOUT_LIMIT + 1, {}, []),
        (HUGE, 2, 3, {}, []),
        (HUGE, 2, 3, {str(HUGE - 1): "1"}, []),
        (-1, 0, 0, {}, []),
        (1, -1, 0, {}, []),
        (1, 0, -1, {}, []),
        (1, 0, 2, {}, []),
        (1, 0, 1, {"1": "1"}, []),
        (1, 0, 1, {"-1": "1"}, []),
        (1, 0, 1, {"x": "1"}, []),
        (1, 0, 1, {"9" * 5_000: "1"}, []),
        (1, 0, 1, {}, [1]),
        (1, 0, 1, {}, [-1]),
        (1, 0, 1, {}, ["0"]),
        (1.0, 0, 1, {}, []),
        (True, 0, 1, {}, []),
        (1, 0, 1, {}),
        (1, 0),
    ],
)
def test_a_group_that_cannot_be_is_refused_at_once(group: tuple[Any, ...]) -> None:
    began = time.process_time()
    with pytest.raises(ValueError):  # noqa: PT011 - of pydantic, or our own
        decode_progress(progress(*group))

    assert time.process_time() - began < 0.5


def test_a_group_of_no_pending_invocation_is_refused() -> None:
    with pytest.raises((ValueError, KeyError)):
        decode_progress(progress(1, 0, 1, {}, [], pending="other"))


@pytest.mark.clauses("V4")
@pytest.mark.parametrize(
    "items",
    [
        [[["work:1", -1, 1]], None, []],
        [[["work:1", 1, -1]], None, []],
        [[["work:1", 1, HIGHEST_LIMIT + 1]], None, []],
        [[], None, [["work:1", -1]]],
        [[], None, [["work:1", HUGE]]],
    ],
)
def test_a_change_that_cannot_be_is_refused(items: list[Any]) -> None:
    timing = [None, None, [], None, False, None, None, "", "", [], *items]
    with pytest.raises(ValueError):  # noqa: PT011 - of pydantic
        decode_transition(json.dumps(["", "", False, [], [], [], timing]).encode())
