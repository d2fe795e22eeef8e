"""An invocation's scope: which flow it belongs to, and its draft of the state. Found through a context variable.

Threads that a method starts itself do not have the context of their method (before Python 3.14, and by default after it). Where
one method of the flow runs, theirs is the scope of that. So it is with what such a thread hands to asyncio's loop, which runs it
in no task; hence asyncio is named here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from .._definition.definition import MethodDefinition
from .._scheduling.messages import Invocation
from ..errors import DraftClosedError, StateError
from .versions import Version

__all__ = ["Scope", "current_scope", "entered", "scope_of_thread"]


class Scope:
    """One invocation, made at its launch: its base is the version of that moment; its draft is made at the first look."""

    __slots__ = (
        *("_drafts", "_prefix", "base", "flow", "invocation", "is_alone", "is_open", "key", "method", "parent"),
    )

    def __init__(
        self,
        flow: object,
        method: MethodDefinition,
        invocation: Invocation,
        prefix: str,
        base: Version,
        *,
        is_alone: bool = False,
    ) -> None:
        """`is_alone`: no other invocation runs, or will be started, before this one has ended."""
        self.flow = flow
        self.method = method
        self.invocation = invocation
        self.key = invocation.key
        self._prefix = prefix
        self.base = base
        self.is_open = True
        self.is_alone = is_alone and method.is_async
        self.parent = entered.get()
        self._drafts: list[Any] = []
        """The first one is the draft. Several threads of the method may look first at the same time, and appending is one step."""

    @property
    def invocation_id(self) -> str:
        """The invocation's name, stable over retries and resumes: run, pass, method, occurrence."""
        return self._prefix + self.key

    def draft(self) -> Any:
        """The invocation's own state. Raises `DraftClosedError` once the invocation has ended."""
        drafts = self._drafts  # read once: it may end meanwhile
        if not drafts:
            if self.is_open:
                drafts.append(self.base.draft(is_alone=self.is_alone))
            if not self.is_open:
                self._check_open()
        return drafts[0]

    def replace(self, state: Any) -> None:
        """Put another state in the place of the draft."""
        self._check_open()
        self._drafts = [state]

    def close(self) -> Any:
        """End the scope, and return the draft, or None if nobody looked at the state."""
        self.is_open = False  # first: a thread that makes a draft at this moment looks afterwards
        drafts, self._drafts = self._drafts, []
        return drafts[0] if drafts else None

    def _check_open(self) -> None:
        if not self.is_open:
            raise DraftClosedError(
                f"self.state was used by code that outlived {self.method.name}: that invocation's state is committed or "
                "dropped. Await such work within the method, or hand it what it needs",
                method=self.method.name,
            )


entered: ContextVar[Scope | None] = ContextVar("asyncflow_scope", default=None)


def current_scope(flow: object) -> Scope | None:
    """The innermost scope of this flow around the caller; flows inside flows find their own."""
    scope = entered.get()
    while scope is not None and scope.flow is not flow:
        scope = scope.parent
    return scope


def _is_callback() -> bool:
    """Whether asyncio's loop runs this in no task, as what a thread hands to it with `call_soon_threadsafe`."""
    try:
        return asyncio.current_task() is None
    except RuntimeError:  # no loop of asyncio's
        return False


def scope_of_thread(running: Mapping[str, Scope], loop_thread: int) -> Scope | None:
    """The scope of a thread that has none of its own: that of the one method that runs. None for code outside the methods.

    `running`: the invocations of one run whose methods are under way; `loop_thread`: that of the event loop which drives them.
    Outside are tasks of the event loop, the main thread, and the methods of other flows. Raises `StateError` where several
    methods run, as nothing tells which one the thread belongs to, and `DraftClosedError` where none does.
    """
    here = threading.get_ident()
    is_outside = not _is_callback() if here == loop_thread else here == threading.main_thread().ident
    if is_outside or entered.get() is not None:
        return None
    scopes = tuple(running.values())
    if len(scopes) == 1:
        return scopes[0]
    cure = (
        "Write `state = self.state` in the method, and use that in the thread; or start it with the method's context "
        "(asyncio.to_thread, anyio.to_thread.run_sync, contextvars.copy_context().run). To look at a run from outside, use "
        "committed_state()"
    )
    if scopes:
        names = ", ".join(sorted({scope.method.name for scope in scopes}))
        raise StateError(
            f"self.state was used in a thread of its own while several methods run ({names}): nothing tells which one it "
            f"belongs to. {cure}"
        )
    raise DraftClosedError(
        f"self.state was used in a thread of its own while no method of the flow runs: the method it belongs to has ended. {cure}"
    )
