"""Export runs to lines of JSON, and import them into a storage, also of another database. Both sides are verified.

The first line names the format. Then follow, for each run, a line of its own, its checkpoints and its signals. The last line counts them
all, and has a digest of all lines before it: a file that was cut or changed is refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic_core import from_json, to_json

from .._version import VERSION
from ..errors import CheckpointCorruptError, StorageError, TransferError
from ._database.base import DatabasePersistence
from ._database.restoring import Restore, StoredRun, WholeSignal
from .checkpoint import UNREADABLE, checkpoint_of, fold
from .inbox import NewSignal

__all__ = ["Transferred", "export_runs", "import_runs"]

FORMAT: Final = 1
"""The number of the format of the lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What was exported or imported."""

    runs: int = 0
    """Runs that were written or stored."""
    checkpoints: int = 0
    """Their checkpoints."""
    signals: int = 0
    """The signals that they have received, as far as these are kept."""
    skipped: int = 0
    """Runs of the file that were stored already, and left as they are."""


async def export_runs(
    storage: DatabasePersistence[Any],
    write: Callable[[bytes], object],
    *,
    run_ids: Iterable[str] | None = None,
    on_run: Callable[[int, int], object] = lambda done, total: None,
) -> Transferred:
    """Write runs as lines of JSON, the oldest run first. Each run is read from one snapshot, and verified.

    - `storage`: where the runs are stored.
    - `write`: called with each line, its end included.
    - `run_ids`: the runs; None: all.
    - `on_run`: called with how many runs are written, and how many there are.

    A run that is deleted meanwhile is left out. Raises `CheckpointCorruptError` for a damaged run, and `StorageError`s.
    """
    lines, counts = _Lines(write), [0, 0, 0]
    lines.put({"type": "asyncflow", "format": FORMAT, "version": VERSION})
    async with storage.session():
        ids = await _run_ids(storage) if run_ids is None else list(run_ids)
        for done, run_id in enumerate(ids, 1):
            run = await _read(storage, run_id)
            if run is not None:
                _put(lines, run)
                counts = [counts[0] + 1, counts[1] + len(run.checkpoints), counts[2] + len(run.signals)]
            on_run(done, len(ids))
    runs, checkpoints, signals = counts
    lines.end({"type": "end", "runs": runs, "checkpoints": checkpoints, "signals": signals})
    return Transferred(runs=runs, checkpoints=checkpoints, signals=signals)


class _Lines:
    """Writes lines, and makes a digest of them."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._digest = hashlib.blake2b(digest_size=16)

    def put(self, fields: dict[str, Any]) -> None:
        line = to_json(fields) + b"\n"
        self._digest.update(line)
        self._write(line)

    def end(self, fields: dict[str, Any]) -> None:
        self._write(to_json(fields | {"digest": self._digest.hexdigest()}) + b"\n")


async def _run_ids(storage: DatabasePersistence[Any]) -> list[str]:
    async with storage._shared.use() as opened:
        found: list[str] = await opened.home.run(opened.reader.run_ids)
        return found


async def _read(storage: DatabasePersistence[Any], run_id: str) -> StoredRun | None:
    """Return a run as it is stored, verified; None if it is not stored."""
    entries = await storage.runs(run_id=run_id, limit=1)
    async with storage._shared.use() as opened:
        found = await opened.home.run(lambda: opened.reader.everything(run_id))
    if found is None or not entries:
        return None
    checkpoints, received = found
    fold(checkpoints)
    received.check(first=checkpoints[0].seq)
    signals = [
        WholeSignal(name, payload, key, sender, at, content, taken, problem)
        for _, name, payload, key, sender, at, content, _, taken, problem in received.rows
    ]
    return StoredRun(checkpoints, signals, entries[0].created_at, entries[0].wake_at, entries[0].parent or None)


def _put(lines: _Lines, run: StoredRun) -> None:
    newest = run.checkpoints[-1]
    is_endless = run.wake_at is not None and math.isinf(run.wake_at)
    lines.put(
        {
            "type": "run", "run_id": newest.run_id, "flow": newest.flow, "status": newest.status, "created_at": run.created_at,
            "wake_at": "never" if is_endless else run.wake_at, "parent": run.parent, "checkpoints": len(run.checkpoints),
            "signals": len(run.signals), "digest": newest.digest.hex(),
        }
    )  # fmt: skip
    for checkpoint in run.checkpoints:
        lines.put({"type": "checkpoint", **checkpoint.to_fields()})
    for signal in run.signals:
        lines.put({"type": "signal", **signal._asdict(), "content": signal.content.hex()})


# ---- import ---------------------------------------------------------------------------------------------------------


async def import_runs(
    storage: DatabasePersistence[Any],
    lines: Iterable[bytes],
    *,
    existing: Literal["refuse", "skip"] = "refuse",
    on_run: Callable[[int], object] = lambda done: None,
) -> Transferred:
    """Store the runs of exported lines, each in one transaction and without an owner. Each is read back, and compared.

    - `storage`: where to store them.
    - `lines`: the lines, as `export_runs` has written them.
    - `existing`: whether a run that is stored already raises `TransferError`, or is left as it is.
    - `on_run`: called with how many runs are done.

    What was stored before an error stays stored; an import can be repeated with `existing="skip"`. Raises `TransferError` for lines that
    were changed, cut or written by a newer version, and `StorageError`s.
    """
    found, new, skipped = [0, 0, 0], [0, 0, 0], 0
    end: dict[str, Any] | None = None
    async with storage.session():
        for run in _runs_of(lines):
            if not isinstance(run, StoredRun):
                end = run
                continue
            size = 1, len(run.checkpoints), len(run.signals)
            found = [*map(sum, zip(found, size, strict=True))]
            if await _store(storage, run, existing):
                new = [*map(sum, zip(new, size, strict=True))]
            else:
                skipped += 1
            on_run(found[0])
    if end is None or [end.get(name) for name in ("runs", "checkpoints", "signals")] != found:
        raise TransferError(
            f"the file is incomplete, or its counts are wrong. The {found[0]} whole runs in it are stored; export it again, and import it "
            "with the runs that exist skipped"
        )
    runs, checkpoints, signals = new
    return Transferred(runs=runs, checkpoints=checkpoints, signals=signals, skipped=skipped)


async def _store(storage: DatabasePersistence[Any], run: StoredRun, existing: str) -> bool:
    """Store a run, read it back, and compare. Return whether it was new."""
    newest = run.checkpoints[-1]
    async with storage._shared.use() as opened:
        job = Restore(run)
        await opened.commits.submit(job)
    if job.is_new or existing == "skip":
        if job.is_new:
            stored = await _read(storage, newest.run_id)
            if stored is None or _compared(stored) != _compared(run):
                raise StorageError(
                    f"run {newest.run_id} is not stored as it was exported; delete it, and check the storage"
                )
        return job.is_new
    raise TransferError(
        f"run {newest.run_id} is stored already; nothing of it was changed. Skip the runs that exist, or delete it first",
        run_id=newest.run_id,
    )


def _compared(run: StoredRun) -> object:
    return [c.digest for c in run.checkpoints], list(run.signals), run.parent, run.wake_at is None


def _runs_of(lines: Iterable[bytes]) -> Iterator[StoredRun | dict[str, Any]]:
    """Yield the runs of lines, each after checking it, and then the last line after checking the digest of all others."""
    digest, place = hashlib.blake2b(digest_size=16), 0
    head: dict[str, Any] | None = None
    parts: list[dict[str, Any]] = []
    for place, line in enumerate(lines, 1):
        fields = _parsed(line, place)
        kind = fields.pop("type")
        _check_kind(kind, place, fields, follows_run=head is not None)
        if kind in ("run", "end") and head is not None:
            yield _run_of(head, parts, place)
        if kind == "end":
            if fields.get("digest") != digest.hexdigest():
                raise _refused(place, "the lines before it fail their digest: they were changed")
            yield fields
            return
        digest.update(line if line.endswith(b"\n") else line + b"\n")
        head, parts = (fields, []) if kind == "run" else (head, parts)
        if kind in ("checkpoint", "signal"):
            parts.append({"kind of line": kind, **fields})
    if not place:
        raise TransferError("the file is empty; nothing was imported")


def _check_kind(kind: str, place: int, fields: dict[str, Any], *, follows_run: bool) -> None:
    """Raise `TransferError` for a line that cannot be at its place, and for a first line of a newer format."""
    if (place == 1) != (kind == "asyncflow") or (place > 1 and not follows_run and kind not in ("run", "end")):
        raise _refused(place, "it is not a line that `asyncflow export` has written there")
    if kind == "asyncflow" and fields.get("format") != FORMAT:
        raise _refused(
            place,
            f"version {fields.get('version')} of asyncflow has written it in a newer format; update asyncflow here",
        )


def _parsed(line: bytes, place: int) -> dict[str, Any]:
    try:
        fields = from_json(line)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or fields.get("type") not in ("asyncflow", "run", "checkpoint", "signal", "end"):
        raise _refused(place, "it is not a line that `asyncflow export` has written")
    return fields


def _refused(place: int, why: str) -> TransferError:
    kept = "Nothing was imported" if place == 1 else "The runs before it are stored; export them again"
    return TransferError(f"line {place}: {why}. {kept}")


def _run_of(head: dict[str, Any], parts: Sequence[dict[str, Any]], place: int) -> StoredRun:
    """Return a run of a file, after checking its counts and the digests of its checkpoints and signals."""
    try:
        checkpoints = [checkpoint_of(_without_kind(each)) for each in parts if each["kind of line"] == "checkpoint"]
        signals = [_signal_of(_without_kind(each)) for each in parts if each["kind of line"] == "signal"]
        if (len(checkpoints), len(signals)) != (head["checkpoints"], head["signals"]) or not checkpoints:
            raise ValueError("counts")
        if any(c.run_id != head["run_id"] for c in checkpoints) or checkpoints[-1].digest.hex() != head["digest"]:
            raise ValueError("another run")
        fold(checkpoints)
        wake_at = math.inf if head["wake_at"] == "never" else head["wake_at"]
        return StoredRun(checkpoints, signals, float(head["created_at"]), wake_at, head["parent"])
    except (CheckpointCorruptError, *UNREADABLE) as error:
        raise _refused(place, "the run before it was changed since it was exported, or is incomplete") from error


def _without_kind(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "kind of line"}


def _signal_of(fields: dict[str, Any]) -> WholeSignal:
    payload = fields["payload"]
    data = None if payload is None else payload.encode()
    signal = WholeSignal(**fields | {"payload": data, "content": bytes.fromhex(fields["content"])})
    if (
        data is not None
        and NewSignal(signal.name, data, signal.key, signal.sender, signal.at).content != signal.content
    ):
        raise ValueError("a signal was changed")
    return signal
