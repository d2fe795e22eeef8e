"""Patches: what makes one JSON document of another is exact, near what changed, and refused where it does not belong."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from figures import FACTOR, SEED
from pydantic import model_serializer, model_validator
from pydantic_core import from_json, to_json

from asyncflow import Flow, FlowState, MemoryFlowPersistence, SQLiteFlowPersistence, listen, or_, router, start
from asyncflow._codec.patches import is_patch, patch_of, patched
from asyncflow.errors import CheckpointCorruptError
from asyncflow.persistence import Checkpoint
from asyncflow.persistence.checkpoint import fold


def record(n: int) -> dict[str, Any]:
    return {"number": n, "name": f"náme {n} €", "price": n / 7, "tags": ["red", "日本"]}


def document(records: int) -> dict[str, Any]:
    return {"id": "x", "count": 3, "records": [record(n) for n in range(records)], "end": "…"}


CHANGES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "one appended": (lambda d: d["records"].append(record(7)), 400),
    "one in the middle": (lambda d: d["records"][len(d["records"]) // 2].update(price=1.25), 200),
    "the first deleted": (lambda d: d["records"].pop(0), 200),
    "both ends": (lambda d: (d.update(count=400), d["records"].append(record(7))), 600),
    "three apart": (lambda d: [d["records"][n].update(name="ä" * n) for n in (10, 700, 1_500)], 9_000),
    "a hundred apart": (lambda d: [d["records"][20 * n].update(price=0.5) for n in range(100)], 8_000),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_patch_is_near_what_changed(change: str) -> None:
    edit, most = CHANGES[change]
    changed = document(2_000)
    old = to_json(changed)
    edit(changed)
    new = to_json(changed)

    patch = patch_of(old, new)

    assert len(new) > 150_000
    assert patch is not None
    assert is_patch(patch)
    assert len(patch) < most
    assert patched(old, patch) == new


def test_what_has_nearly_all_changed_is_written_as_it_is() -> None:
    changed = document(500)
    old = to_json(changed)
    for each in changed["records"]:
        each["price"] += 1

    assert patch_of(old, to_json(changed)) is None


def test_a_small_document_is_written_as_it_is() -> None:
    assert patch_of(b'{"id":"a","n":1}', b'{"id":"a","n":2}') is None


def test_whatever_is_changed_a_patch_makes_it() -> None:
    chance = random.Random(SEED)
    count, patches = int(1_500 * FACTOR), 0
    for _ in range(count):
        changed = document(chance.choice((3, 30, 200)))
        old = to_json(changed)
        for _ in range(chance.randint(0, 5)):
            edited(changed, chance)
        new = to_json(changed)
        patch = patch_of(old, new)
        if patch is not None:
            patches += 1
            from_json(patch)
            assert patched(old, patch) == new, (old, new)
    assert patches > count // 3


def edited(document: dict[str, Any], chance: random.Random) -> None:
    records = document["records"]
    place = chance.randrange(len(records) + 1)
    match chance.randrange(5):
        case 0:
            records.insert(place, record(chance.randrange(10**6)))
        case 1 if records:
            del records[place - 1]
        case 2 if records:
            records[place - 1]["name"] = "€é" * chance.randrange(30)
        case 3:
            chance.shuffle(records)
        case _:
            document["count"] = chance.randrange(10**9)


@pytest.mark.parametrize(
    "patch",
    [
        b"[[0,9000000]]",
        b"[[5,3]]",
        b"[[-4,3]]",
        b"[[3,9],[0,4]]",
        b"[[0,1000],[0,1000]]",
        b"[[0,1.5]]",
        b'[["0",4]]',
        b"[[0,1,2]]",
        b"[null]",
        b"[{}]",
        b"[7]",
        b"[",
    ],
)
@pytest.mark.clauses("V4")
def test_what_is_no_patch_of_a_document_is_refused(patch: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a patch|JSON|parsing|EOF"):
        patched(to_json(document(20)), patch)


@pytest.mark.clauses("V4")
def test_a_stored_patch_that_does_not_belong_there_is_a_corrupt_checkpoint() -> None:
    whole = Checkpoint("a", "F", 0, 1, "started", "running", 0.0, state=b"{}", progress=b"{}").sealed()
    delta = Checkpoint(
        "a", "F", 1, 1, "method", "running", 0.0, state=b"[[0,77]]", changes=b"[]", previous=whole.digest
    ).sealed()

    with pytest.raises(CheckpointCorruptError, match="its state cannot be rebuilt"):
        fold([whole, delta])


# ---- runs whose state is stored as patches -------------------------------------------------------------------------


class Row(FlowState):
    """A model that writes itself as an array."""

    turn: int = 0

    @model_serializer
    def as_array(self) -> list[Any]:
        return [self.id, self.turn]

    @model_validator(mode="before")
    @classmethod
    def of_array(cls, value: Any) -> Any:
        return {"id": value[0], "turn": value[1]} if isinstance(value, list) else value


@pytest.mark.clauses("V1")
async def test_a_state_that_is_an_array_is_not_taken_for_a_patch() -> None:
    class Counting(Flow[Row]):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self) -> None:
            self.state.turn += 1

        @listen(first)
        async def second(self) -> None:
            self.state.turn += 1

    flow = Counting()
    await flow.kickoff()

    turns = [(await Counting.load(flow.run_id, seq=seq)).state.turn for seq in range(3)]
    assert turns == [0, 1, 2]


class Book(FlowState):
    lines: list[str] = []  # noqa: RUF012 - pydantic copies it
    turn: int = 0


TURNS = 300


class Writing(Flow[Book]):
    @start()
    async def begin(self) -> None:
        self.state.lines = [f"line {n} of many" for n in range(200)]

    @router(or_(begin, "more"), emit=["more", "done"])
    async def write(self) -> str:
        self.state.turn += 1
        self.state.lines[self.state.turn % 200] = f"turn {self.state.turn}"
        return "more" if self.state.turn < TURNS else "done"

    @listen("done")
    async def end(self) -> int:
        return len(self.state.lines)


@pytest.fixture(params=["memory", "sqlite"])
def persistence(request: pytest.FixtureRequest) -> Any:
    return MemoryFlowPersistence() if request.param == "memory" else SQLiteFlowPersistence("runs.db")


@pytest.mark.clauses("D4", "V1")
async def test_every_checkpoint_of_patches_is_the_state_of_its_time(persistence: Any) -> None:
    flow = Writing(persistence=persistence)
    await flow.kickoff()

    rows = await persistence.history(flow.run_id)
    is_patched = [row.state is not None and is_patch(row.state) for row in rows]
    assert sum(is_patched) > 0.9 * TURNS
    assert max(row.seq - row.base for row in rows) <= 150, "a load would put ever more patches together"
    assert sum(len(row.state or b"") for row in rows) < 15 * len(rows[1].state or b"")
    for seq in range(2, TURNS + 3, 29):
        state = (await Writing.load(flow.run_id, seq=seq, persistence=persistence)).state
        turn = max(0, seq - 1) if seq < TURNS + 2 else TURNS
        assert state.turn == turn
        assert state.lines == expected(turn)
    assert (await Writing.load(flow.run_id, persistence=persistence)).state == flow.state


def expected(turn: int) -> list[str]:
    lines = [f"line {n} of many" for n in range(200)]
    for n in range(1, turn + 1):
        lines[n % 200] = f"turn {n}"
    return lines


async def test_the_history_of_patches_shows_what_changed(persistence: Any) -> None:
    flow = Writing(persistence=persistence)
    await flow.kickoff()

    entries = await flow.history()

    assert [entry.changed["turn"] for entry in entries if entry.method.startswith("write")] == list(range(1, TURNS + 1))
    assert entries[77].changed["lines"] == expected(76)


@pytest.mark.clauses("E4")
async def test_a_fork_from_between_patches_resumes_from_there(persistence: Any) -> None:
    flow = Writing(persistence=persistence)
    await flow.kickoff()

    fork = await Writing.fork(flow.run_id, seq=101, persistence=persistence)
    assert fork.state.turn == 100
    assert fork.state.lines == expected(100)
    await fork.kickoff()

    assert fork.state.lines == expected(TURNS)
    assert await persistence.verify() == [] if isinstance(persistence, SQLiteFlowPersistence) else True
