"""The setup of a flow: everything about it that does not change from run to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .._runtime.recorder import Codecs
from .._runtime.settings import Settings
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import FlowPersistence

__all__ = ["Setup"]


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
