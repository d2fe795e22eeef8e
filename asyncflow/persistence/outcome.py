"""The outcome of a pass, and its stored form: what a method's result or failure, or a cancellation, leaves in a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

__all__ = ["Cancelled", "Failed", "Finished", "Outcome", "StoredFailure", "decode_outcome", "encode_outcome"]


@dataclass(frozen=True, slots=True)
class Finished:
    """The pass has finished."""

    method: str
    """The method that ended last: its result is the output of the pass."""
    result: bytes
    """That result, as the method's codec has encoded it."""


@dataclass(frozen=True, slots=True)
class StoredFailure:
    """The exception that an invocation raised, as texts."""

    method: str
    type: str
    message: str
    traceback: str = field(default="", repr=False)
    invocation: str = ""
    """The key of the invocation, such as `fetch:3`; '' in old checkpoints."""
    attempts: str = field(default="", repr=False)
    """Its failed attempts as JSON, this one included; '' if there is only this one."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A method raised. Never empty; the newest failure is the last one. The last checkpoint of a pass has the earlier ones, too."""

    failures: tuple[StoredFailure, ...]

    @property
    def newest(self) -> StoredFailure:
        """The failure that this checkpoint stores."""
        return self.failures[-1]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run was cancelled."""


Outcome = Finished | Failed | Cancelled

_objects = TypeAdapter(dict[str, str])
_earlier = TypeAdapter(list[dict[str, str]])


def encode_outcome(outcome: Outcome) -> bytes:
    """Encode an outcome as a JSON object of texts. Earlier failures are JSON in its text `earlier`."""
    match outcome:
        case Finished(method, result):
            return to_json({"method": method, "result": result.decode()})
        case Failed(failures):
            *earlier, newest = map(_texts_of, failures)
            return to_json(newest | {"earlier": to_json(earlier).decode()} if earlier else newest)
        case Cancelled():
            return b"{}"


def _texts_of(failure: StoredFailure) -> dict[str, str]:
    """Return the texts of a failure; without its attempts, if there is only one."""
    texts = asdict(failure)
    if not failure.attempts:
        del texts["attempts"]
    return texts


def decode_outcome(data: bytes) -> Outcome:
    """Decode what `encode_outcome` wrote, in any format. Raises `ValueError` and `KeyError`."""
    stored = _objects.validate_json(data, strict=True)
    if "result" in stored:
        return Finished(stored["method"], stored["result"].encode())
    if "type" in stored:
        return Failed((*_earlier_failures(stored), _failure(stored)))
    if stored:
        raise ValueError("it is not the outcome of a pass")
    return Cancelled()


def _earlier_failures(stored: dict[str, Any]) -> list[StoredFailure]:
    try:
        return [_failure(each) for each in _earlier.validate_json(stored.get("earlier", "[]"), strict=True)]
    except ValidationError:  # still return the newest one
        return []


def _failure(stored: dict[str, str]) -> StoredFailure:
    names = ("method", "type", "message", "traceback", "invocation", "attempts")
    return StoredFailure(*(stored.get(name, "") for name in names))
