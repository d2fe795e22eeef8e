"""Decorators that leave a note on a function and return the function. They never validate: that happens when the class is created."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal, Never, Protocol, TypedDict, TypeVar, Unpack, overload

from .._durations import Seconds
from .._keywords import UNSET, Unset, not_taken
from ..errors import FlowDefinitionError
from .retry import Retry
from .signals import Signal
from .signatures import declared_labels
from .triggers import After, AllOf, AllOfTwo, AnyOf, Each, FannedOut, Trigger

__all__ = [
    "Mark",
    "Note",
    "Pending",
    "PersistMark",
    "listen",
    "note_of",
    "persist",
    "persist_mark_of",
    "router",
    "start",
]

_NOTE = "__asyncflow_note__"
_PERSIST = "__asyncflow_persist__"

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
AnyFlow = TypeVar("AnyFlow")
Returned = TypeVar("Returned")


class _Options(TypedDict, total=False):
    """The keywords that `start`, `listen` and `router` share, for a type checker."""

    retry: Retry | None
    timeout: Seconds | None
    output: bool
    keep_open: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """One `@start`, `@listen` or `@router` as written. `trigger` is None if none was given."""

    kind: Literal["start", "listen", "router"]
    trigger: Trigger | None = None
    emit: tuple[Any, ...] | None = None
    retry: Retry | Unset | None = UNSET
    timeout: Seconds | Unset | None = UNSET
    output: bool = False
    keep_open: bool | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class PersistMark:
    """One `@persist` as written; `backend` is None for the default backend."""

    backend: Any = None
    verbose: bool = False


@dataclass(slots=True)
class Note:
    """What the decorators of one function declared."""

    marks: list[Mark] = field(default_factory=list)
    persist: list[PersistMark] = field(default_factory=list)


def note_of(function: object) -> Note | None:
    """Return the note on a function, or None."""
    note = getattr(function, _NOTE, None)
    return note if isinstance(note, Note) else None


def persist_mark_of(cls: type) -> PersistMark | None:
    """Return the class-level `@persist` of a class or of the nearest base that has one."""
    return getattr(cls, _PERSIST, None)


class Pending:
    """A decorator that waits for its function. If it is found as a class attribute, it was written without parentheses."""

    def __init__(self, mark: Mark) -> None:
        self.mark = mark
        self.__name__ = getattr(mark.trigger, "__name__", "")

    def __call__(self, function: F) -> F:
        _note_on(function).marks.append(self.mark)
        return function


class ListenerOfOne(Protocol[R]):
    """The type of `listen(method)` for a type checker: its function takes what `method` returns, or nothing.

    The names of this class and of its type variables are part of the checkers' messages. mypy reports the first overload, pyright the
    last one, which is never used otherwise.
    """

    @overload
    def __call__(self, function: Callable[[AnyFlow, R], Returned], /) -> Callable[[AnyFlow, R], Returned]: ...
    @overload
    def __call__(self, function: Callable[[AnyFlow], Returned], /) -> Callable[[AnyFlow], Returned]: ...
    @overload
    def __call__(self, function: Callable[[AnyFlow, R], Returned], /) -> Callable[[AnyFlow, R], Returned]: ...


class ListenerOfBoth(Protocol[A, B]):
    """The type of `listen(and_(a, b))` for a type checker: its function takes both results, in any order, one of them, or nothing."""

    @overload
    def __call__(self, function: Callable[[AnyFlow, A, B], Returned], /) -> Callable[[AnyFlow, A, B], Returned]: ...
    @overload
    def __call__(self, function: Callable[[AnyFlow, B, A], Returned], /) -> Callable[[AnyFlow, B, A], Returned]: ...
    @overload
    def __call__(self, function: Callable[[AnyFlow, A], Returned], /) -> Callable[[AnyFlow, A], Returned]: ...
    @overload
    def __call__(self, function: Callable[[AnyFlow, B], Returned], /) -> Callable[[AnyFlow, B], Returned]: ...
    @overload
    def __call__(self, function: Callable[[AnyFlow], Returned], /) -> Callable[[AnyFlow], Returned]: ...
    @overload
    def __call__(self, function: Callable[[AnyFlow, A, B], Returned], /) -> Callable[[AnyFlow, A, B], Returned]: ...


class ListenerOfItem(Protocol[R]):
    """The type of `listen(each(method))` for a type checker: its function takes an item of what `method` returns, or nothing."""

    # Of overloads that all fail, mypy shows the first one and pyright the last one: both take the item.
    @overload
    def __call__(
        self, function: Callable[[AnyFlow, R], Coroutine[Any, Any, Returned]], /
    ) -> FannedOut[AnyFlow, R, Returned]: ...
    @overload
    def __call__(
        self, function: Callable[[AnyFlow], Coroutine[Any, Any, Returned]], /
    ) -> FannedOut[AnyFlow, R, Returned]: ...
    @overload
    def __call__(self, function: Callable[[AnyFlow], Returned], /) -> FannedOut[AnyFlow, R, Returned]: ...
    @overload
    def __call__(self, function: Callable[[AnyFlow, R], Returned], /) -> FannedOut[AnyFlow, R, Returned]: ...


class _Decorator(Protocol):
    def __call__(self, function: F, /) -> F: ...


def _note_on(function: Any) -> Note:
    """Return the function's own note; create it if there is none. (`functools.wraps` copies it, which is what users mean.)"""
    note = note_of(function)
    if note is None:
        note = Note()
        try:
            setattr(function, _NOTE, note)
        except (AttributeError, TypeError):
            kind = type(function).__name__
            raise FlowDefinitionError(
                f"a flow method must be a plain function, not a {kind}; write `async def` or `def`",
                problems=[f"not a {kind}"],
            ) from None
    return note


@overload
def start(**options: Unpack[_Options]) -> _Decorator: ...
@overload
def start(condition: Callable[..., Coroutine[Any, Any, R]], **options: Unpack[_Options]) -> ListenerOfOne[R]: ...
@overload
def start(condition: AllOfTwo[A, B], **options: Unpack[_Options]) -> ListenerOfBoth[A, B]: ...
@overload
def start(condition: str | AnyOf | AllOf, **options: Unpack[_Options]) -> _Decorator: ...
@overload
def start(condition: After[R] | Signal[R], **options: Unpack[_Options]) -> ListenerOfOne[R]: ...
@overload
def start(condition: Callable[..., R], **options: Unpack[_Options]) -> ListenerOfOne[R]: ...
def start(
    condition: Trigger | None = None,
    *more: Never,
    retry: Retry | Unset | None = UNSET,
    timeout: Seconds | Unset | None = UNSET,
    output: bool = False,
    keep_open: bool | None = None,
    **unknown: Never,
) -> Any:
    """Run the method when the flow starts, or, with a condition, each time the condition is satisfied.

    - `condition`: as for `listen`. None: the method runs when the flow starts.
    - `retry`: as for `listen`.
    - `timeout`: as for `listen`.
    - `output`: as for `listen`.
    - `keep_open`: as for `listen`.
    """
    _check("@start", ("condition", "retry", "timeout", "output", "keep_open"), more, unknown)
    return Pending(Mark("start", condition, None, retry, timeout, output, keep_open))


@overload
def listen(condition: Each[R], *, limit: int | None = None, **options: Unpack[_Options]) -> ListenerOfItem[R]: ...
@overload
def listen(condition: Callable[..., Coroutine[Any, Any, R]], **options: Unpack[_Options]) -> ListenerOfOne[R]: ...
@overload
def listen(condition: AllOfTwo[A, B], **options: Unpack[_Options]) -> ListenerOfBoth[A, B]: ...
@overload
def listen(condition: str | AnyOf | AllOf, **options: Unpack[_Options]) -> _Decorator: ...
@overload
def listen(condition: After[R] | Signal[R], **options: Unpack[_Options]) -> ListenerOfOne[R]: ...
@overload
def listen(condition: Callable[..., R], **options: Unpack[_Options]) -> ListenerOfOne[R]: ...
def listen(
    condition: Trigger | None = None,
    *more: Never,
    retry: Retry | Unset | None = UNSET,
    timeout: Seconds | Unset | None = UNSET,
    output: bool = False,
    keep_open: bool | None = None,
    limit: int | None = None,
    **unknown: Never,
) -> Any:
    """Run the method each time the condition is satisfied.

    - `condition`: a method, a label, `after(...)` one of these, a signal, or a tree of `or_` and `and_` over them; or `each(...)`.
    - `retry`: a `Retry` policy: when an attempt that raised is followed by another one; None: never. If it is not given, the class
      attribute `retry` applies, if that is a `Retry`.
    - `timeout`: how long an attempt may take, in seconds or as a timedelta; then it raises `MethodTimeoutError`. None: no limit. If it
      is not given, the class attribute `timeout` applies, if that is a number or a timedelta.
    - `output`: whether the result of this method is the output of the flow, whichever method completes last. At most one method.
    - `keep_open`: only for a condition that signals alone can satisfy, which must give it: whether the run waits for this method to
      run once before it ends. Without that, the method runs only if its signal comes while the run has something else to do.

    - `limit`: only with `each`: how many items may run at the same time.

    A method with one positional parameter receives its trigger's result (for a label: the router's value). A method that waits
    for `and_` and whose parameters are all names of its triggers receives each result by name.
    """
    _check("@listen", ("condition", "retry", "timeout", "output", "keep_open", "limit"), more, unknown)
    return Pending(Mark("listen", condition, None, retry, timeout, output, keep_open, limit))


@overload
def router(*, emit: Iterable[Any] | None = None, **options: Unpack[_Options]) -> _Decorator: ...
@overload
def router(
    condition: Callable[..., Coroutine[Any, Any, R]],
    *,
    emit: Iterable[Any] | None = None,
    **options: Unpack[_Options],
) -> ListenerOfOne[R]: ...
@overload
def router(
    condition: AllOfTwo[A, B],
    *,
    emit: Iterable[Any] | None = None,
    **options: Unpack[_Options],
) -> ListenerOfBoth[A, B]: ...
@overload
def router(
    condition: str | AnyOf | AllOf,
    *,
    emit: Iterable[Any] | None = None,
    **options: Unpack[_Options],
) -> _Decorator: ...
@overload
def router(
    condition: After[R] | Signal[R],
    *,
    emit: Iterable[Any] | None = None,
    **options: Unpack[_Options],
) -> ListenerOfOne[R]: ...
@overload
def router(
    condition: Callable[..., R],
    *,
    emit: Iterable[Any] | None = None,
    **options: Unpack[_Options],
) -> ListenerOfOne[R]: ...
def router(
    condition: Trigger | None = None,
    *more: Never,
    emit: Iterable[Any] | None = None,
    retry: Retry | Unset | None = UNSET,
    timeout: Seconds | Unset | None = UNSET,
    output: bool = False,
    keep_open: bool | None = None,
    **unknown: Never,
) -> Any:
    """Run the method like a listener; the value that it returns becomes a label that other methods listen to.

    - `condition`: as for `listen`. Without one, `@router` is stacked under `@start(...)` or `@listen(...)`.
    - `emit`: the labels that it may return: a list of them, an `Enum` or a `Literal`. Without it, the return annotation declares
      them (`Literal` or an `Enum`).
    - `retry`: as for `listen`.
    - `timeout`: as for `listen`.
    - `output`: as for `listen`.
    - `keep_open`: as for `listen`.

    None is no label. Returning a label that is not declared raises `UnknownLabelError` at run time.
    """
    _check("@router", ("condition", "emit", "retry", "timeout", "output", "keep_open"), more, unknown)
    labels = None if emit is None else _emitted(emit)
    return Pending(Mark("router", condition, labels, retry, timeout, output, keep_open))


@overload
def persist(target: C, /) -> C: ...
@overload
def persist(target: F, /) -> F: ...
@overload
def persist(backend: Any = None, verbose: bool = False, /) -> _Decorator: ...
@overload
def persist(backend: Any = None, /, *, verbose: bool = False) -> _Decorator: ...
@overload
def persist(*, persistence: Any, verbose: bool = False) -> _Decorator: ...
def persist(
    target: Any = None,
    is_verbose: bool = False,
    /,
    *more: Never,
    persistence: Any = None,
    verbose: bool = False,
    **unknown: Never,
) -> Any:
    """Checkpoint every method of a class, or this one method. The order of the decorators does not matter.

    Write `@persist`, `@persist()`, `@persist(backend)` or `@persist(persistence=backend, verbose=True)`.

    - `target`: the class or method that is decorated, or the backend.
    - `is_verbose`: `verbose`, given by position.
    - `persistence`: the backend. Without one, the default backend is used: SQLite at `$ASYNCFLOW_DB`, else `./asyncflow.db`.
    - `verbose`: whether to log the events of each run at INFO, by the logger `asyncflow`.
    """
    _check("@persist", ("persistence", "verbose"), more, unknown)
    verbose = verbose or is_verbose
    if isinstance(target, type) or hasattr(target, "__code__") or isinstance(target, Pending):
        return _persisted(target, PersistMark(persistence, verbose))
    if target is not None and persistence is not None:
        raise not_taken(
            "@persist", (), ("persistence", "verbose"), places=1, takes="@persist takes one backend, and two were given"
        )
    target = persistence if target is None else target
    return lambda decorated: _persisted(decorated, PersistMark(target, verbose))


def _emitted(emit: Any) -> tuple[Any, ...]:
    """Return the labels that `emit=` names: a list of labels, an Enum, or another valid return annotation."""
    labels = None if isinstance(emit, str | Sequence | Set) else declared_labels(emit)
    if labels is not None:
        return tuple(sorted(labels))
    if isinstance(emit, str) or not isinstance(emit, Iterable):
        example = repr(emit) if isinstance(emit, str) else "..."
        raise not_taken(
            "@router", (), (), places=1, takes=f"emit= takes a list of labels, an Enum or a Literal: emit=[{example}]"
        )
    return tuple(emit)


def _check(call: str, known: Sequence[str], more: Sequence[object], unknown: Mapping[str, object]) -> None:
    """Raise `ArgumentsError` for arguments that a decorator does not take."""
    if more or unknown:
        what = "backend" if call == "@persist" else "condition, such as or_(a, b) or and_(a, b)"
        raise not_taken(call, unknown, known, places=len(more), takes=f"{call} takes one {what}")


def _persisted(target: Any, mark: PersistMark) -> Any:
    if not isinstance(target, type):
        _note_on(target).persist.append(mark)
    elif (check := getattr(target, "_persistence_marked", None)) is None:
        raise TypeError(
            f"@persist decorates a flow class or a method, not {target.__name__}; "
            f"a backend is passed as an object: @persist({target.__name__}(...))"
        )
    else:
        setattr(target, _PERSIST, mark)
        check()
    return target
