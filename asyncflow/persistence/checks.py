"""Check whether an object can be a backend, as far as that can be detected before it is used."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Awaitable
from functools import lru_cache
from types import CodeType, CoroutineType, FunctionType
from typing import Any, Final, TypeVar

from .._definition.signatures import annotations_of
from ..errors import FlowDefinitionError
from .protocol import FlowPersistence, offers

__all__ = ["check_backend", "to_be_awaited"]

T = TypeVar("T")

_AWAITED: Final = ("Awaitable", "Coroutine", "Future", "Task", "Any", "object")
"""Parts of return annotations that do not rule out that the result can be awaited."""


_FINE: Final[set[type]] = set()
"""Backend classes that have passed the check. Each new flow object runs the check."""


def check_backend(backend: object) -> None:
    """Raise `FlowDefinitionError` if this object cannot be a backend."""
    if isinstance(backend, type):
        name = backend.__name__
        raise FlowDefinitionError(
            f"{name} is a class; pass an instance: {name}(...)", problems=["a class, not an instance"]
        )
    if not offers(backend, FlowPersistence):
        is_of_crewai = hasattr(backend, "save_state") and hasattr(backend, "load_state")
        hint = (
            "; for an object with save_state and load_state, examples/crewai_backend.py has an adapter"
            if is_of_crewai
            else ""
        )
        raise FlowDefinitionError(
            f"{type(backend).__name__} does not implement FlowPersistence: it needs `async def save(checkpoint)` and `async def "
            f"load(run_id, seq=None)`; for a SQLite file, use SQLiteFlowPersistence(path){hint}",
            problems=["does not implement FlowPersistence"],
        )
    if type(backend) in _FINE:
        return
    plain = [verb for verb in ("save", "load") if _is_surely_plain(getattr(backend, verb))]
    if plain:
        raise _not_async(backend, " and ".join(plain))
    if hasattr(type(backend), "save") and hasattr(type(backend), "load"):
        _FINE.add(type(backend))


def to_be_awaited(made: Awaitable[T], backend: object, verb: str) -> Awaitable[T]:
    """Return the result of a backend's method. Raises `FlowDefinitionError` if it cannot be awaited."""
    if type(made) is not CoroutineType and not inspect.isawaitable(made):
        raise _not_async(backend, verb)
    return made


def _not_async(backend: object, verbs: str) -> FlowDefinitionError:
    name = type(backend).__name__
    return FlowDefinitionError(
        f"{verbs} of {name} must be `async def`, because asyncflow awaits it. Move blocking calls into a thread: "
        "`await anyio.to_thread.run_sync(self._write, ...)`",
        problems=[f"{name}: not async: {verbs}"],
    )


def _is_surely_plain(verb: Any) -> bool:
    """Whether the result of a method cannot be awaited: by its return annotation, or because it returns nothing."""
    function = inspect.unwrap(getattr(verb, "__func__", verb))
    if not isinstance(function, FunctionType) or inspect.iscoroutinefunction(function):
        return False
    annotation = annotations_of(function).get("return", inspect.Signature.empty)
    if annotation is inspect.Signature.empty:
        return _returns_nothing(function.__code__)
    return not any(part in str(annotation) for part in _AWAITED)


@lru_cache(256)
def _returns_nothing(code: CodeType) -> bool:
    """Whether each return of a function returns None. A generator counts, because its call returns the generator itself."""
    if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
        return True
    before: dis.Instruction | None = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "RETURN_VALUE":
            is_none = before is not None and before.opname == "LOAD_CONST" and before.argval is None
            if not is_none or instruction.is_jump_target:
                return False
        elif instruction.opname == "RETURN_CONST" and instruction.argval is not None:
            return False
        before = instruction
    return True
