"""End a stored run from outside, before its time: by its storage if no process drives it, else by a reserved signal."""

from __future__ import annotations

from typing import Any, Final

from .._pace import stored_runs_changed
from .._runtime.failures import stored_failure
from .._runtime.results import StoredResults
from .._scheduling.advance import advance
from .._scheduling.ending import ends
from .._scheduling.messages import EndAsked, name_in
from ..errors import RunEndedError, RunLockedError
from ..persistence.inbox import FINISH, Inbox, NewSignal
from ..persistence.outcome import Finished
from ..persistence.protocol import FlowPersistence, offers, session
from . import call_errors as refusals
from .cancelling import cancel_children
from .loading import Stored, load
from .ownership import Claim, owned
from .passes import recorder_of
from .setup import Setup

__all__ = ["finish_stored"]

ALL: Final = (1 << 63) - 1
"""Whatever signals have come: none of them is taken any more."""


async def finish_stored(setup: Setup, run_id: str) -> None:
    """End a stored run. A run that another caller or process drives is asked to, if its flow declares signals.

    Raises `RunLockedError` if it cannot be asked; see also `Flow.finish_run`.
    """
    persistence = setup.persistence
    if persistence is None:
        raise refusals.not_stored(setup.settings.name, "finish_run")
    takes_requests = bool(setup.settings.definition.signals) and bool(offers(persistence, Inbox))
    async with session(persistence):
        while True:
            try:
                async with owned(persistence, run_id, is_new=False) as claim:
                    await _finish(setup, persistence, await _found(setup, run_id), claim)
                    await cancel_children(persistence, run_id, setup.audience)
                    return
            except RunLockedError as locked:
                if not takes_requests:
                    raise RunLockedError(
                        f"run {run_id} is driven by another call or process, and {setup.settings.name} declares no signals by which it "
                        "could be asked to finish; nothing was stored. Call finish() in one of its methods, or on a handle of the runner "
                        "that drives it",
                        run_id=run_id,
                    ) from locked
            if await _request(setup, persistence, run_id):
                return


async def _found(setup: Setup, run_id: str) -> Stored:
    """Return a run that can finish, or has. Raises `RunCancelledError`, and the `MethodError` of a run that has failed."""
    stored = await load(setup, run_id)
    if stored is None:
        raise refusals.unknown_run(setup.persistence, run_id, None)
    if stored.checkpoint.status == "cancelled":
        raise refusals.cancelled(run_id)
    if stored.checkpoint.status == "failed":
        raise stored_failure(setup.settings.name, stored.checkpoint)
    return stored


async def _request(setup: Setup, inbox: Any, run_id: str) -> bool:
    """Send a run the signal that asks it to finish. Return whether it was sent, or the run has finished."""
    if (await _found(setup, run_id)).checkpoint.status == "finished":
        return True
    try:
        await inbox.send(run_id, NewSignal(FINISH, b"null", FINISH, "", setup.clock()))
        stored_runs_changed()
    except RunEndedError:
        return False  # it has ended just now
    return True


async def _finish(setup: Setup, persistence: FlowPersistence, stored: Stored, claim: Claim) -> None:
    """Store the end of a run that nothing drives. What was interrupted is dropped."""
    c, progress, definition = stored.checkpoint, stored.progress, setup.settings.definition
    if c.status == "finished":
        return
    transition, _ = advance(definition, progress, EndAsked(drops_all=True))
    progress.fold(transition)
    output, key = progress.output, ends(definition, progress).key
    name = name_in(key)
    results = StoredResults(setup.codecs, c.run_id)
    outcome = None if output is None or output[0] != key else Finished(name, results.output(name, output[1]))
    recorder = recorder_of(setup, c.run_id, claim, c, c.pass_number, c.inputs)
    checkpoint = recorder.chain.prepare("finished", "finished", progress, transition, outcome=outcome)
    if offers(persistence, Inbox):
        await recorder.commit(checkpoint, lambda last: persistence.append_last(last, ALL))
    else:
        await recorder.commit(checkpoint)
    claim.is_over = True
