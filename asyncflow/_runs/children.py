"""`run_child` in a method: run another flow, begun once and durably, and return its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from .._runtime.scope import current_invocation
from .._runtime.step_calls import checked_key
from ..errors import CapabilityMissingError
from ..persistence.children import Children
from ..persistence.protocol import offers
from .child import ChildRun
from .instance import Instance

__all__ = ["run_child"]


S = TypeVar("S")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Resulting(Protocol[S, R_co]):
    """A flow, as its types are needed here."""

    @property
    def state(self) -> S:
        """The state."""
        ...

    @state.setter
    def state(self, value: S) -> None: ...

    @property
    def result(self) -> R_co:
        """The result."""
        ...


async def run_child(
    flow: Callable[[], Resulting[S, R]], inputs: S | Mapping[str, Any] | None = None, /, *, key: str | None = None
) -> R:
    """Run another flow in a method of a flow, as a run of its own, and return its result.

    The child is stored where its parent is, and is begun once: a method that runs again, after a crash, in its next attempt or after a
    resume, continues it, or gets its stored result. While the method waits, the parent counts as waiting, and holds no slot of a runner.
    The child's life is within its parent's: if the parent is cancelled, or finishes before the child, the child is cancelled.

    - `flow`: a flow class, or a function without arguments that returns a flow.
    - `inputs`: as in `kickoff`, without an `id`: that of the child follows from its parent's invocation and `key`.
    - `key`: a name of this child, unique in the method for this flow: 1 to 200 printable characters. Without one, the method's
      children of a flow are known by their order; at most one of them may be in progress.

    Raises `ChildFailedError`, whose cause is the child's `MethodError`; `ChildCancelledError`; `LookupError` outside of a method;
    `TypeError` for another `flow`; `ValueError` for another `key`; `StepMismatchError` if the child was begun with other inputs;
    `StepKeyError` if another child of that flow without a key is in progress; what `kickoff` raises before a run starts;
    `RunFlowMismatchError` if the id is that of a run of another flow; `LimitExceededError` for a child of depth 33, and after 10,000
    stored values of one invocation; `CapabilityMissingError` if the backend stores no children.
    """
    scope = current_invocation.get()
    if scope is None:
        raise LookupError(
            "asyncflow.run_child() is available only inside a method of a flow; elsewhere, use kickoff() or a runner"
        )
    checked_key("run_child", key)
    made = _made(flow)
    parent: Instance = scope.flow._instance  # type: ignore[attr-defined]  # a `Flow`, which this layer does not know
    storage = parent.setup.persistence
    if storage is not None and not offers(storage, Children):
        raise CapabilityMissingError(
            f"run_child() needs a backend that stores children, and {type(storage).__name__} lacks the capability Children; nothing was "
            "started. Store the flow in SQLite, PostgreSQL or memory, or kickoff() the other flow as a run of its own",
            capability="Children",
            run_id=scope.run_id,
            method=scope.method.name,
        )
    result: R = await scope.of_pass.run_child(scope, ChildRun(made, parent, scope, inputs), key)
    return result


def _made(flow: Any) -> Any:
    """Create a flow. Raises `TypeError` for anything but a flow class or a function that returns a flow."""
    made = flow() if callable(flow) else None
    if not isinstance(getattr(made, "_instance", None), Instance):
        what = getattr(flow, "__name__", None) or f"an object of type {type(flow).__name__}"
        raise TypeError(f"run_child() takes a flow class, or a function that returns a flow, and {what} is neither")
    return made
