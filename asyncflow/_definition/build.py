"""Build a `FlowDefinition` from a class's functions and their notes, and find every mistake that the class can have."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from ..errors import FlowDefinitionError
from .aliases import UNRESOLVED
from .attempting import Attempting
from .decorators import Mark, Note, Pending, PersistMark, note_of
from .definition import FlowDefinition, MethodDefinition, Receives, label_of
from .mapping import limit_problem
from .results import join_problems, result_problems
from .signals import Signal
from .signatures import annotation_of, declared_labels, received
from .triggers import (
    After,
    AllOf,
    AnyOf,
    Condition,
    Each,
    TimerDefinition,
    Trigger,
    names_in,
    normalised,
    signals_in,
    timers_in,
)
from .validation import open_problems, problems_of

__all__ = ["define", "persist_marks"]

_HOLDERS: Final = (
    *(staticmethod, classmethod, property),
    *(functools.cached_property, functools.partialmethod, functools.singledispatchmethod),
)
"""Types that can wrap a function in a class."""

_CONTEXTLIB: Final = contextlib.contextmanager.__code__.co_filename
"""The source file of the functions that turn generators into context managers."""


def define(cls: type, api: type, local: Mapping[str, Any], result: Any = Any) -> FlowDefinition:
    """Return the definition of a flow class, whose declared result is `result`.

    `api` is the base whose names a method may not use; `local` resolves annotations.

    An annotation that uses a name not defined yet is marked (`FlowDefinition.unresolved`); define the class again later.
    Raises `FlowDefinitionError` with every mistake of the class and its fix.
    """
    problems: list[str] = []
    broken: dict[str, set[str]] = {}
    methods: dict[str, MethodDefinition] = {}
    names = (local, {**local, **_names_within(cls)})
    attempts = Attempting.of_class(cls, problems)
    known = _names_of(cls)
    signals = _signals(cls, problems)
    for name, function, note in _noted(cls, problems, broken):
        if hasattr(api, name):
            problems.append(f"{name} shadows a name of Flow; rename the method")
        inherited = _inherited(cls, name, function)
        method = _method(name, function, note, names, known, signals, problems, inherited, attempts)
        if method is None:
            broken[name] = {mark.kind for mark in note.marks}
        else:
            methods[name] = method
    problems += problems_of(methods, signals, broken)
    definition = FlowDefinition(cls.__name__, methods, signals, result)
    problems += () if broken else [*join_problems(definition, names), *result_problems(definition)]
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise FlowDefinitionError(f"the flow class {cls.__name__} cannot run as written:{listed}", problems=problems)
    return definition


def _signals(cls: type, problems: list[str]) -> dict[str, Signal[Any]]:
    """Return the signals that a class declares: its attributes, and what its methods wait for. Different ones of one name are a mistake."""
    values = [value for base in reversed(cls.__mro__) for value in vars(base).values()]
    found = [value for value in values if isinstance(value, Signal)]
    marks = (mark for value in values if (note := note_of(value)) is not None for mark in note.marks)
    found += [signal for mark in marks if mark.trigger is not None for signal in signals_in(mark.trigger)]
    signals: dict[str, Signal[Any]] = {}
    twice: dict[str, Signal[Any]] = {}
    for signal in found:
        if signals.setdefault(signal.name, signal) != signal:
            twice.setdefault(signal.name, signal)
    problems += [
        f"the signal '{name}' is declared twice, differently, as {signals[name].declared} and as {other.declared}; declare it once"
        for name, other in sorted(twice.items())
    ]
    return signals


def _inherited(cls: type, name: str, function: Callable[..., Any]) -> Any:
    """Return a method's return annotation as a base class resolved it, where the method was defined; else `UNRESOLVED`."""
    for base in cls.__mro__[1:]:
        definition = vars(base).get("_definition")
        known = definition.methods.get(name) if isinstance(definition, FlowDefinition) else None
        if known is not None and known.function is function and not known.is_unresolved:
            return known.returns
    return UNRESOLVED


def _names_within(cls: type) -> dict[str, Any]:
    """Return the names that the class and its bases define: a type checker looks there first. A method may be named like a type."""
    return {name: value for base in reversed(cls.__mro__[:-1]) for name, value in vars(base).items()}


def persist_marks(cls: type) -> dict[str, PersistMark]:
    """Return the method-level `@persist` of each method that has one."""
    return {name: note.persist[-1] for name, _, note in _noted(cls, [], {}) if note.persist}


def _noted(
    cls: type, problems: list[str], broken: dict[str, set[str]]
) -> Iterator[tuple[str, Callable[..., Any], Note]]:
    """Yield name, function and note of each decorated method, base classes first. An override keeps its base's trigger.

    Invalid methods are added to `problems`, and to `broken` with the kinds of their decorators.
    """
    names = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base))
    for name in names:
        layers = [vars(base)[name] for base in cls.__mro__ if name in vars(base)]
        notes = _notes_on(layers)
        fault = _fault_of(name, layers[0], notes)
        if fault is not None:
            problem, broken[name] = fault
            problems.append(problem)
        elif notes:
            marks = next((note.marks for note in notes if note.marks), [])
            persist = next((note.persist for note in notes if note.persist), [])
            yield name, layers[0], Note(marks, persist)


def _fault_of(name: str, value: Any, notes: list[Note]) -> tuple[str, set[str]] | None:
    """Return what is wrong with a decorated method, and the kinds of its decorators; None if it is valid, or not decorated."""
    if isinstance(value, Pending):
        kind = value.mark.kind
        written = "start()" if kind == "start" else f"{kind}(...)"
        return f"{name} is decorated with a bare @{kind}; write @{written} with parentheses", {kind}
    if not notes and _is_hidden(name, value):
        hidden = (
            f"{name} has an outer decorator that hides the flow's; put it below that one, or let it use functools.wraps"
        )
        return hidden, {"start", "router"}
    if notes and not inspect.isfunction(value):
        kinds: set[str] = {mark.kind for note in notes for mark in note.marks}
        return f"{name} is a flow method and must be a plain function, not a {type(value).__name__}", kinds
    return None


def _notes_on(layers: list[Any]) -> list[Note]:
    """Return the notes that the classes have under one name. A static method or a property may carry one itself, or wrap its carrier."""
    found = (note_of(layer) or next(filter(None, map(note_of, _within(layer))), None) for layer in layers)
    return [note for note in found if note is not None]


def _within(value: Any) -> Iterator[Any]:
    """Yield the functions that a static method, a class method, a property or a cached property wraps."""
    if isinstance(value, _HOLDERS):
        for name in ("__func__", "fget", "func"):
            yield getattr(value, name, None)


def _is_hidden(name: str, value: Any) -> bool:
    """Whether a function encloses a decorated one of this name: a decorator without `functools.wraps` has hidden it."""
    for cell in getattr(value, "__closure__", None) or ():
        try:
            inner = cell.cell_contents
        except ValueError:  # the cell is still empty
            continue
        if inspect.isfunction(inner) and inner.__name__ == name and note_of(inner) is not None:
            return True
    return False


def _names_of(cls: type) -> dict[int, str]:
    """Return the names under which a class and its bases define functions that have another `__name__`: lambdas, decorators' wrappers."""
    return {
        id(value): name
        for base in reversed(cls.__mro__)
        for name, value in vars(base).items()
        if inspect.isfunction(value) and value.__name__ != name
    }


def _method(
    name: str,
    function: Callable[..., Any],
    note: Note,
    names: tuple[Mapping[str, Any], ...],
    known: Mapping[int, str],
    signals: Mapping[str, Signal[Any]],
    problems: list[str],
    inherited: Any,
    attempts: Attempting,
) -> MethodDefinition | None:
    def problem(text: str) -> None:
        problems.append(f"{name} {text}")

    trigger_mark = _trigger_mark(note.marks) if note.marks else None
    misuse = _misuse(function, note, trigger_mark)
    if misuse is not None:
        problem(misuse)
        return None
    assert trigger_mark is not None, "_misuse returns a text without it"
    kinds = [mark.kind for mark in note.marks]
    is_mapped = isinstance(trigger_mark.trigger, Each)
    try:
        condition = None if trigger_mark.trigger is None else _checked(trigger_mark.trigger, known)
        timers = () if trigger_mark.trigger is None else _timers(trigger_mark.trigger, known)
    except TypeError as error:
        problem(f"has an invalid condition: {error}")
        return None
    receives = Receives.NOTHING
    parameters: tuple[str, ...] = ()
    try:
        receives, parameters = received(function, condition)
    except ValueError as error:
        problem(str(error))
    retry, timeout = attempts.of_method(note.marks, problem)
    is_kept_open = _keep_open(note)
    returns = annotation_of(function, "return", *names)
    if returns is UNRESOLVED:
        returns = inherited
    is_unresolved = returns is UNRESOLVED
    labels: frozenset[str] | None = None
    try:
        labels = _labels(note.marks, returns) if "router" in kinds else None
    except NameError:  # raised by an alias
        is_unresolved = True
    method = MethodDefinition.make(
        name=name,
        function=function,
        condition=condition,
        is_start=trigger_mark.kind == "start",
        is_router="router" in kinds,
        is_async=inspect.iscoroutinefunction(inspect.unwrap(function)) or inspect.iscoroutinefunction(function),
        labels=labels,
        receives=receives,
        parameters=parameters,
        returns=inspect.Signature.empty if is_unresolved else returns,
        is_unresolved=is_unresolved,
        retry=retry,
        timeout=timeout,
        timers=timers,
        is_output=_is_output(note, problem),
        signals=_signals_of(condition, signals),
        keep_open=bool(is_kept_open),
        each=is_mapped,
        limit=_limit(note, is_mapped, problem),
    )
    problems += open_problems(method, is_kept_open)
    return method


def _limit(note: Note, is_mapped: bool, problem: Callable[[str], None]) -> int:
    """Return how many items of a method may run at the same time; 0: no limit. Mistakes are passed to `problem`."""
    limit = next((mark.limit for mark in note.marks if mark.limit is not None), None)
    if (wrong := limit_problem(limit, is_mapped=is_mapped)) is not None:
        problem(wrong)
        return 0
    return limit or 0


def _is_output(note: Note, problem: Callable[[str], None]) -> bool:
    """Whether the result of a method is the output of its flow. Mistakes are passed to `problem`."""
    for mark in note.marks:
        if not isinstance(mark.output, bool):
            problem(f"has output={mark.output!r}; pass True or False")
    return any(mark.output for mark in note.marks)


def _keep_open(note: Note) -> bool | None:
    """Return what the decorators of a method say of `keep_open`; None if they say nothing."""
    return next((mark.keep_open for mark in note.marks if mark.keep_open is not None), None)


def _signals_of(condition: Condition | None, known: Mapping[str, Signal[Any]]) -> frozenset[str]:
    """Return the names in a condition that are signals."""
    return frozenset() if condition is None else frozenset(name for name in names_in(condition) if name in known)


def _misuse(function: Callable[..., Any], note: Note, trigger: Mark | None) -> str | None:
    """Return the mistake in how a method is decorated, or None."""
    if not note.marks:
        return "has @persist but no @start, @listen or @router; add one, or remove @persist"
    is_wrapped = function.__code__.co_filename == _CONTEXTLIB and _is_generator(inspect.unwrap(function))
    if is_wrapped or _is_generator(function):
        return "is a generator, but a flow method returns one result; return a list"
    kinds = [mark.kind for mark in note.marks]
    if any(isinstance(mark.trigger, Each) for mark in note.marks) and kinds != ["listen"]:
        return "is a start or a router, and each() is for @listen only; let a method that follows decide"
    if kinds == ["listen"] and note.marks[0].trigger is None:
        return "has no trigger; give @listen a condition: a method, a label, or_(...) or and_(...)"
    if trigger is None:
        return (
            f"is decorated with {', '.join('@' + k for k in reversed(kinds))}; use one of them (or @router() below one)"
        )
    return None


def _is_generator(function: Callable[..., Any]) -> bool:
    return inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)


def _trigger_mark(marks: list[Mark]) -> Mark | None:
    """Return the mark that holds the method's trigger, or None if the marks contradict each other."""
    others = [mark for mark in marks if mark.kind != "router"]
    routers = [mark for mark in marks if mark.kind == "router"]
    if len(others) > 1 or len(routers) > 1:
        return None
    if others and routers:
        return others[0] if routers[0].trigger is None else None
    only = (others or routers)[0]
    return None if only.kind != "start" and only.trigger is None else only


def _checked(trigger: Trigger, known: Mapping[int, str]) -> Condition:
    if isinstance(trigger, Each):
        if isinstance(trigger.source, str | After | Signal | AnyOf | AllOf | Each) or not callable(trigger.source):
            raise TypeError("each() takes a method that returns a list, and not a label or another condition")
        trigger = trigger.source
    method = trigger.trigger if isinstance(trigger, After) else trigger
    if callable(method) and note_of(method) is None and not isinstance(method, Pending):
        raise TypeError(f"{getattr(method, '__name__', method)!r} is not a flow method")
    return normalised(trigger, known)


def _timers(trigger: Trigger, known: Mapping[int, str]) -> tuple[TimerDefinition, ...]:
    """Return the timers of a condition. Raises `TypeError` if two of them have the same trigger."""
    timers = tuple(timers_in(trigger, known))
    twice = [name for name, count in Counter(timer.source for timer in timers).items() if count > 1]
    if twice:
        raise TypeError(f"it has two timers for {twice[0]}; a listener can have one for each of its triggers")
    return timers


def _labels(marks: list[Mark], returns: Any) -> frozenset[str] | None:
    emit = next(mark.emit for mark in marks if mark.kind == "router")
    if emit is None:
        return declared_labels(returns)
    return frozenset(label for value in emit if (label := label_of(value)) is not None)
