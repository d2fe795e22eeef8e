"""asyncflow: durable, async-first flows.

The house, in the order in which data flows (`DESIGN.md` has the plan and the reasons):

    _definition    DECLARE    code becomes data; nothing runs
    _scheduling    DECIDE     what has happened in, what to do next out; pure
    _codec         ENCODE     values as bytes and back, exactly or not at all
    persistence    REMEMBER   one small protocol, many backends
    _runtime       DRIVE      one pass of one run
    _runs          OPERATE    what each call means for a run
    runner         SERVE      runs in the background
"""

from . import errors, events, merge, persistence
from ._definition.decorators import listen, persist, router, start
from ._definition.triggers import and_, or_
from ._runs.history import HistoryEntry
from ._sync import run
from ._version import VERSION as __version__  # noqa: N811 - the name that tools look for
from .errors import AsyncflowError, MethodError
from .flow import Flow
from .persistence import FlowPersistence, MemoryFlowPersistence, SQLiteFlowPersistence
from .runner import FlowRunner, RunHandle
from .state import FlowState

__all__ = [
    "AsyncflowError",
    "Flow",
    "FlowPersistence",
    "FlowRunner",
    "FlowState",
    "HistoryEntry",
    "MemoryFlowPersistence",
    "MethodError",
    "RunHandle",
    "SQLiteFlowPersistence",
    "__version__",
    "and_",
    "errors",
    "events",
    "listen",
    "merge",
    "or_",
    "persist",
    "persistence",
    "router",
    "run",
    "start",
]
