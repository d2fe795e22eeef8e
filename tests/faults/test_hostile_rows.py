"""Rows that somebody has made to do harm: a typed error, or a state of the model. Nothing else is raised, run, imported or hung.

Some attackers change a value and no more. Others know how digests are made: then only the decoding and the model stand between them
and the engine.
"""

import hashlib
import itertools
import json
import os
import pickle
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from figures import FACTOR, SEED, tell
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import asyncflow
from asyncflow import Flow, FlowState, SQLiteFlowPersistence, and_, listen, start
from asyncflow._codec import codec
from asyncflow.errors import AsyncflowError, MethodError
from asyncflow.persistence import Checkpoint
from asyncflow.persistence._database.run_head import Head

CPU = 2.0
"""Seconds of work that a row may cost: a hundred times what one costs, and no matter how busy the machine is."""

HANGS = 120

# ---- what is attacked ----------------------------------------------------------------------------------------------


class Part(BaseModel):
    size: int = 0
    tags: set[str] = set()


class Work(FlowState):
    count: int = 0
    ratio: float = 0.5
    name: str = "work"
    price: Decimal = Decimal("1.50")
    at: datetime = datetime(2024, 1, 2)
    parts: list[Part] = [Part(size=1, tags={"x"})]  # noqa: RUF012 - pydantic copies it
    rest: dict[str, Any] = {"a": [1, None]}  # noqa: RUF012 - pydantic copies it
    either: int | str | None = None


class Typed(Flow[Work]):
    name = "Typed"  # that of the one that fails, too

    @start()
    async def first(self) -> dict[str, Decimal]:
        self.state.count += 1
        return {"x": Decimal(1)}

    @listen(first)
    async def left(self, value: dict[str, Decimal]) -> int:
        self.state.name = "left"
        return len(value)

    @listen(first)
    async def right(self, value: dict[str, Decimal]) -> int:
        return len(value)

    @listen(and_(left, right))
    async def both(self) -> list[Decimal]:
        return [Decimal("1.10")]


class Plain(Flow[dict]):  # type: ignore[type-arg]
    """No annotation says what a value is: it says so itself, by one of a closed list of tags."""

    name = "Plain"
    initial_state = {"count": 1, "at": datetime(2024, 1, 2), "set": {1, 2}, "by": {(1, "a"): b"\xff"}}  # noqa: RUF012

    @start()
    async def first(self):
        self.state["first"] = Decimal("1.10")
        return {1: (2, {3})}

    @listen(first)
    async def left(self, value):
        self.state["left"] = [None]

    @listen(first)
    async def right(self, value):
        return value

    @listen(and_(left, right))
    async def both(self):
        return (1, b"\x00")


class Broken(Exception):
    """What the methods of the runs to be attacked fail with. They raise nothing else, and later not even this."""


def failing(flow: type[Flow[Any]]) -> type[Flow[Any]]:
    async def right(self: Any, value: Any) -> Any:
        raise Broken

    return type("Failing", (flow,), {"name": flow.__name__, "right": right})


FLOWS: dict[str, type[Flow[Any]]] = {"typed": Typed, "plain": Plain}
RUNS = ("failed", "finished")


async def make(path: Path, flow: type[Flow[Any]]) -> None:
    async with SQLiteFlowPersistence(path) as persistence:
        await flow(persistence=persistence).kickoff({"id": "finished"})
        with pytest.raises(MethodError):
            await failing(flow)(persistence=persistence).kickoff({"id": "failed"})


@dataclass
class Base:
    """A database whose tables take any value; its schema, before that; and its rows, as they are to be attacked."""

    path: Path
    sound: Path
    """The database as it was made."""
    schema: dict[str, str] = field(default_factory=dict)
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is one: the files are many, and syncs prove nothing here."""
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        yield Path(folder).resolve()


@pytest.fixture
def bases(memory: Path) -> dict[str, Base]:
    return {name: made(memory / f"{name}.db", flow) for name, flow in FLOWS.items()}


def made(path: Path, flow: type[Flow[Any]]) -> Base:
    anyio.run(make, path, flow)
    base = Base(path, path.with_suffix(".sound"))
    shutil.copyfile(path, base.sound)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        base.schema = dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(replace(sql, 'STRICT', ''), 'NOT NULL', '')")
        connection.execute("PRAGMA schema_version = 99")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        for head in connection.execute("SELECT * FROM runs").fetchall():
            base.heads[head["run_id"]] = dict(head)
            rows = connection.execute("SELECT * FROM checkpoints WHERE run = ? ORDER BY seq", (head["id"],))
            base.rows[head["run_id"]] = [dict(row) for row in rows]
    return base


# ---- hostile values ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BrokenText:
    """A text that is no UTF-8."""

    data: bytes

    def __str__(self) -> str:
        return self.data.decode("utf-8", "backslashreplace")


def deep(opening: bytes, middle: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + middle + closing * depth


NAMED = (
    b'{"__class__": "subprocess.Popen", "__module__": "subprocess", "args": ["true"]}',
    b'{"py/object": "os.system", "py/reduce": [{"py/type": "os.system"}, {"py/tuple": ["true"]}]}',
    b'{"$asyncflow": "os.system", "$type": "colorsys", "$args": ["true"]}',
    b'{"$import": "colorsys"}',
    b'{"$eval": "__import__(\'colorsys\')"}',
    b'{"!!python/object/apply:os.system": ["true"]}',
    b'"colorsys:main"',
    b"\"cos\\nsystem\\n(S'true'\\ntR.\"",
)
"""Names of code, in the ways in which those decoders take them that run what they are told."""

TAGS = tuple(
    b'{"$%b": %b}' % (tag, value)
    for tag in (
        b"bytes decimal datetime date time timedelta uuid purepath path float int tuple set frozenset dict unknown".split()
    )
    for value in (
        *(
            b"null",
            b"5",
            b"-1e400",
            b'"text"',
            b"[]",
            b"[1]",
            b"[[1]]",
            b"[1, 2, 3, 4, 5, 6, 7, 8]",
            b"{}",
            b'{"$set": [[]]}',
        ),
        *(
            b"[1e308]",
            b"[[[], 1]]",
            b'"9" ',
            b'"%b"' % (b"9" * 5000),
            b'"sNaN"',
            b'"1e999999999999999999999"',
            b'"\\u0000"',
        ),
        *(
            b'"0001-01-01T00:00:00+23:59"',
            b"[999999999999, 0, 0]",
            b"[[1, 2], [1, 3]]",
            b'[[{"$dict": []}, 1]]',
            b"true",
        ),
    )
)

FRAGMENTS = (
    *(
        b"null",
        b"true",
        b"-0",
        b"0.0",
        b"1e400",
        b"-1E+400",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"nan",
        b"01",
        b".5",
        b"1.",
    ),
    *(
        b'""',
        b'"x"',
        b'"\\u0000"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"' + b"x" * 100_000 + b'"',
    ),
    *(b"9" * 25, b"-" + b"9" * 4_301, b"9" * 100_000, b"0." + b"1" * 100_000, b'"' + b"9" * 4_301 + b'"'),
    *(b"[]", b"{}", b"[[]]", b'[""]', b"[1, 2, 3]", b'{"a": 1, "a": 2}', b'{"": null}', b'{"a": {"a": {}}}'),
    *(deep(b"[", b"1", b"]", n) for n in (60, 110, 190, 250, 100_000)),
    *(deep(b'{"a":', b"1", b"}", n) for n in (60, 110, 190, 250, 100_000)),
    *(deep(b'{"$tuple": [', b"1", b"]}", n) for n in (40, 60, 98, 150)),
    *(deep(b'{"$dict": [[1, ', b"1", b"]]}", n) for n in (30, 48, 65, 150)),
    *NAMED,
)

DOCUMENTS = (
    *(
        b"",
        b" ",
        b"\x00",
        b"{",
        b"]",
        b"{}",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b"{'a': 1}",
        b'{"a": 1,}',
    ),
    *(
        b"\x80\x04\x95",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"x" * 1_000_000,
    ),
    *(b"/* */ {}", b"{}\x00", b"[" * 100_000, b'{"a":' * 100_000, deep(b"[", b"", b"]", 100_000)),
)

MARK = "\x01here\x01"


def paths_in(tree: Any) -> Iterator[tuple[Any, ...]]:
    """Every place of a tree, its keys too (as `(..., None, key)`)."""
    yield ()
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in items:
        if isinstance(tree, dict):
            yield (None, key)
        yield from ((key, *path) for path in paths_in(inner))


def without(tree: Any, path: tuple[Any, ...]) -> Any:
    """The tree without what stands there."""
    copy = tree.copy()
    if len(path) == 1 or path[-2:-1] == (None,) == path[:1]:
        del copy[path[-1]]
    else:
        copy[path[0]] = without(tree[path[0]], path[1:])
    return copy


def put_at(tree: Any, path: tuple[Any, ...]) -> Any:
    """The tree with a mark there: in the place of a value, or, for a key, beside it under the same key, or another."""
    if not path:
        return MARK
    if path[0] is None:
        return {(MARK if key == path[1] else key): value for key, value in tree.items()}
    copy = tree.copy()
    copy[path[0]] = put_at(tree[path[0]], path[1:])
    return copy


@st.composite
def changed_json(draw: Any, valid: bytes) -> bytes:
    """A valid document in which one value, or key, is replaced by something hostile, said twice, or missing."""
    tree = json.loads(valid)
    path = draw(st.sampled_from(list(paths_in(tree))))
    if path and draw(st.integers(0, 5)) == 0:
        return json.dumps(without(tree, path)).encode()
    fragment = draw(st.one_of(st.sampled_from(FRAGMENTS), st.sampled_from(TAGS), small_json))
    mark = json.dumps(MARK).encode()
    text = json.dumps(put_at(tree, path)).encode()
    if len(path) > 1 and path[-2] is None:
        fragment = json.dumps(draw(st.text(max_size=5))).encode()
    elif draw(st.integers(0, 9)) == 0 and path and isinstance(path[-1], str):
        key = json.dumps(path[-1]).encode()
        fragment = b"%b, %b: %b" % (fragment, key, draw(st.sampled_from(FRAGMENTS)))
    return text.replace(mark, fragment)


small_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())

scalars = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 0.0, -0.0, 1.5, float("inf"), float("-inf"), float("nan"), 1e308]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["", "\x00", "a\x00b", "running", "finished", "failed", "cancelled", "method", "first:1", "gone:1", "\u202e"]
    ),
    st.sampled_from(["x" * 100_000, "first:" + "9" * 5_000, ":", "a:b:c", "right:1", "os.system", "9" * 30]),
    st.binary(max_size=8),
    st.sampled_from([b"running", b"finished", b"first:1", b"\xff", b"\x00" * 16]),
    st.binary(min_size=1, max_size=6).map(BrokenText),
)

JSON_COLUMNS = ("state", "progress", "changes", "result", "inputs", "outcome")
SCALAR_COLUMNS = (
    "seq",
    "pass_number",
    "format",
    "version",
    "kind",
    "status",
    "at",
    "method",
    "base",
    "epoch",
    "previous",
    "digest",
)
HEAD_COLUMNS = (
    "run_id",
    "flow",
    "identity",
    "format",
    "version",
    "status",
    "pass_number",
    "head",
    "head_digest",
    "base",
    "owner",
    "epoch",
    "created_at",
    "digest",
)


def documents(valid: bytes | None) -> st.SearchStrategy[Any]:
    hostile = st.one_of(st.sampled_from(DOCUMENTS), st.sampled_from(FRAGMENTS), scalars)
    return (
        hostile if valid is None else st.one_of(changed_json(valid), changed_json(valid), changed_json(valid), hostile)
    )


# ---- an attack -----------------------------------------------------------------------------------------------------


@dataclass
class Attack:
    """One value of one row, and whether the digests are made to fit."""

    run_id: str
    seq: int | None
    """None: the head."""
    column: str
    value: Any
    sealed: bool

    def put(self, base: Base, folder: Path) -> Path:
        path = folder / "runs.db"
        shutil.copyfile(base.path, path)
        head, rows = dict(base.heads[self.run_id]), [dict(row) for row in base.rows[self.run_id]]
        target = head if self.seq is None else rows[self.seq]
        target[self.column] = self.value
        if self.sealed:
            seal(head, rows)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            write(connection, "runs", head)
            for row in rows:
                write(connection, "checkpoints", row)
            connection.execute("PRAGMA writable_schema = ON")  # the schema is put right again: it is looked at, too
            for name, sql in base.schema.items():
                connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql, name))
            connection.execute("PRAGMA schema_version = 100")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path


def write(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    values = {name: v.data if isinstance(v, BrokenText) else v for name, v in row.items() if name != "id"}
    sets = ", ".join(f"{n} = " + ("CAST(? AS TEXT)" if isinstance(row[n], BrokenText) else "?") for n in values)
    connection.execute(f"UPDATE OR REPLACE {table} SET {sets} WHERE id = ?", (*values.values(), row["id"]))


FIELDS = {
    n: "pass_number" if n == "number" else n for n in Checkpoint._fields if n not in ("run_id", "flow", "identity")
}
"""The column of each field that a row has."""
HEAD_FIELDS = {n: "pass_number" if n == "number" else n for n in Head._fields}


def seal(head: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Make all digests fit, as far as there are any for such values."""
    previous = rows[0]["previous"]
    for row in rows:
        row["previous"] = previous
        told = {n: str(row[c]) if isinstance(row[c], BrokenText) else row[c] for n, c in FIELDS.items()}
        try:
            about = {"run_id": str(head["run_id"]), "flow": str(head["flow"]), "identity": str(head["identity"])}
            row["digest"] = Checkpoint(**about, **told).expected_digest()
        except Exception:  # such a value has no digest, and is found
            return
        previous = row["digest"]
    head["head_digest"] = previous
    told = {n: str(head[c]) if isinstance(head[c], BrokenText) else head[c] for n, c in HEAD_FIELDS.items()}
    try:
        head["digest"] = Head(**told).digest()
    except Exception:  # the same
        return


@dataclass
class Figures:
    attacks: int = 0
    sealed: int = 0
    loaded: int = 0
    """The value passed for one of the model's."""
    ran: int = 0
    """It was gone on with."""
    kinds: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        return f"{self.attacks} attacks, {self.sealed} with digests that fit: {self.loaded} loaded, {self.ran} ran; {kinds}"


async def tried(asked: Any, figures: Figures) -> Any:
    """What is answered, or None for an error that is ours. Anything else is raised."""
    try:
        return await asked
    except MethodError as error:
        causes = [failure.exception for failure in error.failures]
        assert causes
        assert all(isinstance(cause, AsyncflowError) or "argument" in str(cause) for cause in causes), causes
        figures.kinds["MethodError"] += 1
    except AsyncflowError as error:
        figures.kinds[type(error).__name__] += 1
    return None


async def look_at(path: Path, run_id: str, flow: type[Flow[Any]], figures: Figures) -> None:
    """Read the run in every way, which changes nothing; then go on with it."""
    before = contents(path)
    async with SQLiteFlowPersistence(path) as persistence:
        found = await tried(flow.load(run_id, persistence=persistence), figures)
        await tried(flow.load(run_id, seq=1, persistence=persistence), figures)
        await tried(persistence.history(run_id), figures)
        if found is not None:
            figures.loaded += 1
            fits(found.state)
            await tried(found.history(), figures)
    assert contents(path) == before, "reading changed the file"
    async with SQLiteFlowPersistence(path) as persistence:
        await tried(flow.fork(run_id, persistence=persistence), figures)
        ran = await tried(flow.resume(run_id, persistence=persistence), figures)
        figures.ran += ran is not None
        await tried(flow(persistence=persistence).kickoff({"id": run_id}), figures)


def contents(path: Path) -> bytes:
    return path.read_bytes()


def fits(state: Any) -> None:
    """Whether a state is one of the model's: of its types all the way down."""
    if isinstance(state, Work):
        Work.model_validate(dict(state), strict=True)
        assert all(type(part) is Part for part in state.parts)
    else:
        assert type(state) is dict
        assert all(type(key) is str for key in state)


def attacked(attacks: st.SearchStrategy[Attack], name: str, count: int, bases: dict[str, Base]) -> Figures:
    """Try so many attacks. What fails is shrunk, and told with what replays it."""
    figures = Figures()

    @seed(SEED + list(FLOWS).index(name))
    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    @given(attack=attacks)
    def attempt(attack: Attack) -> None:
        folder = Path(tempfile.mkdtemp(dir=bases[name].path.parent))
        path = attack.put(bases[name], folder)
        figures.attacks += 1
        figures.sealed += attack.sealed
        began = time.process_time()

        async def look() -> None:
            with anyio.fail_after(HANGS):
                await look_at(path, attack.run_id, FLOWS[name], figures)

        anyio.run(look, backend_options={"use_uvloop": True})
        assert time.process_time() - began < CPU
        shutil.rmtree(folder)

    attempt()
    print(f"{name}: {figures}")
    tell("R20", trials=figures.attacks, faults=figures.kinds.total())
    return figures


@st.composite
def attacks_on(draw: Any, base: Base, columns: tuple[str, ...]) -> Attack:
    run_id = draw(st.sampled_from(RUNS))
    sealed = draw(st.sampled_from((True, True, True, False)))
    if columns is HEAD_COLUMNS:
        return Attack(run_id, None, draw(st.sampled_from(columns)), draw(scalars), sealed)
    rows = base.rows[run_id]
    column = draw(st.sampled_from(columns))
    if columns is SCALAR_COLUMNS:
        return Attack(run_id, draw(st.integers(0, len(rows) - 1)), column, draw(scalars), sealed)
    seq = draw(st.sampled_from([n for n, row in enumerate(rows) if row[column] is not None] or [0]))
    return Attack(run_id, seq, column, draw(documents(rows[seq][column])), sealed)


PLACES = {
    "state": (("state",), 200),
    "progress": (("progress",), 120),
    "changes": (("changes",), 120),
    "results": (("result", "inputs", "outcome"), 120),
    "scalars": (SCALAR_COLUMNS, 120),
    "heads": (HEAD_COLUMNS, 60),
}
"""What is attacked, and how often in each of the two flows."""


@pytest.mark.clauses("V1", "V2", "V3", "V4", "V5")
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_value_is_a_typed_error_or_one_of_the_model(place: str, flow: str, bases: dict[str, Base]) -> None:
    columns, count = PLACES[place]
    count = int(count * FACTOR)
    figures = attacked(attacks_on(bases[flow], columns), flow, count, bases)

    assert figures.attacks >= count * 0.9
    assert figures.sealed >= count * 0.4
    assert figures.kinds.total() >= count, figures
    assert place != "state" or figures.loaded >= count * 0.05, figures


# ---- the format for other backends ---------------------------------------------------------------------------------


class Shelf:
    """A backend of two verbs, which keeps what `to_bytes` gives it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def save(self, checkpoint: Checkpoint) -> None:
        self.data = checkpoint.to_bytes()

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return Checkpoint.from_bytes(self.data)


async def shelved(base: Base, flow: type[Flow[Any]], run_id: str) -> bytes:
    """The body of a run's newest checkpoint, complete."""
    async with SQLiteFlowPersistence(base.sound) as persistence:
        checkpoint = await persistence.load(run_id)
    assert checkpoint is not None
    return checkpoint.to_bytes().partition(b"\n")[2]


async def look_at_the_shelf(body: bytes, run_id: str, flow: type[Flow[Any]], figures: Figures) -> None:
    checksum = hashlib.blake2b(body, digest_size=16).hexdigest().encode()
    data = checksum + b"\n" + body
    found = await tried(flow.load(run_id, persistence=Shelf(data)), figures)
    if found is not None:
        figures.loaded += 1
        fits(found.state)
    await tried(flow.fork(run_id, persistence=Shelf(data)), figures)
    figures.ran += await tried(flow.resume(run_id, persistence=Shelf(data)), figures) is not None
    await tried(flow(persistence=Shelf(data)).kickoff({"id": run_id}), figures)


@pytest.mark.clauses("V1", "V2", "V4", "V5")
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("run_id", RUNS)
def test_hostile_bytes_with_the_right_checksum_are_a_typed_error_or_a_checkpoint(
    run_id: str, flow: str, bases: dict[str, Base]
) -> None:
    count = int(100 * FACTOR)
    valid = anyio.run(shelved, bases[flow], FLOWS[flow], run_id)
    bodies = st.one_of(
        st.just(valid),
        changed_json(valid),
        changed_json(valid),
        st.sampled_from(DOCUMENTS + FRAGMENTS),
        inner_json(valid),
    )
    figures = Figures()

    @seed(SEED)
    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    @given(body=bodies)
    def attempt(body: bytes) -> None:
        figures.attacks += 1
        anyio.run(look_at_the_shelf, body, run_id, FLOWS[flow], figures)

    attempt()
    print(f"{flow}, {run_id}: {figures}")
    tell("R20", trials=figures.attacks, faults=figures.kinds.total())

    assert figures.attacks >= count * 0.9
    assert figures.loaded >= count * 0.01, figures
    assert figures.kinds.total() >= count, figures


@st.composite
def inner_json(draw: Any, valid: bytes) -> bytes:
    """A valid body in which one of the documents that it holds is changed."""
    body = json.loads(valid)
    column = draw(st.sampled_from([name for name in JSON_COLUMNS if body[name] is not None]))
    body[column] = draw(changed_json(body[column].encode())).decode("utf-8", "replace")
    return json.dumps(body).encode()


@pytest.mark.clauses("V1", "V4", "V5")
def test_whatever_a_tag_holds_a_dict_state_is_a_typed_error_or_loads(bases: dict[str, Base]) -> None:
    body = json.loads(anyio.run(shelved, bases["plain"], Plain, "finished"))
    figures = Figures()

    async def look_at_all() -> None:
        for value in (*TAGS, *FRAGMENTS):
            state = b'{"id": "finished", "value": %b}' % value
            changed = json.dumps({**body, "state": state.decode("utf-8", "replace")}).encode()
            figures.attacks += 1
            checksum = hashlib.blake2b(changed, digest_size=16).hexdigest().encode()
            found = await tried(Plain.load("finished", persistence=Shelf(checksum + b"\n" + changed)), figures)
            figures.loaded += found is not None

    anyio.run(look_at_all)
    print(figures)

    assert figures.attacks >= 300
    assert figures.loaded >= 40, figures
    assert figures.kinds.total() == figures.attacks - figures.loaded >= 150, figures


# ---- no code from data ---------------------------------------------------------------------------------------------

RUNNING_CODE = (
    *(
        "import",
        "exec",
        "compile",
        "marshal.loads",
        "pickle.find_class",
        "code.__new__",
        "function.__new__",
        "ctypes.dlopen",
    ),
    *(
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "os.spawn",
        "socket.connect",
        "urllib.Request",
    ),
)
"""What an interpreter tells its auditors of when it runs, loads or makes code, or reaches out."""


def attacks_with_code(base: Base) -> Iterator[Attack]:
    """Names of code and pickles, in the place of every document, of everything in it, and of every text."""
    pickles = [document for document in DOCUMENTS if b"system" in document]
    for run_id, rows in base.rows.items():
        for row in rows:
            for column in JSON_COLUMNS:
                if row[column] is None:
                    continue
                for hostile in (*pickles, *NAMED[:2]):
                    yield Attack(run_id, row["seq"], column, hostile, True)
                tree = json.loads(row[column])
                for path, hostile in zip(paths_in(tree), itertools.cycle(NAMED), strict=False):
                    marked = json.dumps(put_at(tree, path)).encode()
                    if None not in path[-2:-1]:
                        changed = marked.replace(json.dumps(MARK).encode(), hostile)
                        yield Attack(run_id, row["seq"], column, changed, True)
            for column in ("kind", "status", "method"):
                yield Attack(run_id, row["seq"], column, "os.system:1", True)
        for column in ("flow", "owner", "status"):
            yield Attack(run_id, None, column, "os.system", True)


def audited(folder: Path, planted: bool) -> dict[str, int]:
    """What a process tells its auditors of while it looks at such rows. The hook stays: to be called in a process of its own."""
    if planted:
        decode = codec.PlainCodec.decode
        is_pickle = re.compile(rb"cos|\x80")
        codec.PlainCodec.decode = lambda self, data: pickle.loads(data) if is_pickle.match(data) else decode(self, data)
    bases = {name: made(folder / f"{name}.db", flow) for name, flow in FLOWS.items()}
    events: Counter[str] = Counter()
    is_watched = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not is_watched or (event in ("compile", "open") and is_in_a_traceback()):
            return
        if event in RUNNING_CODE:
            events[f"{event} {args[0]!s:.50}" if event == "import" else event] += 1
        elif event == "open" and not is_our_business(args[0], args[1], folder):
            events[f"open {args[0]}"] += 1

    async def look(attacks: list[tuple[str, Attack]]) -> None:
        for name, attack in attacks:
            path = attack.put(bases[name], Path(tempfile.mkdtemp(dir=folder)))
            await look_at(path, attack.run_id, FLOWS[name], figures)

    figures = Figures()
    attacks = [(name, attack) for name, base in bases.items() for attack in attacks_with_code(base)][::2]
    if planted:
        attacks = [(name, attack) for name, attack in attacks if str(attack.value).startswith(("b'cos", "b'\\x80"))][
            :20
        ]
    sys.addaudithook(hook)
    anyio.run(
        look, [(name, Attack(run_id, 0, "epoch", 1, True)) for name in FLOWS for run_id in RUNS]
    )  # what is lazy is loaded
    anyio.run(look, attacks[:: max(1, len(attacks) // 30)])
    is_watched = True
    anyio.run(look, attacks)
    return {**events, "attacks": len(attacks), "errors": figures.kinds.total(), "loaded": figures.loaded}


def is_in_a_traceback() -> bool:
    """Whether a traceback is being written: that parses lines of source, to underline what failed, and opens "<unknown>" (3.13)."""
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "traceback":
            return True
        frame = frame.f_back
    return False


def is_our_business(path: object, mode: object, folder: Path) -> bool:
    """Whether a file is the database's, or a source that is only read, for the lines of a traceback."""
    if not isinstance(path, str | bytes):
        return False
    place = os.path.abspath(os.fsdecode(path))
    return place.startswith(str(folder)) or (place.endswith(".py") and mode in ("r", "rb"))


def in_a_process(call: str) -> dict[str, int]:
    """What a call of this module returns in a process of its own."""
    program = f"import json, test_hostile_rows as hostile; from pathlib import Path; print(json.dumps({call}))"
    here = Path(__file__).parent
    places = [str(Path(asyncflow.__file__).parents[1]), str(here), str(here.parent)]
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, int] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.clauses("V1", "V4")
def test_no_code_is_run_loaded_or_named_by_data(memory: Path) -> None:
    found = in_a_process(f"hostile.audited(Path({str(memory)!r}), planted=False)")
    print(found)

    figures = {name: found.pop(name) for name in ("attacks", "errors", "loaded")}
    assert found == {}
    assert figures["attacks"] >= 250
    assert figures["errors"] >= 700
    assert figures["loaded"] >= 10


def test_a_decoder_that_runs_what_it_is_told_would_be_seen(memory: Path) -> None:
    found = in_a_process(f"hostile.audited(Path({str(memory)!r}), planted=True)")

    assert found["pickle.find_class"] > 0
    assert found["os.system"] > 0
