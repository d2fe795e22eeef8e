"""An invocation's scope: which flow it belongs to, and its draft of the state. Found through a context variable."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from .._scheduling.messages import Invocation
from .._values import copied
from ..errors import DraftClosedError

__all__ = ["Scope", "Version", "current_scope", "entered"]


class Version:
    """A committed state and its number. The state is never mutated; a commit makes a new version."""

    __slots__ = ("number", "state")

    def __init__(self, number: int, state: Any) -> None:
        self.number = number
        self.state = state


class Scope:
    """One invocation, made at its launch: its base is the version of that moment; its draft is made at the first look."""

    __slots__ = ("_draft", "_has_draft", "base", "flow", "invocation", "invocation_id", "is_open", "parent")

    def __init__(self, flow: object, invocation: Invocation, invocation_id: str, base: Version) -> None:
        self.flow = flow
        self.invocation = invocation
        self.invocation_id = invocation_id
        self.base = base
        self.is_open = True
        self.parent = entered.get()
        self._has_draft = False
        self._draft: Any = None

    @property
    def draft(self) -> Any:
        """The invocation's own state. Raises `DraftClosedError` once the invocation has ended."""
        self._check_open()
        if not self._has_draft:
            self._draft = copied(self.base.state)
            self._has_draft = True
        return self._draft

    def replace(self, state: Any) -> None:
        """Put another state in the place of the draft."""
        self._check_open()
        self._draft = state
        self._has_draft = True

    def close(self) -> Any:
        """End the scope, and return the draft, or None if nobody looked at the state."""
        self.is_open = False
        draft, self._draft = self._draft, None
        return draft

    def _check_open(self) -> None:
        if not self.is_open:
            raise DraftClosedError(
                f"self.state was used by code that outlived {self.invocation.method}: that invocation's state is committed or "
                "dropped. Await such work within the method, or hand it what it needs",
                method=self.invocation.method,
            )


entered: ContextVar[Scope | None] = ContextVar("asyncflow_scope", default=None)


def current_scope(flow: object) -> Scope | None:
    """The innermost scope of this flow around the caller; flows inside flows find their own."""
    scope = entered.get()
    while scope is not None and scope.flow is not flow:
        scope = scope.parent
    return scope
