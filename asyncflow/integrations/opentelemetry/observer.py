"""`OpenTelemetryObserver`: turns what happens in runs into spans and metrics. It never records a value of a state, an input or a result."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from ...events import (
    Event,
    MethodFailed,
    MethodFinished,
    MethodRetrying,
    MethodSkipped,
    MethodStarted,
    MethodWaiting,
    RunBegins,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
    RunWaiting,
    StepFinished,
    StepRetrying,
)
from .instruments import Instruments
from .spans import MethodSpan, RunSpan, Tracing

__all__ = ["OpenTelemetryObserver"]

_NOTHING: Final = nullcontext()

_ENDINGS: Final[dict[type[Event], str]] = {
    RunFinished: "finished",
    RunFailed: "failed",
    RunCancelled: "cancelled",
    RunWaiting: "waiting",
    RunInterrupted: "interrupted",
}
"""The events with which the span of a run ends, and the status that it shows then."""


class OpenTelemetryObserver:
    """Emits spans and metrics by OpenTelemetry: an item of `observers=` of a flow or a `FlowRunner`.

    - `tracer_provider`: makes the spans; the global one, unless given, which may be set later than this is created.
    - `meter_provider`: makes the metrics; the global one, unless given.
    - `exception_messages`: whether spans of failed methods get the messages of exceptions, too. They are what the code of the flow has
      raised, and may hold values of a state; so by default, spans get the type and the lines of the traceback alone.

    Spans: `flow {Flow}` for each pass that is driven in this process, and below it `method {Flow}.{method}` for each attempt. Within a
    method, its span is the current one. The span of a flow is a child of the caller's span. A resumed run begins a new trace, which is
    linked to the one before, and to the caller's. For that, the `traceparent` of the pass is stored in the snapshots of the run, as one
    more field of 70 bytes, which is not written without this observer: ids that were derived from the run's id would need no storage, but
    the ids of a span are chosen by the SDK. The span of a child run is below that of the method that runs it.

    Metrics: `asyncflow.method.duration`, `asyncflow.checkpoint.duration` (both in seconds), `asyncflow.runs.active`,
    `asyncflow.runs.waiting`, `asyncflow.recovery.takeovers`. See the guide's page on OpenTelemetry.
    """

    ignores: frozenset[type[Event]] = frozenset((MethodFinished, MethodSkipped))
    """The events that it does not need: see `Observer`."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        exception_messages: bool = False,
    ) -> None:
        self._tracing = Tracing(tracer_provider, has_messages=exception_messages)
        self._instruments = Instruments(meter_provider)
        self._runs: dict[str, RunSpan] = {}
        """The runs that are driven in this process, by their ids."""

    # ---- an observer of runs ---------------------------------------------------------------------------------------

    def on_begin(self, begins: RunBegins, /) -> str:
        """Start the span of a pass. Return its `traceparent`; "" if nothing is recorded.

        - `begins`: the run.
        """
        self._end(begins.run_id, "interrupted")  # another run with this id, which is not stored
        is_within = begins.parent_id in self._runs
        run = self._runs[begins.run_id] = self._tracing.begin(begins, is_within=is_within)
        self._instruments.active.add(1, run.measured)
        return run.traceparent

    def on_leave(self, run_id: str, /) -> None:
        """End the span of a run that nothing has ended.

        - `run_id`: the id of the run.
        """
        self._end(run_id, "interrupted")

    def _end(self, run_id: str, status: str) -> None:
        run = self._runs.pop(run_id, None)
        if run is not None:
            self._instruments.active.add(-1, run.measured)
            run.end(status)

    def on_event(self, event: Event, /) -> None:
        """End the span of a run, or note what happens in a method.

        - `event`: the event.
        """
        kind = type(event)
        status = _ENDINGS.get(kind)
        if status is not None:
            self._end(event.run_id, status)
        elif kind is MethodStarted or event.run_id not in self._runs:
            return
        elif isinstance(event, RunStarted):
            self._next_pass(event)
        else:
            self._note(self._runs[event.run_id], event)

    def _next_pass(self, event: RunStarted) -> None:
        """End the span of a pass that `continue_as` has ended, and begin that of the next one: a run may have any number of passes."""
        run = self._runs[event.run_id]
        if run.pass_number != event.pass_number:
            run.end("finished")
            self._runs[event.run_id] = self._tracing.next_pass(run, event.pass_number)

    def _note(self, run: RunSpan, event: Event) -> None:
        match event:
            case MethodFailed():
                run.failed_with = event.type
            case MethodWaiting():
                run.note(event.invocation, "waiting", {"asyncflow.waits_for": event.waits_for})
            case StepFinished() | StepRetrying():  # of its name, only the function: the key is a value of the flow
                name = "step finished" if isinstance(event, StepFinished) else "step retrying"
                run.note(event.invocation, name, {"asyncflow.step": event.step.partition(" ")[0]})
            case MethodRetrying():
                run.span.add_event("attempt failed", _about_attempt(event))
            case _:
                pass

    def around_method(self, started: MethodStarted, /) -> AbstractContextManager[object]:
        """Return what makes the span of an attempt the current one while it runs.

        - `started`: the event of its start.
        """
        run = self._runs.get(started.run_id)
        if run is None:
            return _NOTHING
        return MethodSpan(run, started, self._instruments.methods)

    # ---- an observer that measures ---------------------------------------------------------------------------------

    def on_commit(self, run_id: str, flow: str, seconds: float, /) -> None:
        """Record how long a run waited for a commit.

        - `run_id`: the id of the run.
        - `flow`: the name of its flow.
        - `seconds`: how long.
        """
        self._instruments.checkpoints.record(seconds, {"asyncflow.flow": flow})

    def on_recovery(self, run_id: str, flow: str, /) -> None:
        """Count a run that a runner recovers.

        - `run_id`: the id of the run.
        - `flow`: the name of its flow.
        """
        self._instruments.takeovers.add(1, {"asyncflow.flow": flow})

    def on_waiting(self, count: int, /) -> None:
        """Keep the number of parked runs for the next reading of the metrics.

        - `count`: how many.
        """
        self._instruments.waiting = count


def _about_attempt(event: MethodRetrying) -> dict[str, Any]:
    name = event.invocation.partition(":")[0]
    return {"asyncflow.method": name, "asyncflow.attempt": event.attempt, "error.type": event.type}
