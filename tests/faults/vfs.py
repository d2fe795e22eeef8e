"""A disk that fails, under the standard library's own SQLite, in pure ctypes; and flows to be run on it.

The VFS wraps the original one: that opens each file, and then the methods of the file are swapped for a copy that records what is
written, cut, synced and removed, and that fails where it is set to. The -shm is not durable, and passes through. From a recording
`Disk` makes what a crash of the process, or of the machine, leaves at any moment.
"""

import ctypes
import errno
import functools
import itertools
import os
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from answers import Answers, answer
from moments import stored as is_stored
from moments import until

from asyncflow import Flow, FlowState, SQLiteFlowPersistence, and_, listen, or_, router, start
from asyncflow.errors import RunNotFoundError, StorageWriteError
from asyncflow.persistence import Checkpoint, NewSignal, StoredSignal

SECTOR = 512
"""Bytes that a disk writes whole, or not at all."""


# ---- what happens to a disk ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Made:
    """A file was made under a name. `file` is its number: another one of the same name has another."""

    file: int
    name: str


@dataclass(frozen=True, slots=True)
class Wrote:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Cut:
    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Synced:
    """What was written to the file (0: to none) is durable; `folder`: and so are the names."""

    file: int
    folder: bool


@dataclass(frozen=True, slots=True)
class SyncFailed:
    """What was written since the last sync can be read, and is lost at a power cut: no later sync writes it."""

    file: int


@dataclass(frozen=True, slots=True)
class Removed:
    name: str
    folder: bool


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A checkpoint was reported as saved."""

    run_id: str
    seq: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Denied:
    """A checkpoint was reported as not saved."""

    digest: bytes


Event = Made | Wrote | Cut | Synced | SyncFailed | Removed | Acknowledged | Denied
Image = dict[str, bytes]
"""What a crash leaves: names and contents of files."""

CODES = {
    "read": sqlite3.SQLITE_IOERR_READ,
    "write": sqlite3.SQLITE_IOERR_WRITE,
    "full": sqlite3.SQLITE_FULL,
    "sync": sqlite3.SQLITE_IOERR_FSYNC,
    "truncate": sqlite3.SQLITE_IOERR_TRUNCATE,
    "delete": sqlite3.SQLITE_IOERR_DELETE,
}
"""The kinds of faults, and what SQLite gets."""


@dataclass(frozen=True, slots=True)
class Fault:
    """So many calls of a kind fail, from the n-th (from 1) on. `on`: of a file whose name ends in this."""

    kind: str
    n: int
    times: float = 1
    on: str = ""

    @property
    def call(self) -> str:
        """What kind of call fails: a full disk is a failing write."""
        return "write" if self.kind == "full" else self.kind


@dataclass(slots=True)
class Recording:
    """What was done to the database in a folder, in order, with the acknowledgements; and the fault, if one is planned."""

    folder: Path
    fault: Fault | None = None
    events: list[Event] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    hits: int = 0
    """Calls that failed."""
    hit_at: int = 0
    """How many events there were when the first call failed."""
    files: dict[str, int] = field(default_factory=dict)
    _made: int = 0

    @property
    def acknowledged(self) -> list[Acknowledged]:
        return [event for event in self.events if isinstance(event, Acknowledged)]

    def opened(self, path: Path) -> int:
        """The number of a file; a new one if it has just been made."""
        if path.name not in self.files:
            self.files[path.name] = self._made = self._made + 1
            self.events.append(Made(self._made, path.name))
        return self.files[path.name]

    def removed(self, path: Path, folder: bool) -> None:
        self.files.pop(path.name, None)
        self.events.append(Removed(path.name, folder))

    def failure(self, call: str, name: str) -> int:
        """Count a call; the error that it is to fail with, or 0."""
        fault = self.fault
        if fault is not None and not name.endswith(fault.on):
            return 0
        self.calls[call] += 1
        n = self.calls[call]
        if fault is None or call != fault.call or not fault.n <= n < fault.n + fault.times:
            return 0
        if not self.hits:
            self.hit_at = len(self.events)
        self.hits += 1
        return CODES[fault.kind]

    def decisions(self, after: int) -> Iterator[int]:
        """How many events there were when it was said of a checkpoint that it was saved, or was not, from a moment on."""
        for n, event in enumerate(self.events[after:], after + 1):
            if isinstance(event, Acknowledged | Denied):
                yield n


# ---- what a crash leaves -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class File:
    """`durable`: what no power cut takes; `pending`: what was done since; `seen`: what a reader finds."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Wrote | Cut] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)

    def do(self, change: Wrote | Cut) -> None:
        self.pending.append(change)
        apply(change, self.seen)

    def sync(self) -> None:
        for change in self.pending:
            apply(change, self.durable)
        self.pending.clear()

    def after_power_cut(self, chance: random.Random) -> bytes:
        """The durable content and, of the operations since, any subset, torn and cut."""
        content = bytearray(self.durable)
        for change in survivors(self.pending, chance):
            apply(change, content)
        return bytes(content)


class Disk:
    """The files of a recording, event by event."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {}
        self.names: dict[str, list[int | None]] = {}
        """What a name may stand for after a power cut; the last one is what it stands for now."""
        self.acknowledged: dict[tuple[str, int], bytes] = {}
        self.denied: set[bytes] = set()

    def do(self, event: Event) -> None:
        match event:
            case Wrote(file) | Cut(file):
                self.files[file].do(event)
            case Synced(file, folder):
                if file:
                    self.files[file].sync()
                self._sync_names(folder)
            case SyncFailed(file):
                self.files[file].pending.clear()
            case Made(file, name):
                self.files[file] = File()
                self.names.setdefault(name, [None]).append(file)
            case Removed(name, folder):
                self.names.setdefault(name, [None]).append(None)
                self._sync_names(folder)
            case Acknowledged(run_id, seq, digest):
                self.acknowledged[run_id, seq] = digest
            case Denied(digest):
                self.denied.add(digest)

    def _sync_names(self, folder: bool) -> None:
        if folder:
            self.names = {name: files[-1:] for name, files in self.names.items()}

    def after_crash(self) -> Image:
        """What the death of the process leaves: everything."""
        return {name: bytes(self.files[files[-1]].seen) for name, files in self.names.items() if files[-1]}

    def after_power_cut(self, chance: random.Random | None = None) -> Image:
        """What a power cut may leave; without `chance`, nothing but what is durable."""
        image: Image = {}
        for name, files in self.names.items():
            file = chance.choice(files) if chance is not None else files[0]
            if file is not None:
                kept = self.files[file]
                image[name] = bytes(kept.durable) if chance is None else kept.after_power_cut(chance)
        return image


def disk_at(recording: Recording, moment: int) -> Disk:
    """The disk after so many events."""
    disk = Disk()
    for event in recording.events[:moment]:
        disk.do(event)
    return disk


def apply(change: Wrote | Cut, content: bytearray) -> None:
    match change:
        case Wrote(_, offset, data):
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
        case Cut(_, size):
            del content[size:]
            content.extend(bytes(size - len(content)))


def survivors(pending: list[Wrote | Cut], chance: random.Random) -> Iterator[Wrote | Cut]:
    """Of the changes since the last sync those that a power cut spares: none, all, the first few, or any."""
    likely = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    torn = chance.choice((0.0, 0.0, 0.3, 1.0))
    until = chance.randint(0, len(pending)) if chance.random() < 0.3 else len(pending)
    for n, change in enumerate(pending):
        if isinstance(change, Wrote) and (n == until or chance.random() < torn):
            yield from pieces(change, chance)
        elif n < until and chance.random() < likely:
            yield change
        if n == until:
            return


def pieces(change: Wrote, chance: random.Random) -> Iterator[Wrote]:
    """A write that was under way: some of its sectors, or its beginning."""
    if chance.random() < 0.3:
        yield Wrote(change.file, change.offset, change.data[: chance.randint(0, len(change.data))])
        return
    end = change.offset + len(change.data)
    edges = [change.offset, *range((change.offset // SECTOR + 1) * SECTOR, end, SECTOR), end]
    for begin, limit in itertools.pairwise(edges):
        if chance.random() < 0.5:
            yield Wrote(change.file, begin, change.data[begin - change.offset : limit - change.offset])


def put(image: Image, folder: Path) -> Path:
    """Write an image into a new folder; the path of its database."""
    folder.mkdir(parents=True)
    for name, content in image.items():
        (folder / name).write_bytes(content)
    return folder / "runs.db"


# ---- the VFS -------------------------------------------------------------------------------------------------------

READ = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
SYNC = CFUNCTYPE(c_int, c_void_p, c_int)
OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
DELETE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)

DURABLE = 0x100 | 0x800 | 0x80000
"""SQLITE_OPEN_MAIN_DB, _MAIN_JOURNAL and _WAL: the files that are recorded."""
CREATE = 0x4


class Methods(ctypes.Structure):
    """sqlite3_io_methods, version 3."""

    _fields_ = (
        ("version", c_int),
        ("close", c_void_p),
        ("read", READ),
        ("write", READ),
        ("truncate", TRUNCATE),
        ("sync", SYNC),
        *((f"other_{n}", c_void_p) for n in range(13)),
    )


class OpenFile(ctypes.Structure):
    """sqlite3_file."""

    _fields_ = (("methods", c_void_p),)


class Struct(ctypes.Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("max_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", OPEN),
        ("delete", DELETE),
        *((f"other_{n}", c_void_p) for n in range(14)),
    )


@dataclass(slots=True)
class Handle:
    """An open file of a recording."""

    recording: Recording
    name: str
    file: int
    syncs_folder: bool
    """Whether its next sync makes the names durable, too: the first of a journal or a log (unixOpen, UNIXFILE_DIRSYNC)."""
    original: Methods


class Vfs:
    """The VFS. Made once in a process and never freed: SQLite keeps pointers into it."""

    def __init__(self) -> None:
        self.recording: Recording | None = None
        self._library = _sqlite()
        self._original = Struct.from_address(self._library.sqlite3_vfs_find(None))
        self._struct = Struct.from_buffer_copy(self._original)
        self._struct.name = b"faults"
        self._struct.open = OPEN(self._open)
        self._struct.delete = DELETE(self._delete)
        self._handles: dict[int, Handle] = {}
        self._hooked: dict[int, Methods] = {}

    @contextmanager
    def recorded(self, folder: Path, fault: Fault | None = None) -> Iterator[Recording]:
        """Record what this process does to the database in a folder that is empty so far."""
        folder.mkdir(parents=True, exist_ok=True)
        self.recording = Recording(folder.resolve(), fault)
        self._library.sqlite3_vfs_register(ctypes.byref(self._struct), 1)
        try:
            with past_sqlite(self.recording):
                yield self.recording
        finally:
            self._library.sqlite3_vfs_unregister(ctypes.byref(self._struct))
            self._library.sqlite3_vfs_register(ctypes.byref(self._original), 1)
            self.recording = None

    def _ours(self, name: int | None) -> tuple[Recording, Path] | None:
        if self.recording is None or name is None:
            return None
        path = Path(os.fsdecode(ctypes.string_at(name)))
        return (self.recording, path) if path.parent == self.recording.folder else None

    def _open(self, _: int, name: int, file: int, flags: int, out_flags: int) -> int:
        status: int = self._original.open(ctypes.addressof(self._original), name, file, flags, out_flags)
        found = self._ours(name) if not status and flags & DURABLE else None
        if found is not None:
            recording, path = found
            opened = OpenFile.from_address(file)
            original = Methods.from_address(opened.methods)
            syncs_folder = bool(flags & CREATE and not flags & 0x100)
            self._handles[file] = Handle(recording, path.name, recording.opened(path), syncs_folder, original)
            opened.methods = ctypes.addressof(self._hooked_for(opened.methods, original))
        return status

    def _hooked_for(self, address: int, original: Methods) -> Methods:
        if address not in self._hooked:
            hooked = self._hooked[address] = Methods.from_buffer_copy(original)
            hooked.read, hooked.write = READ(self._read), READ(self._write)
            hooked.truncate, hooked.sync = TRUNCATE(self._truncate), SYNC(self._sync)
        return self._hooked[address]

    def _delete(self, _: int, name: int, folder: int) -> int:
        found = self._ours(name)
        failure = found[0].failure("delete", found[1].name) if found is not None else 0
        if failure:
            return failure
        status: int = self._original.delete(ctypes.addressof(self._original), name, folder)
        if found is not None and not status:
            found[0].removed(found[1], bool(folder))
        return status

    def _read(self, file: int, data: int, size: int, offset: int) -> int:
        handle = self._handles[file]
        return handle.recording.failure("read", handle.name) or handle.original.read(file, data, size, offset)

    def _write(self, file: int, data: int, size: int, offset: int) -> int:
        """Write; what fails leaves its first half."""
        handle = self._handles[file]
        failure = handle.recording.failure("write", handle.name)
        if failure:
            size = size // 2 // SECTOR * SECTOR
        if size:
            handle.recording.events.append(Wrote(handle.file, offset, ctypes.string_at(data, size)))
            return handle.original.write(file, data, size, offset) or failure
        return failure

    def _truncate(self, file: int, size: int) -> int:
        handle = self._handles[file]
        failure = handle.recording.failure("truncate", handle.name)
        if failure:
            return failure
        handle.recording.events.append(Cut(handle.file, size))
        return handle.original.truncate(file, size)

    def _sync(self, file: int, flags: int) -> int:
        handle = self._handles[file]
        failure = handle.recording.failure("sync", handle.name)
        if failure:
            handle.recording.events.append(SyncFailed(handle.file))
            return failure
        status = handle.original.sync(file, flags)
        if not status:
            handle.recording.events.append(Synced(handle.file, handle.syncs_folder))
            handle.syncs_folder = False
        return status


@contextmanager
def past_sqlite(recording: Recording) -> Iterator[None]:
    """Record, and let fail, what Python itself does to the database's files and their folder."""
    names: dict[int, str] = {}
    """Of files that are open: by their descriptor; the folder's is empty."""
    original = {name: getattr(os, name) for name in ("open", "read", "write", "fsync", "close")}

    def opened(path: Any, *args: Any, **named: Any) -> int:
        file: int = original["open"](path, *args, **named)
        whole = Path(os.fsdecode(path)) if not isinstance(path, int) else Path()
        if whole == recording.folder:
            names[file] = ""
        elif whole.parent == recording.folder:
            names[file] = whole.name
            recording.opened(whole)
        return file

    def failing(call: str, file: int) -> None:
        if recording.failure(call, names[file]):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def read(file: int, size: int) -> bytes:
        if file in names:
            failing("read", file)
        data: bytes = original["read"](file, size)
        return data

    def write(file: int, data: Any) -> int:
        if file in names:
            failing("write", file)
            at = os.lseek(file, 0, os.SEEK_CUR)
            recording.events.append(Wrote(recording.files[names[file]], at, bytes(data)))
        written: int = original["write"](file, data)
        return written

    def fsync(file: int) -> None:
        if file in names:
            number = recording.files.get(names[file], 0)
            try:
                failing("sync", file)
            except OSError:
                if number:
                    recording.events.append(SyncFailed(number))
                raise
            recording.events.append(Synced(number, folder=not names[file]))
        original["fsync"](file)

    def close(file: int) -> None:
        names.pop(file, None)
        original["close"](file)

    with pytest.MonkeyPatch.context() as patch:
        for function in (read, write, fsync, close):
            patch.setattr(os, function.__name__, function)
        patch.setattr(os, "open", opened)
        yield


def _sqlite() -> Any:
    """The very copy of SQLite that `sqlite3` uses, with the VFS that is modelled here. Skips where there is none of that.

    On Linux it skips only where SQLite is within the Python itself: where it is linked and not found, the tests fail.

    What these tests ask for then cannot be had by this Python on this system, by any means of theirs: a disk that fails is
    made by a layer between SQLite and its VFS, and must be the copy that the storage uses. The tests of kills, full disks,
    flipped bits and wrong files need no VFS, and run everywhere.
    """
    import _sqlite3

    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))  # looks in what it links, too
    try:
        library.sqlite3_vfs_find.restype = c_void_p
        library.sqlite3_libversion.restype = c_char_p
    except AttributeError:
        reached = "none"  # what is linked statically hides its names
    else:
        reached = library.sqlite3_libversion().decode()
    if reached == sqlite3.sqlite_version and library.sqlite3_vfs_find(b"unix"):
        return library
    if sys.platform == "linux" and hasattr(_sqlite3, "__file__"):  # a module of its own links the library
        pytest.fail(f"SQLite {sqlite3.sqlite_version} is linked, and its unix VFS is not found (reached: {reached})")
    pytest.skip(
        f"no disk that fails can be put under SQLite {sqlite3.sqlite_version} of this Python (reached: {reached}): that needs its "
        "unix VFS, and a Python that links the library, such as Debian's or pyenv's, and not one with SQLite within itself"
    )


@functools.cache
def the_vfs() -> Vfs:
    """The VFS of this process. Skips where there can be none."""
    return Vfs()


# ---- what runs on it -----------------------------------------------------------------------------------------------


class Telling(SQLiteFlowPersistence):
    """Notes in a recording what it says was saved, and was not."""

    def __init__(self, path: Path, recording: Recording, *, durability: Literal["full", "process"] = "full") -> None:
        super().__init__(path, durability=durability)
        self._recording = recording
        self._signals = 0

    async def append(self, checkpoint: Checkpoint) -> None:
        await self._told(super().append(checkpoint), checkpoint)

    async def append_taking(self, checkpoint: Checkpoint, signal: StoredSignal) -> None:
        await self._told(super().append_taking(checkpoint, signal), checkpoint)

    async def append_last(self, checkpoint: Checkpoint, newest: int) -> None:
        await self._told(super().append_last(checkpoint, newest), checkpoint)

    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        """A signal is noted with a seq below 0, and the digest of its content."""
        is_new = await super().send(run_id, signal, seq=seq)
        self._signals += 1
        self._recording.events.append(Acknowledged(run_id, -self._signals, signal.content))
        return is_new

    async def _told(self, stored: Coroutine[Any, Any, None], checkpoint: Checkpoint) -> None:
        try:
            await stored
        except StorageWriteError as error:
            if error.outcome == "not saved":
                self._recording.events.append(Denied(checkpoint.digest))
            raise
        self._recording.events.append(Acknowledged(checkpoint.run_id, checkpoint.seq, checkpoint.digest))


def connecting_with(monkeypatch: pytest.MonkeyPatch, *statements: str, told: Callable[[str], str] = str) -> None:
    """Let every connection begin with these statements; `told`: what SQLite gets instead of a statement."""
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            return super().execute(told(sql), *args)

    def connected(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **{"factory": Connection, **options})
        try:
            for statement in statements:
                connection.execute(statement).close()
        except BaseException:
            connection.close()
            raise
        return connection

    monkeypatch.setattr(sqlite3, "connect", connected)


class Tally(FlowState):
    steps: int = 0
    left: int = 0
    right: int = 0
    text: str = ""


class Chain(Flow[Tally]):
    name = "Chain"

    @start()
    async def first(self) -> str:
        self.state.steps += 1
        return "one"

    @listen(first)
    async def second(self, value: str) -> str:
        self.state.steps += 1
        return value + " two"

    @listen(second)
    async def third(self, value: str) -> str:
        self.state.steps += 1
        return value + " three"


class FanOut(Flow[Tally]):
    """Branches side by side, joined."""

    name = "FanOut"

    @start()
    async def begin(self) -> int:
        self.state.steps = 1
        return 5

    @listen(begin)
    async def to_the_left(self, n: int) -> None:
        self.state.left = n

    @listen(begin)
    async def to_the_right(self, n: int) -> None:
        self.state.right = n + 1

    @listen(begin)
    async def to_say(self) -> None:
        self.state.text = "said"

    @listen(and_(to_the_left, to_the_right, to_say))
    async def join(self) -> int:
        self.state.steps += 1
        return self.state.left * self.state.right


class Loop(Flow[Tally]):
    """A router that leads back, five times."""

    name = "Loop"

    @start()
    async def begin(self) -> None:
        self.state.text = "x" * 100

    @listen(or_(begin, "again"))
    async def turn(self) -> int:
        self.state.steps += 1
        return self.state.steps

    @router(turn)
    async def more(self, n: int) -> Literal["again"] | None:
        return "again" if n < 5 else None


class Choice(Flow[Tally]):
    """A router between two branches, of which one is taken."""

    name = "Choice"

    @start()
    async def begin(self) -> int:
        self.state.steps = 1
        return 7

    @router(begin)
    async def choose(self, n: int) -> Literal["odd", "even"]:
        return "odd" if n % 2 else "even"

    @listen("odd")
    async def go_left(self) -> None:
        self.state.left = 1

    @listen("even")
    async def go_right(self) -> None:
        self.state.right = 1

    @listen(or_(go_left, go_right))
    async def end(self) -> int:
        self.state.steps += 1
        return self.state.left - self.state.right


class Large(Flow[Tally]):
    """A state of many pages, another one in each step."""

    name = "Large"

    @start()
    async def first(self) -> None:
        self.state.text = "1" * 30_000

    @listen(first)
    async def second(self) -> None:
        self.state.text = "2" * 20_000

    @listen(second)
    async def third(self) -> int:
        self.state.text = "3" * 10_000
        return 3


async def ended(flow: type[Flow[Tally]], run_id: str, persistence: SQLiteFlowPersistence) -> dict[str, Any]:
    """Resume a run, or start it if nothing of it was saved; its state except for the id, and its result."""
    async with persistence:
        try:
            result = await flow.resume(run_id, persistence=persistence)
        except RunNotFoundError:
            result = await flow(persistence=persistence).kickoff({"id": run_id})
        loaded = await flow.load(run_id, persistence=persistence)
    return {**loaded.state.model_dump(exclude={"id"}), "result": result}


async def answered(run_id: str, persistence: SQLiteFlowPersistence) -> dict[str, Any]:
    """The same for a run that takes two signals, which are sent to it."""
    results: list[Any] = []

    async def go_on() -> None:
        try:
            results.append(await Answers.resume(run_id, persistence=persistence))
        except RunNotFoundError:
            results.append(await Answers(persistence=persistence).kickoff({"id": run_id}))

    async with persistence, anyio.create_task_group() as group:
        group.start_soon(go_on)
        await until(is_stored(persistence, run_id, 0))
        for signal in (answer(3, "first"), answer(0, "last")):
            await persistence.send(run_id, signal)
    return {"result": results[0]}
