"""The way over OTLP/HTTP, and that nothing of OpenTelemetry is imported unless it is asked for."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from asyncflow import Flow, listen, start
from asyncflow.integrations.opentelemetry import OpenTelemetryObserver


class Report(Flow):
    @start()
    async def fetch(self) -> int:
        return 1

    @listen(fetch)
    async def publish(self) -> str:
        return "done"


@pytest.mark.may_block("the collector is in this process, and the exporter waits for it")
async def test_spans_and_metrics_reach_a_collector_over_http() -> None:
    received: dict[str, bytes] = {}

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        where = f"http://127.0.0.1:{server.server_port}/v1"
        tracers = TracerProvider()
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{where}/traces")))
        meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(f"{where}/metrics"))])
        await Report(observers=[OpenTelemetryObserver(tracers, meters)]).kickoff()
        tracers.shutdown()
        meters.shutdown()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

    traces = ExportTraceServiceRequest.FromString(received["/v1/traces"])
    spans = [span for each in traces.resource_spans for scope in each.scope_spans for span in scope.spans]
    assert {span.name for span in spans} == {"flow Report", "method Report.fetch", "method Report.publish"}
    metrics = ExportMetricsServiceRequest.FromString(received["/v1/metrics"])
    names = {each.name for one in metrics.resource_metrics for scope in one.scope_metrics for each in scope.metrics}
    assert {"asyncflow.method.duration", "asyncflow.runs.active"} <= names


def test_nothing_of_opentelemetry_is_imported_unless_it_is_asked_for() -> None:
    script = "import asyncflow, asyncflow.integrations, sys; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_the_observer_needs_no_sdk() -> None:
    script = (
        "import sys, anyio; sys.modules['opentelemetry.sdk'] = None\n"
        "from asyncflow import Flow, start\n"
        "from asyncflow.integrations.opentelemetry import OpenTelemetryObserver\n"
        "class One(Flow):\n"
        "    @start()\n"
        "    async def one(self): return 1\n"
        "observer = OpenTelemetryObserver()\n"
        "print(anyio.run(One(observers=[observer]).kickoff), observer._runs)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "1 {}"
