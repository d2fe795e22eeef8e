"""SERVE: owns runs in the background. It starts, limits, drains and recovers them."""

from .runner import (
    FlowRunner,
    JsonInputs,
    JsonInputsError,
    KnownFlow,
    MakeFlow,
    RunFailure,
    RunHandle,
    RunView,
)

__all__ = ["FlowRunner", "JsonInputs", "JsonInputsError", "KnownFlow", "MakeFlow", "RunFailure", "RunHandle", "RunView"]
