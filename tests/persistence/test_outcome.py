"""Outcomes: what is encoded is decoded to the same, and the bytes of every older format are read."""

from __future__ import annotations

import pytest
from pydantic_core import to_json

from asyncflow.persistence.checkpoint import UNREADABLE
from asyncflow.persistence.outcome import (
    Cancelled,
    Failed,
    Finished,
    Outcome,
    StoredFailure,
    decode_outcome,
    encode_outcome,
)

ONE = StoredFailure("fetch", "builtins.KeyError", "'x'", "Traceback ...", "fetch:3")
TWO = StoredFailure("store", "builtins.OSError", "full", "", "store:1")


@pytest.mark.parametrize(
    "outcome",
    [Finished("close", b'{"total":"4.10"}'), Finished("a", b"null"), Failed((ONE,)), Failed((ONE, TWO)), Cancelled()],
)
def test_an_outcome_is_decoded_as_it_was_encoded(outcome: Outcome) -> None:
    assert decode_outcome(encode_outcome(outcome)) == outcome


def test_the_newest_failure_is_the_last_one() -> None:
    assert Failed((ONE, TWO)).newest is TWO


def test_failures_that_older_versions_stored_are_read() -> None:
    first = {"method": "fetch", "type": "builtins.KeyError", "message": "'x'"}
    newest = {
        "method": "store",
        "invocation": "store:1",
        "type": "builtins.OSError",
        "message": "full",
        "traceback": "",
    }

    assert decode_outcome(to_json(first)) == Failed((StoredFailure("fetch", "builtins.KeyError", "'x'"),))
    both = decode_outcome(to_json(newest | {"earlier": to_json([first]).decode()}))
    assert both == Failed((StoredFailure("fetch", "builtins.KeyError", "'x'"), TWO))


def test_earlier_failures_that_cannot_be_read_do_not_hide_the_newest() -> None:
    assert decode_outcome(b'{"method":"m","type":"T","message":"x","earlier":"no json"}') == Failed(
        (StoredFailure("m", "T", "x"),)
    )


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b'{"result":"1"}', b'{"result":1,"method":"m"}', b'{"other":"x"}'])
def test_what_is_no_outcome_is_unreadable(data: bytes) -> None:
    with pytest.raises(UNREADABLE):
        decode_outcome(data)
