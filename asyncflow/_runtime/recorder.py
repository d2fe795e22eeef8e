"""The recorder of one run: it makes the run's checkpoints in order, and commits them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final, cast

import anyio
from pydantic_core import to_json

from .._codec.codec import Codec, Misfit, Refused, codec_for, plain_codec, state_codec_for
from .._codec.patches import is_patch, patch_of
from .._codec.plain_models import is_read_plainly
from .._definition.definition import FlowDefinition
from .._scheduling.messages import Transition
from .._scheduling.progress import Progress
from .._version import VERSION
from .._waiting import to_its_end
from ..errors import (
    CheckpointCorruptError,
    LimitExceededError,
    NotStorableError,
    ResultNotStorableError,
    RunFencedError,
    StaleCheckpoint,
    StateNotStorableError,
    StateSchemaError,
    StorageWriteError,
)
from ..persistence.checkpoint import (
    FORMAT,
    UNREADABLE,
    Checkpoint,
    encode_progress,
    encode_transition,
    seal,
)
from ..persistence.checks import to_be_awaited
from ..persistence.fence import Fence
from ..persistence.outcome import Outcome, encode_outcome
from ..persistence.protocol import CheckpointLog, FlowPersistence, offers
from ..persistence.status import Kind, Status
from ..state import DictState, StateType

__all__ = ["Codecs", "Recorder"]

logger = logging.getLogger("asyncflow")

COMPLETE_AFTER: Final = 16 * 1024
"""Bytes of deltas after which the next checkpoint is a snapshot, or the size of the last snapshot if that is larger.

Loading starts at the snapshot and folds the deltas.
"""

PATCHES: Final = 128
"""Patches of the state after which it is stored as a whole: loading applies them all, at 0.2 ms per megabyte each."""

END_AT_MOST: Final = 4 * 1024
"""Bytes up to which a run's last checkpoint is a snapshot even if none is due: ended runs are read most, and are then one row."""

LARGE: Final = 4 * 1024
"""Bytes of a state from which on it costs less to find out who holds the state than to copy it."""


AS_LOADED: Final = frozenset((str, int, float, bool, type(None)))
"""Types whose values are unchanged after storing and loading. `datetime` is not one: its time zone is loaded as another class."""


class Codecs:
    """Encodes and decodes the states and results of one flow. Made once per class."""

    def __init__(self, definition: FlowDefinition, state_type: StateType) -> None:
        self.definition = definition
        self.state = state_codec_for(state_type)
        self.may_be_lent = not isinstance(state_type, DictState) or is_read_plainly(state_type.values)
        self._results: dict[str, Codec] = {}

    def result(self, method: str) -> Codec:
        """Return the codec of a method's result, by its return annotation."""
        codec = self._results.get(method)
        if codec is None:
            known = self.definition.methods.get(method)
            codec = self._results[method] = plain_codec if known is None else codec_for(known.returns)
        return codec


class Recorder:
    """Makes and commits the checkpoints of a run, and knows the newest one of the chain."""

    def __init__(
        self,
        persistence: FlowPersistence,
        codecs: Codecs | None,
        *,
        flow: str,
        identity: str,
        run_id: str,
        epoch: int,
        pass_number: int,
        inputs: bytes | None,
        after: Checkpoint | None,
        whole: bool,
        observe: Callable[[Checkpoint], object] | None = None,
        fence: Fence | None = None,
        stretch: object = None,
    ) -> None:
        self.persistence = persistence
        self.codecs = cast("Codecs", codecs)
        """Encode and decode values. None if this recorder needs none."""
        self.flow = flow
        self.identity = identity
        self.run_id = run_id
        self.epoch = epoch
        self.pass_number = pass_number
        self.inputs = inputs
        self._append = persistence.append if offers(persistence, CheckpointLog) else None
        self._whole = whole
        self._observe = observe
        self.fence = fence
        self.stretch = stretch
        """The period of the owner's lease (see `Fence.stretch`) in which the run was last known to be this owner's."""
        self.refusal: Exception | None = None
        """The error because of which nothing more may start."""
        self._turn: anyio.Lock | None = None
        self._seq = -1 if after is None else after.seq
        self._digest = self._saved = b"" if after is None else after.digest
        self._base = 0 if after is None else after.base
        self._state = b"" if after is None else after.state or b""
        self._progress = None if after is None else after.progress
        self._last_written: bytes | None = None if after is None else after.state
        self._deltas = 0
        self._patches = 0
        self._complete_size = 0 if after is None else after.size
        self._latest: tuple[str, bytes | None, Any] = ("", None, None)
        """The method, the bytes and the value of the latest result whose type is in `AS_LOADED`."""

    @property
    def digest(self) -> bytes:
        """The digest of the newest prepared checkpoint."""
        return self._digest

    @property
    def is_large(self) -> bool:
        """Whether the newest state is so large that copying should be avoided."""
        return len(self._state) >= LARGE

    # ---- values ------------------------------------------------------------------------------------------------

    def state_bytes(self, state: Any, method: str | None = None) -> tuple[bytes, Any]:
        """Encode a state. Return its bytes, and the state as it will load. Raises `StateNotStorableError`, `LimitExceededError`."""
        try:
            return self.codecs.state.encode(state)
        except Refused as refused:
            raise _not_storable(StateNotStorableError, "the state", refused, self.run_id, method) from None

    def result_bytes(self, method: str, value: Any) -> tuple[bytes, Any]:
        """Encode a result. Return its bytes, and the result as it will load. Raises `ResultNotStorableError`, `LimitExceededError`."""
        try:
            encoded = self.codecs.result(method).encode(value)
        except Refused as refused:
            if (known := self.codecs.definition.methods.get(method)) is not None and known.is_unresolved:
                refused.cure = f"import what the return annotation of {method} names outside of `if TYPE_CHECKING`"
            raise _not_storable(
                ResultNotStorableError, f"what {method} returned", refused, self.run_id, method
            ) from None
        if type(value) in AS_LOADED:
            self._latest = (method, *encoded)
        return encoded

    def result(self, method: str, data: bytes) -> Any:
        """Decode a stored result.

        Raises `StateSchemaError` if the method's return type has changed since, and `CheckpointCorruptError` if the bytes are unreadable.
        """
        latest, kept, value = self._latest
        if data is kept and method == latest:  # check both: Python shares one b"1" between all methods
            return value
        try:
            return self.codecs.result(method).decode(data)
        except Misfit as misfit:
            raise StateSchemaError(
                f"the stored result of {method} was written under a return annotation that {method} no longer has. Nothing was "
                f"changed; put the annotation back for as long as such runs are resumed or loaded"
                if misfit.is_gone
                else f"the stored result of {method} does not fit its return annotation: {misfit.detail}. Nothing was "
                f"changed; let the annotation accept both, then resume",
                paths=misfit.paths,
                run_id=self.run_id,
                method=method,
            ) from misfit.__cause__
        except UNREADABLE as error:
            raise CheckpointCorruptError(
                f"the stored result of {method} cannot be read ({type(error).__name__}). Nothing was changed; load an older seq, "
                "or restore the storage from a backup",
                run_id=self.run_id,
                method=method,
            ) from error

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def prepare(
        self,
        kind: Kind,
        status: Status,
        progress: Progress,
        *,
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
        whole = self._append is None or (not outcome_only and (complete or self._is_due(status, progress)))
        changes = None if outcome_only or transition is None else encode_transition(transition)
        if whole:
            self._base = self._seq
            self._progress = self._progress if outcome_only else encode_progress(progress)
            parts: tuple[bytes | None, ...] = (self._state, self._progress, changes, None, self.inputs)
        else:
            parts = (None if outcome_only else self._state_change(), None, changes, result, None)
        about = (
            self.run_id,
            self.flow,
            self._seq,
            self.pass_number,
            kind,
            status,
            time.time(),
            method,
            self._base,
            self.identity,
            FORMAT,
            VERSION,
            self.epoch,
        )
        checkpoint = seal((*about, *parts, None if outcome is None else encode_outcome(outcome), self._digest))
        self._digest = checkpoint.digest
        if checkpoint.state is not None:
            self._last_written = self._state
        if whole:
            self._complete_size, self._deltas, self._patches = checkpoint.size, 0, 0
        else:
            self._deltas += checkpoint.size
        return checkpoint

    def _state_change(self) -> bytes | None:
        """Return what a delta stores of the state: None if it is unchanged, else a patch, or the whole state if a patch saves little."""
        state = self._state
        if state == self._last_written:
            return None
        patch = patch_of(self._last_written or b"", state)
        if patch is None and is_patch(state):  # a model may serialize to an array, which must not be read as a patch
            patch = to_json([state.decode()])
        if patch is None:
            return state
        self._patches += 1
        return patch

    def _is_due(self, status: Status, progress: Progress) -> bool:
        """Whether the next checkpoint has to be a snapshot: always (`whole`), after enough deltas, or at a small end of the pass."""
        deltas = self._deltas
        if self._whole or (deltas >= COMPLETE_AFTER and deltas >= self._complete_size) or self._patches >= PATCHES:
            return True
        if status != "finished":
            return False
        return len(self._state) + len(encode_progress(progress)) + len(self.inputs or b"") < END_AT_MOST

    async def commit(self, checkpoint: Checkpoint) -> None:
        """Commit a prepared checkpoint. Call it in the order of `prepare`, with no await in between.

        Raises `RunFencedError` if another owner has taken the run over, and what the backend raises.
        """
        try:
            if self._append is not None:
                await self._append(checkpoint)
            else:
                await self._save(checkpoint)
        except StaleCheckpoint as stale:
            raise RunFencedError(
                f"run {self.run_id} was fenced: another owner has taken it over. Checkpoint {checkpoint.seq} was not saved, and "
                "nothing more is started here. The other owner resumes the run",
                run_id=self.run_id,
                seq=checkpoint.seq,
            ) from stale
        if self._observe is not None:
            self._tell(checkpoint)

    def _tell(self, checkpoint: Checkpoint) -> None:
        """Notify the observer of a stored checkpoint. An observer that raises is not notified again, and cannot harm the run."""
        assert self._observe is not None, "called only if there is an observer"
        try:
            self._observe(checkpoint)
        except Exception:  # a user's observer may raise anything
            self._observe = None
            logger.exception(
                "observer disabled: it raised at a checkpoint of run %s, and is not called again", self.run_id
            )

    async def _save(self, checkpoint: Checkpoint) -> None:
        async def save() -> None:
            await to_be_awaited(self.persistence.save(checkpoint), self.persistence, "save")
            self._saved = checkpoint.digest

        turn = self._turn = self._turn or anyio.Lock()
        async with turn:  # a backend with only `save` and `load` gets one call at a time
            if self._saved != checkpoint.previous:
                raise StorageWriteError(
                    f"checkpoint {checkpoint.seq} of run {self.run_id} was not saved, because the one before it was not. The "
                    "run can be resumed",
                    outcome="not saved",
                    run_id=self.run_id,
                    seq=checkpoint.seq,
                )
            await to_its_end(save)


def _not_storable(
    kind: Callable[..., NotStorableError], what: str, refused: Refused, run_id: str, method: str | None
) -> NotStorableError | LimitExceededError:
    where = f" at '{refused.path}'" if refused.path else ""
    text = f"{what} cannot be stored: {refused.type_name or 'the value'}{where}: {refused.reason}. Nothing was saved; {refused.cure}"
    if refused.limit:
        return LimitExceededError(text, run_id=run_id, method=method)
    return kind(
        text,
        path=refused.path,
        type_name=refused.type_name,
        reason=refused.reason,
        cure=refused.cure,
        run_id=run_id,
        method=method,
    )
