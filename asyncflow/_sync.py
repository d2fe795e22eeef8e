"""`run`: runs a flow from synchronous code."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Literal, TypeVar, overload

import anyio

from ._keywords import not_taken
from ._runs.instance import Stop, Until
from ._runs.parked import Stopped, Waiting
from ._runtime.tracebacks import run_shortened
from .errors import RunningLoopError
from .flow import Flow

__all__ = ["run"]


S = TypeVar("S")
R = TypeVar("R")


@overload
def run(
    flow: Flow[S, R], inputs: S | Mapping[str, Any] | None = None, *, once: bool = False, until: Literal["end"] = "end"
) -> R: ...
@overload
def run(
    flow: Flow[S, R], inputs: S | Mapping[str, Any] | None = None, *, once: bool = False, until: Until
) -> R | Waiting: ...
@overload
def run(
    flow: Flow[S, R], inputs: S | Mapping[str, Any] | None = None, *, once: bool = False, until: Stop
) -> R | Waiting | Stopped: ...
def run(
    flow: Flow[S, R], inputs: S | Mapping[str, Any] | None = None, *, once: bool = False, until: Until | Stop = "end"
) -> R | Waiting | Stopped:
    """Run a flow from synchronous code, on asyncio, and return its output.

    - `flow`: an instance of a flow class.
    - `inputs`: as in `kickoff`.
    - `once`: as in `kickoff`.
    - `until`: as in `kickoff`.

    Raises what `kickoff` raises, and `RunningLoopError` inside a running event loop: await `flow.kickoff()` there.
    """
    if not isinstance(flow, Flow):
        if isinstance(flow, Coroutine):
            flow.close()
        what = "an instance of a flow, and its inputs: asyncflow.run(MyFlow(), inputs); `flow.kickoff()` is only for `await`"
        raise not_taken("asyncflow.run", (), (), places=1, takes=f"asyncflow.run takes {what}")
    try:
        anyio.get_current_task()
    except (RuntimeError, LookupError):
        pass  # run outside of this handler: otherwise its exception would be the context of any exception that a method raises
    else:
        raise RunningLoopError(
            "asyncflow.run() was called inside a running event loop; write `await flow.kickoff(...)` there"
        )
    return run_shortened(partial(flow.kickoff, inputs, once=once, until=until))
