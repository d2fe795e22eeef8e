"""JSON encoding of the scheduler's data: what each transition changed, and the whole progress of a pass.

Arrays are in the order of the named tuples' fields. An older format may have written shorter arrays: fields that were added since
then get their defaults.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema, to_json
from typing_extensions import TypedDict

from .._scheduling.messages import Invocation, Seen, Transition
from .._scheduling.progress import Progress

__all__ = ["decode_progress", "decode_transition", "encode_progress", "encode_transition"]


class _OrNone:
    """An annotation for a field that an older format may not have; its default is the empty tuple."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_default_schema(handler(source), default=())


_Arguments = Annotated[tuple[tuple[str, str], ...], _OrNone()]
_Invocation = tuple[str, int, str, frozenset[str], _Arguments]
_Seen = tuple[str, frozenset[str], str]
_Latched = tuple[tuple[str, str, _Seen], ...]
_Transition = tuple[str, str, bool, tuple[_Invocation, ...], _Latched, Annotated[tuple[str, ...], _OrNone()]]


class _Progress(TypedDict):
    pending: list[_Invocation]
    failed: frozenset[str]
    held: frozenset[str]
    counts: dict[str, int]
    latches: dict[str, dict[str, _Seen]]
    fired: dict[str, set[str]]
    results: dict[str, str]


_transitions = TypeAdapter(_Transition)
_progresses = TypeAdapter(_Progress)
_write_transition, _read_transition = _transitions.serializer.to_json, _transitions.validator.validate_json


def encode_transition(transition: Transition) -> bytes:
    """Encode a transition as JSON: named tuples become arrays, in the order of their fields."""
    return _write_transition(transition, warnings=False)


def decode_transition(data: bytes) -> Transition:
    """Decode what `encode_transition` wrote. Raises `ValueError`."""
    completed, failed, resumed, enabled, latched, skipped = _read_transition(data, strict=True)
    return Transition(
        completed,
        failed,
        resumed,
        tuple(map(Invocation._make, enabled)),
        tuple([(listener, name, Seen._make(seen)) for listener, name, seen in latched]),
        skipped,
    )


def encode_progress(progress: Progress) -> bytes:
    """Encode the whole progress as JSON, without values that follow from the rest. Its results must be JSON bytes."""
    stored = {
        "pending": list(map(tuple, progress.pending.values())),
        "failed": progress.failed,
        "held": progress.held,
        "counts": progress.counts,
        "latches": progress.latches,
        "fired": progress.fired,
        "results": {key: data.decode() for key, data in progress.results.items()},
    }
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
    )
    progress.recount()
    known = progress.pending.keys()
    if not (progress.failed <= known and progress.held <= known and progress.uses.keys() <= progress.results.keys()):
        raise ValueError("it refers to unknown invocations")
    return progress
