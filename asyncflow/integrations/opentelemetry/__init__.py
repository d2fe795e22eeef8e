"""OpenTelemetry: spans and metrics of runs. Needs the extra `otel`, which is the API; the SDK is the application's choice."""

try:
    import opentelemetry.metrics
    import opentelemetry.trace  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "asyncflow.integrations.opentelemetry needs OpenTelemetry's API 1.32 or newer; install the extra "
        "in a checkout of asyncflow: pip install '.[otel]'"
    ) from _error

from .observer import OpenTelemetryObserver

__all__ = ["OpenTelemetryObserver"]
