"""What OpenTelemetry costs: `python -m benchmarks.tracing [--steps 4000] [--rounds 7]`.

Runs a cycle of two methods without an observer, with an `OpenTelemetryObserver` and no SDK, and with the SDK and an exporter that drops
everything; not stored, and in memory. Prints microseconds of CPU for each step, and what the observer adds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import anyio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from asyncflow import Flow, MemoryFlowPersistence, listen, router, start
from asyncflow.integrations.opentelemetry import OpenTelemetryObserver

from .__main__ import machine


class Turns(Flow[dict[str, int]]):
    """Two methods in a cycle."""

    max_method_calls = None
    turns = 0

    @start("again")
    async def count(self) -> None:
        self.state["n"] = self.state.get("n", 0) + 1

    @router(count, emit=["again", "done"])
    async def decide(self) -> str:
        return "again" if self.state["n"] < self.turns else "done"

    @listen("done")
    async def end(self) -> None:
        return None


class Drops(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def with_sdk() -> list[Any]:
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Drops()))
    return [OpenTelemetryObserver(tracers, MeterProvider([InMemoryMetricReader()]))]


OBSERVERS: dict[str, Callable[[], list[Any]]] = {
    "no observer": list,
    "no SDK": lambda: [OpenTelemetryObserver()],
    "the SDK": with_sdk,
}


async def cost(observers: list[Any], steps: int, *, is_stored: bool) -> float:
    """Return the microseconds of CPU for each step."""
    Turns.turns = steps // 2
    flow = Turns(persistence=MemoryFlowPersistence() if is_stored else None, observers=observers)
    began = time.process_time()
    await flow.kickoff()
    return (time.process_time() - began) / steps * 1e6


async def measure(steps: int, rounds: int) -> None:
    for is_stored in (False, True):
        found: dict[str, list[float]] = {name: [] for name in OBSERVERS}
        for n in range(rounds + 1):
            for name, observers in OBSERVERS.items():
                each = await cost(observers(), steps, is_stored=is_stored)
                if n:  # the first round warms up
                    found[name].append(each)
        base = found["no observer"]
        print("in memory" if is_stored else "not stored")
        for name, costs in found.items():
            added = median(each - other for each, other in zip(costs, base, strict=True))
            print(f"  {name}: {median(costs):.1f} us of CPU a step, {added:.1f} us more")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.tracing", description=__doc__)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(machine())
    anyio.run(measure, options.steps, options.rounds)


if __name__ == "__main__":
    main()
