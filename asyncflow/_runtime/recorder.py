"""The recorder of one run: makes its checkpoints, in order, and sees them committed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final, cast

import anyio
from pydantic_core import to_json

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
    Kind,
    Status,
    encode_progress,
    encode_transition,
    seal,
)
from ..persistence.checks import to_be_awaited
from ..persistence.codec import Codec, Misfit, Refused, codec_for, plain_codec, state_codec_for
from ..persistence.fencing import Fence
from ..persistence.patches import is_patch, patch_of
from ..persistence.protocol import CheckpointLog, FlowPersistence, offers
from ..state import DictState, StateType
from .plain import is_read_plainly

__all__ = ["Codecs", "Recorder"]

logger = logging.getLogger("asyncflow")

COMPLETE_AFTER: Final = 16 * 1024
"""Bytes of deltas after which a complete checkpoint is stored, or as many as that one is large: loading folds from it."""

PATCHES: Final = 128
"""Patches of the state after which that is stored as a whole: they are put together on loading, 0.2 ms a megabyte each."""

END_AT_MOST: Final = 4 * 1024
"""Bytes of a last checkpoint that is complete though it need not be: what is over is looked at most, and is then one row."""

LARGE: Final = 4 * 1024
"""Bytes of a state from which on to find out whose it is costs less than to copy it."""


AS_LOADED: Final = frozenset((str, int, float, bool, type(None)))
"""Types whose values are all that they were when they have been stored and loaded; a datetime has another class of zone."""


class Codecs:
    """How one flow's states and results become bytes. Made once for a class."""

    def __init__(self, definition: FlowDefinition, state_type: StateType) -> None:
        self.definition = definition
        self.state = state_codec_for(state_type)
        self.may_be_lent = not isinstance(state_type, DictState) or is_read_plainly(state_type.values)
        self._results: dict[str, Codec] = {}

    def result(self, method: str) -> Codec:
        """The codec of a method's result, by its return annotation."""
        codec = self._results.get(method)
        if codec is None:
            known = self.definition.methods.get(method)
            codec = self._results[method] = plain_codec if known is None else codec_for(known.returns)
        return codec


class Recorder:
    """Knows where the chain of a run's checkpoints stands."""

    def __init__(
        self,
        persistence: FlowPersistence,
        codecs: Codecs | None,
        *,
        flow: str,
        identity: str,
        run_id: str,
        epoch: int,
        number: int,
        inputs: bytes | None,
        after: Checkpoint | None,
        whole: bool,
        observe: Callable[[Checkpoint], object] | None = None,
        fence: Fence | None = None,
        stretch: object = None,
    ) -> None:
        self.persistence = persistence
        self.codecs = cast("Codecs", codecs)
        """How values become bytes. None where it is asked for none."""
        self.flow = flow
        self.identity = identity
        self.run_id = run_id
        self.epoch = epoch
        self.number = number
        self.inputs = inputs
        self._append = persistence.append if offers(persistence, CheckpointLog) else None
        self._whole = whole
        self._observe = observe
        self.fence = fence
        self.stretch = stretch
        """Of the owner's lease, in which the run was last known to be its own."""
        self.refusal: Exception | None = None
        """Why nothing more may start."""
        self._turn: anyio.Lock | None = None
        self._seq = -1 if after is None else after.seq
        self._digest = self._saved = b"" if after is None else after.digest
        self._base = 0 if after is None else after.base
        self._state = b"" if after is None else after.state or b""
        self._progress = None if after is None else after.progress
        self._last_written: bytes | None = None if after is None else after.state
        self._deltas = COMPLETE_AFTER
        self._patches = 0
        self._complete_size = 0
        self._latest: tuple[str, bytes | None, Any] = ("", None, None)
        """The method, the bytes and the value of the latest result of such a type."""

    @property
    def digest(self) -> bytes:
        """Of the newest checkpoint that was prepared."""
        return self._digest

    @property
    def is_large(self) -> bool:
        """Whether the newest state is so large that it should not be copied."""
        return len(self._state) >= LARGE

    # ---- values ------------------------------------------------------------------------------------------------

    def state_bytes(self, state: Any, method: str | None = None) -> tuple[bytes, Any]:
        """A state as it is stored, and as it will load. Raises `StateNotStorableError`, `LimitExceededError`."""
        try:
            return self.codecs.state.encode(state)
        except Refused as refused:
            raise _not_storable(StateNotStorableError, "the state", refused, self.run_id, method) from None

    def result_bytes(self, method: str, value: Any) -> tuple[bytes, Any]:
        """A result as it is stored, and as it will load. Raises `ResultNotStorableError`, `LimitExceededError`."""
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
        """A result from what was stored. Raises `StateSchemaError` if the method's return type has changed since."""
        latest, kept, value = self._latest
        if data is kept and method == latest:  # both: Python has one b"1" for all
            return value
        try:
            return self.codecs.result(method).decode(data)
        except Misfit as misfit:
            raise StateSchemaError(
                f"the stored result of {method} was written under a return annotation that {method} no longer has. Nothing was "
                f"changed; put the annotation back for as long as such runs are resumed or loaded"
                if misfit.is_gone
                else f"the stored result of {method} does not fit its return annotation any more: {misfit.detail}. Nothing was "
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
        outcome: dict[str, Any] | None = None,
        complete: bool = False,
        outcome_only: bool = False,
    ) -> Checkpoint:
        """The next checkpoint: complete, or a delta where that is enough. From now on it has its place in the chain.

        `state` is the whole state after it, or None where it did not change. `outcome_only`: it says nothing new of state and
        progress; a backend of two verbs, which keeps one checkpoint, is given those of the last one again.
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
            self.number,
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
        checkpoint = seal((*about, *parts, None if outcome is None else to_json(outcome), self._digest))
        self._digest = checkpoint.digest
        if checkpoint.state is not None:
            self._last_written = self._state
        if whole:
            self._complete_size, self._deltas, self._patches = checkpoint.size, 0, 0
        else:
            self._deltas += checkpoint.size
        return checkpoint

    def _state_change(self) -> bytes | None:
        """What a delta holds of the state: nothing where it is the same, else a patch, or all of it where that is no more."""
        state = self._state
        if state == self._last_written:
            return None
        patch = patch_of(self._last_written or b"", state)
        if patch is None and is_patch(state):  # a model may write itself as an array: not to be taken for a patch
            patch = to_json([state.decode()])
        if patch is None:
            return state
        self._patches += 1
        return patch

    def _is_due(self, status: Status, progress: Progress) -> bool:
        """Whether the next checkpoint is to be complete: always, after enough of deltas, or at a small end of the pass."""
        deltas = self._deltas
        if self._whole or (deltas >= COMPLETE_AFTER and deltas >= self._complete_size) or self._patches >= PATCHES:
            return True
        if status != "finished":
            return False
        return len(self._state) + len(encode_progress(progress)) + len(self.inputs or b"") < END_AT_MOST

    async def commit(self, checkpoint: Checkpoint) -> None:
        """See a prepared checkpoint committed. Called in the order of `prepare`, with no await between.

        Raises `RunFencedError` if somebody else has taken the run over, and what the backend raises.
        """
        try:
            if self._append is not None:
                await self._append(checkpoint)
            else:
                await self._save(checkpoint)
        except StaleCheckpoint as stale:
            raise RunFencedError(
                f"run {self.run_id} has been taken over by another owner: checkpoint {checkpoint.seq} was not saved, and "
                "nothing more is started here. The other owner resumes it",
                run_id=self.run_id,
                seq=checkpoint.seq,
            ) from stale
        if self._observe is not None:
            self._tell(checkpoint)

    def _tell(self, checkpoint: Checkpoint) -> None:
        """Tell the observer what is stored now. One that raises is told nothing more, and cannot hurt the run."""
        assert self._observe is not None, "asked only where there is one"
        try:
            self._observe(checkpoint)
        except Exception:  # whatever a foreign handler raises
            self._observe = None
            logger.exception("an observer of run %s has failed, and is told nothing more", self.run_id)

    async def _save(self, checkpoint: Checkpoint) -> None:
        async def save() -> None:
            await to_be_awaited(self.persistence.save(checkpoint), self.persistence, "save")
            self._saved = checkpoint.digest

        turn = self._turn = self._turn or anyio.Lock()
        async with turn:  # a backend of two verbs is asked one thing at a time
            if self._saved != checkpoint.previous:
                raise StorageWriteError(
                    f"checkpoint {checkpoint.seq} of run {self.run_id} was not saved, because the one before it was not; the "
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
