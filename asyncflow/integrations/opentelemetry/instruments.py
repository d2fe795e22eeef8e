"""The metrics. Their attributes are names of flows and methods, and types of errors: each has few values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, MeterProvider, Observation, UpDownCounter

from ..._version import VERSION

__all__ = ["Instruments"]

METHODS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
COMMITS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The bounds of the buckets of durations, in seconds. The SDK's own are for milliseconds: nearly all would be in the first bucket."""


class Instruments:
    """The instruments of one observer."""

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = metrics.get_meter("asyncflow", VERSION, provider)
        self.waiting: int | None = None
        """How many runs are parked in the storage of a runner here; None until it has counted them."""
        self.methods: Histogram = meter.create_histogram(
            *("asyncflow.method.duration", "s", "How long an attempt of a method takes, its waits included"),
            explicit_bucket_boundaries_advisory=METHODS,
        )
        self.checkpoints: Histogram = meter.create_histogram(
            *("asyncflow.checkpoint.duration", "s", "How long a run waits for the commit of a checkpoint"),
            explicit_bucket_boundaries_advisory=COMMITS,
        )
        self.active: UpDownCounter = meter.create_up_down_counter(
            "asyncflow.runs.active", "{run}", "The runs that this process drives"
        )
        self.takeovers: Counter = meter.create_counter(
            "asyncflow.recovery.takeovers", "{run}", "Interrupted runs that a runner of this process has recovered"
        )
        meter.create_observable_gauge(
            *("asyncflow.runs.waiting", [self._waiting], "{run}"),
            description="The runs that are parked in the storage of this process's runner, up to 10,000",
        )

    def _waiting(self, options: CallbackOptions) -> Iterable[Observation]:
        return () if self.waiting is None else (Observation(self.waiting),)
