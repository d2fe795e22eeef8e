"""An invocation's scope: which flow it belongs to, and its draft of the state. Found through a context variable."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from .._definition.definition import MethodDefinition
from .._scheduling.messages import Invocation
from ..errors import DraftClosedError
from .versions import Version

__all__ = ["Scope", "current_scope", "entered"]


class Scope:
    """One invocation, made at its launch: its base is the version of that moment; its draft is made at the first look."""

    __slots__ = (
        *("_draft", "_has_draft", "_prefix", "base", "flow", "invocation", "is_alone", "is_open", "key", "method"),
        "parent",
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
        self._has_draft = False
        self._draft: Any = None

    @property
    def invocation_id(self) -> str:
        """The invocation's name, stable over retries and resumes: run, pass, method, occurrence."""
        return self._prefix + self.key

    def draft(self) -> Any:
        """The invocation's own state. Raises `DraftClosedError` once the invocation has ended."""
        if not self._has_draft:
            if not self.is_open:
                self._check_open()
            self._draft = self.base.draft(is_alone=self.is_alone)
            self._has_draft = True
        return self._draft

    def replace(self, state: Any) -> None:
        """Put another state in the place of the draft."""
        self._check_open()
        self._draft = state
        self._has_draft = True

    def close(self) -> Any:
        """End the scope, and return the draft, or None if nobody looked at the state."""
        draft = self._draft
        self.is_open = self._has_draft = False
        self._draft = None
        return draft

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
