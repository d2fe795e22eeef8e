"""Helpers for the tests of backends: skipping, time limits, concurrent calls, and error messages for the author."""

from __future__ import annotations

import functools
import unittest
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count, product
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import anyio

from ..errors import StaleCheckpoint
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import CheckpointLog, FlowPersistence, Sessions, offers, session
from ._checkpoints import Chain, differences
from .cancelling import MOMENTS, Way, cancelled_at, ways

__all__ = [
    "Moment",
    "Promises",
    "expect",
    "has",
    "in_time",
    "moments",
    "must",
    "needed",
    "refused",
    "session",
    "store",
    "together",
]

P = TypeVar("P")
S = TypeVar("S", bound="Promises")
Params = ParamSpec("Params")

MOST_AWAITS: Final = 200
"""The maximum number of awaits in a call. A call that yields to the event loop more often is polling."""


class Promises:
    """A set of tests to inherit."""

    patience: float = 60
    """Seconds after which a test counts as hanging."""

    def another(self, persistence: FlowPersistence) -> FlowPersistence | None:
        """Return another view of the same storage, as a second process has it, or None. Override it if a second view is possible.

        - `persistence`: the backend that the fixture returned.
        """
        return None


def in_time(
    test: Callable[Concatenate[S, Params], Awaitable[None]],
) -> Callable[Concatenate[S, Params], Coroutine[Any, Any, None]]:
    """Fail the test, instead of hanging, if the backend does not answer."""

    @functools.wraps(test)
    async def timed(self: S, /, *args: Params.args, **kwargs: Params.kwargs) -> None:
        with anyio.move_on_after(self.patience) as scope:
            await test(self, *args, **kwargs)
        assert not scope.cancelled_caught, (
            f"the backend has not answered within {self.patience} seconds: every wait for a lock, a queue or a connection must "
            "end, also after a call that was cancelled"
        )

    return timed


def needed(persistence: object, capability: Callable[..., P]) -> P:
    """Return the backend, typed with a capability that it offers. Skip the test if it does not offer it."""
    if offers(persistence, capability):
        return persistence
    name = getattr(capability, "__name__", capability)
    raise unittest.SkipTest(f"{type(persistence).__name__} does not offer {name}")


def has(persistence: object, capability: Callable[..., object]) -> bool:
    """Whether a backend offers a capability. Unlike `needed`, this does not narrow the backend's type for the caller."""
    return offers(persistence, capability)


async def store(persistence: FlowPersistence, checkpoint: Checkpoint) -> None:
    """Store a checkpoint as the runtime does: by `append` if the backend has it."""
    if offers(persistence, CheckpointLog):
        await persistence.append(checkpoint)
    else:
        await persistence.save(checkpoint)


def expect(found: Checkpoint | None, expected: Checkpoint, why: str) -> None:
    """Check that the loaded checkpoint equals the expected one, in every field."""
    where = f"checkpoint {expected.seq} of run {expected.run_id!r}"
    assert found is not None, f"{why}: `load` must return {where}, and returned None"
    assert isinstance(found, Checkpoint), (
        f"{why}: `load` must return a Checkpoint, and returned a {type(found).__name__}"
    )
    assert found.run_id == expected.run_id, (
        f"{why}: `load` must return {where}, and returned one of run {found.run_id!r}"
    )
    assert found.seq == expected.seq, f"{why}: `load` must return {where}, and returned checkpoint {found.seq}"
    wrong = ", ".join(differences(found, expected))
    assert not wrong, f"{why}: {where} must be loaded as it was stored, and differs in value or type in: {wrong}"


async def refused(persistence: FlowPersistence, wrong: Checkpoint, what: str) -> None:
    """Check that `append` raises `StaleCheckpoint`, and writes nothing."""
    log = needed(persistence, CheckpointLog)
    before = await persistence.load(wrong.run_id)
    try:
        await log.append(wrong)
    except StaleCheckpoint:
        pass
    else:
        raise AssertionError(f"`append` of {what} must raise StaleCheckpoint, and returned")
    after = await persistence.load(wrong.run_id)
    assert after == before, (
        f"`append` of {what} must write nothing when it raises StaleCheckpoint, and the run has changed"
    )


@contextmanager
def must(why: str) -> Iterator[None]:
    """Raise an `AssertionError` that states the requirement, if the backend raises instead of meeting it."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:  # any exception of a backend
        raise AssertionError(f"{why}; and {type(error).__name__} was raised: {error}") from error


async def together(calls: Iterable[Callable[[], Coroutine[Any, Any, object]]]) -> None:
    """Make all calls concurrently. Raises the first error itself, not in an exception group."""
    try:
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(call)
    except ExceptionGroup as errors:
        error = errors.exceptions[0]
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None


# ---- cancelled at every await -------------------------------------------------------------------------------------

_WAYS: Final[dict[Way, str]] = {
    "scope": "by a scope",
    "task": "by Task.cancel",
    "repeatedly": "by Task.cancel repeatedly",
}


@dataclass(slots=True)
class Moment:
    """One await of a call, and one way to cancel the call there."""

    title: str
    """A description of the cancellation, to start a message with."""
    chain: Chain
    """A run used only here."""
    context: Callable[[], AbstractAsyncContextManager[object]]
    """The context around the call and the check after it: a session, or nothing. Closing a session would end operations in progress."""
    _cancelled_at: Callable[[Callable[[], Coroutine[Any, Any, object]]], Awaitable[bool]]
    _must_raise: bool
    """Whether the cancelled call must raise: a task's cancellation is delivered once, a scope's again at the next await."""
    is_last: bool = False
    """Whether the call had no such await, and so ran undisturbed."""

    async def strike(self, call: Callable[[], Coroutine[Any, Any, object]]) -> bool:
        """Make the call, and cancel it at this moment. Return whether the call returned: then its work must be done."""
        has_returned = False

        async def watched() -> None:
            nonlocal has_returned
            await call()
            has_returned = True

        try:
            self.is_last = not await self._cancelled_at(watched)
        except Exception as error:
            error.add_note(f"{self.title}: the call must raise the cancellation, and nothing else")
            raise
        is_swallowed = self._must_raise and has_returned and not self.is_last
        assert not is_swallowed, f"{self.title}: the call must raise the cancellation at its end, but it returned"
        return has_returned


def moments(persistence: FlowPersistence, what: str, *, natively: bool = True) -> Iterator[Moment]:
    """Iterate over every await of a call: each way of cancelling, at once and 2 ms later, without a session and in one."""
    contexts: dict[str, Callable[[], AbstractAsyncContextManager[object]]] = {"": nullcontext}
    if offers(persistence, Sessions):
        contexts[" in a session"] = persistence.session
    used: list[tuple[Way, float]] = [(way, later) for way in ways() for later in MOMENTS if natively or way == "scope"]
    used = [(way, later) for way, later in used if way != "repeatedly" or not later]
    for (where, holding), (way, later) in product(contexts.items(), used):
        for at in count(1):
            when = f"await {at}" if not later else f"2 ms after await {at}"
            title = f"{what}{where}, cancelled {_WAYS[way]} at {when}"
            assert at < MOST_AWAITS, f"{title}: do not poll in a loop"
            struck = partial(cancelled_at, at=at, way=way, later=later)
            moment = Moment(title, Chain(title), holding, struck, way != "scope" and not later)
            yield moment
            if moment.is_last:
                break
