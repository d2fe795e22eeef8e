"""R24: whatever exists at the path. The right error, before any method runs, and nothing touched; or it works.

Files are looked at while this process has none of them open: closing a file gives up SQLite's locks on it (POSIX).
"""

from __future__ import annotations

import ctypes
import functools
import gzip
import hashlib
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from figures import tell

import asyncflow
from asyncflow import Flow, FlowState, SQLiteFlowPersistence, errors, start

PATH = "runs.db"
KEPT = "kept"
"""A run that is in each asyncflow database."""

SECONDS = 120
"""A case that takes longer hangs."""


class Work(FlowState):
    n: int = 0


class Counting(Flow[Work]):
    name = "Counting"

    @start()
    async def count(self) -> int:
        ran.append("count")
        self.state.n += 1
        return self.state.n


ran: list[str] = []

# ---- what exists there ---------------------------------------------------------------------------------------------


def ours(path: str = PATH) -> None:
    """An asyncflow database, with one run in it."""
    Path(path).write_bytes(a_database())


@functools.cache
def a_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, PATH)
        asyncflow.run(Counting(persistence=SQLiteFlowPersistence(path)), {"id": KEPT})
        return path.read_bytes()


def beginning(size: int | None = None) -> Callable[[], object]:
    """Its first bytes; half of them, if it is not said how many."""
    return lambda: Path(PATH).write_bytes(a_database()[: len(a_database()) // 2 if size is None else size])


def written(data: bytes, name: str = PATH) -> Callable[[], object]:
    return lambda: Path(name).write_bytes(data)


def each(*makes: Callable[[], object]) -> Callable[[], None]:
    """One after the other."""

    def make() -> None:
        for one in makes:
            one()

    return make


def told(*statements: str, path: str = PATH, before: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """The files of another program that has given SQLite these statements."""

    def make() -> None:
        before()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    return make


def left(*statements: str, kept: tuple[str, ...], before: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """The same, killed before it has closed the database: with these of its files next to it."""

    def make() -> None:
        before()
        with tempfile.TemporaryDirectory() as aside:
            with closing(sqlite3.connect(PATH, isolation_level=None)) as connection:
                for statement in statements:
                    connection.execute(statement)
                for name in os.listdir():
                    shutil.copy(name, aside)
            for name in os.listdir():
                os.unlink(name)
            for ending in kept:
                shutil.copy(Path(aside, PATH + ending), PATH + ending)

    return make


def in_its_log(*, kept: tuple[str, ...], then: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """Another program's database, of which all is in the log but the first page."""

    def make() -> None:
        left("PRAGMA journal_mode = WAL", "CREATE TABLE bookmarks (url TEXT)", kept=kept)()
        then()

    return make


def in_a_transaction(before: Callable[[], object]) -> Callable[[], None]:
    """A database in the old mode, killed in the midst of a transaction that had begun to write."""

    def make() -> None:
        large = "CREATE TABLE large AS SELECT randomblob(100000)"
        begun = ("PRAGMA journal_mode = DELETE", "PRAGMA cache_size = 1", "BEGIN", large)
        left(*begun, kept=("", "-journal"), before=before)()
        assert Path(PATH + "-journal").stat().st_size > 512

    return make


def linked(target: str, before: Callable[[], object] = lambda: None) -> Callable[[], None]:
    def make() -> None:
        before()
        os.symlink(target, PATH)

    return make


def a_linked_folder() -> None:
    os.mkdir("folder")
    ours("folder/runs.db")
    os.symlink("folder", "link")


def a_socket() -> None:
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(PATH)


def under(folder: int, file: int | None = None) -> Callable[[], None]:
    """Ours in a folder, with these modes."""

    def make() -> None:
        os.mkdir("folder")
        if file is not None:
            ours("folder/runs.db")
            os.chmod("folder/runs.db", file)
        os.chmod("folder", folder)

    return make


LOCKER = """
import sqlite3, sys
database = sqlite3.connect("runs.db", isolation_level=None)
database.execute("PRAGMA locking_mode = EXCLUSIVE")
database.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def locked(stack: ExitStack) -> None:
    """Another process has it for itself."""
    ours()
    pipe = subprocess.PIPE
    process = stack.enter_context(subprocess.Popen([sys.executable, "-c", LOCKER], stdin=pipe, stdout=pipe))
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"


# ---- the cases -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    make: Callable[[], object]
    error: type[errors.AsyncflowError]
    advice: str
    """A part of the message: what to do."""
    path: str = PATH
    modes: bool = False
    """Whether it needs a user whom the modes of files keep out."""


NotFound, ReadOnly, Foreign = errors.StorageNotFoundError, errors.StorageReadOnlyError, errors.ForeignDatabaseError
NoDatabase, Corrupt, Version = errors.StorageNotADatabaseError, errors.StorageCorruptError, errors.StorageVersionError
ANOTHER, SHORTER, BACKUP = "use another file", "choose a shorter one", "restore it from a backup"
TABLE = "CREATE TABLE bookmarks (url TEXT)"
LOG = ("", "-wal", "-shm")
NOTHING = functools.partial(int)

REFUSED = {
    "a folder": Case(lambda: os.mkdir(PATH), NotFound, "name a file in it"),
    "an empty string": Case(NOTHING, NotFound, "name a file in it", ""),
    "a link to nothing": Case(linked("elsewhere/runs.db"), NotFound, "create that file, or use another path"),
    "a link to itself": Case(linked(PATH), NotFound, "create that file, or use another path"),
    "a link to another program's": Case(linked("other.db", told(TABLE, path="other.db")), Foreign, ANOTHER),
    "a parent that is a file": Case(written(b"", "file"), NotFound, "is not a folder", "file/runs.db"),
    "a parent that is a link to nothing": Case(linked("nowhere"), NotFound, "there is no folder", PATH + "/runs.db"),
    "a folder in which nothing can be made": Case(NOTHING, NotFound, "there is no folder", "/proc/no/runs.db"),
    "a folder that is not there": Case(NOTHING, NotFound, "there is no folder", "a/b/runs.db"),
    "a mistyped folder": Case(lambda: os.mkdir("data"), NotFound, "Create it, or correct the path", "dtaa/runs.db"),
    "one byte": Case(written(b"S"), NoDatabase, ANOTHER),
    "a text": Case(written(b"hello"), NoDatabase, ANOTHER),
    "garbage": Case(written(b"not a database, but long enough " * 500), NoDatabase, ANOTHER),
    "a gzip": Case(written(gzip.compress(bytes(range(256)) * 99)), NoDatabase, ANOTHER),
    "a pipe": Case(lambda: os.mkfifo(PATH), NoDatabase, ANOTHER),
    "a socket": Case(a_socket, NoDatabase, ANOTHER),
    "a device": Case(NOTHING, NoDatabase, ANOTHER, os.devnull),
    "half of ours": Case(beginning(), Corrupt, BACKUP),
    "the first page of ours": Case(beginning(4096), Corrupt, BACKUP),
    "99 bytes of ours": Case(beginning(99), Corrupt, BACKUP),
    "another program's": Case(told(TABLE), Foreign, ANOTHER),
    "another program's id": Case(told("PRAGMA application_id = 1234"), Foreign, ANOTHER),
    "another program's version": Case(told("PRAGMA user_version = 7"), Foreign, ANOTHER),
    "another program's, killed": Case(in_its_log(kept=LOG), Foreign, ANOTHER),
    "another program's, killed in a transaction": Case(in_a_transaction(told(TABLE)), Foreign, ANOTHER),
    "another program's log beside ours": Case(in_its_log(kept=("-wal",), then=ours), Foreign, ANOTHER),
    "a log alone": Case(in_its_log(kept=("-wal",)), Corrupt, "restore the database"),
    "a log beside an empty file": Case(in_its_log(kept=("-wal",), then=written(b"")), Corrupt, "or delete the log"),
    "a newer version": Case(told("PRAGMA user_version = 99", before=ours), Version, "update asyncflow"),
    "a newer version, killed": Case(
        left("PRAGMA user_version = 99", kept=LOG, before=ours), Version, "update asyncflow"
    ),
    "a file where the owners go": Case(each(ours, written(b"", "runs.db.owners")), ReadOnly, "Change the perm"),
    "a name that is too long": Case(NOTHING, NotFound, SHORTER, "x" * 300),
    "a name that leaves no room for the log's": Case(NOTHING, NotFound, SHORTER, "x" * 250),
    "a path that is too long": Case(NOTHING, NotFound, SHORTER, "/".join(["x" * 100] * 6)),
    "a read-only file": Case(under(0o700, 0o400), ReadOnly, "change its permissions", "folder/runs.db", modes=True),
    "a secret file": Case(under(0o700, 0o000), ReadOnly, "change its permissions", "folder/runs.db", modes=True),
    "a read-only folder": Case(under(0o500, 0o600), ReadOnly, "Change the permissions", "folder/runs.db", modes=True),
    "an empty read-only folder": Case(under(0o500), ReadOnly, "choose a writable folder", "folder/runs.db", modes=True),
    "a folder that lets nobody in": Case(
        under(0o000, 0o600), ReadOnly, "choose a writable folder", "folder/runs.db", modes=True
    ),
}
"""What is refused, and how."""

TAKEN: dict[str, tuple[Callable[[], object], str]] = {
    "a link to ours": (linked("real.db", lambda: ours("real.db")), PATH),
    "a link to the folder of ours": (a_linked_folder, "link/runs.db"),
    "ours in the old mode": (told("PRAGMA journal_mode = DELETE", before=ours), PATH),
    "ours in the old mode, killed in a transaction": (in_a_transaction(ours), PATH),
    "ours, killed": (left("UPDATE runs SET updated_at = 1", kept=LOG, before=ours), PATH),
    "ours, killed, without the index of its log": (
        left("UPDATE runs SET updated_at = 1", kept=LOG[:2], before=ours),
        PATH,
    ),
    "a log that is garbage": (each(ours, written(b"garbage" * 999, PATH + "-wal")), PATH),
    "an index of the log that is garbage": (each(ours, written(b"garbage" * 9999, PATH + "-shm")), PATH),
    "a slash at the end": (ours, PATH + "/"),
}
"""What works, and has the run in it that it had."""

NAMES = (
    *(
        "a b.db",
        "\N{SNOWMAN}.db",
        "a?b#c%20d.db",
        "./file:x?mode=ro",
        "./file::memory:",
        "./~",
        ":memory:.db",
        "./:memory:",
        "%00",
    ),
    *("-x", "a\nb", "x" * 247, os.fsdecode(b"\xff.db")),
)
"""Where there is nothing yet; each is the plain name of a file."""


def modes_bind() -> bool:
    """Whether modes keep this user out: root they do not."""
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0)
        return not os.access(file.name, os.W_OK)


def picture() -> dict[str, object]:
    """Everything here: kind, mode, time and content.

    Without the index of a log, which is shared memory: each process that reads the database has one.
    """
    return {str(path): details(path) for path in sorted(Path().rglob("*")) if not path.name.endswith("-shm")}


def details(path: Path) -> tuple[object, ...]:
    found = path.lstat()
    is_file = stat.S_ISREG(found.st_mode) and os.access(path, os.R_OK)
    content = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else None
    return found.st_mode, found.st_mtime_ns, found.st_size, content


whole, plain = os.path.abspath, os.path.normpath


def files() -> list[str]:
    return [str(path) for path in Path().rglob("*") if path.is_file()]


@pytest.fixture(autouse=True)
def _no_hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also where nothing can be cancelled. And no other process is waited for for long."""

    def fail(*_: object) -> None:
        raise TimeoutError(f"it hangs: {SECONDS} seconds are over")

    monkeypatch.setattr("asyncflow.persistence.sqlite.database.BUSY_SECONDS", 0.2)
    a_database()
    ran.clear()
    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """Make it so, outside of any event loop."""
    wanted: Case = request.param
    wanted.make()
    yield wanted
    if wanted.modes:
        os.chmod("folder", 0o700)


@pytest.fixture
def taken(request: pytest.FixtureRequest) -> str:
    make, path = request.param
    make()
    assert isinstance(path, str)
    return path


@pytest.fixture
def _locked() -> Iterator[None]:
    with ExitStack() as stack:
        locked(stack)
        yield


async def called(call: str, persistence: SQLiteFlowPersistence) -> object:
    if call == "kickoff":
        return await Counting(persistence=persistence).kickoff()
    return await Counting.load(KEPT, persistence=persistence)


async def refused(call: str, path: str) -> errors.AsyncflowError:
    """The error, one of asyncflow's. Nothing is changed by it, and nothing has run."""
    before = picture()
    with pytest.raises(errors.AsyncflowError) as caught:
        await called(call, SQLiteFlowPersistence(path))

    assert picture() == before
    assert ran == []
    tell("R24", trials=1, faults=1)
    assert whole(path) in str(caught.value)
    return caught.value


MODES_BIND = modes_bind()
HAS_PROC = Path("/proc/self").exists()

CASES = {
    name: case
    for name, case in REFUSED.items()
    if (MODES_BIND or not case.modes) and (HAS_PROC or not case.path.startswith("/proc"))
}
"""Those that there can be here. Where root runs the tests, which modes do not keep out, the others are in
`test_root_without_its_powers_gets_the_same_errors_as_any_user`; and only Linux has /proc, a folder in which even root may make nothing."""


@pytest.mark.clauses("S3")
@pytest.mark.parametrize("call", ["kickoff", "load"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES, indirect=True)
async def test_what_cannot_be_a_storage_is_refused_by_name_and_left_as_it_was(case: Case, call: str) -> None:
    error = await refused(call, case.path)

    assert type(error) is case.error
    assert case.advice in str(error)


@pytest.mark.parametrize("call", ["kickoff", "load"])
@pytest.mark.usefixtures("_locked")
async def test_what_another_process_has_for_itself_is_busy(call: str) -> None:
    error = await refused(call, PATH)

    assert type(error) is errors.StorageBusyError
    assert "Try again" in str(error)


async def test_the_log_of_another_database_next_to_ours_destroys_nothing() -> None:
    in_its_log(kept=("-wal",), then=ours)()
    for call in ("kickoff", "load"):
        await refused(call, PATH)
    os.unlink(PATH + "-wal")

    assert (await Counting.load(KEPT, persistence=SQLiteFlowPersistence(PATH))).state.n == 1


@pytest.mark.parametrize("taken", TAKEN.values(), ids=TAKEN, indirect=True)
async def test_a_file_that_is_an_asyncflow_storage_is_opened_with_its_contents(taken: str) -> None:
    persistence = SQLiteFlowPersistence(taken)
    flow = Counting(persistence=persistence)
    loaded = await Counting.load(KEPT, persistence=persistence)
    await flow.kickoff()

    assert (loaded.status, loaded.state.n) == ("finished", 1)
    assert (flow.status, ran) == ("finished", ["count"])
    assert [name for name in os.listdir(Path(taken).parent) if "-" in name] == []
    with closing(sqlite3.connect(Path(taken))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
async def test_a_name_is_that_of_a_plain_file_whatever_it_looks_like(name: str) -> None:
    persistence = SQLiteFlowPersistence(name)
    flow = Counting(persistence=persistence)
    await flow.kickoff()

    assert files() == [plain(name)]
    assert (await Counting.load(flow.run_id, persistence=persistence)).state.n == 1


@pytest.mark.parametrize("name", ["a\0b", ":memory:"])
def test_what_is_no_name_is_refused_before_there_is_any_io(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not a file|is not a path"):
        SQLiteFlowPersistence(name)

    assert os.listdir() == []


def test_there_are_cases_enough() -> None:
    assert len(REFUSED) + len(TAKEN) + len(NAMES) >= 40


@pytest.mark.skipif(sys.platform != "linux", reason="powers are given up one by one on Linux alone")
@pytest.mark.skipif(MODES_BIND, reason="this user is no root: the cases about modes are among the others")
def test_root_without_its_powers_gets_the_same_errors_as_any_user() -> None:
    """All of this file again, by a process that modes do keep out; so that nothing goes untried where root runs the tests."""
    libc = ctypes.CDLL(None)

    def give_up() -> None:
        for power in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if libc.prctl(24, power, 0, 0, 0):  # PR_CAPBSET_DROP
                os._exit(99)

    command = [sys.executable, "-m", "pytest", "-q", "-rp", "-p", "no:cacheprovider", __file__]
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    for name in ("PYTEST_XDIST_WORKER", "ASYNCFLOW_TESTS"):
        env.pop(name, None)
    signal.alarm(0)  # each of the tests in there has an alarm of its own
    done = subprocess.run(command, cwd=root, env=env, preexec_fn=give_up, capture_output=True, text=True, timeout=900)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    modes = [name for name, case in REFUSED.items() if case.modes]
    assert len(modes) >= 5
    assert [name for name in modes if f"-{name}-kickoff]" not in done.stdout] == []
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 300
