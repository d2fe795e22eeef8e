"""Run ids: unknown, invalid, foreign, and brought by the caller."""

import os
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flows import ALL, OUTPUT, Steps, Work, run_that_is
from small import Slow

from asyncflow import Flow, SQLiteFlowPersistence, errors, start

BY_ID: dict[str, Callable[[Any, Any], Any]] = {
    "kickoff": lambda run_id, store: Steps(persistence=store).kickoff({"id": run_id}),
    "resume": lambda run_id, store: Steps.resume(run_id, persistence=store),
    "load": lambda run_id, store: Steps.load(run_id, persistence=store),
    "fork": lambda run_id, store: Steps.fork(run_id, persistence=store),
    "restore": lambda run_id, store: Steps(persistence=store).kickoff(restore_from_state_id=run_id),
}


@pytest.mark.parametrize("call", ["resume", "load", "fork", "restore"])
async def test_an_unknown_id_is_not_found_and_nothing_is_made(call: str, store: Any) -> None:
    unknown = str(uuid.uuid4())
    with pytest.raises(errors.RunNotFoundError) as caught:
        await BY_ID[call](unknown, store)

    assert caught.value.run_id == unknown
    assert await store.load(unknown) is None


INVALID = ["", " order", "order ", "a\nb", "a\x00b", "a\u200bb", "x" * 129, "\ud800", 7, 1.5, b"bytes", ("a",), True]


@pytest.mark.parametrize("run_id", INVALID, ids=ascii)
@pytest.mark.parametrize("call", BY_ID)
async def test_what_cannot_be_a_run_id_is_refused_before_any_io(call: str, run_id: Any) -> None:
    store = SQLiteFlowPersistence("untouched.db")
    with pytest.raises(errors.InvalidRunIdError):
        await BY_ID[call](run_id, store)

    assert os.listdir() == []


MINE = uuid.UUID("6f9619ff-8b86-d011-b42d-00c04fc964ff")


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (MINE, str(MINE)),
        (str(MINE).upper(), str(MINE)),
        (str(MINE), str(MINE)),
        ("order 7", "order 7"),
        ("Zürich/2024:№5", "Zürich/2024:№5"),
        ("x" * 128, "x" * 128),
        ("'; DROP TABLE runs; --", "'; DROP TABLE runs; --"),
        ("%", "%"),
    ],
)
async def test_a_caller_may_bring_an_id(given: Any, stored: str, store: Any) -> None:
    flow = Steps(persistence=store)
    await flow.kickoff({"id": given})

    assert flow.run_id == flow.state.id == stored
    assert (await Steps.load(given, persistence=store)).run_id == stored
    assert (await Steps.load(stored, persistence=store)).state.done == ALL


@pytest.mark.parametrize("call", BY_ID)
async def test_the_id_of_another_flows_run_is_refused(call: str, store: Any) -> None:
    class Other(Flow[Work]):
        @start()
        async def first(self) -> None: ...

    other = Other(persistence=store)
    await other.kickoff()

    with pytest.raises(errors.RunFlowMismatchError, match="Other"):
        await BY_ID[call](other.run_id, store)


async def test_a_flow_is_known_by_its_name_and_not_by_its_class(store: Any) -> None:
    class Renamed(Steps):
        name = "Steps"

    run_id = await run_that_is("interrupted", store)

    assert await Renamed.resume(run_id, persistence=store) == OUTPUT
    with pytest.raises(errors.RunFlowMismatchError):
        await Steps.load(run_id, name="another name", persistence=store)


@pytest.mark.parametrize("call", BY_ID)
async def test_without_a_storage_the_calls_say_what_is_missing(call: str) -> None:
    if call == "kickoff":
        assert await BY_ID[call]("order-7", None) == OUTPUT
        return

    with pytest.raises(errors.CapabilityMissingError, match="@persist"):
        await BY_ID[call]("order-7", None)


@pytest.mark.parametrize("text", ["1-2345678-1234-1234-1234567890abcdef", "12345678_1234-1234-1234-123456789012"])
async def test_another_spelling_of_a_uuid_is_a_text(text: str) -> None:
    flow = Slow()
    flow.go_on.set()
    await flow.kickoff({"id": text})

    assert flow.run_id == text
