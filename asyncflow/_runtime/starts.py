"""Starting a method's body: never once the run may have been taken over by another owner.

A process that was held up for as long as its lease (a blocked event loop, SIGSTOP, a suspended machine) is replaced, and does not
notice. So the lease is looked at right before each body, which costs two readings of a clock; where it may have run out since it was
last renewed, the database is asked first.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..errors import RunFencedError, StaleCheckpoint
from .recorder import Recorder
from .threads import in_thread

__all__ = ["begun", "proven", "started_in_thread"]

T = TypeVar("T")


class _NotProvenError(Exception):
    """A body did not begin: by the time that a thread was free for it the lease may have run out."""


async def proven(recorder: Recorder) -> None:
    """Ask the database whether the run is still its owner's, until that is known of this very moment.

    Raises `RunFencedError`, and what the backend raises; nothing may start then, and `recorder.refusal` says so.
    """
    assert recorder.fence is not None, "asked where a fence may be down"
    try:
        while not recorder.fence.holds(recorder.stretch):  # the process may be held up again while it is answered
            recorder.stretch = await recorder.fence.confirm(recorder.run_id, recorder.epoch)
    except StaleCheckpoint as stale:
        recorder.refusal = RunFencedError(
            f"run {recorder.run_id} has been taken over by another owner, because this process was held up for longer than its lease. "
            "Nothing was started here after that, and nothing is stored here any more; the other owner resumes the run",
            run_id=recorder.run_id,
        )
        raise recorder.refusal from stale
    except Exception as error:  # whatever a backend raises
        recorder.refusal = error
        raise


async def started_in_thread(recorder: Recorder | None, call: Callable[[], T]) -> T:
    """Call a plain method in a worker thread. It may wait for a free one, so the lease is looked at in the thread itself."""
    if recorder is None or recorder.fence is None:
        return await in_thread(call)
    fence = recorder.fence

    def checked() -> T:
        if not fence.holds(recorder.stretch):
            raise _NotProvenError
        return call()

    while True:
        await proven(recorder)
        try:
            return await in_thread(checked)
        except _NotProvenError:
            continue


async def begun(recorder: Recorder | None, body: Coroutine[Any, Any, T]) -> T:
    """Await what a plain wrapper around an async function has made: its body has not begun yet."""
    try:
        if recorder is not None and recorder.fence is not None:
            await proven(recorder)
    except BaseException:
        body.close()
        raise
    return await body
