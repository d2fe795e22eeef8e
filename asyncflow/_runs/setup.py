"""The setup of a flow: everything about it that does not change from run to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .._definition.declared import Persisted
from .._keywords import Unset
from .._runtime.codecs import Codecs
from .._runtime.observe import log_events
from .._runtime.settings import Settings
from .._runtime.timing import now
from ..persistence.checkpoint import Checkpoint
from ..persistence.default import default_persistence
from ..persistence.protocol import FlowPersistence

__all__ = ["Setup", "setup_of"]


@dataclass(frozen=True, slots=True)
class Setup:
    """A flow's settings with its codecs and its backend: all that is constant from run to run."""

    settings: Settings
    codecs: Codecs
    persistence: FlowPersistence | None
    whole: bool
    """Whether every checkpoint is a snapshot: true if only some methods have a checkpoint."""
    observe: Callable[[Checkpoint], object] | None = None
    is_declared: bool = False
    """Whether the flow declares its own persistence instead of using the default one."""
    clock: Callable[[], float] = now
    """Returns the time of checkpoints, deadlines and attempts, in seconds since the Unix epoch."""


def setup_of(
    settings: Settings,
    codecs: Codecs,
    persisted: Persisted,
    given: FlowPersistence | Unset | None,
    durability: Literal["full", "process"],
) -> Setup:
    """Return the setup of a flow that stores its runs in `given`; where it is unset, `@persist` decides."""
    if isinstance(given, Unset):
        is_declared = persisted.backend is not None
        default = None if is_declared or not persisted.is_marked else default_persistence(durability)
        persistence = persisted.backend if is_declared else default
    else:
        is_declared, persistence = given is not None, given
    observe = log_events if persisted.is_verbose else None
    return Setup(settings, codecs, persistence, persisted.only is not None, observe, is_declared)
