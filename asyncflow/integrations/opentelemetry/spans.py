"""The spans: of a pass of a run, and of an attempt of a method."""

from __future__ import annotations

import os
import traceback
from time import perf_counter
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Link, Span, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..._version import VERSION
from ...errors import RunTimeoutError
from ...events import MethodStarted, RunBegins

__all__ = ["MethodSpan", "RunSpan", "Tracing"]

OPT_IN: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
GEN_AI: Final = "gen_ai_latest_experimental"
"""The value of `OPT_IN` with which spans of flows get attributes of GenAI workflows, whose names are not stable yet."""

_W3C: Final = TraceContextTextMapPropagator()


class RunSpan:
    """The span of a pass that is driven here."""

    __slots__ = (
        "_tracing",
        "failed_with",
        "flow",
        "is_traced",
        "measured",
        "methods",
        "pass_number",
        "run_id",
        "span",
        "traceparent",
    )

    def __init__(self, tracing: Tracing, run_id: str, flow: str, pass_number: int, span: Span) -> None:
        self._tracing = tracing
        self.run_id: str = run_id
        self.flow: str = flow
        self.pass_number: int = pass_number
        self.span: Span = span
        self.is_traced: bool = span.get_span_context().is_valid
        """Whether anything traces. Without the SDK, nothing does, unless the caller's trace comes from elsewhere."""
        self.traceparent: str = _traceparent(span)
        self.measured: dict[str, str] = {"asyncflow.flow": flow}
        """The attributes of measurements."""
        self.methods: dict[str, Span] = {}
        """The spans of the attempts that run now, by invocation."""
        self.failed_with: str = ""
        """The type of the exception with which a method failed."""

    def end(self, status: str) -> None:
        """End the span. `status`: of the run, as it leaves this process."""
        self.span.set_attribute("asyncflow.run.status", status)
        if status == "failed":
            name = self.failed_with or _name_of(
                RunTimeoutError
            )  # only a time limit fails a run none of whose methods has failed
            self.span.set_attribute("error.type", name)
            self.span.set_status(Status(StatusCode.ERROR, name))
        self.span.end()

    def note(self, invocation: str, what: str, attributes: dict[str, Any]) -> None:
        """Add an event to the span of a method that runs."""
        span = self.methods.get(invocation)
        if span is not None:
            span.add_event(what, attributes)

    def start_method(self, started: MethodStarted, method: str) -> tuple[Span, Context]:
        """Start the span of an attempt, below this one. Return it, and the context of the method."""
        attributes: dict[str, Any] = {
            "asyncflow.run.id": self.run_id,
            "asyncflow.flow": self.flow,
            "asyncflow.method": method,
            "asyncflow.invocation": started.invocation,
            "asyncflow.attempt": started.attempt,
        }
        if started.triggers:
            attributes["asyncflow.trigger"] = started.triggers
        current = contexts.get_current()
        below = trace.set_span_in_context(self.span, current)
        span = self._tracing.tracer.start_span(f"method {self.flow}.{method}", below, attributes=attributes)
        self.methods[started.invocation] = span
        return span, trace.set_span_in_context(span, current)

    def raised(self, span: Span, error: BaseException, name: str) -> None:
        """Note on the span of an attempt what it raised."""
        if self._tracing.has_messages:
            span.record_exception(error)
        else:
            lines = "".join(traceback.format_tb(error.__traceback__))
            span.add_event("exception", {"exception.type": name, "exception.stacktrace": lines})
        span.set_attribute("error.type", name)
        span.set_status(Status(StatusCode.ERROR, name))


class Tracing:
    """Starts the spans of passes."""

    def __init__(self, provider: TracerProvider | None, *, has_messages: bool) -> None:
        self.tracer: trace.Tracer = trace.get_tracer("asyncflow", VERSION, provider)
        self.has_messages = has_messages
        self._is_gen_ai = GEN_AI in [name.strip() for name in os.environ.get(OPT_IN, "").split(",")]

    def begin(self, begins: RunBegins, *, is_within: bool) -> RunSpan:
        """Start the span of a pass that begins. `is_within`: a method of a run that is traced here runs it as a child."""
        is_new_trace = begins.is_resumed and not is_within
        caller = trace.get_current_span().get_span_context()
        links = [_span_in(begins.trace), caller if is_new_trace else None]
        return self._start(
            *(begins.run_id, begins.flow, begins.pass_number),
            context=Context() if is_new_trace else None,
            links=[Link(known) for known in links if known is not None and known.is_valid],
            is_resumed=begins.is_resumed,
            parent_id=begins.parent_id,
        )

    def next_pass(self, before: RunSpan, number: int) -> RunSpan:
        """Start the span of the next pass of a run, in a trace of its own, which is linked to the one before."""
        link = before.span.get_span_context()
        links = [Link(link)] if link.is_valid else []
        return self._start(before.run_id, before.flow, number, context=Context(), links=links)

    def _start(
        self,
        run_id: str,
        flow: str,
        number: int,
        *,
        context: Context | None,
        links: list[Link],
        is_resumed: bool = False,
        parent_id: str = "",
    ) -> RunSpan:
        attributes: dict[str, Any] = {"asyncflow.run.id": run_id, "asyncflow.flow": flow, "asyncflow.pass": number}
        if is_resumed:
            attributes["asyncflow.run.resumed"] = True
        if parent_id:
            attributes["asyncflow.run.parent_id"] = parent_id
        if self._is_gen_ai:
            names = {
                "gen_ai.workflow.name": flow,
                "gen_ai.agent.name": flow,
            }  # the GenAI conventions 0.1 replace the first by the second
            attributes |= {"gen_ai.operation.name": "invoke_workflow", **names}
        span = self.tracer.start_span(f"flow {flow}", context, attributes=attributes, links=links)
        return RunSpan(self, run_id, flow, number, span)


class MethodSpan:
    """The span of an attempt, entered around the body of the method, in its context."""

    __slots__ = ("_before", "_began", "_context", "_durations", "_method", "_run", "_span", "_started")

    def __init__(self, run: RunSpan, started: MethodStarted, durations: Histogram) -> None:
        self._run = run
        self._started = started
        self._durations = durations
        self._method = started.invocation.partition(":")[0]

    def __enter__(self) -> None:
        self._span: Span | None = None
        if self._run.is_traced:
            self._before = contexts.get_current()
            self._span, self._context = self._run.start_method(self._started, self._method)
            contexts.attach(self._context)
        self._began = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        taken, run = perf_counter() - self._began, self._run
        if error is None or isinstance(error, Exception):  # else it has not ended, but was interrupted
            measured = {**run.measured, "asyncflow.method": self._method}
            if error is not None:
                measured["error.type"] = _name_of(type(error))
            self._durations.record(taken, measured)
        if self._span is not None:
            self._end(self._span, error)

    def _end(self, span: Span, error: BaseException | None) -> None:
        if (
            contexts.get_current() is self._context
        ):  # the engine continues in a fresh context where a method has set variables
            contexts.attach(self._before)
        self._run.methods.pop(self._started.invocation, None)
        if isinstance(error, Exception):
            self._run.raised(span, error, _name_of(type(error)))
        elif error is not None:
            span.set_attribute("asyncflow.interrupted", True)  # by parking, a cancellation, the end of the process
        span.end()


def _name_of(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _traceparent(span: Span) -> str:
    """Return the `traceparent` of a span; "" for one that is not recorded."""
    carrier: dict[str, str] = {}
    if span.is_recording():
        _W3C.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier.get("traceparent", "")


def _span_in(traceparent: str) -> trace.SpanContext | None:
    """Return the span that a `traceparent` names; None for none."""
    if not traceparent:
        return None
    found = _W3C.extract({"traceparent": traceparent}, Context())
    return trace.get_current_span(found).get_span_context()
