"""The events of what a pass does and does not store: they are live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._scheduling.messages import Transition
from ..persistence.status import Kind, Status
from .audience import Audience
from .observe import Noticed, described

__all__ = ["Unstored"]


class Unstored:
    """Emits live events of what a pass does and does not store."""

    __slots__ = ("_audience", "_clock", "_flow", "_pass_number", "_run_id")

    def __init__(
        self, audience: Audience, run_id: str, flow: str, pass_number: int, clock: Callable[[], float]
    ) -> None:
        self._audience = audience
        self._run_id = run_id
        self._flow = flow
        self._pass_number = pass_number
        self._clock = clock

    def emit(self, kind: Kind, status: Status, method: str, transition: Transition | None, **more: Any) -> None:
        """Emit the events of a happening. See `Noticed`."""
        is_end, audience = kind == "method" and status == "running", self._audience
        if audience.hears_ends(self._run_id) if is_end else audience.hears(self._run_id):
            happened = Noticed(kind, status, self._run_id, self._pass_number, method, transition, **more)
            for cls, fields in described(happened):
                self._audience.emit_live(cls, self._run_id, self._flow, self._clock(), **fields)

    def next_pass(self, ended: str) -> Unstored:
        """Emit the start of the next pass, with the end of an invocation. Return what emits the events of that pass."""
        following = Unstored(self._audience, self._run_id, self._flow, self._pass_number + 1, self._clock)
        following.emit("started", "running", ended, None)
        return following
