"""The runner's port to a run: what it asks of the object that drives the run, and where it takes that object from a flow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from .._runs.setup import Setup
from .._runtime.audience import Audience
from .._runtime.turns import Turn
from ..events import Event
from ..flow import Flow
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import FlowPersistence
from ..state import StateType

__all__ = ["Driver", "driver_of", "instantiate"]


class Driver(Protocol):
    """Drives one run for a runner. What a `Flow` delegates to is one."""

    initial: Any
    """The initial state that the flow was created with; None without one."""

    @property
    def setup(self) -> Setup:
        """The flow's settings, codecs and backend."""
        ...

    @property
    def state_type(self) -> StateType:
        """The type of the flow's state."""
        ...

    def store_in(self, persistence: FlowPersistence) -> None:
        """Store in this backend, whatever the class declares."""
        ...

    def check_same(self, c: Checkpoint, given: dict[str, Any]) -> None:
        """Raise an error unless a stored run belongs to this flow and was started with these inputs, if any are given."""
        ...

    @property
    def run_id(self) -> str:
        """The id that the run has, or will have."""
        ...

    @property
    def flow_name(self) -> str:
        """The name of the run's flow, as shown to people."""
        ...

    @property
    def epoch(self) -> int:
        """The fencing epoch under which this owner drives the run; 0 if there is none."""
        ...

    @property
    def is_served(self) -> bool:
        """Whether a runner drives the run."""
        ...

    def serve(
        self,
        on_started: Callable[[], Awaitable[None]],
        on_checkpoint: Callable[[Checkpoint], object],
        turn: Turn,
        park_after: float,
        audience: Audience,
    ) -> None:
        """Serve a runner: await `on_started` once the run is stored, before its first method; call `on_checkpoint` after each commit.

        `turn`: released while the run only waits. `park_after`: seconds from which on a run that only waits is parked. `audience`: who
        observes the runs of the runner.
        """
        ...

    async def kickoff(self, inputs: Mapping[str, Any] | None, from_run: str | None) -> Any:
        """Start a new run, and return its result; a `Waiting` if it is parked."""
        ...

    async def start(self, run_id: str, inputs: Mapping[str, Any] | None) -> Any:
        """Start a run, resume an interrupted one, or return the outcome of one that has ended. `inputs`: None for a stored run."""
        ...

    async def resume(self, run_id: str) -> Any:
        """Resume an interrupted or failed run, or return the result of a finished one."""
        ...

    async def cancel(self) -> None:
        """End the run permanently and durably."""
        ...

    async def finish(self) -> bool:
        """Ask for the end of the run, in order. Return whether it is running."""
        ...

    def only_waits_for(self, seconds: float) -> bool:
        """Whether the run only waits, for nothing that is due within some seconds."""
        ...

    def reports(self) -> list[Event]:
        """Return the newest report of each invocation that runs."""
        ...

    def wind_down(self) -> None:
        """Stop the run at its next checkpoints."""
        ...

    def stop(self) -> None:
        """Stop the run at once."""
        ...

    def fence(self) -> None:
        """Stop the run at once: another owner has it."""
        ...


def driver_of(flow: Any) -> Driver:
    """Return the driver of a flow's run."""
    driver: Driver = flow._instance
    return driver


def instantiate(make: object) -> Flow[Any]:
    """Create a flow from a flow class, or from a function that returns a flow. Raises `TypeError` for anything else."""
    made = make() if callable(make) and make is not Flow else None
    if not isinstance(made, Flow):
        what = type(make).__name__ if made is None else getattr(make, "__name__", type(make).__name__)
        what = "Flow itself" if make is Flow else what
        advice = f"; write {what}, not {what}(...)" if isinstance(make, Flow) else ""
        raise TypeError(
            f"a runner takes a flow class, or a function that returns a flow, and {what} is neither{advice}"
        )
    return made
