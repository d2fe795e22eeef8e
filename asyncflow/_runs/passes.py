"""Prepare the passes of a run: a new one, the rest of an interrupted one, and what a fork or an edit stores."""

from __future__ import annotations

from typing import Any, Final

import anyio.lowlevel

from .._runtime.audience import Audience
from .._runtime.chain import Chain
from .._runtime.engine import Engine
from .._runtime.large_states import first_version
from .._runtime.parking import only_waits
from .._runtime.recorder import Recorder
from .._runtime.signals import Source
from .._runtime.state_version import Version
from .._runtime.unstored import UNSTORED
from .._scheduling.advance import begun
from .._scheduling.messages import Command, Resumed, Started
from .._scheduling.progress import Progress
from ..errors import RunFencedError, RunLockedError
from ..events import RunBegins
from ..persistence.checkpoint import Checkpoint
from ..persistence.children import Children
from ..persistence.inbox import Inbox
from ..persistence.outcome import Cancelled, Failed
from ..persistence.protocol import CheckpointLog, offers
from ..persistence.status import Kind, Status
from .loading import Stored
from .matching import check_resumable
from .ownership import Claim
from .sending import inbox_of
from .setup import Setup

__all__ = [
    "begin",
    "commit_end",
    "commit_resumed",
    "commit_start",
    "next_pass",
    "recorder_of",
    "resume_pass",
    "status_after",
    "write_snapshot",
]


async def begin(
    setup: Setup,
    flow: object,
    run_id: str,
    held: list[Any],
    *,
    claim: Claim | None = None,
    after: Checkpoint | None = None,
    pass_number: int = 1,
    inputs: bytes | None = None,
    parent: tuple[str, int] | None = None,
    origin: tuple[str, int] | None = None,
    trace: str = "",
) -> tuple[Engine, tuple[Command, ...], Checkpoint | None]:
    """Prepare a new pass from the start. Return its engine, its first commands, and the checkpoint to commit before them (D2).

    `held` is a list whose only item is the state, so that the encoder can check that nothing else refers to it. If another object
    holds a part of the state, it is copied. `trace`: see `Progress`.

    Raises `StateNotStorableError`, `LimitExceededError`.
    """
    is_stored = setup.persistence is not None and claim is not None
    data, first = await first_version(held, setup.codecs, run_id, is_stored=is_stored)
    recorder = (
        recorder_of(setup, run_id, claim, after, pass_number, inputs) if is_stored and claim is not None else None
    )
    settings, inbox, progress = setup.settings, _inbox_of(setup), Progress(parent=parent, origin=origin, trace=trace)
    if setup.audience is not None:
        progress.trace = _reported(setup.audience, setup, run_id, pass_number, progress, is_resumed=False)
    engine = Engine(
        *(flow, settings, setup.codecs, run_id, pass_number, recorder, progress, first, data, setup.clock, inbox),
        *(setup.turn, setup.park_after if setup.parks else None),
    )
    if setup.audience is not None:
        engine.hear(setup.audience)
    limit = setup.settings.run_timeout
    deadline = setup.until if limit is None else setup.clock() + limit
    started = Started(min(deadline, setup.until) if setup.until else deadline)
    commands, checkpoint, _ = engine.journal.happened(started, state=data, is_snapshot=True)
    return engine, commands, checkpoint


async def next_pass(setup: Setup, flow: object, ended: Engine) -> tuple[Engine, tuple[Command, ...]]:
    """Return the engine and the first commands of the pass that follows a `continue_as`. Its first checkpoint is stored."""
    assert ended.journal.following is not None, "called only if the pass continues"
    progress, commands = ended.journal.following
    first = ended.versions.newest
    size = b"" if ended.recorder is None else ended.recorder.chain.state
    engine = Engine(
        *(flow, setup.settings, setup.codecs, ended.run_id, ended.pass_number + 1, ended.recorder, progress, first),
        *(size, setup.clock, _inbox_of(setup), setup.turn, setup.park_after if setup.parks else None),
    )
    if setup.audience is not None:
        engine.hear(setup.audience)
    await anyio.lowlevel.checkpoint()  # without persistence, nothing else may wait in a pass
    return engine, commands


def status_after(engine: Engine) -> Status:
    """Return the status of a run whose engine has ended, as far as this process knows it."""
    if engine.is_finished:
        return "finished"
    if engine.parked is not None:
        return "waiting"
    if engine.is_cancelled:
        return "cancelled" if engine.recorder is None else "interrupted"
    has_failed = bool(engine.journal.failures) and engine.stopped is None
    is_failed = has_failed or (engine.is_timed_out and engine.recorder is None)
    return "failed" if is_failed else "interrupted"


async def commit_start(engine: Engine, checkpoint: Checkpoint | None, parent: str = "") -> None:
    """Commit a pass's first checkpoint. Raises `RunLockedError` if another owner has just stored a run with this id.

    `parent`: the id of the parent of a child that is stored for the first time. Raises `ParentEndedError` if that run is over.
    """
    if checkpoint is None or engine.recorder is None:
        return
    try:
        children: object = engine.recorder.persistence
        if parent and offers(children, Children):
            await engine.recorder.commit(checkpoint, lambda first: children.append_child(first, parent))
        else:
            await engine.recorder.commit(checkpoint)
    except RunFencedError as fenced:
        raise RunLockedError(
            f"run {engine.run_id} was started by another owner at the same moment; nothing was run here",
            run_id=engine.run_id,
        ) from fenced


async def commit_resumed(engine: Engine, checkpoint: Checkpoint | None) -> None:
    """Commit the first checkpoint of a resumed pass. Raises `RunFencedError` if another owner has taken the run over."""
    if checkpoint is not None and engine.recorder is not None:
        await engine.recorder.commit(checkpoint)


async def commit_end(setup: Setup, stored: Stored, claim: Claim, end: Cancelled | Failed) -> None:
    """Commit a cancellation, or that the time limit passed, after a stored checkpoint."""
    c = stored.checkpoint
    recorder = recorder_of(setup, c.run_id, claim, c, c.pass_number, c.inputs)
    await recorder.commit(recorder.chain.ended(stored.progress, end))


RESUMES: Final = 100
"""Resumes in a row without progress after which the next one is stored as a snapshot: loading reads them all."""


def resume_pass(
    setup: Setup, flow: object, stored: Stored, claim: Claim, deadline: float | None
) -> tuple[Engine, tuple[Command, ...], Checkpoint | None]:
    """Return the engine of an interrupted or failed pass, its first commands, and the checkpoint to commit before them.

    `deadline`: see `Resumed`.
    The checkpoint clears what has failed or was held back. It is None if nothing is left to run, or the run only waits: such a run can
    be resumed any number of times, and its log does not grow.

    Raises `FlowDefinitionError` if the class has lost a method that the run waits for, or has changed so that one of the run's
    joins could never run.
    """
    c = stored.checkpoint
    check_resumable(setup.settings, c, stored.progress)
    if setup.audience is not None:
        stored.progress.trace = _reported(
            setup.audience, setup, c.run_id, c.pass_number, stored.progress, is_resumed=True
        )
    recorder = recorder_of(setup, c.run_id, claim, c, c.pass_number, c.inputs)
    first = Version(0, stored.state)
    settings, codecs, inbox = setup.settings, setup.codecs, _inbox_of(setup, stored.progress)
    engine = Engine(
        *(
            flow,
            settings,
            codecs,
            c.run_id,
            c.pass_number,
            recorder,
            stored.progress,
            first,
            c.state,
            setup.clock,
            inbox,
        ),
        *(setup.turn, setup.park_after if setup.parks else None),
    )
    if setup.audience is not None:
        engine.hear(setup.audience)
    is_recorded = (stored.progress.is_open or inbox is not None) and not _is_as_parked(setup, stored.progress, deadline)
    commands, checkpoint, _ = engine.journal.happened(
        Resumed(deadline), is_recorded=is_recorded, is_snapshot=not _follows_snapshot(c)
    )
    return engine, commands, checkpoint


def _reported(
    audience: Audience, setup: Setup, run_id: str, pass_number: int, progress: Progress, *, is_resumed: bool
) -> str:
    """Report to the observers that a pass begins here. Return what they want to find again with the run."""
    begins = RunBegins(
        run_id=run_id,
        flow=setup.settings.name,
        pass_number=pass_number,
        is_resumed=is_resumed,
        parent_id="" if progress.parent is None else progress.parent[0],
        trace=progress.trace,
    )
    return audience.begin(begins)


def _is_as_parked(setup: Setup, progress: Progress, deadline: float | None) -> bool:
    """Whether a resume changes nothing and starts nothing: the run only waits, as one that was parked."""
    return setup.parks and only_waits(progress) and begun(setup.settings.definition, progress, deadline) is None


def _inbox_of(setup: Setup, progress: Progress | None = None) -> Source | None:
    """Return where the signals of a run come from; None if its flow declares none. Raises `CapabilityMissingError`.

    `progress`: of a run that is resumed. One that waited for signals, which the class has lost, has nothing left to do but to end.
    """
    persistence = setup.persistence
    if setup.settings.definition.signals:
        return UNSTORED if persistence is None else inbox_of(persistence)
    has_nothing_left = progress is not None and not progress.is_open and persistence is not None
    return persistence if has_nothing_left and offers(persistence, Inbox) else None


def _follows_snapshot(c: Checkpoint) -> bool:
    """Whether nothing but resumes was stored since the last snapshot: then another resume needs none.

    Otherwise a resume is stored as a snapshot, so that the deltas of several processes do not add up.
    """
    return c.base == c.seq or (c.kind == "resumed" and c.seq - c.base < RESUMES)


async def write_snapshot(
    setup: Setup, kind: Kind, status: Status, run: Stored, claim: Claim, *, after: Checkpoint | None
) -> None:
    """Store a run as a snapshot: the first checkpoint of a fork, or an edit. Raises `StateNotStorableError`."""
    c = run.checkpoint
    recorder = recorder_of(setup, c.run_id, claim, after, c.pass_number, c.inputs)
    data, _ = setup.codecs.encode_state(run.state, c.run_id)
    outcome = None if isinstance(run.outcome, Cancelled) else run.outcome
    checkpoint = recorder.chain.prepare(kind, status, run.progress, state=data, outcome=outcome, complete=True)
    await recorder.commit(checkpoint)


def recorder_of(
    setup: Setup, run_id: str, claim: Claim, after: Checkpoint | None, pass_number: int, inputs: bytes | None
) -> Recorder:
    """Return a recorder that continues after a checkpoint, or starts a chain."""
    assert setup.persistence is not None, "called only if the runs are stored"
    chain = Chain(
        flow=setup.settings.name if after is None else after.flow,
        identity=setup.settings.identity.stored if after is None else after.identity,
        run_id=run_id,
        epoch=claim.epoch or 1,
        pass_number=pass_number,
        inputs=inputs,
        after=after,
        is_log=offers(setup.persistence, CheckpointLog),
        snapshots=setup.whole,
        clock=setup.clock,
    )
    recorder = Recorder(setup.persistence, chain, observe=setup.observe, fence=claim.fence, stretch=claim.stretch)
    recorder.audience = setup.audience
    return recorder
