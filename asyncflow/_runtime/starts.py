"""Start a method's body, but never once another owner may have taken the run over.

A process that was held up for as long as its lease (a blocked event loop, SIGSTOP, a suspended machine) is replaced, and does not
notice. So the lease is checked right before each body, which costs two readings of a clock. If it may have expired since it was
last renewed, the database is asked first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .._waiting import calls_user_code
from ..errors import RunFencedError, StaleCheckpoint
from .recorder import Recorder
from .scope import Scope
from .threads import ThreadTimeoutError, in_thread, thread_has_ended
from .timeouts import timeout_error, within

__all__ = ["call_plain", "confirm_ownership"]

T = TypeVar("T")


class _NotProvenError(Exception):
    """Raised if a body did not start, because the lease may have expired by the time a thread was free for it."""


async def confirm_ownership(recorder: Recorder, *, always: bool = False) -> None:
    """Ask the database whether the run still belongs to its owner, until that is known for the present moment. `always`: at least once.

    Raises `RunFencedError`, and what the backend raises. Then nothing may start, and `recorder.refusal` holds the error.
    """
    assert recorder.fence is not None, "called only if the run has a fence"
    try:
        while always or not recorder.fence.holds(recorder.stretch):  # it may be held up again before the answer arrives
            always = False
            recorder.stretch = await recorder.fence.confirm(recorder.chain.run_id, recorder.chain.epoch)
    except StaleCheckpoint as stale:
        recorder.refusal = RunFencedError(
            f"run {recorder.chain.run_id} was fenced: another owner has taken it over, because this process was held up for longer "
            "than its lease. Nothing was started here after that, and nothing more is stored here. The other owner resumes the run",
            run_id=recorder.chain.run_id,
        )
        raise recorder.refusal from stale
    except Exception as error:  # a backend may raise anything
        recorder.refusal = error
        raise


@calls_user_code
async def call_plain(recorder: Recorder | None, scope: Scope, call: Callable[[], Any]) -> Any:
    """Call a plain method in a worker thread, and await what it returns if that is a coroutine.

    Raises `MethodTimeoutError` if it takes longer than its timeout, and drops its draft: the thread may run on.
    """
    timeout, key = scope.method.timeout, scope.invocation_id
    if timeout is not None:
        await thread_has_ended(key)  # of an earlier attempt
    try:
        result = await start_in_thread(recorder, call, timeout, key)
    except ThreadTimeoutError as late:
        scope.close()
        raise timeout_error(scope, is_running=late.is_running) from None
    if inspect.iscoroutine(result):  # a plain wrapper around an async function
        body = start_coroutine(recorder, result)
        return await (body if timeout is None else within(timeout, body, scope))
    return result


async def start_in_thread(
    recorder: Recorder | None, call: Callable[[], T], limit: float | None = None, what: str = ""
) -> T:
    """Call a plain method in a worker thread. The call may wait for a free thread, so the lease is checked in the thread itself.

    `limit`, `what`: as for `in_thread`.
    """
    if recorder is None or recorder.fence is None:
        return await in_thread(call, limit, what)
    fence = recorder.fence

    def checked() -> T:
        if not fence.holds(recorder.stretch):
            raise _NotProvenError
        return call()

    while True:
        await confirm_ownership(recorder)
        try:
            return await in_thread(checked, limit, what)
        except _NotProvenError:
            continue


async def start_coroutine(recorder: Recorder | None, body: Coroutine[Any, Any, T]) -> T:
    """Check the lease and await the coroutine that a plain wrapper around an async function made: its body has not started yet."""
    try:
        if recorder is not None and recorder.fence is not None:
            await confirm_ownership(recorder)
    except BaseException:
        body.close()
        raise
    return await body
