"""What `doctor` looks at: each function yields findings, and changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ..persistence.sqlite import SQLiteFlowPersistence
from .safe_text import counted, one_line
from .times import ago

__all__ = ["Finding", "examined"]

Level = Literal["ok", "note", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    level: Level
    text: str
    cure: str = ""


def _fine(check: str, text: str) -> Finding:
    return Finding(check, "ok", text)


_FIXED: Final = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
"""The first SQLite of each line without the bug below; of the first, all later ones."""

_NETWORK: Final = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "fuse.sshfs",
    "fuse.glusterfs",
)
_LARGE_LOG: Final = 256_000_000
_OVERDUE: Final = 60.0
"""Seconds after which a run that is due should have been woken."""
_MANY: Final = 1_000
"""Runs of one kind that are looked at."""


def sqlite_findings(version: tuple[int, int, int]) -> Iterator[Finding]:
    """Look at the version of SQLite."""
    text = "SQLite " + ".".join(map(str, version))
    fixed = next((each for each in _FIXED if each[:2] == version[:2]), _FIXED[0])
    if version < (3, 37, 0):
        yield Finding("sqlite", "problem", f"{text} is too old", "use a Python with SQLite 3.37 or later")
    elif version < fixed:
        yield Finding(
            "sqlite",
            "warning",
            f"{text} has a bug by which several processes that write and checkpoint at once can damage a file",
            "use a Python with SQLite 3.51.3, 3.50.7, 3.44.6 or later; until then let one process write, and make backups",
        )
    else:
        yield _fine("sqlite", text)


def file_system(path: Path) -> str:
    """Return the type of the file system of a file, as Linux names it; "" if it is not known."""
    found, longest = "", 0
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    real = os.path.realpath(path)
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = before.split()[4].encode().decode("unicode_escape")
        if (real == mount or real.startswith(mount.rstrip("/") + "/")) and len(mount) >= longest:
            found, longest = after.split()[0], len(mount)
    return found


def _file_findings(path: Path) -> Iterator[Finding]:
    kind = file_system(path)
    if kind in _NETWORK:
        yield Finding(
            "file system",
            "problem",
            f"{path} is on a network file system ({kind}), where locks are not reliable",
            "move the file to a local disk; for several hosts, use PostgreSQL",
        )
    else:
        yield _fine("file system", kind or "not known to be a network file system")
    found, folder = os.stat(path), Path(os.path.realpath(path)).parent
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077 and sys.platform != "win32":
        yield Finding(
            "permissions",
            "warning",
            f"other users may open {path} (mode {mode:o}), and it holds the states of runs",
            f"chmod 600 {path}",
        )
    elif not (os.access(path, os.W_OK) and os.access(folder, os.W_OK)):
        yield Finding("permissions", "note", f"this user cannot write {path} or its folder")
    else:
        yield _fine("permissions", f"mode {mode:o}")
    free = shutil.disk_usage(folder).free
    if free < max(100_000_000, found.st_size // 10):
        yield Finding(
            "disk",
            "warning",
            f"{free / 1e6:,.0f} MB are free",
            "free some space, or prune and compact",
        )
    else:
        yield _fine("disk", f"{free / 1e9:,.1f} GB free")
    log = Path(os.path.realpath(path) + "-wal")
    size = log.stat().st_size if log.exists() else 0
    if size > _LARGE_LOG:
        yield Finding(
            "log",
            "warning",
            f"{log.name} has {size / 1e6:,.0f} MB: a process reads one old snapshot all the time",
            "end readers that keep a transaction open",
        )
    else:
        yield _fine("log", f"{size / 1e6:,.1f} MB")


async def _server_findings(storage: Any) -> AsyncIterator[Finding]:
    async with storage._shared.use() as opened:

        async def setting(name: str) -> str:
            return str((await opened.home.run(lambda: opened.reader.select(f"SHOW {name}")))[0][0])

        yield _fine("server", f"PostgreSQL {await setting('server_version')}")
        for name in ("fsync", "full_page_writes"):
            if await setting(name) != "on":
                yield Finding(
                    "server",
                    "problem",
                    f"{name} is off: a power cut can lose or damage what was saved",
                    f"set {name} = on",
                )
    offset = storage.clock_offset
    if abs(offset) > 2:
        yield Finding(
            "clocks",
            "warning",
            f"the server's clock differs from this machine's by {offset:+.1f} seconds",
            "synchronise both (NTP); due times count by the server's clock",
        )
    else:
        yield _fine("clocks", f"the server's clock differs by {offset:+.2f} seconds")


async def _run_findings(storage: Any) -> AsyncIterator[Finding]:
    now = time.time() + getattr(storage, "clock_offset", 0.0)
    newest = await storage.runs(limit=_MANY)
    ahead = [entry for entry in newest if entry.updated_at > now + 5]
    if ahead:
        yield Finding(
            "clocks",
            "warning",
            f"changed in the future: {_some(ahead)}",
            "set this machine's clock, or look for a process whose clock was wrong",
        )
    unfinished = await storage.runs(status="unfinished", limit=_MANY)
    yield _leases(unfinished)
    poison = [entry for entry in unfinished if entry.takeovers >= 5]
    deaths = max((entry.takeovers for entry in poison), default=0)
    if poison:
        yield Finding(
            "poison runs",
            "problem",
            f"{_some(poison)}, taken over from dead processes up to {deaths} times",
            f"asyncflow show {one_line(poison[0].run_id)}; fix the cause, then resume or cancel it",
        )
    else:
        yield _fine("poison runs", "none")
    failed = await storage.runs(status="failed", limit=_MANY)
    if failed:
        yield Finding(
            "failed runs",
            "note",
            f"failed: {_count(failed)}, the newest {ago(failed[0].updated_at)} ago",
            "asyncflow runs --status failed; asyncflow retry --app MODULE:FLOW",
        )
    waiting = await storage.runs(status="waiting", limit=_MANY)
    late = [
        entry
        for entry in waiting
        if entry.wake_at is not None and max(entry.wake_at, entry.updated_at) < now - _OVERDUE
    ]
    if late:
        yield Finding(
            "waiting runs",
            "warning",
            f"overdue: {_some(late)}",
            "start a process with a runner that knows their flow: asyncflow worker MODULE:FLOW",
        )
    orphans = await storage.orphans(_MANY)
    if orphans:
        yield Finding(
            "orphans",
            "warning",
            f"children of parents that are over: {_count(orphans)}",
            "a runner that knows their flow cancels them: asyncflow worker MODULE:FLOW",
        )


def _count(entries: list[Any]) -> str:
    return counted(len(entries), "run") if len(entries) < _MANY else f"{_MANY:,} runs or more"


def _some(entries: list[Any]) -> str:
    return f"{_count(entries)}, such as {one_line(entries[0].run_id)}"


def _leases(unfinished: list[Any]) -> Finding:
    driven = sum(entry.is_driven for entry in unfinished)
    if driven == len(unfinished):
        return _fine(
            "leases", f"driven by living processes: {counted(driven, 'run')}" if driven else "no run is driven now"
        )
    left = [entry for entry in unfinished if not entry.is_driven]
    return Finding(
        "leases",
        "warning",
        f"interrupted: {_some(left)}, as no living process drives them",
        "start a process with a runner that knows their flow, or asyncflow resume ID --app MODULE:FLOW",
    )


async def examined(storage: Any) -> list[Finding]:
    """Return all findings about an open storage."""
    found: list[Finding] = []
    if isinstance(storage, SQLiteFlowPersistence):
        numbers = tuple(map(int, sqlite3.sqlite_version.split(".")[:3]))
        found += sqlite_findings((numbers[0], numbers[1], numbers[2]))
        found += _file_findings(storage.path)
        async with storage._shared.use() as opened:
            others = [owner for owner, _ in opened.owner.others()]
        found.append(_fine("processes", ", ".join(others) or "no other process has it open"))
    else:
        found += [each async for each in _server_findings(storage)]
    return found + [each async for each in _run_findings(storage)]
