"""The options that a flow class declares: identity, methods, state type, error policy, limits, methods with a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from .._definition.definition import FlowDefinition, MethodDefinition
from .._definition.identity import Identity
from ..state import StateType

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The options that a flow class declares: identity, methods, state type, error policy, limits, methods with a checkpoint."""

    identity: Identity
    """Identifies the flow's stored runs."""
    definition: FlowDefinition
    state_type: StateType
    on_error: Literal["finish", "cancel"] = "finish"
    max_method_calls: int | None = 10_000
    run_timeout: float | None = None
    """The seconds that a pass may take, waits included; None for no limit."""
    checkpoints: Callable[[MethodDefinition], bool] = lambda method: True
    """Whether the end of this method is a checkpoint."""
    checkpoints_all: bool = field(init=False)
    """Whether the end of every method is a checkpoint."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoints_all", all(map(self.checkpoints, self.definition.methods.values())))

    @property
    def name(self) -> str:
        """The flow's name, as shown to people."""
        return self.identity.name
