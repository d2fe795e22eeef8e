"""The scope of an invocation: its flow, and its draft of the state. Found through a context variable.

Threads that a method starts itself do not have the method's context (before Python 3.14, and by default in later versions). If
exactly one method of the flow is running, such a thread gets that method's scope. The same holds for callbacks that such a thread
passes to the event loop. For this reason the module uses asyncio and trio directly.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, Literal, NamedTuple, Protocol

from .._definition.definition import MethodDefinition
from .._definition.signals import Signal
from .._scheduling.messages import Invocation
from .._waiting import in_trio
from ..errors import DraftClosedError, StateError
from ..events import Event
from .state_version import Version
from .step_calls import Call

__all__ = [
    "InvocationInfo",
    "LaterScope",
    "Scope",
    "StepScope",
    "current_invocation",
    "current_scope",
    "scope_of_thread",
    "this_invocation",
]

_TRIO_CALLBACKS: Final = "<TrioToken.run_sync_soon task>"
"""The name of trio's task that runs the functions which threads send to the loop, also by `trio.from_thread.run_sync`."""


class Pass(Protocol):
    """What an invocation needs to know of its pass."""

    prefix: str
    """The prefix of the ids of its invocations."""

    @property
    def flow_name(self) -> str:
        """The name of the flow, as shown to people."""
        ...

    async def wait_for(self, scope: Scope, signal: Signal[Any], limit: float | None, key: str | None) -> Any:
        """See `receiving.wait_for`."""
        ...

    async def sleep(self, scope: Scope, delay: float, at: float | None, key: str | None) -> None:
        """Sleep in an invocation: `delay` seconds, or until `at`. See `sleeping.sleep`."""
        ...

    async def run_child(self, scope: Scope, child: Any, key: str | None) -> Any:
        """Run a child, and wait for its end: see `children.Child` and `run_child`."""
        ...

    async def substep(self, scope: Scope, call: Call) -> Any:
        """See `substeps.Substeps.run`."""
        ...

    def substep_sync(self, scope: Scope, call: Call) -> Any:
        """See `substeps.Substeps.run_sync`."""
        ...

    def emit(self, scope: Scope, kind: type[Event], **fields: Any) -> None:
        """Emit a live event of an invocation. It may be called in a thread."""
        ...

    def cut(self, scope: Scope) -> None:
        """End what an invocation awaits in its thread: its task was cancelled, and waits for the thread."""
        ...

    def ask(self, scope: Scope, ending: Literal["finish", "continue"], inputs: Any) -> None:
        """Ask for the end of the pass. See `ending`."""
        ...


class Scope:
    """One invocation, made when it is launched. Its base is the version of that moment. Its draft is made at the first access."""

    __slots__ = (
        *("_drafts", "base", "flow", "invocation", "is_alone", "is_open", "key", "method", "of_pass", "parent"),
    )

    def __init__(
        self,
        flow: object,
        method: MethodDefinition,
        invocation: Invocation,
        of_pass: Pass,
        base: Version,
        is_alone: bool,
    ) -> None:
        """`is_alone`: no other invocation is running, or will start, before this one has ended."""
        self.flow = flow
        self.method = method
        self.invocation = invocation
        self.key = invocation.key
        self.of_pass = of_pass
        self.base = base
        self.is_open = True
        self.is_alone = is_alone and method.is_async
        self.parent = current_invocation.get()
        self._drafts: list[Any] = []
        """The first item is the draft. Several threads of the method may access it first at the same time, and appending is atomic."""

    @property
    def step(self) -> str:
        """The name of the step within the method whose function calls; '' if the method itself does."""
        return ""

    @property
    def whole(self) -> Scope:
        """The scope of the method itself."""
        return self

    @property
    def invocation_id(self) -> str:
        """The invocation's id, stable over retries and resumes: run, pass, method, occurrence."""
        return self.of_pass.prefix + self.key

    @property
    def attempt(self) -> int:
        """The number of the attempt, from 1, counted over all processes."""
        return 1

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.of_pass.prefix.rpartition("/")[0].rpartition("/")[0]

    @property
    def logged(self) -> dict[str, Any]:
        """The fields of its log lines."""
        about = {"run_id": self.run_id, "flow": self.of_pass.flow_name, "method": self.method.name}
        return {**about, "attempt": self.attempt}

    def draft(self) -> Any:
        """Return the invocation's own state. Raises `DraftClosedError` once the invocation has ended."""
        drafts = self._drafts  # read once: the invocation may end meanwhile
        if not drafts:
            if self.is_open:
                drafts.append(self.base.draft(self.is_alone))
            if not self.is_open:
                self._check_open()
        return drafts[0]

    def replace(self, state: Any) -> None:
        """Replace the draft with another state."""
        self._check_open()
        self._drafts = [state]

    def close(self) -> list[Any]:
        """End the scope. Return a list that holds the draft, and the only reference to it; it is empty if the state was never accessed."""
        self.is_open = False  # set first: a thread that makes a draft now checks it afterwards
        drafts, self._drafts = self._drafts, []
        return drafts[:1]

    def _check_open(self) -> None:
        if not self.is_open:
            raise DraftClosedError(
                f"self.state was used by code that still ran after {self.method.name} had ended: the method's draft is committed "
                "or dropped. Await such work in the method, or pass it the values that it needs",
                method=self.method.name,
            )


class LaterScope(Scope):
    """The scope of a further attempt of an invocation, or of an invocation that is resumed after it had failed."""

    __slots__ = ("_attempt", "due")

    def __init__(self, due: float, *of: Any) -> None:
        """`due`: when the attempt is due, in seconds since the Unix epoch."""
        super().__init__(*of)
        self._attempt = 1
        self.due = due

    @property
    def attempt(self) -> int:
        return self._attempt

    def begin(self, base: Version, is_alone: bool, attempt: int) -> None:
        """Begin the attempt with this number, on the newest state."""
        self.base = base
        self.is_alone = is_alone and self.method.is_async
        self._attempt = attempt


class StepScope(Scope):
    """The scope of a function that a step within a method calls: the method's, until the function has ended. The draft is the method's."""

    __slots__ = ("_name", "_whole")

    def __init__(self, whole: Scope, name: str) -> None:
        self.flow, self.method, self.invocation, self.key = whole.flow, whole.method, whole.invocation, whole.key
        self.of_pass, self.base, self.is_alone, self.parent = whole.of_pass, whole.base, False, whole
        self.is_open = True
        self._whole, self._name = whole, name

    @property
    def step(self) -> str:
        return self._name

    @property
    def whole(self) -> Scope:
        return self._whole

    @property
    def attempt(self) -> int:
        return self._whole.attempt

    def draft(self) -> Any:
        self._check_open()
        return self._whole.draft()

    def replace(self, state: Any) -> None:
        self._check_open()
        self._whole.replace(state)

    def end(self) -> None:
        """From here on, what still runs of the function belongs to the method."""
        self._name = ""

    def shut(self) -> None:
        """From here on, what still runs of the function reaches no draft: its thread has outlived its timeout."""
        self.is_open = False


current_invocation: ContextVar[Scope | None] = ContextVar("asyncflow_scope", default=None)


def current_scope(flow: object) -> Scope | None:
    """Return the innermost scope of this flow around the caller. Nested flows find their own."""
    scope = current_invocation.get()
    while scope is not None and scope.flow is not flow:
        scope = scope.parent
    return scope


class InvocationInfo(NamedTuple):
    """The invocation that calls: one execution of a method for one trigger."""

    run_id: str
    """The id of the run."""
    pass_number: int
    """The number of the pass, from 1."""
    method: str
    """The name of the method."""
    occurrence: int
    """How often the method was started in this pass, this time included."""
    invocation_id: str
    """Run, pass, method, occurrence and item: the same in all attempts and after a resume. Usable as an idempotency key."""
    attempt: int
    """The number of the attempt, from 1: one more for each attempt that raised. An attempt that a crash ended is not counted."""
    item: int | None = None
    """The place of its item in the list, from 0, if the method runs once for each item; else None."""


def this_invocation() -> InvocationInfo:
    """Return the invocation of the method that calls, also through functions and threads that have the method's context.

    Of nested flows, it is the innermost one. Raises `LookupError` outside of a method.
    """
    scope = current_invocation.get()
    if scope is None:
        raise LookupError("this_invocation() is available only inside a method of a flow")
    run_id, number, _ = scope.invocation_id.rsplit("/", 2)
    invocation = scope.invocation
    name, occurrence, item = invocation.method, invocation.occurrence, getattr(invocation, "place", None)
    return InvocationInfo(run_id, int(number), name, occurrence, scope.invocation_id, scope.attempt, item)


def _is_callback() -> bool:
    """Whether the event loop runs this code for a thread: asyncio in no task, trio in the task that runs what threads send."""
    if in_trio():
        return bool(sys.modules["trio"].lowlevel.current_task().name == _TRIO_CALLBACKS)
    try:
        return asyncio.current_task() is None
    except RuntimeError:  # no asyncio event loop
        return False


def scope_of_thread(running: Mapping[str, Scope], loop_thread: int) -> Scope | None:
    """Return the scope for a thread that has none: that of the one method that is running. Return None for code outside the methods.

    `running`: the invocations of one run whose methods are running. `loop_thread`: the thread of the event loop that drives them.
    Code outside the methods: tasks of the event loop, the main thread, and the methods of other flows. Raises `StateError` if several
    methods are running, as nothing shows which one the thread belongs to, and `DraftClosedError` if none is.
    """
    here = threading.get_ident()
    is_outside = not _is_callback() if here == loop_thread else here == threading.main_thread().ident
    if is_outside or current_invocation.get() is not None:
        return None
    scopes = tuple(running.values())
    if len(scopes) == 1:
        return scopes[0]
    cure = (
        "Write `state = self.state` in the method, and use that in the thread; or start the thread with the method's context "
        "(asyncio.to_thread, anyio.to_thread.run_sync, contextvars.copy_context().run). To look at a run from outside, use "
        "committed_state()"
    )
    if scopes:
        names = ", ".join(sorted({scope.method.name for scope in scopes}))
        raise StateError(
            f"self.state was used in a separate thread while several methods run ({names}), so it is not known which of them the "
            f"thread belongs to. {cure}"
        )
    raise DraftClosedError(
        f"self.state was used in a separate thread while no method of the flow runs: its method has ended. {cure}"
    )
