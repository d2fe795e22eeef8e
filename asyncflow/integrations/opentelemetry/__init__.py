"""OpenTelemetry: spans and metrics of runs. Needs the extra `otel`, which is the API; the SDK is the application's choice."""

from .observer import OpenTelemetryObserver

__all__ = ["OpenTelemetryObserver"]
