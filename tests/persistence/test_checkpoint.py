"""A checkpoint as bytes, and its digest."""

from typing import Any

import pytest
from pydantic_core import PydanticSerializationError

from asyncflow import errors
from asyncflow._scheduling.messages import Seen
from asyncflow._scheduling.progress import Progress
from asyncflow.persistence import Checkpoint
from asyncflow.persistence.checkpoint import encode_progress

WHOLE = Checkpoint(
    run_id="r",
    flow="F",
    identity="m.F",
    seq=3,
    pass_number=2,
    kind="method",
    status="running",
    at=12.5,
    method="m:1",
    base=3,
    epoch=4,
    state=b'{"n":1}',
    progress=b"{}",
    changes=b"[]",
    result=b"5",
    inputs=b'{"a":1}',
    outcome=b"{}",
    previous=b"0123456789abcdef",
).sealed()


def another(value: Any) -> Any:
    return value + (b"x" if isinstance(value, bytes) else "x" if isinstance(value, str) else 1)


@pytest.mark.clauses("D4")
@pytest.mark.parametrize("name", [name for name in Checkpoint._fields if name not in ("epoch", "digest")])
def test_a_digest_covers_every_field_but_the_epoch(name: str) -> None:
    changed = WHOLE._replace(**{name: another(getattr(WHOLE, name))})

    assert changed.expected_digest() != WHOLE.digest
    if isinstance(getattr(WHOLE, name), bytes):
        assert WHOLE._replace(**{name: None if name != "previous" else b""}).expected_digest() != WHOLE.digest


@pytest.mark.clauses("D4")
def test_what_moves_from_one_part_to_another_changes_the_digest() -> None:
    moved = WHOLE._replace(state=WHOLE.progress, progress=WHOLE.state)

    assert moved.expected_digest() != WHOLE.digest


def test_the_epoch_says_who_stores_a_checkpoint_and_not_what_it_is() -> None:
    assert WHOLE._replace(epoch=9).expected_digest() == WHOLE.digest


@pytest.mark.clauses("V1")
def test_a_checkpoint_survives_its_bytes() -> None:
    bare = Checkpoint(run_id="r", flow="F", seq=0, pass_number=1, kind="started", status="running", at=0.0).sealed()

    assert Checkpoint.from_bytes(WHOLE.to_bytes()) == WHOLE
    assert Checkpoint.from_bytes(bare.to_bytes()) == bare


@pytest.mark.clauses("V4")
def test_any_changed_byte_is_found() -> None:
    data = WHOLE.to_bytes()
    for at in range(len(data)):
        with pytest.raises(errors.CheckpointCorruptError):
            Checkpoint.from_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_a_name_that_is_no_utf_8_is_refused_and_not_replaced() -> None:
    latch = {"no \ud800 text": Seen("", frozenset(("m",)), "")}

    with pytest.raises(PydanticSerializationError):
        encode_progress(Progress(latches={"join": latch}))
