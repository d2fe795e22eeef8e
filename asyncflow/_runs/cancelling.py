"""Cancel a stored run and its children permanently, whichever process drives them: owners are fenced. No flow class is needed."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from .._pace import stored_runs_changed
from .._runtime.audience import Audience
from .._runtime.chain import Chain
from .._runtime.recorder import Recorder
from .._runtime.timing import clock_of
from .._waiting import to_its_end
from ..errors import CapabilityMissingError, RunFencedError, RunNotFoundError
from ..persistence.checkpoint import Checkpoint, decode_progress
from ..persistence.children import Children
from ..persistence.outcome import Cancelled
from ..persistence.protocol import CheckpointLog, FlowPersistence, Ownership, offers, session
from ..persistence.status import is_over
from . import call_errors as refusals
from .logged import log_cancelled
from .ownership import release_run, stop_child

__all__ = ["cancel_children", "cancel_stored"]


async def cancel_stored(persistence: FlowPersistence, run_id: str, audience: Audience | None = None) -> None:
    """Record that a run was cancelled, and then that its children were. A finished run stays as it is.

    The cancellation is stored after the checkpoint that was read, by compare and set, so it undoes nothing that was stored since. The
    owner of the run is refused at its next checkpoint. `audience`: who observes the run, if that is known here.

    Raises `RunNotFoundError`, `CapabilityMissingError`.
    """
    owner: object = persistence
    if not offers(owner, Ownership):
        raise CapabilityMissingError(
            f"{type(persistence).__name__} cannot cancel a stored run: it lacks the capability Ownership",
            capability="Ownership",
            run_id=run_id,
        )
    async with session(persistence):
        await _cancel(persistence, owner, run_id, audience)
        stop_child(persistence, run_id)
        await cancel_children(persistence, run_id, audience)


async def cancel_children(persistence: FlowPersistence, run_id: str, audience: Audience | None) -> None:
    """Cancel the children of a run that is over, and theirs. Those of a cancelled child, too: the process that cancelled it may have died.

    A runner cancels those that this leaves: see `runner.orphans`. `audience`: who observes the run.
    """
    children: object = persistence
    if not offers(children, Children):
        return
    for entry in await children.children(run_id):
        if entry.status != "finished":
            with suppress(RunNotFoundError):  # it has just been deleted
                await cancel_stored(persistence, entry.run_id, None if audience is None else audience.of_children)


async def _cancel(persistence: FlowPersistence, owner: Ownership, run_id: str, audience: Audience | None) -> None:
    is_log = bool(offers(persistence, CheckpointLog))
    newest = await _found(persistence, run_id)
    pass_number = newest.pass_number
    while not is_over(newest.status) and newest.pass_number == pass_number:
        try:
            if is_log:
                await to_its_end(partial(_record_end, persistence, newest, newest.epoch, audience))
                return
        except RunFencedError:
            pass  # it has advanced since, or its owner has not stored anything yet
        seen, newest = newest, await _found(persistence, run_id)
        if newest.digest == seen.digest:
            with suppress(RunFencedError):  # it advances right now, or another caller cancels it
                await to_its_end(partial(_end, persistence, owner, newest, audience))
            newest = await _found(persistence, run_id)


async def _found(persistence: FlowPersistence, run_id: str) -> Checkpoint:
    newest = await persistence.load(run_id)
    if newest is None:
        raise refusals.unknown_run(persistence, run_id, None)
    return newest


async def _end(persistence: FlowPersistence, owner: Ownership, seen: Checkpoint, audience: Audience | None) -> None:
    """Acquire a run whose owner's epoch is not known, and end it if its newest checkpoint is still the one that was seen.

    This must run to its end: otherwise the run would stay owned by this process, which does not drive it.
    """
    run_id = seen.run_id
    epoch = await owner.acquire(run_id, force=True)
    is_over = False
    try:
        newest = await persistence.load(run_id)
        if newest is not None and newest.digest == seen.digest:
            await _record_end(persistence, newest, epoch, audience)
            is_over = True
    finally:
        if not is_over:
            await release_run(owner, run_id, epoch)


async def _record_end(persistence: FlowPersistence, newest: Checkpoint, epoch: int, audience: Audience | None) -> None:
    chain = Chain(
        flow=newest.flow,
        identity=newest.identity,
        run_id=newest.run_id,
        epoch=epoch,
        pass_number=newest.pass_number,
        inputs=newest.inputs,
        after=newest,
        is_log=offers(persistence, CheckpointLog),
        clock=clock_of(persistence),
    )
    recorder = Recorder(persistence, chain)
    recorder.audience = audience
    await recorder.commit(chain.ended(decode_progress(newest.progress or b""), Cancelled()))
    log_cancelled(newest.run_id, newest.flow)
    stored_runs_changed()
