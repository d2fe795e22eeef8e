"""Finds blocking calls on an event loop's thread: while the loop waits for a file, a lock or a clock, no other run gets on.

A call counts if asyncflow makes it, itself or through a library, on a thread that runs an event loop, inside of what the loop runs.
What tests and the methods of their flows do does not count. Files, sockets, processes and SQLite are seen by Python's audit events,
`time.sleep` and locks by wrappers. Not seen: `os.stat` and `os.fsync`, which have no event, and statements of an open SQLite
connection, which Python refuses on any other thread than the one that has opened it.
"""

from __future__ import annotations

import asyncio
import linecache
import sys
import sysconfig
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
import trio

import asyncflow

PACKAGE: Final = str(Path(asyncflow.__file__).parent) + "/"

LIBRARIES: Final = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))

EVENTS: Final = frozenset(
    (
        *(
            "open",
            "os.listdir",
            "os.scandir",
            "os.mkdir",
            "os.rename",
            "os.remove",
            "os.rmdir",
            "os.truncate",
            "os.link",
        ),
        *("os.symlink", "glob.glob", "shutil.copyfile", "shutil.rmtree", "tempfile.mkstemp", "tempfile.mkdtemp"),
        *(
            "fcntl.flock",
            "fcntl.lockf",
            "sqlite3.connect",
            "socket.connect",
            "socket.getaddrinfo",
            "socket.gethostbyname",
        ),
        *("subprocess.Popen", "os.system", "os.posix_spawn", "os.fork", "os.forkpty"),
    )
)
"""The audit events that block, or may."""

ONCE: Final = ("<frozen importlib", linecache.__file__, traceback.__file__)
"""A module that is imported, and a source file that is read for the text of a traceback, are read once.

From 3.13 on `traceback` parses each line that raised. If it parses no part of it, Python looks for a file named `<unknown>`.
"""

LOOPS: Final = ("asyncio/base_events.py", "asyncio/runners.py", "trio/_core/_run.py")
"""Frames of these files belong to an event loop: what called the loop has not called what the loop runs."""

ALLOWED: Final = {
    "persistence.sqlite.owners.Owner": "a side file of some bytes, and a lock that does not wait; as a database is opened or closed, "
    "and where a run has another owner",
    "persistence.sqlite.database.prepare": "creates the file, once for each opening: SQLite would give it another mode",
    "persistence.sqlite.database._statements": "reads files of the package, once in a process",
    "persistence.sqlite.database._schema": "a database in memory, once in a process",
    "persistence.sqlite.file_identity._handles_of": "lists this process's own handles, which are no files, at each opening",
}
"""Functions and classes of asyncflow, and why they may block the loop. None of them is on the way of a step.

The one that is, `FileIdentity.check`, calls `os.stat` and `os.pread` before each commit. They have no audit event, and take 5 us."""

UNCONTENDED: Final = {
    "asyncflow.persistence.memory._changing": "held for some operations on dicts",
    "asyncflow.persistence.memory_inbox._changing": "held for some operations on dicts",
    "asyncflow.persistence._database.shared_resource._counting": "held while a count changes",
    "asyncflow._runs.ownership._claiming": "held while one entry of a dict changes",
    "asyncflow._codec.schemas._building": "held once for each annotation, while its schema is made",
}
"""The locks that asyncflow may wait for on a loop's thread, since no holder waits for anything: why they are short."""

_sleep, _Lock = time.sleep, threading.Lock
_found: list[str] | None = None
"""What was found in the test that runs; None while nothing is watched."""


def _is_loop_running() -> bool:
    """Whether this thread runs an event loop."""
    return asyncio._get_running_loop() is not None or trio.lowlevel.in_trio_run()


def _caller(frame: FrameType | None) -> str | None:
    """The function of asyncflow that made a call, as "module.function"; None if a test, a flow or a loop did."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE) and not name.startswith(PACKAGE + "testing/"):
            module = name.removeprefix(PACKAGE).removesuffix(".py").replace("/", ".")
            return f"{module}.{frame.f_code.co_qualname}"
        is_finalizer = name == weakref.__file__ or frame.f_code.co_name == "__del__"  # of any object, at any moment
        if is_finalizer or name.startswith(ONCE) or name.endswith(LOOPS) or not _is_of_a_library(name):
            return None
        frame = frame.f_back
    return None


def _is_of_a_library(name: str) -> bool:
    return name.startswith((*LIBRARIES, "<frozen "))


def _note(call: str, about: object, frame: FrameType | None) -> None:
    if _found is None or not _is_loop_running():
        return
    caller = _caller(frame)
    if caller is not None and not any(caller == name or caller.startswith(name + ".") for name in ALLOWED):
        _found.append(f"{caller}: {call} {about}")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _found is not None and event in EVENTS:
        _note(event, args[:1], sys._getframe(1))


sys.addaudithook(_audit)  # it cannot be removed; without a test that is watched it compares one name


def _watched_sleep(seconds: float) -> None:
    _note("time.sleep", seconds, sys._getframe(1))
    _sleep(seconds)


class _WatchedLock:
    """A lock that notes when a loop's thread has to wait for it."""

    def __init__(self) -> None:
        self._lock = _Lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._lock.acquire(blocking=False):
            return True
        if blocking:
            _note("Lock.acquire", "", sys._getframe(1))
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> bool:
        if self._lock.acquire(blocking=False):
            return True
        _note("Lock.acquire", "", sys._getframe(1))
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _new_lock() -> Any:
    """A lock: one that is watched, if asyncflow makes it."""
    return _WatchedLock() if sys._getframe(1).f_code.co_filename.startswith(PACKAGE) else _Lock()


def locks() -> list[str]:
    """The locks that asyncflow's modules hold, by their paths."""
    return [
        f"{name}.{attribute}"
        for name, module in sys.modules.copy().items()
        if name.split(".")[0] == "asyncflow"
        for attribute, value in vars(module).items()
        if isinstance(value, type(_Lock()))
    ]


@contextmanager
def watching() -> Generator[list[str], None, None]:
    """Collect the blocking calls of a block of code, each as a line of text."""
    global _found
    before, _found = _found, []
    sleep: Callable[[float], None] = time.sleep
    time.sleep, threading.Lock = _watched_sleep, _new_lock  # type: ignore[assignment]
    try:
        yield _found
    finally:
        _found, time.sleep, threading.Lock = before, sleep, _Lock  # type: ignore[misc]


@pytest.fixture(autouse=True)
def _no_blocking_calls(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Fail a test in which asyncflow blocks an event loop."""
    if request.node.get_closest_marker("may_block"):
        yield
        return
    with watching() as found:
        yield
    assert not found, "asyncflow blocks the event loop: " + "; ".join(dict.fromkeys(found))
