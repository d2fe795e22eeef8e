"""Rows that an attacker has made to do harm: a typed error, or a state of the model. Nothing else is raised, run, imported or hung.

Some attackers change a value and no more. Others know how digests are made: then only the decoding and the model are between them
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
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from answers import Answers
from figures import FACTOR, SEED, tell
from hostile import (
    FLOWS,
    HANGS,
    PLACES,
    RUNS,
    Attack,
    Base,
    Figures,
    Plain,
    attacked,
    attacks_on,
    attacks_on_signals,
    fits,
    look_at,
    make,
    tried,
)
from hostile_values import DOCUMENTS, FRAGMENTS, JSON_COLUMNS, MARK, NAMED, TAGS, changed_json, paths_in, put_at
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import asyncflow
from asyncflow import Flow, SQLiteFlowPersistence
from asyncflow._codec import codec
from asyncflow.persistence import Checkpoint


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
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(replace(sql, 'STRICT', ''), 'NOT NULL', '') WHERE type = 'table'"
        )
        connection.execute("PRAGMA schema_version = 99")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        for head in connection.execute("SELECT * FROM runs").fetchall():
            base.heads[head["run_id"]] = dict(head)
            rows = connection.execute("SELECT * FROM checkpoints WHERE run = ? ORDER BY seq", (head["id"],))
            base.rows[head["run_id"]] = [dict(row) for row in rows]
            signals = connection.execute("SELECT * FROM signals WHERE run = ?", (head["id"],))
            base.signals[head["run_id"]] = {row["key"]: dict(row) for row in signals}
    return base


# ---- an attack -----------------------------------------------------------------------------------------------------


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


@pytest.mark.clauses("V4", "W6")
def test_a_hostile_value_of_a_signal_is_a_typed_error_and_nothing_is_taken_twice(memory: Path) -> None:
    count = int(240 * FACTOR)
    bases = {"answers": made(memory / "answers.db", Answers)}
    figures = attacked(attacks_on_signals(bases["answers"]), "answers", count, bases)

    assert figures.attacks >= count * 0.9
    assert figures.sealed >= count * 0.4
    assert figures.kinds.total() >= count, figures
    assert figures.ran >= count * 0.05, figures


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
"""The events that an interpreter raises for its auditors when it runs, loads or makes code, or reaches out."""


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
    """The events that a process raises for its auditors while it looks at such rows. The hook stays: call it in a process of its own."""
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


def test_a_decoder_that_executes_stored_data_would_be_seen(memory: Path) -> None:
    found = in_a_process(f"hostile.audited(Path({str(memory)!r}), planted=True)")

    assert found["pickle.find_class"] > 0
    assert found["os.system"] > 0
