"""Mistakes in opening and closing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel

from asyncflow.persistence import Checkpoint

from .right import Opened, caught_by


@caught_by("sessions_are_nested_and_used_again")
class ForgetsWhenClosed(Opened):
    def left(self) -> None:
        if not self.users:
            self._rows.clear()


@caught_by("sessions_are_nested_and_used_again")
class ClosesWithTheFirstThatLeaves(Opened):
    def left(self) -> None:
        self.is_closed = self.users > 0

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return None if getattr(self, "is_closed", False) else await super().load(run_id, seq)


@caught_by("sessions_are_opened_and_closed_by_many_at_once")
class OpensTwiceAtOnce(Opened):
    is_open = False

    async def opened(self) -> None:
        if not self.is_open:
            await anyio.lowlevel.checkpoint()
            for _ in range(len(self._rows) % 3):
                await anyio.lowlevel.checkpoint()
            self._rows = {}
            self.is_open = True


@caught_by("a_session_passes_errors_on_and_closes")
class WrapsWhatIsRaisedInASession(Opened):
    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        async with super().session(), anyio.create_task_group():
            yield


@caught_by("a_session_cancelled_at_any_await_can_be_opened_again")
class StaysHalfOpen(Opened):
    def __init__(self) -> None:
        super().__init__()
        self.opening = anyio.Semaphore(1)

    async def opened(self) -> None:
        await self.opening.acquire()
        await anyio.lowlevel.checkpoint()
        self.opening.release()


@caught_by("a_cancelled_flow_resumes_and_runs_each_method_once")
class RollsBackWhatACancelledSessionStored(Opened):
    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        before = {run_id: list(rows) for run_id, rows in self._rows.items()}
        try:
            async with super().session():
                yield
        except anyio.get_cancelled_exc_class():
            self._rows = before
            raise
