"""The response models. Parts that depend on one flow are built in `describing`."""

import logging
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from ...errors import StateSchemaError
from ...persistence import Checkpoint, RunEntry
from ...persistence.status import Status
from ...runner import RunHandle, RunView
from .as_json import json_of

__all__ = ["Accepted", "Problem", "Ready", "Run", "RunLine", "RunPage", "Sent", "time_of"]

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
        )


class RunPage(BaseModel):
    """A page of runs, newest first. `next`: the cursor of the next page."""

    runs: list[RunLine]
    next: str | None = None


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
    problem: str | None = Field(
        None,
        description="Set only if state or result no longer fit the flow's types: they are shown as stored then.",
    )

    @classmethod
    def shown(cls, handle: RunHandle, stored: Checkpoint, flow: str, status: Status) -> "Run":
        """Return a run as of a checkpoint. Values that no longer fit the flow's types are shown as they are stored."""
        try:
            return cls.of(handle.decode(stored), flow, status)
        except StateSchemaError as error:
            logger.warning("run shown as stored: %s", error)
            return cls.of(
                handle.decode(stored, as_stored=True),
                flow,
                status,
                "state and result are shown as they are stored: they no longer fit the types of the flow",
            )

    @classmethod
    def of(cls, view: RunView, flow: str, status: Status, problem: str | None = None) -> "Run":
        """Return the public fields of a run. `flow`: its current name; the run may have been stored under another."""
        shown = {name: getattr(view, name) for name in ("run_id", "pass_number", "seq", "state", "result")}
        error = view.error and RunFailure(method=view.error.method, type=view.error.type, message=view.error.message)
        return cls.model_construct(
            **shown,
            flow=flow,
            status=status,
            updated_at=time_of(view.at),
            waits_for=list(view.waits_for),
            due_at=None if view.due_at is None else time_of(view.due_at),
            error=error,
            problem=problem,
        )  # the values themselves: no copies

    def to_json(self) -> bytes:
        """Encode it as JSON, whatever its values are."""
        left_out = {"state", "result"} if self.problem else {"state", "result", "problem"}
        shown = self.__pydantic_serializer__.to_json(self, exclude=left_out)
        return b'%b,"state":%b,"result":%b}' % (shown[:-1], json_of(self.state), json_of(self.result))
