"""The child runs of a pass, in `run_child`: their outcomes are memos of the method that waits for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio

from ..errors import CheckpointWithdrawnError, RunFencedError, StorageError
from ..events import ChildStarted
from .memos import Memos
from .scope import Scope
from .waits import Waits

__all__ = ["Child", "Children"]


class Child(Protocol):
    """A child run, as its parent's method drives it."""

    @property
    def known_id(self) -> str:
        """Its run id, once `known_as` was called."""
        ...

    @property
    def flow_name(self) -> str:
        """The name of its flow, as shown to people."""
        ...

    @property
    def kind(self) -> str:
        """What the name of its memo begins with."""
        ...

    def known_as(self, name: str, memo: Any, *, is_of_this_call: bool) -> bool:
        """Take the name of its memo, and the memo if there is one. Return whether that says that the run has ended permanently.

        `is_of_this_call`: whether this execution of the method has stored the memo.
        """
        ...

    async def drive(self, is_found: Callable[[], Awaitable[None]]) -> None:
        """Drive it to its end, or wait for that. Whatever ends the parent's pass instead is a cancellation here.

        `is_found`: awaited if the run is stored already.
        """
        ...

    @property
    def memo(self) -> Any:
        """What is to be stored of its end; None if it was refused."""
        ...

    @property
    def has_failed(self) -> bool:
        """Whether it has failed, so that it may be resumed."""
        ...

    def result_of(self, memo: Any) -> Any:
        """Return the result. Raises what refused it, `ChildFailedError` and `ChildCancelledError`."""
        ...

    def stop_parent(self, error: BaseException) -> None:
        """End the parent's pass with an error."""
        ...

    def stop_soon(self) -> bool:
        """Stop it at its next checkpoints. Return whether methods of it run."""
        ...

    def only_waits_for(self, seconds: float) -> bool:
        """Whether it only waits, for nothing that is due within some seconds."""
        ...


class Children:
    """The children that the methods of one pass wait for."""

    __slots__ = ("_driven", "_emit", "_end_if_all_wait", "_memos", "_noted", "_waits", "_winding")

    def __init__(
        self, memos: Memos, waits: Waits, end_if_all_wait: Callable[[], object], emit: Callable[..., None]
    ) -> None:
        """`emit`: see `Pass.emit`."""
        self._emit = emit
        self._memos = memos
        self._waits = waits
        self._end_if_all_wait = end_if_all_wait
        self._driven: dict[int, Child] = {}
        self._winding: set[int] = set()
        """The ids of those that were asked to stop at their next checkpoints, and have not."""
        self._noted: dict[tuple[str, str], Scope] = {}
        """Of each failure that was stored here, by invocation and name: the execution of the method that got it."""

    async def run(self, scope: Scope, child: Child, key: str | None) -> Any:
        """See `run_child`."""
        with self._memos.named(scope, "run_child", child.kind, key) as name:
            scope = scope.whole
            memo = self._memos.of(scope).get(name)
            if child.known_as(name, memo, is_of_this_call=self._noted.get((scope.key, name)) is scope):
                await self._obey(child, self._memos.show_progress)
            else:
                known = memo
                self._emit(scope, ChildStarted, child_id=child.known_id, child=child.flow_name)
                await self._waits.wait(scope, lambda: self._drive(child))
                memo = child.memo
                if memo is not None and memo != known:
                    await self._obey(child, lambda: self._memos.note(scope, name, memo))
                    if child.has_failed:
                        self._noted[scope.key, name] = scope
        return child.result_of(memo)

    async def _drive(self, child: Child) -> None:
        self._driven[id(child)] = child
        try:
            await child.drive(self._memos.show_progress)
        finally:
            del self._driven[id(child)]
            if id(child) in self._winding:
                self._winding.discard(id(child))
                self._end_if_all_wait()

    async def _obey(self, child: Child, store: Callable[[], Awaitable[None]]) -> None:
        """Store something. What ends the run is no error of the call: the method is cancelled with its pass."""
        try:
            await store()
        except CheckpointWithdrawnError:
            raise
        except (StorageError, RunFencedError) as error:
            child.stop_parent(error)
            await anyio.sleep_forever()

    @property
    def are_working(self) -> bool:
        """Whether children that were asked to stop at their next checkpoints have not reached them."""
        return bool(self._winding)

    def wind_down(self) -> None:
        """Stop all of them at their next checkpoints."""
        for key, child in list(self._driven.items()):
            if key not in self._winding and child.stop_soon():
                self._winding.add(key)

    def only_wait_for(self, seconds: float) -> bool:
        """Whether all of them only wait, for nothing that is due within some seconds."""
        return all(child.only_waits_for(seconds) for child in self._driven.values())
