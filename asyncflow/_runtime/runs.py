"""Runs in a storage: taken over, begun, taken up again, given back. What a call means is decided in `instance`."""

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

from .._scheduling.advance import advance
from .._scheduling.messages import Command, Resumed, Started
from .._scheduling.progress import Progress
from .._waiting import current_loop, is_closed, to_its_end
from ..errors import CheckpointCorruptError, RunFencedError, RunLockedError, StateSchemaError, StorageError
from ..persistence.checkpoint import UNREADABLE, Checkpoint, Kind, Status, decode_progress
from ..persistence.checks import to_be_awaited
from ..persistence.codec import Misfit
from ..persistence.fencing import Fence
from ..persistence.protocol import Catalog, Fencing, FlowPersistence, Ownership, Sessions, offers
from .engine import Engine
from .matching import check_covers, check_flow, check_resumable
from .recorder import Codecs, Recorder
from .settings import Settings
from .versions import Version, recorded, taken

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
    """Whether every checkpoint is complete: where only some methods have one."""
    observe: Callable[[Checkpoint], object] | None = None
    is_declared: bool = False
    """Whether the flow names its persistence itself: it is not the default one."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A run as it was loaded."""

    checkpoint: Checkpoint
    state: Any
    progress: Progress


@dataclass(slots=True)
class Claim:
    """That this process drives a run. `epoch` is 0 while nothing is stored; `is_over`: its last checkpoint has given it back."""

    owner: Ownership | None = None
    epoch: int = 0
    is_over: bool = False
    fence: Fence | None = None
    stretch: object = None
    """Of the owner's lease, from before the run was acquired."""

    async def take(self, run_id: str) -> None:
        """Acquire the run, and know so at once: whoever is cancelled meanwhile has something to release."""
        if self.fence is not None:
            self.stretch = self.fence.stretch
        if self.owner is not None:
            self.epoch = await self.owner.acquire(run_id)


_DRIVEN: dict[tuple[object, str], object] = {}
"""(place, run id) of what is driven in this process, and the event loop that drives it."""

_taking = threading.Lock()
"""Held while a run is looked for in `_DRIVEN` and put there: of two threads that want one run, one gets it."""


def _forked() -> None:
    global _taking
    _taking = threading.Lock()  # another thread of the parent may have held it
    _DRIVEN.clear()  # what the parent drives, the child does not


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def session(persistence: object) -> AbstractAsyncContextManager[object]:
    """The persistence, held open for as long as this lasts."""
    return persistence.session() if offers(persistence, Sessions) else nullcontext()


def is_same_place(one: object, other: object) -> bool:
    """Whether two persistences store in one place, so that the runs of one can be loaded from the other."""
    return one is other or _place(one) == _place(other)


def is_driven_here(persistence: FlowPersistence, run_id: str) -> bool:
    """Whether a run is driven in this process, by whichever persistence of its place."""
    loop = _DRIVEN.get((_place(persistence), run_id))
    return loop is not None and not is_closed(loop)


async def is_driven(persistence: FlowPersistence, run_id: str) -> bool:
    """Whether somebody drives a run, here or elsewhere, as far as the storage has a catalog that tells it. A dead owner does not."""
    if is_driven_here(persistence, run_id):
        return True
    known = await persistence.runs(run_id=run_id, limit=1) if offers(persistence, Catalog) else ()
    return any(entry.is_driven for entry in known)


def _place(persistence: object) -> object:
    return persistence.place if offers(persistence, Ownership) else id(persistence)


def owned(persistence: FlowPersistence, run_id: str, *, is_new: bool) -> _Owned:
    """The run, driven by nobody else for as long as this lasts. `is_new`: its id was made here, so nobody knows of it.

    Raises `RunLockedError`.
    """
    return _Owned(persistence, run_id, is_new, 0.0)


def owned_within(wait: float, persistence: FlowPersistence, run_id: str, *, is_new: bool = False) -> _Owned:
    """The run, `owned`, once nobody else drives it. Raises `RunLockedError` if that takes longer than `wait` seconds."""
    return _Owned(persistence, run_id, is_new, wait)


class _Owned:
    """A run that is driven by nobody else. It lives as long as the run, in thousands: generators would take ten times as much."""

    __slots__ = ("_claim", "_driven", "_is_new", "_wait")

    def __init__(self, persistence: FlowPersistence, run_id: str, is_new: bool, wait: float) -> None:
        owner = persistence if offers(persistence, Ownership) else None
        self._driven = (_place(persistence), run_id)
        self._claim = Claim(owner)
        self._is_new = is_new
        self._wait = wait

    async def __aenter__(self) -> Claim:
        until = anyio.current_time() + self._wait if self._wait > 0 else None  # the usual 0 asks for no clock
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
        """Give the run back, unless it is over, or the storage is not well: it is free when this owner ends, or is asked again."""
        claim = self._claim
        owner, run_id = claim.owner, self._driven[1]
        if isinstance(error, StorageError):
            claim.is_over = True
        try:
            if owner is not None and claim.epoch and not claim.is_over:
                await to_its_end(lambda: give_back(owner, run_id, claim.epoch))
        finally:
            _DRIVEN.pop(self._driven, None)  # a child of a fork has none


async def give_back(owner: Ownership, run_id: str, epoch: int) -> None:
    """Release a run. What ended it is on its way to the caller, and an error of the storage does not take its place."""
    try:
        await owner.release(run_id, epoch)
    except StorageError as error:
        logger.warning("run %s stays with this process until its storage is closed: %s", run_id, error)


async def load_owned(setup: Setup, run_id: str, claim: Claim) -> Stored | None:
    """A run that is to be driven, or None. One that came to be since the claim was made is claimed anew."""
    stored = await load(setup, run_id)
    if stored is None or claim.epoch:
        return stored
    await to_its_end(lambda: claim.take(run_id))
    return await load(setup, run_id)


async def load(setup: Setup, run_id: str, seq: int | None = None) -> Stored | None:
    """A stored run of this flow, or None.

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
    """A run from its complete checkpoint.

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
    """A new pass from the start: its engine, what it does first, and the checkpoint to be committed before that (D2).

    It is over the state in a list, which is copied if anybody else holds a part of it. Raises `StateNotStorableError`,
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
    """Commit a pass's first checkpoint. Raises `RunLockedError` if somebody else has just made a run of this id."""
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
    """The engine of an interrupted or failed pass, and what it does first.

    Raises `FlowDefinitionError` if the class has lost a method that the run waits for, or has changed so that a join of it
    could never run.
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
    """Store a run as a complete checkpoint: a fork's first, or an edit. Raises `StateNotStorableError`."""
    c = run.checkpoint
    recorder = recorder_of(setup, c.run_id, claim, after, number=c.number, inputs=c.inputs)
    data, _ = recorder.state_bytes(run.state)
    checkpoint = recorder.prepare(kind, status, run.progress, state=data, outcome=outcome_of(c) or None, complete=True)
    await recorder.commit(checkpoint)


def recorder_of(
    setup: Setup, run_id: str, claim: Claim, after: Checkpoint | None, *, number: int = 1, inputs: bytes | None = None
) -> Recorder:
    """The recorder that goes on after a checkpoint, or begins a chain."""
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
    """What a pass ended with: `method` and `result`, or `method`, `type`, `message` and `traceback`."""
    if checkpoint.outcome is None:
        return {}
    as_what: TypeAdapter[Any] = _results if checkpoint.status == "finished" else _failures
    return dict(as_what.validate_json(checkpoint.outcome, strict=True))
