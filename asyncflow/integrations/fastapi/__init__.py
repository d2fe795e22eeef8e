"""Flows as a web service: FastAPI routes that start, resume, show and cancel runs of a `FlowRunner`.

The runner owns the runs; a request starts or watches a run, and its client may disconnect. A run id is a name and not a
permission: the `authorize` dependency decides which requests are allowed.
"""

try:
    import fastapi.sse  # noqa: F401 - since 0.135
except ImportError as _error:
    raise ImportError(
        "asyncflow.integrations.fastapi needs FastAPI 0.135.1 or newer; install the extra "
        "in a checkout of asyncflow: pip install '.[fastapi]'"
    ) from _error

from .actions import Action, action_of
from .lifespan import lifespan
from .router import flow_router
from .starting import run_id_for

__all__ = ["Action", "action_of", "flow_router", "lifespan", "run_id_for"]
