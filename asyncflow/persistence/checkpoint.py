"""Checkpoints: what one transaction stores of a run. They hold only bytes and plain values, so that any backend can store them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

from pydantic_core import from_json, to_json

from .._codec.patches import is_patch, patched
from .._version import VERSION
from ..errors import CheckpointCorruptError, StorageVersionError
from .encoding import decode_progress, decode_transition, encode_progress, encode_transition
from .status import KINDS, STORED, Kind, Status

__all__ = [
    "FORMAT",
    "UNREADABLE",
    "Checkpoint",
    "checkpoint_of",
    "decode_progress",
    "decode_transition",
    "encode_progress",
    "encode_transition",
    "fold",
    "origin_digest",
    "refuse_newer",
    "seal",
    "state_after",
    "verified",
]

FORMAT: Final = 6
"""The newest checkpoint format, which this version writes. It reads all older formats; a newer one is a `StorageVersionError`.

Format 1: asyncflow 0.1. Format 2: the digest covers the format, the writer's version and the flow's identity; the first byte of a
value names the codec that wrote it. Format 3: a resume is a checkpoint, of the kind "resumed"; `to_bytes` calls the number of the
pass `pass_number` instead of `number`.
Format 4: the kinds "retrying", "timer", "step" and "signal"; failed attempts, timers, memos, a named output, a time
limit.
Format 5: the kind "ending"; a pass that is ending; the first checkpoint of a pass may name the invocation that ended the pass before.
Format 6: groups of items; the parent of a run; the origin of a copy; steps. The trace of a run, where an
observer keeps one: who does not know it, ignores it.
To add a field to a transition or an invocation, append it with a default and increase this number.
"""

NOTHING = b""
"""The `previous` digest of a run's first checkpoint."""


class Checkpoint(NamedTuple):
    """A checkpoint of a run, either complete or a delta. Pass fields by keyword; their order may change.

    A complete checkpoint holds the whole `state` and `progress`. A delta holds `changes` and, if it changed, the state; if the
    state is large, a patch of the previous state instead. `FlowPersistence.save` receives complete checkpoints, and `load` returns
    them. All bytes are JSON.
    """

    run_id: str
    """The id of the run."""
    flow: str
    """The name of the flow, for human readers."""
    seq: int
    """The sequence number: 0, 1, 2, ... without gaps, across all passes."""
    pass_number: int
    """The number of the pass (one pass for each kickoff), from 1."""
    kind: Kind
    """What happened."""
    status: Status
    """The status of the run after it; never "interrupted"."""
    at: float
    """The time of the checkpoint, in seconds since the epoch."""
    method: str = ""
    """The invocation that ended, such as `fetch:3`, or the signal that was taken, such as `approved:1`; empty if none."""
    base: int = 0
    """The seq of the newest complete checkpoint, which may be this one."""
    identity: str = ""
    """The identity of the flow: its declared name, or its module and qualified name. Empty in runs of 0.1, which store only `flow`."""
    format: int = FORMAT
    """The format that it is written in."""
    version: str = VERSION
    """The version of asyncflow that wrote it; empty in format 1."""
    epoch: int = 1
    """The fencing epoch: how many owners the run has had. A commit with an older epoch is refused."""
    state: bytes | None = None
    """The state; in a delta a patch of the previous state, or None if it did not change."""
    progress: bytes | None = None
    """The progress of the run: its pending invocations, and what listeners have seen. Only in a complete checkpoint."""
    changes: bytes | None = None
    """What changed in the progress. Only in a delta."""
    result: bytes | None = None
    """The result of the invocation that ended, if another method waits for it; the payload of a signal."""
    inputs: bytes | None = None
    """The inputs of the pass; only in its first checkpoint."""
    outcome: bytes | None = None
    """The output or the failures of the pass; only in its last checkpoint."""
    previous: bytes = NOTHING
    """The digest of the previous checkpoint."""
    digest: bytes = NOTHING
    """The digest of this checkpoint and its predecessor's digest; see `sealed`."""

    @property
    def is_complete(self) -> bool:
        """Whether the checkpoint is complete: it holds the whole state and progress."""
        return self.progress is not None

    @property
    def known_by(self) -> str:
        """The key by which its flow is found: the identity or, for a run stored by 0.1, ":" and the flow's bare name."""
        return self.identity or f":{self.flow}"

    @property
    def size(self) -> int:
        """The approximate size in bytes: its parts plus a constant for the other fields."""
        size = 300
        parts: Any = self[_PARTS]
        for part in parts:  # a loop: `sum` of a map takes half as long again, at each checkpoint
            if part:
                size += len(part)
        return size

    def sealed(self) -> Checkpoint:
        """Return a copy with its digest computed, for newly created checkpoints."""
        return seal(self[:-1])

    def expected_digest(self) -> bytes:
        """Return the digest of this content and its predecessor's digest: BLAKE2b, 16 bytes."""
        return _digest(self)

    def to_bytes(self) -> bytes:
        """Encode the whole checkpoint as JSON in UTF-8, preceded by a checksum."""
        body = to_json(self.to_fields())
        return hashlib.blake2b(body, digest_size=16).hexdigest().encode() + b"\n" + body

    def to_fields(self) -> dict[str, Any]:
        """Return the fields by name, for JSON. Digests are texts."""
        fields = dict(zip(_names(self.format), self, strict=True))
        return fields | {"previous": self.previous.hex(), "digest": self.digest.hex()}

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """Decode what `to_bytes` wrote.

        - `data`: the bytes.

        Raises `CheckpointCorruptError` if the bytes were changed since, and `StorageVersionError` if a newer version wrote them.
        """
        checksum, _, body = bytes(data).partition(b"\n")
        if hashlib.blake2b(body, digest_size=16).hexdigest().encode() != checksum:
            raise CheckpointCorruptError(
                "a stored checkpoint fails its checksum: it was changed since it was saved. It is kept as it is; "
                "load an older seq, or restore the storage from a backup"
            )
        try:
            fields = from_json(body)
            checkpoint = checkpoint_of(fields)
        except UNREADABLE as error:
            raise CheckpointCorruptError(
                f"a stored checkpoint cannot be read ({type(error).__name__}); it is kept as it is"
            ) from error
        if not _is_well_typed(checkpoint):
            raise CheckpointCorruptError("a stored checkpoint has fields of the wrong type; it is kept as it is")
        _refuse_unknown(checkpoint)
        return checkpoint


def checkpoint_of(fields: dict[str, Any]) -> Checkpoint:
    """Build a checkpoint from a JSON object of its fields. Raises `StorageVersionError` if a newer version wrote it."""
    if type(fields.get("format")) is int:
        refuse_newer(fields["format"], fields.get("version"), "a stored checkpoint", run_id=fields.get("run_id"))
    given = fields if "format" in fields else fields | _FORMAT_1
    names = _names(given["format"])
    unknown = sorted(given.keys() - set(names))
    if unknown:
        _refuse_version(f"a stored checkpoint has the unknown field {unknown[0]!r}", fields["version"])
    return Checkpoint._make([_bytes(name, given[name]) for name in names])


def refuse_newer(number: int, version: object, what: str, **about: Any) -> None:
    """Raise `StorageVersionError` if a newer asyncflow wrote this format.

    It does not raise if the writer is given as this very version: that is corruption, which the digest detects.
    """
    if number > FORMAT and version != VERSION:
        _refuse_version(f"{what} has format {number} (this version reads formats up to {FORMAT})", version, **about)


def _refuse_unknown(row: Checkpoint) -> None:
    """Raise `StorageVersionError` if an undamaged checkpoint has a kind or status that this version does not know."""
    for what, word, known in (("kind", row.kind, KINDS), ("status", row.status, STORED)):
        if word not in known:
            about = {"run_id": row.run_id, "seq": row.seq}
            _refuse_version(
                f"checkpoint {row.seq} of run {row.run_id} has the unknown {what} {word!r}", row.version, **about
            )


def _refuse_version(what: str, version: object, **about: Any) -> NoReturn:
    writer = f"asyncflow {version}" if isinstance(version, str) and version else "another version of asyncflow"
    raise StorageVersionError(
        f"{what}; {writer} wrote it, and this is {VERSION}; update asyncflow here. Nothing was changed", **about
    )


def seal(fields: tuple[Any, ...]) -> Checkpoint:
    """Return the checkpoint with these fields (all but the digest, in order) and its digest."""
    return tuple.__new__(Checkpoint, (*fields, _digest(fields)))


def _digest(fields: tuple[Any, ...]) -> bytes:
    state, progress, changes, result, inputs, outcome, previous = fields[_COVERED]
    content = b"\0".join(
        (
            previous,
            to_json(fields[_HEAD], bytes_mode="hex"),
            b"-" if state is None else state,  # JSON is never a single dash and never contains a NUL
            b"-" if progress is None else progress,
            b"-" if changes is None else changes,
            b"-" if result is None else result,
            b"-" if inputs is None else inputs,
            b"-" if outcome is None else outcome,
        )
    )
    return hashlib.blake2b(content, digest_size=16, person=origin_digest(*fields[_ORIGIN])).digest()


@lru_cache(maxsize=1024)
def origin_digest(identity: str, form: int, version: str) -> bytes:
    """Return the 16-byte BLAKE2b personalization of the digests of checkpoints and heads since format 2; empty in format 1.

    It covers identity, format and version. See RFC 7693, 2.8, and `hashlib`. As a part of the content, these would cost each digest
    one more block. The cache suffices, as few of them are in use at a time.
    """
    origin = (identity, form, version)
    return b"" if origin == ("", 1, "") else hashlib.blake2b(to_json(origin), digest_size=16).digest()


_FIELDS = Checkpoint._fields
_FIELDS_BEFORE_3 = tuple("number" if name == "pass_number" else name for name in _FIELDS)
_HEAD = slice(_FIELDS.index("identity"))
_ORIGIN = slice(_HEAD.stop, _FIELDS.index("epoch"))
"""A digest covers these fields and the parts. It does not cover the epoch.

The epoch belongs to the owner that stores a checkpoint, not to the checkpoint's content.
"""
_PARTS = slice(_FIELDS.index("state"), _FIELDS.index("previous"))
_COVERED = slice(_PARTS.start, _PARTS.stop + 1)
"""The parts, and the digest of the previous checkpoint."""
_DIGESTS = frozenset(("previous", "digest"))
_BYTES = frozenset(_FIELDS[_PARTS])
_FORMAT_1: Final = {"identity": "", "format": 1, "version": ""}
"""The fields that format 1 does not have, with their values."""


UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""The exceptions that decoding raises for data that was changed since it was written."""

_TEXT, _NUMBER, _PART = (str,), (int,), (bytes, type(None))
_TYPES: Any = (
    _TEXT,
    _TEXT,
    _NUMBER,
    _NUMBER,
    _TEXT,
    _TEXT,
    (float, int),
    _TEXT,
    _NUMBER,
    _TEXT,
    _NUMBER,
    _TEXT,
    _NUMBER,
    *[_PART] * 6,
    bytes,
    bytes,
)


def _is_well_typed(row: Checkpoint) -> bool:
    if not all(map(isinstance, row, _TYPES)):
        return False
    return row.format > 1 or (row.format == 1 and not row.identity and not row.version)


def _names(form: int) -> tuple[str, ...]:
    """Return the names of the fields in `to_bytes` of a format."""
    return _FIELDS if form >= 3 else _FIELDS_BEFORE_3


def _bytes(name: str, value: Any) -> Any:
    if name in _DIGESTS:
        return bytes.fromhex(value)
    return value.encode() if name in _BYTES and value is not None else value


# ---- chains of checkpoints ------------------------------------------------------------------------------------------


def fold(rows: Iterable[Checkpoint]) -> Checkpoint:
    """Fold a complete checkpoint and the deltas after it into one complete checkpoint, after checking their digests and order.

    Raises `CheckpointCorruptError`.
    """
    rows = verified(rows)
    newest = rows[-1]
    if newest.is_complete and newest.state is not None:
        return newest
    state: bytes | None = None
    try:
        for row in rows:
            state = state_after(state, row)
    except UNREADABLE as error:
        raise _corrupt(newest, f"its state cannot be rebuilt ({type(error).__name__})") from error
    if newest.is_complete:
        return newest._replace(state=state)
    try:
        progress = decode_progress(rows[0].progress or b"")
        for row in rows[1:]:
            if row.is_complete:
                progress = decode_progress(row.progress or b"")
            elif row.changes is not None:
                progress.fold(decode_transition(row.changes), row.result)
        folded = encode_progress(progress)
    except UNREADABLE as error:
        raise _corrupt(newest, f"its progress cannot be read ({type(error).__name__})") from error
    inputs = next((row.inputs for row in reversed(rows) if row.inputs is not None), None)
    return newest._replace(state=state, progress=folded, changes=None, inputs=inputs)


def state_after(before: bytes | None, row: Checkpoint) -> bytes | None:
    """Return the whole state after a checkpoint, given the whole state before it. Raises `ValueError` if the two do not belong together."""
    if row.state is None:
        return before
    return patched(before or b"", row.state) if not row.is_complete and is_patch(row.state) else row.state


def verified(
    rows: Iterable[Checkpoint], *, whole: bool = False, part: bool = False, first: int = 0
) -> list[Checkpoint]:
    """Return the rows after checking that the first is complete, and that each fits its digest and follows the previous one.

    `whole`: the rows are all of a run's checkpoints, which begin at `first`. `part`: they are from the middle of a run, so the first one
    may be a delta.

    Raises `CheckpointCorruptError`.
    """
    rows = list(rows)
    for before, row in zip([None, *rows], rows, strict=False):
        _check_link(before, row, part)
    if whole and rows and rows[0].seq != first:
        raise _corrupt(rows[0], "the checkpoints before it are missing")
    return rows


def _check_link(before: Checkpoint | None, row: Checkpoint, part: bool) -> None:
    if type(row.format) is int:
        about = {"run_id": row.run_id, "seq": row.seq}
        refuse_newer(row.format, row.version, f"checkpoint {row.seq} of run {row.run_id}", **about)
    if not _fits_digest(row):
        raise _corrupt(row, "it fails its digest: it was changed since it was saved")
    _refuse_unknown(row)
    if before is None:
        if not part and (not row.is_complete or row.state is None):
            raise _corrupt(row, "the complete checkpoint before it is missing")
    elif row.seq != before.seq + 1 or row.previous != before.digest:
        raise _corrupt(row, "it does not follow the previous checkpoint: one is missing or was replaced")


def _fits_digest(row: Checkpoint) -> bool:
    try:
        return _is_well_typed(row) and row.expected_digest() == row.digest
    except (TypeError, ValueError):  # a field does not even have the right type
        return False


def _corrupt(row: Checkpoint, why: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(
        f"checkpoint {row.seq} of run {row.run_id} is corrupt: {why}. Nothing was changed, other runs are not affected; "
        f"load an older seq, or restore the storage from a backup",
        run_id=row.run_id,
        seq=row.seq,
    )
