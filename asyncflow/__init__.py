"""asyncflow: durable, async-first flows.

The folders, in the order in which data passes through them (`DESIGN.md` describes them and gives the reasons):

    _definition    DECLARE    turns a flow class into data; runs nothing
    _scheduling    DECIDE     decides what runs next; pure
    _codec         ENCODE     turns values into bytes and back, exactly or not at all
    persistence    REMEMBER   defines the small protocol of backends; SQLite, PostgreSQL and memory
    _runtime       DRIVE      executes one pass of one run
    _runs          OPERATE    maps each call of a flow to an action on its run
    runner         SERVE      owns runs in the background
"""

from . import errors, events, merge, persistence
from ._definition.decorators import listen, persist, router, start
from ._definition.mapping import each
from ._definition.retry import Retry, RetryAfter
from ._definition.signals import Signal
from ._definition.triggers import after, and_, or_
from ._runs.children import run_child
from ._runs.history import HistoryEntry
from ._runs.parked import Stopped, Waiting
from ._runtime.ending import continue_as, finish
from ._runtime.readers import EventStream
from ._runtime.receiving import wait_for
from ._runtime.reporting import report, stream
from ._runtime.scope import InvocationInfo, this_invocation
from ._runtime.sleeping import sleep
from ._runtime.stepping import step, step_sync
from ._sync import run
from ._version import VERSION as __version__  # noqa: N811 - the name that tools look for
from .errors import AsyncflowError, MethodError
from .flow import Flow
from .persistence import FlowPersistence, MemoryFlowPersistence, SQLiteFlowPersistence
from .runner import FlowRunner, RunHandle
from .state import FlowState

__all__ = [
    "AsyncflowError",
    "EventStream",
    "Flow",
    "FlowPersistence",
    "FlowRunner",
    "FlowState",
    "HistoryEntry",
    "InvocationInfo",
    "MemoryFlowPersistence",
    "MethodError",
    "Retry",
    "RetryAfter",
    "RunHandle",
    "SQLiteFlowPersistence",
    "Signal",
    "Stopped",
    "Waiting",
    "__version__",
    "after",
    "and_",
    "continue_as",
    "each",
    "errors",
    "events",
    "finish",
    "listen",
    "merge",
    "or_",
    "persist",
    "persistence",
    "report",
    "router",
    "run",
    "run_child",
    "sleep",
    "start",
    "step",
    "step_sync",
    "stream",
    "this_invocation",
    "wait_for",
]
