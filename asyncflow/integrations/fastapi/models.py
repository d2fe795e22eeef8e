"""The response models. Parts that depend on one flow are built in `describing`."""

import logging
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from ...errors import StateSchemaError
from ...inspection import Wait
from ...inspection.model import Doing
from ...persistence import Checkpoint, Kind, RunEntry
from ...persistence.status import Status
from ...runner import RunHandle, RunView
from .redaction import Shown

__all__ = [
    "Accepted",
    "Driver",
    "ForkedFrom",
    "HistoryLine",
    "HistoryPage",
    "Links",
    "Pending",
    "Problem",
    "Ready",
    "Run",
    "RunFailure",
    "RunLine",
    "RunPage",
    "Sent",
    "Waiting",
    "time_of",
    "view_of",
]

logger: Final = logging.getLogger("asyncflow")

UNSHOWN: Final = "A time outside of the years 1 to 9999 is null."


def time_of(seconds: float) -> datetime | None:
    """Return the time of a number of seconds since the Unix epoch; None if a datetime cannot express it."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


class Accepted(BaseModel):
    """A run that is stored, and runs in the background."""

    run_id: str
    status: Status


class Sent(BaseModel):
    """A signal that is stored."""

    run_id: str
    signal: str
    is_new: bool = Field(description="Whether the run had not received it before, under the same Idempotency-Key.")


class Problem(BaseModel):
    """Why a request was not served. `run_id` and `status`: of the run that conflicts with the request, if there is one."""

    detail: str
    run_id: str | None = None
    status: Status | None = None


class Ready(BaseModel):
    """The service accepts runs."""

    status: Literal["ready"] = "ready"


class RunFailure(BaseModel):
    """The error that a run failed with."""

    method: str
    type: str
    message: str

    @classmethod
    def of(cls, error: Any, shown: Shown, method: str = "") -> "RunFailure":
        """Return a stored failure, or a failed attempt of a method, as it is shown."""
        message = shown.text(error.message, "error", "message")
        return cls(method=method or error.method, type=error.type, message=message)


class RunLine(BaseModel):
    """A run in a list."""

    run_id: str
    flow: str
    status: Status
    pass_number: int = Field(description="Number of the pass: one for each kickoff, from 1.")
    seq: int = Field(description="Sequence number of the newest checkpoint.")
    created_at: datetime | None = Field(description=f"When the run was stored first. {UNSHOWN}")
    updated_at: datetime | None = Field(description=f"When its newest checkpoint was stored. {UNSHOWN}")

    parent: str | None = Field(None, description="Id of its parent, if it is a child run.")
    due_at: datetime | None = Field(
        None, description="When a waiting run is due; null if it waits for signals only, and for other runs."
    )

    @classmethod
    def of(cls, entry: RunEntry, flow: str, status: Status) -> "RunLine":
        """Return the line of a catalog entry."""
        shown = {name: getattr(entry, name) for name in ("run_id", "pass_number", "seq")}
        return cls(
            **shown,
            flow=flow,
            status=status,
            created_at=time_of(entry.created_at),
            updated_at=time_of(entry.updated_at),
            parent=entry.parent or None,
            due_at=None if entry.wake_at is None else time_of(entry.wake_at),
        )


class RunPage(BaseModel):
    """A page of runs, newest first. `next`: the cursor of the next page."""

    runs: list[RunLine]
    next: str | None = None


class Pending(BaseModel):
    """An invocation that has not completed."""

    invocation: str
    method: str
    doing: Doing = Field(
        description="`held`: not started, because a method has failed; `interrupted`: nothing drives its run."
    )
    attempts_failed: int = Field(description="How many attempts of it have failed.")
    error: RunFailure | None = Field(None, description="The error of the newest of these, as far as it is stored.")


class Waiting(BaseModel):
    """One thing that a run waits for."""

    kind: str = Field(description="`signal`, `timer`, `sleep`, `attempt`, `step`, `child` or `limit`.")
    name: str = Field(
        description="The name of the signal, the timer, the step or the method that is tried again; the id of the child."
    )
    invocation: str | None = Field(None, description="The invocation that waits.")
    due_at: datetime | None = Field(None, description=f"When it is due. {UNSHOWN}")

    @classmethod
    def of(cls, wait: Wait, shown: Shown) -> "Waiting":
        """Return a wait as it is shown."""
        due_at = None if wait.due_at is None else time_of(wait.due_at)
        name = shown.text(wait.name, "waits", "name")
        return cls(kind=wait.kind, name=name, invocation=wait.invocation or None, due_at=due_at)


class Driver(BaseModel):
    """Who drives a run, as far as the storage reports it."""

    process: str = Field(description="Such as `process 4711 on host`; empty if it is unknown.")
    is_here: bool = Field(description="Whether it is the process that answers.")
    is_alive: bool
    seconds_left: float | None = Field(
        None, description="Until its lease expires unless it is renewed; null if it has none."
    )


class Links(BaseModel):
    """The paths of the routes of a run. Those of actions are null where the status of the run does not allow them."""

    run: str
    events: str
    history: str
    children: str = Field(description="The list of its children.")
    parent: str | None = None
    cancel: str | None = None
    resume: str | None = None
    signals: dict[str, str] = Field({}, description="By name: the signals that the run waits for, and that are served.")


class ForkedFrom(BaseModel):
    """The checkpoint of another run that a run is a copy of."""

    run_id: str
    seq: int


class HistoryLine(BaseModel):
    """A checkpoint of a run, and what it changed."""

    seq: int
    pass_number: int
    kind: Kind
    status: Status
    method: str | None = Field(None, description="The invocation that ended, or the signal that was taken.")
    at: datetime | None = Field(description=f"When it was stored. {UNSHOWN}")
    changed: dict[str, Any] = Field({}, description="The fields of the state that changed, with their new values.")
    before: dict[str, Any] = Field(
        {}, description="Their earlier values; a field that did not exist before is not in it."
    )
    removed: list[str] = Field([], description="Those of these fields that do not exist any more.")
    skipped: list[str] = Field([], description="The `or_` listeners that were not started again.")
    error: str | None = Field(None, description="Type and message of the exception of a failure, or a failed attempt.")


class HistoryPage(BaseModel):
    """A page of checkpoints, the oldest first. `next`: the `after` of the next page."""

    entries: list[HistoryLine]
    next: int | None = None


class Run(BaseModel):
    """A run as it is stored."""

    run_id: str
    flow: str
    status: Status = Field(
        description="`running` while a live process owns the run, `waiting` while it is parked, `interrupted` while neither holds."
    )
    pass_number: int = Field(description="Number of the pass: one for each kickoff, from 1.")
    seq: int = Field(description="Sequence number of the newest checkpoint.")
    updated_at: datetime | None = Field(description=f"When its newest checkpoint was stored. {UNSHOWN}")
    waits_for: list[str] = Field([], description="The signals that the run waits for.")
    due_at: datetime | None = Field(
        None,
        description=f"When the next of its timers, sleeps and further attempts is due; null if it waits for no time. {UNSHOWN}",
    )
    state: Any
    result: Any = Field(None, description="The result of a finished run.")
    error: RunFailure | None = Field(None, description="The error of a failed run.")
    pending: list[Pending] = Field([], description="The invocations that have not completed.")
    waits: list[Waiting] = Field([], description="All that the run waits for; what is due first is first.")
    driver: Driver | None = Field(None, description="Who drives the run; null if it has no owner, or an unknown one.")
    parent: str | None = Field(None, description="Id of its parent, if it is a child run.")
    children: list[str] = Field(
        [], description="Ids of its direct children, newest first, 200 at most; `links.children` lists all."
    )
    forked_from: ForkedFrom | None = Field(None, description="Of a copy: the checkpoint that it is a copy of.")
    links: Links
    problem: str | None = Field(
        None,
        description="Set only if state or result no longer fit the flow's types: they are shown as stored then.",
    )

    @classmethod
    def of(
        cls, view: RunView, shown: Shown, flow: str, status: Status, problem: str | None = None, **details: Any
    ) -> "Run":
        """Return the public fields of a run. `flow`: its current name; the run may have been stored under another."""
        same = {name: getattr(view, name) for name in ("run_id", "pass_number", "seq", "state", "result")}
        return cls.model_construct(
            **same,
            flow=flow,
            status=status,
            updated_at=time_of(view.at),
            waits_for=list(view.waits_for),
            due_at=None if view.due_at is None else time_of(view.due_at),
            error=view.error and RunFailure.of(view.error, shown),
            forked_from=view.forked_from and ForkedFrom(run_id=view.forked_from[0], seq=view.forked_from[1]),
            problem=problem,
            **details,
        )  # the values themselves: no copies

    def to_json(self, shown: Shown) -> bytes:
        """Encode it as JSON, whatever its values are."""
        left_out = {"state", "result"} if self.problem else {"state", "result", "problem"}
        rest = self.__pydantic_serializer__.to_json(self, exclude=left_out)
        state, result = shown.json(self.state, "state"), shown.json(self.result, "result")
        return b'%b,"state":%b,"result":%b}' % (rest[:-1], state, result)


def view_of(handle: RunHandle, stored: Checkpoint) -> tuple[RunView, str | None]:
    """Return a view of a checkpoint, and what is wrong with it. Values that no longer fit the flow's types are as they are stored."""
    try:
        return handle.decode(stored), None
    except StateSchemaError as error:
        logger.warning("run shown as stored: %s", error)
        problem = "state and result are shown as they are stored: they no longer fit the types of the flow"
        return handle.decode(stored, as_stored=True), problem
