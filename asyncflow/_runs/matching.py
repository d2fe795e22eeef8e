"""Check whether a class may load and resume a stored run: it is the run's own flow, and can complete what the run waits for."""

from __future__ import annotations

from .._definition.identity import Identity
from .._runtime.settings import Settings
from .._scheduling.progress import Progress
from .._scheduling.upgrades import obstacles
from ..errors import FlowDefinitionError
from ..persistence.checkpoint import Checkpoint
from .call_errors import mismatch

__all__ = ["check_covers", "check_flow", "check_resumable"]


def check_flow(identity: Identity, c: Checkpoint) -> None:
    """Check that a checkpoint belongs to this flow. Raises `RunFlowMismatchError`."""
    if c.known_by not in identity.known:
        raise mismatch(identity, c)


def check_covers(settings: Settings, c: Checkpoint, progress: Progress) -> None:
    """Check that the class has the methods that a run of asyncflow 0.1 waits for: 0.1 stored only the bare name of the flow.

    Raises `RunFlowMismatchError`.
    """
    if not c.identity and (missing := _missing(settings, progress)):
        raise mismatch(settings.identity, c, missing)


def check_resumable(settings: Settings, c: Checkpoint, progress: Progress) -> None:
    """Check that the class can complete a stored pass.

    Raises `FlowDefinitionError` if it has lost a method that the pass waits for, or if a join of the pass could never run.
    """
    if missing := _missing(settings, progress):
        raise FlowDefinitionError(
            f"run {c.run_id} waits for {', '.join(missing)}, which {settings.name} no longer has; put the method back, under "
            "its old name, until such runs have ended. Nothing was changed",
            problems=missing,
            run_id=c.run_id,
            seq=c.seq,
        )
    if problems := obstacles(settings.definition, progress):
        raise FlowDefinitionError(
            f"run {c.run_id} cannot continue with {settings.name} as the class is now: {'; '.join(problems)}. Nothing was run "
            "and nothing was changed",
            problems=problems,
            run_id=c.run_id,
            seq=c.seq,
        )


def _missing(settings: Settings, progress: Progress) -> list[str]:
    """Return the methods that a pass waits for and the class does not have."""
    results = (key.rpartition(":")[0] for key in progress.results)
    named = {i.method for i in progress.pending.values()}.union(progress.latches, results)
    return sorted(named - settings.definition.methods.keys())
