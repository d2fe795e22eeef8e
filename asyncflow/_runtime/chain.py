"""The chain of a run's checkpoints: make the next one, a snapshot or a delta. Nothing here awaits or stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from pydantic_core import to_json

from .._codec.patches import is_patch, patch_of
from .._scheduling.messages import Transition
from .._scheduling.progress import Progress
from .._version import VERSION
from ..persistence.checkpoint import (
    FORMAT,
    Checkpoint,
    encode_progress,
    encode_transition,
    seal,
)
from ..persistence.outcome import Cancelled, Failed, Outcome, encode_outcome
from ..persistence.status import Kind, Status

__all__ = ["Chain"]

COMPLETE_AFTER: Final = 16 * 1024
"""Bytes of deltas after which the next checkpoint is a snapshot, or the size of the last snapshot if that is larger.

Loading starts at the snapshot and folds the deltas.
"""

PATCHES: Final = 128
"""Patches of the state after which it is stored as a whole: loading applies them all, at 0.2 ms per megabyte each."""

END_AT_MOST: Final = 4 * 1024
"""Bytes up to which a run's last checkpoint is a snapshot even if none is due: ended runs are read most, and are then one row."""

_CHANGING: Final = (
    "_base",
    "_complete_size",
    "_deltas",
    "_last_written",
    "_patches",
    "_progress",
    "_seq",
    "_state",
    "digest",
)
"""What `prepare` changes."""


class Chain:
    """The checkpoints of one run: knows the newest one, and makes the next."""

    __slots__ = (
        *("_base", "_clock", "_complete_size", "_deltas", "_last_written", "_origin", "_patches", "_progress", "_seq"),
        *("_snapshots", "_snapshots_only", "_state", "digest", "epoch", "flow", "inputs", "pass_number", "run_id"),
    )

    def __init__(
        self,
        *,
        flow: str,
        identity: str,
        run_id: str,
        epoch: int,
        pass_number: int,
        inputs: bytes | None,
        after: Checkpoint | None,
        is_log: bool,
        snapshots: bool = False,
        clock: Callable[[], float],
    ) -> None:
        """`after`: the newest checkpoint, if there is one. `clock`: returns seconds since the epoch.

        `is_log`: the backend keeps every checkpoint, so that deltas are enough. `snapshots`: every
        checkpoint that records state and progress is a snapshot all the same.
        """
        self.flow = flow
        self.run_id = run_id
        self.epoch = epoch
        self.pass_number = pass_number
        self.inputs = inputs
        self.digest = b"" if after is None else after.digest
        """The digest of the newest checkpoint that was prepared."""
        self._clock = clock
        self._origin = (identity, FORMAT, VERSION, epoch)
        self._snapshots = snapshots
        self._snapshots_only = not is_log
        self._seq = -1 if after is None else after.seq
        self._base = 0 if after is None else after.base
        self._state = b"" if after is None else after.state or b""
        self._progress = None if after is None else after.progress
        self._last_written: bytes | None = None if after is None else after.state
        self._deltas = 0
        self._patches = 0
        self._complete_size = 0 if after is None else after.size

    def prepare(
        self,
        kind: Kind,
        status: Status,
        progress: Progress,
        transition: Transition | None = None,
        state: bytes | None = None,
        method: str = "",
        result: bytes | None = None,
        outcome: Outcome | None = None,
        complete: bool = False,
        outcome_only: bool = False,
    ) -> Checkpoint:
        """Return the next checkpoint: a snapshot, or a delta if that is enough. This fixes its place in the chain.

        `state` is the whole state after it, or None if the state did not change. `outcome_only`: the checkpoint changes neither state
        nor progress. A backend with only `save` and `load` keeps one checkpoint, so it gets the last state and progress again.
        """
        if state is not None:
            self._state = state
        self._seq += 1
        changes = None if outcome_only or transition is None else encode_transition(transition)
        is_snapshot = self._snapshots_only or (not outcome_only and (complete or self._is_due(status, progress)))
        written = encoded = inputs = None
        if is_snapshot:
            self._base = self._seq
            if not outcome_only:
                self._progress = encode_progress(progress)
            written, encoded, result, inputs = self._state, self._progress, None, self.inputs
        elif not outcome_only and self._state != self._last_written:
            written = self._state_change()
        if written is not None:
            self._last_written = self._state
        ended = None if outcome is None else encode_outcome(outcome)
        at = self._clock()
        head = (self.run_id, self.flow, self._seq, self.pass_number, kind, status, at, method, self._base)
        parts = (written, encoded, changes, result, inputs, ended, self.digest)
        checkpoint = seal((*head, *self._origin, *parts))
        self.digest = checkpoint.digest
        if is_snapshot:
            self._complete_size, self._deltas, self._patches = checkpoint.size, 0, 0
        else:
            self._deltas += checkpoint.size
        return checkpoint

    @property
    def writes_snapshots(self) -> bool:
        """Whether every checkpoint that records state and progress is a snapshot."""
        return self._snapshots_only or self._snapshots

    @property
    def state(self) -> bytes:
        """The bytes of the state that was recorded last."""
        return self._state

    @property
    def seq(self) -> int:
        """The seq of the newest checkpoint that was prepared; -1 before the first."""
        return self._seq

    def position(self) -> tuple[Any, ...]:
        """Return what the next checkpoint changes here, for `return_to`."""
        return tuple(getattr(self, name) for name in _CHANGING)

    def return_to(self, position: tuple[Any, ...]) -> None:
        """Undo the last `prepare`: its checkpoint was certainly not stored, and none was prepared after it."""
        for name, value in zip(_CHANGING, position, strict=True):
            setattr(self, name, value)

    def next_pass(self, progress: Progress, method: str, state: bytes | None) -> Checkpoint:
        """Return the first checkpoint of the next pass, which also stores the end of the last one: of the invocation `method`."""
        self.pass_number += 1
        return self.prepare("started", "running", progress, None, state, method, complete=True)

    def ended(self, progress: Progress, outcome: Cancelled | Failed) -> Checkpoint:
        """Return the checkpoint of a cancellation, or of a time limit that passed. It changes neither state nor progress."""
        end: Literal["cancelled", "failed"] = "cancelled" if isinstance(outcome, Cancelled) else "failed"
        return self.prepare(end, end, progress, outcome=outcome, outcome_only=True)

    def _state_change(self) -> bytes:
        """Return what a delta stores of a state that changed: a patch, or the whole state if a patch saves little."""
        state = self._state
        patch = patch_of(self._last_written or b"", state)
        if patch is None and is_patch(state):  # a model may serialize to an array, which must not be read as a patch
            patch = to_json([state.decode()])
        if patch is None:
            return state
        self._patches += 1
        return patch

    def _is_due(self, status: Status, progress: Progress) -> bool:
        """Whether the next checkpoint has to be a snapshot: always, after enough deltas, or at a small end of the pass."""
        deltas = self._deltas
        if self._snapshots or (deltas >= COMPLETE_AFTER and deltas >= self._complete_size) or self._patches >= PATCHES:
            return True
        if status != "finished":
            return False
        return len(self._state) + len(encode_progress(progress)) + len(self.inputs or b"") < END_AT_MOST
