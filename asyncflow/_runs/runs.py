"""Acquire, start, resume and release runs in a backend. `instance` decides what a call means."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import anyio
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from .._codec.codec import Misfit
from .._runtime.engine import Engine
from .._runtime.recorder import Codecs, Recorder
from .._runtime.settings import Settings
from .._runtime.versions import Version, recorded, taken
from .._scheduling.advance import advance
from .._scheduling.messages import Command, Resumed, Started
from .._scheduling.progress import Progress
from .._waiting import current_loop, is_closed, to_its_end
from ..errors import CheckpointCorruptError, RunFencedError, RunLockedError, StateSchemaError, StorageError
from ..persistence.checkpoint import UNREADABLE, Checkpoint, Kind, Status, decode_progress
from ..persistence.checks import to_be_awaited
from ..persistence.fence import Fence
from ..persistence.protocol import Catalog, Fencing, FlowPersistence, Ownership, Sessions, offers
from .matching import check_covers, check_flow, check_resumable

__all__ = [
    "Claim",
    "Setup",
    "Stored",
    "begin",
    "decoded",
    "give_back",
    "is_driven",
    "is_driven_here",
    "is_same_place",
    "load",
    "load_owned",
    "owned",
    "owned_within",
    "recorder_of",
    "session",
    "take_up",
    "write_whole",
]

logger = logging.getLogger("asyncflow")


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything about a flow that does not change from run to run."""

    settings: Settings
    codecs: Codecs
    persistence: FlowPersistence | None
    whole: bool
    """Whether every checkpoint is a snapshot: true if only some methods have a checkpoint."""
    observe: Callable[[Checkpoint], object] | None = None
    is_declared: bool = False
    """Whether the flow declares its own persistence instead of using the default one."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A run as it was loaded."""

    checkpoint: Checkpoint
    state: Any
    progress: Progress


@dataclass(slots=True)
class Claim:
    """This process's ownership of a run.

    `epoch` is 0 while nothing is stored. `is_over`: the run's last checkpoint has released it.
    """

    owner: Ownership | None = None
    epoch: int = 0
    is_over: bool = False
    fence: Fence | None = None
    stretch: object = None
    """The period in which the owner's lease has held without a gap (see `Fence.stretch`), read before the run was acquired."""

    async def take(self, run_id: str) -> None:
        """Acquire the run, and record that at once: a caller that is cancelled meanwhile has a run to release."""
        if self.fence is not None:
            self.stretch = self.fence.stretch
        if self.owner is not None:
            self.epoch = await self.owner.acquire(run_id)


_DRIVEN: dict[tuple[object, str], object] = {}
"""Maps (place, run id) of each run that this process drives to the event loop that drives it."""

_taking = threading.Lock()
"""Held while a run is looked up in `_DRIVEN` and added to it: if two threads want one run, only one gets it."""


def _forked() -> None:
    global _taking
    _taking = threading.Lock()  # another thread of the parent may have held it at the fork
    _DRIVEN.clear()  # the child does not drive the parent's runs


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def session(persistence: object) -> AbstractAsyncContextManager[object]:
    """Return a context manager that keeps the backend open."""
    return persistence.session() if offers(persistence, Sessions) else nullcontext()


def is_same_place(one: object, other: object) -> bool:
    """Whether two backends store in one place, so that the runs of one can be loaded from the other."""
    return one is other or _place(one) == _place(other)


def is_driven_here(persistence: FlowPersistence, run_id: str) -> bool:
    """Whether this process drives a run, through any backend of its place."""
    loop = _DRIVEN.get((_place(persistence), run_id))
    return loop is not None and not is_closed(loop)


async def is_driven(persistence: FlowPersistence, run_id: str) -> bool:
    """Whether a live owner drives a run, here or in another process. Other processes are visible only if the backend has a catalog."""
    if is_driven_here(persistence, run_id):
        return True
    known = await persistence.runs(run_id=run_id, limit=1) if offers(persistence, Catalog) else ()
    return any(entry.is_driven for entry in known)


def _place(persistence: object) -> object:
    return persistence.place if offers(persistence, Ownership) else id(persistence)


def owned(persistence: FlowPersistence, run_id: str, *, is_new: bool) -> _Owned:
    """Return a context manager that owns the run: no other owner drives it meanwhile.

    `is_new`: this process made the id, so no other process knows it. Entering it raises `RunLockedError` if another owner drives the run.
    """
    return _Owned(persistence, run_id, is_new, 0.0)


def owned_within(wait: float, persistence: FlowPersistence, run_id: str, *, is_new: bool = False) -> _Owned:
    """Like `owned`, but wait until no other owner drives the run. Raises `RunLockedError` if that takes longer than `wait` seconds."""
    return _Owned(persistence, run_id, is_new, wait)


class _Owned:
    """Owns a run exclusively. It lives as long as the run, and there can be thousands: generators would take ten times as much memory."""

    __slots__ = ("_claim", "_driven", "_is_new", "_wait")

    def __init__(self, persistence: FlowPersistence, run_id: str, is_new: bool, wait: float) -> None:
        owner = persistence if offers(persistence, Ownership) else None
        self._driven = (_place(persistence), run_id)
        self._claim = Claim(owner)
        self._is_new = is_new
        self._wait = wait

    async def __aenter__(self) -> Claim:
        until = anyio.current_time() + self._wait if self._wait > 0 else None  # the usual 0 needs no clock
        pause = 0.01
        while True:
            try:
                await self._taken()
                return self._claim
            except RunLockedError:
                if until is None or anyio.current_time() >= until:
                    raise
            await anyio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def _taken(self) -> None:
        driven, run_id = self._driven, self._driven[1]
        loop = current_loop()
        with _taking:
            if driven in _DRIVEN and not is_closed(_DRIVEN[driven]):
                raise RunLockedError(
                    f"run {run_id} is being driven in this process; await that, or try again when it has ended",
                    run_id=run_id,
                )
            _DRIVEN[driven] = loop
        claim = self._claim
        claim.fence = claim.owner.fence() if offers(claim.owner, Fencing) else None
        claim.stretch = None if claim.fence is None else claim.fence.stretch
        claim.epoch, claim.is_over = 1 if self._is_new or claim.owner is None else 0, False
        try:
            if not claim.epoch:
                await to_its_end(lambda: claim.take(run_id))
        except BaseException as error:
            await self._left(error)
            raise

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._left(error)

    async def _left(self, error: BaseException | None) -> None:
        """Release the run, unless it is over or the backend failed.

        After a backend failure the run becomes free when this owner ends, or when this owner is asked for it again.
        """
        claim = self._claim
        owner, run_id = claim.owner, self._driven[1]
        if isinstance(error, StorageError):
            claim.is_over = True
        try:
            if owner is not None and claim.epoch and not claim.is_over:
                await to_its_end(lambda: give_back(owner, run_id, claim.epoch))
        finally:
            _DRIVEN.pop(self._driven, None)  # a forked child has no entry


async def give_back(owner: Ownership, run_id: str, epoch: int) -> None:
    """Release a run. Log a backend's error instead of raising it: it must not replace what ended the run, which the caller will get."""
    try:
        await owner.release(run_id, epoch)
    except StorageError as error:
        logger.warning("run %s stays with this process until its storage is closed: %s", run_id, error)


async def load_owned(setup: Setup, run_id: str, claim: Claim) -> Stored | None:
    """Load a run that is to be driven, or return None. If it was stored only after the claim was made, acquire it and load it again."""
    stored = await load(setup, run_id)
    if stored is None or claim.epoch:
        return stored
    await to_its_end(lambda: claim.take(run_id))
    return await load(setup, run_id)


async def load(setup: Setup, run_id: str, seq: int | None = None) -> Stored | None:
    """Load a stored run of this flow, or return None.

    Raises `RunFlowMismatchError`, `StateSchemaError`, `FlowDefinitionError`, `CheckpointCorruptError` and what the backend raises.
    """
    assert setup.persistence is not None, "asked only where there is a storage"
    checkpoint = await to_be_awaited(setup.persistence.load(run_id, seq), setup.persistence, "load")
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, Checkpoint):
        raise StorageError(
            f"load of {type(setup.persistence).__name__} returned a {type(checkpoint).__name__}; it returns a Checkpoint, or None for "
            "an unknown run (Checkpoint.from_bytes reads what to_bytes has written). Nothing was changed",
            run_id=run_id,
        )
    if checkpoint.run_id != run_id:
        raise CheckpointCorruptError(
            f"what is stored for run {run_id} is another run's; nothing was changed, restore the storage from a backup",
            run_id=run_id,
        )
    return decoded(setup, checkpoint)


def decoded(setup: Setup, checkpoint: Checkpoint) -> Stored:
    """Decode a run from its snapshot (complete checkpoint).

    Raises `RunFlowMismatchError`, `StateSchemaError`, `FlowDefinitionError`, `CheckpointCorruptError`.
    """
    run_id = checkpoint.run_id
    check_flow(setup.settings.identity, checkpoint)
    try:
        state = setup.codecs.state.decode(checkpoint.state or b"")
        progress = decode_progress(checkpoint.progress or b"")
        outcome_of(checkpoint)
    except Misfit as misfit:
        raise StateSchemaError(
            f"the stored state of run {run_id} was written under another type of state than that of {setup.settings.name}, which "
            "says too little to read it. Nothing was changed; put the type back for as long as such runs are resumed or loaded"
            if misfit.is_gone
            else f"the stored state of run {run_id} does not fit the model of {setup.settings.name}: {misfit.detail}. Nothing was "
            "changed; add the fields, or a before-validator (@model_validator(mode='before')) that turns the old form into the new",
            paths=misfit.paths,
            run_id=run_id,
            seq=checkpoint.seq,
        ) from misfit.__cause__
    except UNREADABLE as error:
        raise CheckpointCorruptError(
            f"checkpoint {checkpoint.seq} of run {run_id} cannot be read ({type(error).__name__}). Nothing was changed; load an "
            "older seq, or restore the storage from a backup",
            run_id=run_id,
            seq=checkpoint.seq,
        ) from error
    check_covers(setup.settings, checkpoint, progress)
    return Stored(checkpoint, state, progress)


async def begin(
    setup: Setup,
    flow: object,
    run_id: str,
    held: list[Any],
    *,
    claim: Claim | None = None,
    after: Checkpoint | None = None,
    number: int = 1,
    inputs: bytes | None = None,
) -> tuple[Engine, tuple[Command, ...], Checkpoint | None]:
    """Prepare a new pass from the start. Return its engine, its first commands, and the checkpoint to commit before them (D2).

    `held` is a list with the state. The state is copied if any other object holds a part of it. Raises `StateNotStorableError`,
    `LimitExceededError`.
    """
    is_stored = setup.persistence is not None and claim is not None
    encoded = await taken(held, setup.codecs, is_stored=is_stored)
    data, version = (None, None) if encoded is None else (encoded.data, encoded.version(0, held[0], setup.codecs))
    progress = Progress()
    transition, commands = advance(setup.settings.definition, progress, Started())
    progress.fold(transition)
    recorder = checkpoint = None
    if setup.persistence is not None and claim is not None:
        recorder = recorder_of(setup, run_id, claim, after)
        recorder.number = number
        if data is None:
            data, version = recorded(0, held, recorder, is_copy=True)
        recorder.inputs = inputs
        checkpoint = recorder.prepare("started", "running", progress, state=data, complete=True)
    version = version or Version(0, held[0])
    engine = Engine(flow, setup.settings, setup.codecs, run_id, number, recorder, progress, version)
    return engine, commands, checkpoint


async def commit_start(engine: Engine, checkpoint: Checkpoint | None) -> None:
    """Commit a pass's first checkpoint. Raises `RunLockedError` if another owner has just stored a run with this id."""
    if checkpoint is None or engine.recorder is None:
        return
    try:
        await engine.recorder.commit(checkpoint)
    except RunFencedError as fenced:
        raise RunLockedError(
            f"run {engine.run_id} was started by somebody else at the same moment; nothing was run here",
            run_id=engine.run_id,
        ) from fenced


def take_up(setup: Setup, flow: object, stored: Stored, claim: Claim) -> tuple[Engine, tuple[Command, ...]]:
    """Return the engine of an interrupted or failed pass, and its first commands.

    Raises `FlowDefinitionError` if the class has lost a method that the run waits for, or has changed so that one of the run's
    joins could never run.
    """
    definition, c = setup.settings.definition, stored.checkpoint
    check_resumable(setup.settings, c, stored.progress)
    transition, commands = advance(definition, stored.progress, Resumed())
    stored.progress.fold(transition)
    recorder = recorder_of(setup, c.run_id, claim, c)
    version = Version(0, stored.state)
    engine = Engine(flow, setup.settings, setup.codecs, c.run_id, c.number, recorder, stored.progress, version)
    return engine, commands


async def write_whole(
    setup: Setup, kind: Kind, status: Status, run: Stored, claim: Claim, *, after: Checkpoint | None
) -> None:
    """Store a run as a snapshot: the first checkpoint of a fork, or an edit. Raises `StateNotStorableError`."""
    c = run.checkpoint
    recorder = recorder_of(setup, c.run_id, claim, after, number=c.number, inputs=c.inputs)
    data, _ = recorder.state_bytes(run.state)
    checkpoint = recorder.prepare(kind, status, run.progress, state=data, outcome=outcome_of(c) or None, complete=True)
    await recorder.commit(checkpoint)


def recorder_of(
    setup: Setup, run_id: str, claim: Claim, after: Checkpoint | None, *, number: int = 1, inputs: bytes | None = None
) -> Recorder:
    """Return a recorder that continues after a checkpoint, or starts a chain."""
    assert setup.persistence is not None, "asked only where there is a storage"
    return Recorder(
        setup.persistence,
        setup.codecs,
        flow=setup.settings.name if after is None else after.flow,
        identity=setup.settings.identity.stored if after is None else after.identity,
        run_id=run_id,
        epoch=claim.epoch or 1,
        number=number if after is None else after.number,
        inputs=inputs if after is None else after.inputs,
        after=after,
        whole=setup.whole,
        observe=setup.observe,
        fence=claim.fence,
        stretch=claim.stretch,
    )


class _Ended(TypedDict):
    method: str
    result: str


_results = TypeAdapter(_Ended)
_failures = TypeAdapter(dict[str, str])


def outcome_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the outcome of a pass: `method` and `result`, or `method`, `type`, `message` and `traceback`; {} if it has none."""
    if checkpoint.outcome is None:
        return {}
    as_what: TypeAdapter[Any] = _results if checkpoint.status == "finished" else _failures
    return dict(as_what.validate_json(checkpoint.outcome, strict=True))
