"""An attack on stored rows: the flows, hostile values put where they may do harm, and what became of them."""

import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from answers import KEYS, Answers, answer, three_signals
from figures import SEED, tell
from hostile_values import HEAD_COLUMNS, SCALAR_COLUMNS, SIGNAL_COLUMNS, BrokenText, documents, scalars
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from asyncflow import Flow, FlowState, SQLiteFlowPersistence, and_, each, listen, start
from asyncflow.errors import AsyncflowError, MethodError
from asyncflow.persistence import Checkpoint, NewSignal, StoredSignal
from asyncflow.persistence._database.run_head import Head

CPU = 2.0
"""Seconds of work that a row may cost: a hundred times what one costs, and no matter how busy the machine is."""


HANGS = 120


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


class Mapped(Typed):
    """One method runs for each item of a list, one at a time; of the run that fails, the first has completed."""

    name = "Mapped"

    @start()
    async def first(self) -> list[Decimal]:  # type: ignore[override]  # another flow
        return [Decimal(0), Decimal("0.5"), Decimal(1)]

    @listen(first)
    async def left(self, value: list[Decimal]) -> int:  # type: ignore[override]
        return len(value)

    @listen(each(first), limit=1)
    async def right(self, value: Decimal) -> int:  # type: ignore[override]
        self.state.count += 1
        return int(value)


class Broken(Exception):
    """What the methods of the runs to be attacked fail with. They raise nothing else, and later not even this."""


def failing(flow: type[Flow[Any]]) -> type[Flow[Any]]:
    async def right(self: Any, value: Any) -> Any:
        if value == 0:  # an item
            return 0
        raise Broken

    return type("Failing", (flow,), {"name": flow.__name__, "right": right})


FLOWS: dict[str, type[Flow[Any]]] = {"typed": Typed, "plain": Plain, "mapped": Mapped}
RUNS = ("failed", "finished")


async def make(path: Path, flow: type[Flow[Any]]) -> None:
    async with SQLiteFlowPersistence(path) as persistence:
        if flow is Answers:
            await three_signals(persistence, "waits")
            return
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
    signals: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """By run and key."""


@dataclass
class Attack:
    """One value of one row, and whether the digests are made to fit."""

    run_id: str
    seq: int | str | None
    """None: the head; a text: the signal with this key."""
    column: str
    value: Any
    sealed: bool

    def put(self, base: Base, folder: Path) -> Path:
        path = folder / "runs.db"
        shutil.copyfile(base.path, path)
        head, rows = dict(base.heads[self.run_id]), [dict(row) for row in base.rows[self.run_id]]
        signals = {key: dict(row) for key, row in base.signals[self.run_id].items()}
        target = head if self.seq is None else signals[self.seq] if isinstance(self.seq, str) else rows[self.seq]
        target[self.column] = self.value
        if self.sealed and isinstance(self.seq, str):
            seal_signal(self.run_id, target)
        elif self.sealed:
            seal(head, rows)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            write(connection, "runs", head)
            for row in rows:
                write(connection, "checkpoints", row)
            for row in signals.values():
                write(connection, "signals", row)
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


FIELDS = {n: n for n in Checkpoint._fields if n not in ("run_id", "flow", "identity")}
"""The column of each field that a row has."""
HEAD_FIELDS = {n: n for n in Head._fields}


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
        head["entry_digest"] = Head(**told).digest()
    except Exception:  # the same
        return


def seal_signal(run_id: str, row: dict[str, Any]) -> None:
    """Make the digests of a signal fit, as far as there are any for such values."""
    told = {n: str(value) if isinstance(value, BrokenText) else value for n, value in row.items()}
    signal = NewSignal(*(told[name] for name in NewSignal._fields))
    try:
        if row["payload"] is not None:
            row["content"] = signal.content
        row["digest"] = StoredSignal(0, run_id, signal)._digest(row["content"], b"", told["taken"], told["problem"])
    except Exception:  # such a value has no digest, and is found
        return


@dataclass
class Figures:
    attacks: int = 0
    sealed: int = 0
    loaded: int = 0
    """The value passed for one of the model's."""
    ran: int = 0
    """It was resumed."""
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
    """Read the run in every way, which changes nothing; then resume it."""
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


async def look_at_signals(path: Path, run_id: str, flow: type[Flow[Any]], figures: Figures, sealed: bool) -> None:
    """Read the signals in every way, which changes nothing; send one again, and one that ends the run; and resume it."""
    before = contents(path)
    async with SQLiteFlowPersistence(path) as persistence:
        figures.loaded += await tried(persistence.inbox(run_id), figures) is not None
        for error in await persistence.verify():
            figures.kinds[type(error).__name__] += 1
    assert contents(path) == before, "reading changed the file"
    async with SQLiteFlowPersistence(path) as persistence:
        await tried(persistence.send(run_id, answer(0, "the end")), figures)
        ran = await tried(flow.resume(run_id, persistence=persistence), figures)
        figures.ran += ran is not None
        assert sealed or ran in (None, [1, 0]), "a signal was taken twice, or another one than was sent"


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
    """Try so many attacks. What fails is shrunk, and reported with the arguments that replay it."""
    figures = Figures()

    flow = FLOWS.get(name, Answers)

    @seed(SEED + [*FLOWS, "answers"].index(name))
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
                if flow is Answers:
                    await look_at_signals(path, attack.run_id, flow, figures, attack.sealed)
                else:
                    await look_at(path, attack.run_id, flow, figures)

        anyio.run(look, backend_options={"use_uvloop": True})
        assert time.process_time() - began < CPU
        shutil.rmtree(folder)

    attempt()
    print(f"{name}: {figures}")
    tell("R20", trials=figures.attacks, faults=figures.kinds.total())
    return figures


@st.composite
def attacks_on_signals(draw: Any, base: Base) -> Attack:
    (run_id,) = base.signals
    key, column = draw(st.sampled_from(KEYS)), draw(st.sampled_from(SIGNAL_COLUMNS))
    is_json = column == "payload" and base.signals[run_id][key][column] is not None
    value = draw(documents(base.signals[run_id][key][column]) if is_json else scalars)
    return Attack(run_id, key, column, value, draw(st.sampled_from((True, True, False))))


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
