"""The stored form of failed attempts: texts, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json

from .._failure import FailedAttempt
from ..persistence.checkpoint import Checkpoint, decode_progress, decode_transition

__all__ = ["attempt_of", "decode_attempt", "decode_attempts", "encodable", "encode_attempt", "encode_attempts"]


def encode_attempt(attempt: FailedAttempt) -> bytes:
    """Encode a failed attempt as a JSON array."""
    return to_json(_plain(attempt))


def decode_attempt(data: bytes) -> FailedAttempt:
    """Decode what `encode_attempt` wrote. Raises `ValueError` and `TypeError`."""
    return FailedAttempt(*from_json(data))


def encode_attempts(attempts: Sequence[FailedAttempt]) -> str:
    """Encode failed attempts as JSON."""
    return to_json([_plain(attempt) for attempt in attempts]).decode()


def decode_attempts(text: str) -> list[FailedAttempt]:
    """Decode what `encode_attempts` wrote; of text that is none, nothing: the failure itself can still be shown."""
    try:
        return [FailedAttempt(*attempt) for attempt in from_json(text or "[]")]
    except (ValueError, TypeError):
        return []


def attempt_of(c: Checkpoint) -> tuple[FailedAttempt | None, float]:
    """Return the failed attempt that a checkpoint of the kind "retrying" stores, and when the next one is due. Raises `ValueError`."""
    error, due = c.result, c.at
    if c.progress is not None:  # a snapshot holds them in its progress
        known = decode_progress(c.progress).attempts.get(c.method)
        if known is not None and known.errors:
            error, due = known.errors[-1], known.due or due
    elif c.changes is not None:
        timing = decode_transition(c.changes).timing
        due = due if timing is None or timing.retried is None else timing.retried[1]
    return None if error is None else decode_attempt(error), due


def encodable(text: str) -> str:
    """Return a text that can be encoded: of another one, with replacements for what cannot."""
    return text.encode("utf-8", "replace").decode()


def _plain(attempt: FailedAttempt) -> list[Any]:
    return [encodable(part) if isinstance(part, str) else part for part in attempt]
