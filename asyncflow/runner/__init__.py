"""SERVE: owns runs in the background. It starts, limits, drains and recovers them."""

from .._runs.sending import JsonPayload
from .runner import (
    FlowInfo,
    FlowRunner,
    JsonInputs,
    JsonInputsError,
    MakeFlow,
    RunFailure,
    RunHandle,
    RunView,
)

__all__ = [
    "FlowInfo",
    "FlowRunner",
    "JsonInputs",
    "JsonInputsError",
    "JsonPayload",
    "MakeFlow",
    "RunFailure",
    "RunHandle",
    "RunView",
]
