"""JSON encoding of the scheduler's data: what each transition changed, and the whole progress of a pass.

Arrays are in the order of the named tuples' fields. An older format may have written shorter arrays: fields that were added since
then get their defaults.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired, get_args

from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema, to_json
from typing_extensions import TypedDict

from .._scheduling.messages import Invocation, Seen, Timer, Timing, Transition
from .._scheduling.progress import Attempts, Progress

__all__ = ["decode_progress", "decode_transition", "encode_progress", "encode_transition"]


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
]
_Transition = tuple[str, str, bool, tuple[_Invocation, ...], _Latched, _Skipped, Annotated[_Timing | None, _Or(None)]]
_Attempts = tuple[int, int, float | None, tuple[str, ...], dict[str, str]]

_USUAL: Final = len(get_args(_Usual))
"""How many of its fields a transition is written with if it changes nothing about time."""

_UNENDING: Final = Timing._fields.index("ending")
"""How many of its fields a timing is written with unless the pass is ending, as in format 4."""


class _Progress(TypedDict):
    pending: list[_Invocation]
    failed: frozenset[str]
    held: frozenset[str]
    counts: dict[str, int]
    latches: dict[str, dict[str, _Seen]]
    fired: dict[str, set[str]]
    results: dict[str, str]
    attempts: NotRequired[dict[str, _Attempts]]
    deadline: NotRequired[float]
    timers: NotRequired[list[_Timer]]
    output: NotRequired[tuple[str, str]]
    keeping: NotRequired[list[str]]
    ending: NotRequired[_Ending]
    parent: NotRequired[tuple[str, int]]


_usual_transitions = TypeAdapter(_Usual)
_transitions = TypeAdapter(_Transition)
_progresses = TypeAdapter(_Progress)
_write_usual, _read_transition = _usual_transitions.serializer.to_json, _transitions.validator.validate_json


def encode_transition(transition: Transition) -> bytes:
    """Encode a transition as JSON: named tuples become arrays, in the order of their fields."""
    if transition.timing is None:
        return _write_usual(transition[:_USUAL], warnings=False)
    timing: tuple[Any, ...] = transition.timing
    if timing[_UNENDING:] == ("", ()):
        timing = timing[:_UNENDING]
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


def encode_progress(progress: Progress) -> bytes:
    """Encode the whole progress as JSON, without values that follow from the rest. Its results must be JSON bytes."""
    stored: dict[str, Any] = {
        "pending": list(map(tuple, progress.pending.values())),
        "failed": progress.failed,
        "held": progress.held,
        "counts": progress.counts,
        "latches": progress.latches,
        "fired": progress.fired,
        "results": {key: data.decode() for key, data in progress.results.items()},
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
    if progress.output is not None:
        stored["output"] = (progress.output[0], progress.output[1].decode())
    return to_json(stored)  # not by its types: that would silently replace a lone surrogate in a name


def decode_progress(data: bytes) -> Progress:
    """Decode what `encode_progress` wrote. Raises `ValueError`."""
    stored = _progresses.validate_json(data, strict=True)
    progress = Progress(
        pending={invocation.key: invocation for invocation in map(Invocation._make, stored["pending"])},
        failed=stored["failed"],
        held=stored["held"],
        counts=stored["counts"],
        latches={m: {n: Seen._make(row) for n, row in latch.items()} for m, latch in stored["latches"].items()},
        fired=stored["fired"],
        results={key: text.encode() for key, text in stored["results"].items()},
        attempts={key: Attempts(1) for key in sorted(stored["failed"])},  # formats before 4 store none
        deadline=stored.get("deadline", 0.0),
        keeping=frozenset(stored.get("keeping", ())),
        ending=stored.get("ending", ""),
        parent=stored.get("parent"),
    )
    progress.timers = {timer.key: timer for timer in map(Timer._make, stored.get("timers", ()))}
    if "output" in stored:
        key, text = stored["output"]
        progress.output = key, text.encode()
    for key, (failed, before, due, errors, memos) in stored.get("attempts", {}).items():
        values = {step: text.encode() for step, text in memos.items()} or None
        progress.attempts[key] = Attempts(failed, before, due, tuple([text.encode() for text in errors]), values)
    progress.recount()
    known = progress.pending.keys()
    named = progress.failed | progress.held | progress.attempts.keys()
    if not (named <= known and progress.uses.keys() <= progress.results.keys()):
        raise ValueError("it refers to unknown invocations")
    return progress
