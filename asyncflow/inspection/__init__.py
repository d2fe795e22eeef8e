"""SEE: reads stored runs of any flow, for people: without its class, without owning a run, and without changing anything.

Values are plain JSON trees. `redact`, where a call takes it, is called for every value that is shown, with its path, such as
`("state", "user", "password")`, and returns what is shown in its place; what it returns for a dict or a list is not looked into.
"""

from .detail import run_detail
from .following import follow
from .histories import diff, run_history, state_at
from .listing import RunPage, find_run, list_runs
from .model import (
    Change,
    Driver,
    InboxSignal,
    MethodActivity,
    PendingInvocation,
    RunDetail,
    RunError,
    Span,
    Wait,
)
from .timelines import timeline
from .values import Redact

__all__ = [
    "Change",
    "Driver",
    "InboxSignal",
    "MethodActivity",
    "PendingInvocation",
    "Redact",
    "RunDetail",
    "RunError",
    "RunPage",
    "Span",
    "Wait",
    "diff",
    "find_run",
    "follow",
    "list_runs",
    "run_detail",
    "run_history",
    "state_at",
    "timeline",
]
