"""JSON encoding of the scheduler's data: what each transition changed, and the whole progress of a pass.

Arrays are in the order of the named tuples' fields. An older format may have written shorter arrays: fields that were added since
then get their defaults.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired, get_args

from pydantic import Field, GetCoreSchemaHandler, NonNegativeInt, TypeAdapter
from pydantic_core import CoreSchema, core_schema, from_json, to_json
from typing_extensions import TypedDict

from .._definition.mapping import HIGHEST_LIMIT, MOST_WITHOUT_LIMIT
from .._scheduling.groups import Gathered, Group
from .._scheduling.messages import Invocation, Item, Seen, Timer, Timing, Transition
from .._scheduling.progress import Attempts, Progress

__all__ = [
    "decode_progress",
    "decode_transition",
    "encode_progress",
    "encode_transition",
    "origin_named_in",
    "parent_named_in",
]


class _Or:
    """An annotation for a field that an older format may not have, with its default."""

    def __init__(self, default: Any) -> None:
        self._default = default

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_default_schema(handler(source), default=self._default)


_Arguments = Annotated[tuple[tuple[str, str], ...], _Or(())]
_Invocation = tuple[str, int, str, frozenset[str], _Arguments]
_Seen = tuple[str, frozenset[str], str]
_Latched = tuple[tuple[str, str, _Seen], ...]
_Usual = tuple[str, str, bool, tuple[_Invocation, ...], _Latched, tuple[str, ...]]
_Skipped = Annotated[tuple[str, ...], _Or(())]
_Timer = tuple[str, str, str, frozenset[str], str, float]
_Limit = Annotated[int, Field(ge=0, le=HIGHEST_LIMIT)]
_Ending = Literal["", "finish", "continue", "stop"]
_Timing = tuple[
    tuple[str, float] | None,
    float | None,
    tuple[_Timer, ...],
    tuple[str, str, str] | None,
    bool,
    tuple[str, str] | None,
    Annotated[tuple[str, ...] | None, _Or(None)],
    Annotated[str, _Or("")],
    Annotated[_Ending, _Or("")],
    Annotated[tuple[str, ...], _Or(())],
    Annotated[tuple[tuple[str, NonNegativeInt, _Limit], ...], _Or(())],
    Annotated[tuple[str, int] | None, _Or(None)],
    Annotated[tuple[tuple[str, _Limit], ...], _Or(())],
]
_Transition = tuple[str, str, bool, tuple[_Invocation, ...], _Latched, _Skipped, Annotated[_Timing | None, _Or(None)]]
_Attempts = tuple[int, int, float | None, tuple[str, ...], dict[str, str]]
_Result = str | list[str]
"""A result, or those of all items of an invocation."""
_Group = tuple[NonNegativeInt, _Limit, NonNegativeInt, dict[str, str], list[int]]

_USUAL: Final = len(get_args(_Usual))
"""How many of its fields a transition is written with if it changes nothing about time."""

_UNENDING: Final = Timing._fields.index("ending")
"""How many of its fields a timing is written with unless the pass is ending, as in format 4."""

_WITHOUT_ITEMS: Final = Timing._fields.index("opened")
"""How many of its fields a timing is written with unless it concerns items, as in format 5."""

_NO_ITEMS: Final = tuple(Timing())[_WITHOUT_ITEMS:]


class _Progress(TypedDict):
    pending: list[_Invocation]
    failed: frozenset[str]
    held: frozenset[str]
    counts: dict[str, int]
    latches: dict[str, dict[str, _Seen]]
    fired: dict[str, set[str]]
    results: dict[str, _Result]
    attempts: NotRequired[dict[str, _Attempts]]
    deadline: NotRequired[float]
    timers: NotRequired[list[_Timer]]
    output: NotRequired[tuple[str, _Result]]
    keeping: NotRequired[list[str]]
    ending: NotRequired[_Ending]
    groups: NotRequired[dict[str, _Group]]
    parent: NotRequired[tuple[str, int]]
    trace: NotRequired[str]
    origin: NotRequired[tuple[str, int]]


_usual_transitions = TypeAdapter(_Usual)
_transitions = TypeAdapter(_Transition)
_progresses = TypeAdapter(_Progress)
_write_usual, _read_transition = _usual_transitions.serializer.to_json, _transitions.validator.validate_json


def encode_transition(transition: Transition) -> bytes:
    """Encode a transition as JSON: named tuples become arrays, in the order of their fields."""
    if transition.timing is None:
        return _write_usual(transition[:_USUAL], warnings=False)
    timing: tuple[Any, ...] = transition.timing
    if timing[_WITHOUT_ITEMS:] == _NO_ITEMS:
        timing = timing[:_WITHOUT_ITEMS] if timing[_UNENDING:_WITHOUT_ITEMS] != ("", ()) else timing[:_UNENDING]
    return _transitions.serializer.to_json((*transition[:_USUAL], timing), warnings=False)


def decode_transition(data: bytes) -> Transition:
    """Decode what `encode_transition` wrote. Raises `ValueError`."""
    completed, failed, resumed, enabled, latched, skipped, timing = _read_transition(data, strict=True)
    return Transition(
        completed,
        failed,
        resumed,
        tuple(map(Invocation._make, enabled)),
        tuple([(listener, name, Seen._make(seen)) for listener, name, seen in latched]),
        skipped,
        None if timing is None else _timing(*timing),
    )


def _timing(retried: tuple[str, float] | None, deadline: float | None, started: Any, *others: Any) -> Timing:
    return Timing(retried, deadline, tuple(map(Timer._make, started)), *others)


def _attempts_as_stored(attempts: Attempts) -> tuple[Any, ...]:
    memos = {step: value.decode() for step, value in (attempts.memos or {}).items()}
    return (*attempts[:3], [error.decode() for error in attempts.errors], memos)


def _as_text(result: bytes | Gathered) -> _Result:
    return [each.decode() for each in result] if isinstance(result, Gathered) else result.decode()


def _as_bytes(text: _Result) -> bytes | Gathered:
    return text.encode() if isinstance(text, str) else Gathered([each.encode() for each in text])


def _group_as_stored(group: Group) -> tuple[Any, ...]:
    done = {str(index): data.decode() for index, data in group.done.items()}
    return group.count, group.limit, group.started, done, sorted(group.dropped)


def encode_progress(progress: Progress) -> bytes:
    """Encode the whole progress as JSON, without values that follow from the rest. Its results must be JSON bytes."""
    pending = progress.pending.values()
    stored: dict[str, Any] = {
        "pending": [tuple(each) for each in pending if type(each) is not Item]
        if progress.groups
        else list(map(tuple, pending)),
        "failed": progress.failed,
        "held": progress.held,
        "counts": progress.counts,
        "latches": progress.latches,
        "fired": progress.fired,
        "results": {key: _as_text(data) for key, data in progress.results.items()},
    }
    if progress.attempts:
        stored["attempts"] = {key: _attempts_as_stored(each) for key, each in progress.attempts.items()}
    if progress.deadline:
        stored["deadline"] = progress.deadline
    if progress.timers:
        stored["timers"] = list(map(tuple, progress.timers.values()))
    if progress.keeping:
        stored["keeping"] = sorted(progress.keeping)
    if progress.ending:
        stored["ending"] = progress.ending
    if progress.parent is not None:
        stored["parent"] = progress.parent
    if progress.origin is not None:
        stored["origin"] = progress.origin
    if progress.trace:
        stored["trace"] = progress.trace
    if progress.output is not None:
        stored["output"] = (progress.output[0], _as_text(progress.output[1]))
    if progress.groups:
        stored["groups"] = {key: _group_as_stored(group) for key, group in progress.groups.items()}
    return to_json(stored)  # not by its types: that would silently replace a lone surrogate in a name


def _add_group(progress: Progress, key: str, stored: _Group) -> None:
    """Add a group with its pending items. Raises `ValueError` for one that cannot be, and `KeyError`."""
    count, limit, started, texts, dropped = stored
    done = {int(index): text.encode() for index, text in texts.items()}
    group = Group(count, limit, started, done, dropped=set(dropped))
    ended = group.done.keys() | group.dropped
    pending = group.started - sum(index < group.started for index in ended)
    is_possible = group.started <= group.count and all(0 <= index < group.count for index in ended)
    if not is_possible or pending > (group.limit or MOST_WITHOUT_LIMIT):
        raise ValueError("it has items that a list cannot have")
    whole = progress.pending[key]
    progress.groups[key] = group
    for index in range(group.started):
        if index not in ended:
            item = Item.of(whole, index)
            progress.pending[item.key] = item
            group.running += 1


def parent_named_in(progress: bytes | None) -> str | None:
    """Return the id of the parent that a stored progress names, without decoding the rest; None for none."""
    stored = from_json(progress or b"{}")
    named = stored.get("parent") if isinstance(stored, dict) else None
    return str(named[0]) if isinstance(named, list) and named else None


def origin_named_in(progress: bytes | None) -> tuple[str, int] | None:
    """Return the (id, seq) of the run that a stored progress names as its origin, without decoding the rest; None for none."""
    stored = from_json(progress or b"{}")
    named = stored.get("origin") if isinstance(stored, dict) else None
    return (str(named[0]), int(named[1])) if isinstance(named, list) and len(named) == 2 else None


def decode_progress(data: bytes) -> Progress:
    """Decode what `encode_progress` wrote. Raises `ValueError`."""
    stored = _progresses.validate_json(data, strict=True)
    progress = Progress(
        pending={invocation.key: invocation for invocation in map(Invocation._make, stored["pending"])},
        failed=set(stored["failed"]),
        held=set(stored["held"]),
        counts=stored["counts"],
        latches={m: {n: Seen._make(row) for n, row in latch.items()} for m, latch in stored["latches"].items()},
        fired=stored["fired"],
        results={key: _as_bytes(text) for key, text in stored["results"].items()},
        attempts={key: Attempts(1) for key in sorted(stored["failed"])},  # formats before 4 store none
        deadline=stored.get("deadline", 0.0),
        keeping=frozenset(stored.get("keeping", ())),
        ending=stored.get("ending", ""),
        parent=stored.get("parent"),
        trace=stored.get("trace", ""),
        origin=stored.get("origin"),
    )
    progress.timers = {timer.key: timer for timer in map(Timer._make, stored.get("timers", ()))}
    if "output" in stored:
        key, text = stored["output"]
        progress.output = key, _as_bytes(text)
    for key, group in stored.get("groups", {}).items():
        _add_group(progress, key, group)
    for key, (failed, before, due, errors, memos) in stored.get("attempts", {}).items():
        values = {step: text.encode() for step, text in memos.items()} or None
        progress.attempts[key] = Attempts(failed, before, due, tuple([text.encode() for text in errors]), values)
    progress.recount()
    known = progress.pending.keys()
    unknown = (progress.failed | progress.held | progress.attempts.keys()) - known
    is_known = all(
        key[: max(0, key.rfind("["))] in progress.groups for key in unknown
    )  # items that have yet to continue
    if not (is_known and progress.uses.keys() <= progress.results.keys()):
        raise ValueError("it refers to unknown invocations")
    return progress
