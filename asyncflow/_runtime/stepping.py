"""`step` in a method: the result of a call is stored, so that a method that runs again gets it without the call."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple, overload

from .._definition.retry import Retry
from .._durations import Seconds
from .scope import Scope, current_invocation
from .step_calls import call_of

__all__ = ["step", "step_sync"]

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


@overload
async def step(
    fn: Callable[[*Ts], Coroutine[Any, Any, R]],
    /,
    *args: *Ts,
    key: str | None = None,
    retry: Retry | None = None,
    timeout: Seconds | None = None,  # noqa: ASYNC109
) -> R: ...
@overload
async def step(
    fn: Callable[[*Ts], R],
    /,
    *args: *Ts,
    key: str | None = None,
    retry: Retry | None = None,
    timeout: Seconds | None = None,  # noqa: ASYNC109
) -> R: ...
async def step(
    fn: Callable[[*Ts], Any],
    /,
    *args: *Ts,
    key: str | None = None,
    retry: Retry | None = None,
    timeout: Seconds | None = None,  # noqa: ASYNC109
) -> Any:
    """Call a function in a method of a flow, and store its result in a checkpoint of its own.

    A method that runs again, after a crash or in its next attempt, gets the stored result, and the function is not called. What the
    function changes in the state belongs to the method, and is stored when the method ends; return it instead.

    - `fn`: an async function, or a plain one, which runs in a worker thread. Its return annotation says how the result is stored.
    - `args`: its arguments. For keywords, pass a `functools.partial` and a key. They have to be the same when the method runs again.
    - `key`: a name of this step, 1 to 200 characters, unique in the method for this function. Without one, the calls of a function are
      known by their order; at most one of them may be in progress. Lambdas, partials, and arguments that cannot be stored need one.
    - `retry`: when a failed call is followed by another one; the method is not run again meanwhile. A failed attempt, and when the next
      one is due, are stored, too. After the last one, its error is raised here.
    - `timeout`: how long an attempt may take, in seconds or as a timedelta. An async function is cancelled then. A plain one runs on in
      its thread, and its next attempt begins when it has ended.

    Within the function of a step, `step` only calls its function. Whatever ends the run reaches the method as a cancellation.

    Raises what the function raises, `LookupError` outside of a method, `StepKeyError` where a key is missing, `StepMismatchError` if the
    step was stored with other arguments, `ResultNotStorableError`, `LimitExceededError` after 10,000 stored values of one invocation,
    `MethodTimeoutError`, and `TypeError` and `ValueError` for arguments of other kinds.
    """
    scope, call = _scope("step"), call_of("step", fn, args, key, retry, timeout)
    return await scope.of_pass.substep(scope, call)


def step_sync(
    fn: Callable[[*Ts], R],
    /,
    *args: *Ts,
    key: str | None = None,
    retry: Retry | None = None,
    timeout: Seconds | None = None,
) -> R:
    """Call a plain function in a plain method of a flow, in its thread, and store its result, as `step` does in an async method.

    - `fn`: a plain function. With a `timeout`, it runs in a thread of its own.
    - `args`: its arguments, as for `step`.
    - `key`: a name of this step, as for `step`.
    - `retry`: when a failed call is followed by another one, as for `step`.
    - `timeout`: how long an attempt may take, as for `step`.

    Raises the same as `step`, and `StateError` in code that does not run in the thread of a plain method, or whose method has ended.
    """
    scope, call = _scope("step_sync"), call_of("step_sync", fn, args, key, retry, timeout)
    if call.of.is_async:
        raise TypeError(
            f"step_sync() cannot await {call.of.name}, an async function; make the method async, and use step()"
        )
    result: Any = scope.of_pass.substep_sync(scope, call)
    return result  # type: ignore[no-any-return]  # decoded by the function's annotation


def _scope(call: str) -> Scope:
    scope = current_invocation.get()
    if scope is None:
        raise LookupError(
            f"asyncflow.{call}() is available only inside a method of a flow; elsewhere, call the function"
        )
    return scope
