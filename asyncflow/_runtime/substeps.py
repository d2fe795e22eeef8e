"""The steps within the methods of one pass: call a function once, store its result, and return that when the method runs again.

The memo of a step holds the digest of the arguments, and the encoded result; while attempts of it fail: how many have, when the next
one is due, and in which attempt of the method.
"""

from __future__ import annotations

import inspect
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple, Protocol

import anyio
from pydantic_core import from_json, to_json

from .._codec.errors import Misfit, Refused
from .._definition.retry import next_delay
from .._failure import type_of
from .._scheduling.progress import Progress
from .._values.copying import copied
from .._waiting import calls_user_code, in_cancelled_scope
from ..errors import (
    CheckpointCorruptError,
    MethodTimeoutError,
    ResultNotStorableError,
    StateError,
    StateSchemaError,
    StepKeyError,
    StepMismatchError,
)
from ..persistence.checkpoint import UNREADABLE
from .codecs import not_storable
from .memos import Memos
from .recorder import Recorder
from .results import AS_LOADED
from .scope import Scope, StepScope, current_invocation
from .segments import Segment, handed_over
from .starts import confirm_ownership, start_in_thread
from .state_version import detached_copy
from .step_calls import Call
from .threads import ThreadTimeoutError, on_loop, thread_has_ended
from .timing import sleep_until
from .waits import Waits

__all__ = ["Substeps"]

logger = logging.getLogger("asyncflow")


class OfPass(Protocol):
    """What steps need of the pass that they belong to."""

    @property
    def is_cancelled(self) -> bool: ...
    @property
    def winds_down(self) -> bool: ...


class _Kept(NamedTuple):
    """The memo of a step of a run that is not stored."""

    digest: str
    result: Any


class _Failed(NamedTuple):
    """The failed attempts of a step."""

    attempts: int = 0
    due: float = 0.0
    """When the next one is due, in seconds since the Unix epoch."""
    of_attempt: int = 0
    """The attempt of the method in which they failed; in another one they are counted from the beginning."""
    digest: str = ""


class Substeps:
    """Runs the steps of the methods of one pass."""

    __slots__ = ("_clock", "_cut", "_memos", "_pass", "_progress", "_recorder", "_thread", "_waits")

    def __init__(
        self,
        memos: Memos,
        waits: Waits,
        progress: Progress,
        recorder: Recorder | None,
        clock: Callable[[], float],
        of_pass: OfPass,
        thread: int,
    ) -> None:
        """`thread`: the id of the thread that runs the event loop."""
        self._thread = thread
        self._memos = memos
        self._waits = waits
        self._progress = progress
        self._recorder = recorder
        self._clock = clock
        self._pass = of_pass
        self._cut: dict[Scope, anyio.CancelScope | None] = {}
        """Of each method that awaits something in its thread: what ends that. None: the method was cut."""

    async def run(self, scope: Scope, call: Call) -> Any:
        """Return the result of a step: the stored one, or that of a call, once it is stored. See `stepping.step`."""
        if call.retry is not None and call.retry.attempts is None and not self._progress.deadline:
            raise ValueError(
                f"the step {call.shown} may be tried again without end; give its policy a number of attempts, or the run a run_timeout"
            )
        if scope.step:  # the step around it is stored
            return await self._tried(scope, call, "", _Failed())
        digest = self._digest(scope, call)
        with self._memos.named(scope, call.call, f"step {call.of.name}", call.key) as name:
            is_stored, found = self._found(scope, call, name, digest)
            return found if is_stored else await self._tried(scope, call, name, found)

    def run_sync(self, scope: Scope, call: Call) -> Any:
        """Run a step in the thread of a plain method: its function runs there, unless it has a timeout. See `stepping.step_sync`."""
        if scope.step:
            return call.function(*call.args)
        running = self.run(scope, call)
        try:
            has_ended, result = self._await(scope, Segment(running))
            while not has_ended:
                has_ended, result = self._await(scope, Segment(running, *_called_in(result, call)))
        finally:
            running.close()
        return result

    # ---- what is stored --------------------------------------------------------------------------------------------

    def _digest(self, scope: Scope, call: Call) -> str:
        """Return the digest of the arguments, or '' if they cannot be stored. Raises `StepKeyError` where a key is missing."""
        method, refused = scope.method.name, None
        try:
            digest = call.digest()
        except Refused as error:
            digest, refused = "", error
        if call.key is not None or (call.of.is_named and refused is None):
            return digest
        if refused is None:
            why = "has no name of its own that would be the same the next time"
        else:
            why = f"gets an argument at '{refused.path}' that cannot be compared the next time ({refused.reason})"
        raise StepKeyError(
            f"{method} called {call.call}() with {call.of.name}, which {why}; give the step a key: {call.call}(..., key=...)",
            run_id=scope.run_id,
            method=method,
        )

    def _found(self, scope: Scope, call: Call, name: str, digest: str) -> tuple[bool, Any]:
        """Return whether the result is stored, and the result, or else the failed attempts. Raises `StepMismatchError`."""
        memo: Any = self._memos.of(scope).get(name)
        if memo is None:
            return False, _Failed(of_attempt=scope.attempt, digest=digest)
        failed, data = None, b""
        if isinstance(memo, _Kept):
            before = memo.digest
        elif memo[1:2] == b'"':
            end = memo.index(b'"', 2)
            before, data = memo[2:end].decode(), memo[end + 2 : -1]
        else:
            failed = _Failed(*from_json(memo))
            before = failed.digest
        if before != digest and before and digest:
            raise StepMismatchError(
                f"the step {call.shown} of {scope.method.name} was stored with other arguments than it has now in run {scope.run_id}. A "
                "step needs the same arguments whenever its method runs again: take what changes (the time, randomness, what others have "
                "written) from a step before it, or give the step a key that changes with them. Nothing was called or changed",
                run_id=scope.run_id,
                method=scope.method.name,
            )
        if failed is not None:
            is_same = failed.of_attempt == scope.attempt
            return False, failed if is_same else _Failed(of_attempt=scope.attempt, digest=digest)
        return True, copied(memo.result) if isinstance(memo, _Kept) else self._decoded(scope, call, data)

    def _decoded(self, scope: Scope, call: Call, data: bytes) -> Any:
        what = f"the stored result of the step {call.shown} of {scope.method.name}"
        try:
            return call.of.codec.decode(data)
        except Misfit as misfit:
            raise StateSchemaError(
                f"{what} does not fit the return annotation of {call.of.name} any more: {misfit.detail}. Nothing was changed; let the "
                "annotation accept both, then resume",
                paths=misfit.paths,
                run_id=scope.run_id,
                method=scope.method.name,
            ) from misfit.__cause__
        except UNREADABLE as error:
            raise CheckpointCorruptError(
                f"{what} cannot be read ({type(error).__name__}). Nothing was changed; load an older seq, or restore the storage from a "
                "backup",
                run_id=scope.run_id,
                method=scope.method.name,
            ) from error

    async def _stored(self, scope: Scope, call: Call, name: str, digest: str, result: Any) -> Any:
        """Store a result. Return it as it will load."""
        if not scope.is_open:
            raise StateError(
                f"the step {call.shown} ended after {scope.method.name} had ended; its result was not stored",
                run_id=scope.run_id,
                method=scope.method.name,
            )
        is_last = self._waits.ends_failing(scope)
        if self._recorder is None:
            await self._memos.note(scope, name, _Kept(digest, detached_copy(result)), is_last=is_last)
            return result if type(result) in AS_LOADED else copied(result)
        try:
            data, loaded = call.of.codec.encode(result)
        except Refused as refused:
            if call.of.is_unresolved:
                refused.cure = f"import what the return annotation of {call.of.name} names at the top of its module"
            what = f"what the step {call.shown} of {scope.method.name} returned"
            raise not_storable(ResultNotStorableError, what, refused, scope.run_id, scope.method.name) from None
        await self._memos.note(scope, name, b'["%b",%b]' % (digest.encode(), data), is_last=is_last)
        return loaded if type(loaded) in AS_LOADED else self._decoded(scope, call, data)

    # ---- attempts --------------------------------------------------------------------------------------------------

    async def _tried(self, scope: Scope, call: Call, name: str, failed: _Failed) -> Any:
        """Call the function until an attempt succeeds, and store its result. `name`: '' if it is not stored."""
        whole, waits = scope.whole, self._waits
        while True:
            if failed.attempts:
                await waits.wait(whole, partial(sleep_until, failed.due, self._clock))
            elif name and self._pass.winds_down:
                await waits.wait(whole, anyio.sleep_forever)
            inner = StepScope(whole, name or scope.step)
            try:
                await waits.work(whole)
                try:
                    result = await self._called(inner, call)
                except Exception as error:  # a user's function may raise anything
                    if self._recorder is not None and error is self._recorder.refusal:
                        await self._memos.end_run(error)
                    delay = _delay(whole, call, error, failed.attempts + 1)
                    if delay is None or not whole.is_open:
                        raise
                    failed = failed._replace(attempts=failed.attempts + 1, due=self._clock() + delay)
                    _log_attempt(whole, call, error, failed.attempts, delay)
                else:
                    return await self._stored(whole, call, name, failed.digest, result) if name else result
            finally:
                inner.end()
                waits.rest(whole)
            if name:
                await waits.note(whole, name, to_json(list(failed)), is_stored=False)

    @calls_user_code
    async def _called(self, inner: StepScope, call: Call) -> Any:
        """Call the function. Raises `MethodTimeoutError` after its timeout."""
        recorder, in_this_task = self._recorder, call.of.is_async
        is_handed_over = call.call == "step_sync" and call.timeout is None
        fence = None if recorder is None else recorder.fence
        if recorder is not None and fence is not None and not fence.holds(recorder.stretch):
            await confirm_ownership(recorder)
        if is_handed_over:
            return await handed_over(inner)
        token = current_invocation.set(inner)
        try:
            result = call.function(*call.args) if in_this_task else await self._in_thread(inner, call)
            if not inspect.iscoroutine(result):
                return await result if in_this_task else result
            return await (result if call.timeout is None else _within(inner, call, result))
        finally:
            current_invocation.reset(token)

    async def _in_thread(self, inner: StepScope, call: Call) -> Any:
        what = f"{inner.invocation_id} {inner.step}"
        if call.timeout is not None:
            await thread_has_ended(what)
        try:
            return await start_in_thread(self._recorder, partial(call.function, *call.args), call.timeout, what)
        except ThreadTimeoutError as late:
            inner.shut()
            raise _timeout_error(inner, call, is_running=late.is_running) from None

    # ---- in the thread of a plain method -----------------------------------------------------------------------------

    def cut(self, scope: Scope) -> None:
        """End what a method awaits in its thread now, and will await, because its task was cancelled."""
        awaited = self._cut.get(scope)
        self._cut[scope] = None
        if awaited is not None:
            awaited.cancel()

    def cut_all(self) -> None:
        """End what methods await in their threads, because the run ends."""
        for awaited in self._cut.values():
            if awaited is not None:
                awaited.cancel()

    def _await(self, scope: Scope, work: Awaitable[tuple[bool, Any]]) -> tuple[bool, Any]:
        """Await something on the event loop, in the thread of a plain method. A cancellation of the method is raised in the thread, too."""

        async def awaited() -> tuple[Any, BaseException | None]:
            is_cut, cancel = scope in self._cut or self._pass.is_cancelled or in_cancelled_scope(), anyio.CancelScope()
            try:
                with cancel:
                    if is_cut:
                        cancel.cancel()
                    else:
                        self._cut[scope] = cancel
                    return await work, None
                return None, anyio.get_cancelled_exc_class()()
            except BaseException as error:  # it is raised in the thread, as what it is
                return None, error
            finally:
                if self._cut.get(scope) is cancel:
                    del self._cut[scope]

        try:
            if threading.get_ident() == self._thread:
                raise RuntimeError
            result, error = on_loop(awaited)
        except RuntimeError:
            raise StateError(
                f"asyncflow.step_sync() was called in code that does not run in the thread of {scope.method.name}; in an async method, "
                "await asyncflow.step()",
                run_id=scope.run_id,
                method=scope.method.name,
            ) from None
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]


@calls_user_code
async def _within(inner: StepScope, call: Call, body: Coroutine[Any, Any, Any]) -> Any:
    assert call.timeout is not None, "called only if it has a timeout"
    with anyio.CancelScope(deadline=anyio.current_time() + call.timeout):
        return await body
    raise _timeout_error(inner, call)


@calls_user_code
def _called_in(inner: StepScope, call: Call) -> tuple[Any, BaseException | None]:
    """Call the function of a step in this thread. Return what it returned, or what it raised."""
    token = current_invocation.set(inner)
    try:
        return call.function(*call.args), None
    except BaseException as error:  # it is raised in the coroutine of the step
        return None, error
    finally:
        current_invocation.reset(token)


def _log_attempt(scope: Scope, call: Call, error: Exception, number: int, pause: float) -> None:
    """Log an attempt that is followed by another one. Neither its key nor its message: both may hold values."""
    logger.warning(
        "attempt failed: attempt %d of the step %s of %s raised %s; the next one starts in %.1f s",
        *(number, call.of.name, scope.invocation_id, type_of(error), pause),
        extra={**scope.logged, "attempt": number},
    )


def _delay(scope: Scope, call: Call, error: Exception, failed: int) -> float | None:
    """Return the seconds until the next attempt, or None if there is none."""
    try:
        return next_delay(call.retry, error, failed, random.random())
    except Exception:  # a user's `on` may raise anything
        about = call.of.name, scope.invocation_id
        logger.exception(
            "retry policy failed: `on` of the step %s of %s raised; it is not tried again", *about, extra=scope.logged
        )
        return None


def _timeout_error(inner: StepScope, call: Call, *, is_running: bool = False) -> MethodTimeoutError:
    """Return the error of an attempt that took too long. `is_running`: its thread still runs."""
    what = "its thread still runs" if is_running else "it was cancelled"
    return MethodTimeoutError(
        f"the step {call.shown} of {inner.method.name} took longer than its timeout of {call.timeout:g} s; {what}",
        run_id=inner.run_id,
        method=inner.method.name,
    )
