"""A checkpoint: what one transaction stores of a run. Bytes and plain values only, so that any backend can keep it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from pydantic_core import from_json, to_json

from .._scheduling.messages import Invocation, Seen, Transition
from .._scheduling.progress import Progress
from ..errors import CheckpointCorruptError

__all__ = [
    "Checkpoint",
    "Kind",
    "Status",
    "decode_progress",
    "encode_progress",
    "encode_transition",
    "fold",
    "seal",
    "verified",
]

Kind = Literal["started", "method", "failed", "cancelled", "finished", "edited"]
Status = Literal["running", "failed", "finished", "cancelled"]

NOTHING = b""
"""The digest before the first checkpoint."""


class Checkpoint(NamedTuple):
    """One checkpoint of a run, complete or a delta. Fields are given by name; their order may change.

    A complete one holds the whole `state` and `progress`; a delta holds `changes` and, where it changed, the state.
    `FlowPersistence.save` is given complete ones, and `load` returns them. All bytes are JSON.
    """

    run_id: str
    flow: str
    seq: int
    """0, 1, 2, ... without gaps, over all passes."""
    number: int
    """The number of the pass (one kickoff each), from 1."""
    kind: Kind
    status: Status
    at: float
    """Seconds since the epoch."""
    method: str = ""
    """The invocation that ended, such as `fetch:3`; '' where none did."""
    base: int = 0
    """The seq of the newest complete checkpoint, itself included."""
    epoch: int = 1
    """How many owners the run has had: a commit of an older one is refused."""
    state: bytes | None = None
    progress: bytes | None = None
    changes: bytes | None = None
    result: bytes | None = None
    """The ended method's result, where something waits for it."""
    inputs: bytes | None = None
    """The inputs of the pass, in its first checkpoint."""
    outcome: bytes | None = None
    """The output or the failures of the pass, in its last one."""
    previous: bytes = NOTHING
    """The digest of the checkpoint before."""
    digest: bytes = NOTHING

    @property
    def is_complete(self) -> bool:
        """Whether it holds the whole state and progress."""
        return self.progress is not None

    @property
    def size(self) -> int:
        """Bytes of what it holds, and some for the rest."""
        held = len(self.state or b"") + len(self.progress or b"") + len(self.changes or b"") + len(self.result or b"")
        return 300 + held

    def sealed(self) -> Checkpoint:
        """The same with its digest; for whoever has just made it."""
        return seal(self[:-1])

    def expected_digest(self) -> bytes:
        """The digest that belongs to this content, after its predecessor's: BLAKE2b, 16 bytes."""
        return _digest(self)

    def to_bytes(self) -> bytes:
        """The whole of it, with a checksum, as JSON in UTF-8."""
        digests = {"previous": self.previous.hex(), "digest": self.digest.hex()}
        body = to_json({**{name: _text(getattr(self, name)) for name in _FIELDS if name not in _DIGESTS}, **digests})
        return hashlib.blake2b(body, digest_size=16).hexdigest().encode() + b"\n" + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """What `to_bytes` wrote. Raises `CheckpointCorruptError` if it was changed since."""
        checksum, _, body = bytes(data).partition(b"\n")
        if hashlib.blake2b(body, digest_size=16).hexdigest().encode() != checksum:
            raise CheckpointCorruptError(
                "a stored checkpoint fails its checksum: it was changed since it was saved. It is kept as it is; "
                "load an older seq, or restore the storage from a backup"
            )
        fields = from_json(body)
        return cls(**{name: _bytes(name, fields[name]) for name in _FIELDS})


def seal(fields: tuple[Any, ...]) -> Checkpoint:
    """The checkpoint of these fields, which are all but the digest, in order; with its digest."""
    return Checkpoint._make((*fields, _digest(fields)))


def _digest(fields: tuple[Any, ...]) -> bytes:
    parts = [b"-" if part is None else part for part in fields[_PARTS]]  # no JSON is a dash, and none holds a NUL
    content = b"\0".join((fields[_PREVIOUS], to_json(fields[_HEAD]), *parts))
    return hashlib.blake2b(content, digest_size=16).digest()


_FIELDS = Checkpoint._fields
_HEAD = slice(_FIELDS.index("epoch"))
"""What a digest covers beside the parts: all but the epoch, which says who stores a checkpoint and not what it is."""
_PARTS = slice(_FIELDS.index("state"), _FIELDS.index("previous"))
_PREVIOUS = _FIELDS.index("previous")
_DIGESTS = frozenset(("previous", "digest"))
_BYTES = frozenset(_FIELDS[_PARTS])


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _bytes(name: str, value: Any) -> Any:
    if name in _DIGESTS:
        return bytes.fromhex(value)
    return value.encode() if name in _BYTES and value is not None else value


# ---- transitions and progress as JSON --------------------------------------------------------------------------


def encode_transition(transition: Transition) -> bytes:
    """A transition as JSON: named tuples as arrays, in the order of their fields."""
    completed, failed, resumed, enabled, latched, passed_over = transition
    return to_json((completed, failed, resumed, _plain(enabled), latched, passed_over))


def _plain(invocations: Iterable[Invocation]) -> list[Any]:
    """Invocations as plain tuples, which are written three times as fast."""
    return [(*i[:3], list(i.ancestry), i.arguments) for i in invocations]


def decode_transition(data: bytes) -> Transition:
    """What `encode_transition` wrote."""
    completed, failed, resumed, enabled, latched, passed_over = from_json(data)
    return Transition(
        completed,
        failed,
        resumed,
        tuple(map(_invocation, enabled)),
        tuple((listener, name, _seen(seen)) for listener, name, seen in latched),
        tuple(passed_over),
    )


def _invocation(row: list[Any]) -> Invocation:
    method, occurrence, cycle, ancestry, arguments = row
    return Invocation(method, occurrence, cycle, frozenset(ancestry), tuple((name, key) for name, key in arguments))


def _seen(row: list[Any]) -> Seen:
    cycle, ancestry, source = row
    return Seen(cycle, frozenset(ancestry), source)


def encode_progress(progress: Progress) -> bytes:
    """The whole progress as JSON; what follows from the rest is left out. Its results must be JSON bytes."""
    return to_json(
        {
            "pending": _plain(progress.pending.values()),
            "failed": progress.failed,
            "held": progress.held,
            "counts": progress.counts,
            "latches": progress.latches,
            "fired": progress.fired,
            "results": {key: data.decode() for key, data in progress.results.items()},
        }
    )


def decode_progress(data: bytes) -> Progress:
    """What `encode_progress` wrote."""
    stored = from_json(data)
    progress = Progress(
        pending={invocation.key: invocation for invocation in map(_invocation, stored["pending"])},
        failed=set(stored["failed"]),
        held=set(stored["held"]),
        counts=stored["counts"],
        latches={m: {n: _seen(row) for n, row in latch.items()} for m, latch in stored["latches"].items()},
        fired={cycle: set(methods) for cycle, methods in stored["fired"].items()},
        results={key: text.encode() for key, text in stored["results"].items()},
    )
    progress.recount()
    return progress


def fold(rows: Iterable[Checkpoint]) -> Checkpoint:
    """The complete checkpoint that a complete one and the deltas after it amount to; digests and order are checked.

    Raises `CheckpointCorruptError`.
    """
    rows = verified(rows)
    newest = rows[-1]
    state = next(row.state for row in reversed(rows) if row.state is not None)
    outcome = newest.outcome
    if newest.is_complete:
        return newest if newest.state is not None else newest._replace(state=state)
    try:
        progress = decode_progress(rows[0].progress or b"")
        for row in rows[1:]:
            if row.is_complete:
                progress = decode_progress(row.progress or b"")
            elif row.changes is not None:
                progress.fold(decode_transition(row.changes), row.result)
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(newest, f"its progress cannot be read ({type(error).__name__})") from error
    inputs = next((row.inputs for row in reversed(rows) if row.inputs is not None), None)
    return newest._replace(
        state=state, progress=encode_progress(progress), changes=None, inputs=inputs, outcome=outcome
    )


def verified(rows: Iterable[Checkpoint]) -> list[Checkpoint]:
    """The rows, the first of them complete, each with its digest and following the one before it.

    Raises `CheckpointCorruptError`.
    """
    rows = list(rows)
    for before, row in zip([None, *rows], rows, strict=False):
        _check_link(before, row)
    return rows


def _check_link(before: Checkpoint | None, row: Checkpoint) -> None:
    if not _fits_digest(row):
        raise _corrupt(row, "it fails its digest: it was changed since it was saved")
    if before is None:
        if not row.is_complete or row.state is None:
            raise _corrupt(row, "the complete checkpoint before it is missing")
    elif row.seq != before.seq + 1 or row.previous != before.digest:
        raise _corrupt(row, "it does not follow the one before it: a checkpoint is missing or was put in its place")


def _fits_digest(row: Checkpoint) -> bool:
    try:
        return row.expected_digest() == row.digest
    except (TypeError, ValueError):  # what stands there is not even of its type
        return False


def _corrupt(row: Checkpoint, why: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(
        f"checkpoint {row.seq} of run {row.run_id} is corrupt: {why}. Nothing was changed, other runs are not affected; "
        f"load an older seq, or restore the storage from a backup",
        run_id=row.run_id,
        seq=row.seq,
    )
