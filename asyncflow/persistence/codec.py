"""Values as bytes and back: equal and of the same types, or refused before anything is written.

Types come from the class, never from stored data. Where there is an annotation, pydantic writes JSON for it; where there
is none, JSON's own types and a closed list of tagged builtins hold. No pickle, no import driven by data, no fallback.
"""

from __future__ import annotations

import inspect
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import PydanticSerializationError, from_json, to_json

from .._values import difference, promoted
from ..state import DictState, StateType, explained
from .exact import Plan, is_json, plan_for
from .pieces import Pieces, pieces_for
from .refused import MAX_DEPTH, Misfit, Refused
from .tagged import tagged, untagged

__all__ = ["Codec", "Misfit", "Refused", "codec_for", "plain_codec", "state_codec_for"]

MAX_BYTES = 256 * 1024 * 1024
"""The largest value that is stored: well below SQLite's own limit of 1,000,000,000 bytes a blob."""


class Codec(ABC):
    """Encodes and decodes the values of one annotation."""

    pieces: Pieces | None = None
    """Encodes them piece by piece, where it can."""

    @abstractmethod
    def encode(self, value: Any) -> tuple[bytes, Any]:
        """The bytes, and the value as it will load: the same object, but for an int where the annotation says float.

        Raises `Refused`.
        """

    @abstractmethod
    def decode(self, data: bytes) -> Any:
        """The value. Raises `Misfit` where it does not fit the annotation, `ValueError` where it is no JSON."""


class TypedCodec(Codec):
    """Values of an annotation, as pydantic writes them."""

    def __init__(self, annotation: Any) -> None:
        self._adapter = adapter = TypeAdapter(annotation)
        self.plan = plan_for(annotation)
        # the JSON alone, whatever it loses; made once, and warnings "none" would take ten times the call
        self.write: Callable[[Any], bytes] = partial(
            adapter.serializer.to_json, by_alias=False, round_trip=True, warnings=False
        )
        self._checks_fields = _keeps_every_field(annotation)

    def encode(self, value: Any) -> tuple[bytes, Any]:
        plan = self.plan
        if plan is None or not plan.one(value):
            return self._tried(value)
        try:
            data = _limited(self.write(value))
        except PydanticSerializationError as error:
            raise _unwritable(value, error) from None
        return (data, value) if not plan.asks or self._is_read_back(plan, data) else self._tried(value)

    def _is_read_back(self, plan: Plan, data: bytes) -> bool:
        """Whether code of the model's makes of the bytes what they were made of."""
        try:
            read = self._read(data)
            return plan.one(read) and self.write(read) == data
        except (PydanticSerializationError, ValidationError, RecursionError):
            return False

    def _tried(self, value: Any) -> tuple[bytes, Any]:
        if not _fits(value):
            raise _nested(value)
        try:
            data = _limited(self.write(value))
            loaded = self._read(data)
        except (PydanticSerializationError, RecursionError) as error:
            raise _unwritable(value, error) from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            if first["type"] == "json_invalid" and not first["loc"]:  # not a field of pydantic.Json: all of it
                raise _unreadable(value) from None
            path = ".".join(map(str, first["loc"]))
            reason = f"it does not fit its own annotation when loaded ({first['type']})"
            raise Refused(path, _type_at(value, path), reason, "assign a value of the declared type") from None
        if difference(value, loaded) is None:
            return data, value
        found = difference(value, loaded, promoted=True)
        if found is not None:
            path, reason = found
            cure = "use a type that JSON keeps, declare the field's exact type, or exclude it: Field(exclude=True)"
            raise Refused(path, _type_at(value, path), f"when loaded, {reason}", cure)
        return data, promoted(value, loaded)

    def _read(self, data: bytes) -> Any:
        return self._adapter.validate_json(data, by_alias=False, by_name=True)

    def decode(self, data: bytes) -> Any:
        try:
            value = self._read(data)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            raise Misfit(explained(found), tuple(".".join(map(str, e["loc"])) for e in found)) from None
        if self._checks_fields:
            again = self.write(value)
            lost = () if again == data else tuple(_lost(from_json(data), from_json(again), ""))
            if lost:
                raise Misfit(f"the model has no place for {', '.join(lost)}", lost)
        return value


class PlainCodec(Codec):
    """Values without an annotation: JSON's own types, and tagged builtins."""

    def encode(self, value: Any) -> tuple[bytes, Any]:
        tree = value if is_json(value, tags=False) else tagged(value, "", 0)
        try:
            return _limited(to_json(tree)), value
        except (PydanticSerializationError, ValueError) as error:
            raise _unwritable(value, error) from None

    def decode(self, data: bytes) -> Any:
        return untagged(from_json(data, allow_inf_nan=False))


class DictStateCodec(Codec):
    """The states of a `Flow[dict[str, X]]`: every value but the `id` is an X."""

    def __init__(self, values: Any) -> None:
        self._values = codec_for(dict[str, values])

    def encode(self, value: Any) -> tuple[bytes, Any]:
        values = {key: inner for key, inner in value.items() if key != "id"}
        data, kept = self._values.encode(values)
        data = b'{"id":%b%b%b' % (to_json(value["id"]), b"," if values else b"", data[1:])
        return data, value if kept is values else {"id": value["id"], **kept}

    def decode(self, data: bytes) -> Any:
        stored = _state_dict(from_json(data))
        run_id = stored.pop("id")
        return {"id": run_id, **self._values.decode(to_json(stored))}


class PlainDictStateCodec(PlainCodec):
    """The states of a `Flow[dict]`."""

    def decode(self, data: bytes) -> Any:
        return _state_dict(super().decode(data))


def _state_dict(value: Any) -> Any:
    if type(value) is not dict or type(value.get("id")) is not str or any(type(key) is not str for key in value):
        raise Misfit("it is no dict with texts for keys, and a text for its id")
    return value


plain_codec = PlainCodec()


def state_codec_for(state_type: StateType) -> Codec:
    """The codec of a flow's states."""
    if isinstance(state_type, DictState):
        return PlainDictStateCodec() if state_type.values is Any else DictStateCodec(state_type.values)
    codec = codec_for(state_type.annotation)
    if isinstance(codec, TypedCodec):  # not a model that is yet to be completed
        codec.pieces = pieces_for(state_type.annotation)
    return codec


def codec_for(annotation: Any) -> Codec:
    """The codec of an annotation; `inspect.Signature.empty`, and what pydantic cannot describe, is plain."""
    if annotation is inspect.Signature.empty or annotation is Any or annotation is object:
        return plain_codec
    try:
        return TypedCodec(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return plain_codec


def _limited(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        reason = f"it takes {len(data)} bytes, and {MAX_BYTES} is the most"
        raise Refused("", "", reason, "keep large data in files or tables, and their names in the state", limit=True)
    return data


def _fits(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether containers stand in each other no deeper than that; one that contains itself does not fit."""
    return depth > 0 and all(_fits(inner, depth - 1) for inner in _held(value))


def _held(value: Any) -> Iterable[Any]:
    if isinstance(value, BaseModel):
        return value.__dict__.values()
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple | set | frozenset) else ()


def _nested(value: Any) -> Refused:
    reason = f"it is nested more than {MAX_DEPTH} deep"
    return Refused("", type(value).__name__, reason, "flatten it", limit=True)


def _unwritable(value: Any, error: Exception) -> Refused:
    if isinstance(error, RecursionError):
        return _nested(value)
    reason = "it cannot be written as JSON (bytes that are no UTF-8, a lone surrogate, or a type without a JSON form)"
    path = next((p for p, v in _leaves(value, "", 0) if not _leaf_writes(v)), "")
    return Refused(
        path, _type_at(value, path), reason, "use a type that JSON keeps, or exclude it: Field(exclude=True)"
    )


def _unreadable(value: Any) -> Refused:
    path = next((p for p, v in _leaves(value, "", 0) if not _leaf_reads(v)), "")
    return Refused(path, _type_at(value, path), "it has more digits than Python reads", "store it as text", limit=True)


def _leaf_reads(value: Any) -> bool:
    try:
        from_json(to_json(value))
    except (PydanticSerializationError, ValueError):
        return False
    return True


def _leaf_writes(value: Any) -> bool:
    try:
        to_json(value)
    except (PydanticSerializationError, ValueError):
        return False
    return True


def _leaves(value: Any, path: str, depth: int) -> Any:
    items: Any = ()
    if isinstance(value, BaseModel):
        items = value.__dict__.items()
    elif isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield path, value
    for key, inner in items if depth < MAX_DEPTH else ():
        yield from _leaves(inner, f"{path}.{key}".lstrip("."), depth + 1)


def _type_at(value: Any, path: str) -> str:
    """The type of what stands at a path, as far as the path can be followed."""
    for part in path.replace("[", ".").replace("]", "").strip(".").split(".") if path else ():
        try:
            value = value[int(part)] if isinstance(value, list | tuple) else _inside(value, part)
        except (KeyError, IndexError, AttributeError, ValueError, TypeError):
            return type(value).__name__
    return type(value).__name__


def _inside(value: Any, part: str) -> Any:
    return value[part] if isinstance(value, dict) else getattr(value, part)


def _keeps_every_field(annotation: Any) -> bool:
    """Whether what is stored and not loaded is an error.

    Not where a before-validator of the model says that it deals with that; nor where there is nothing to lose.
    """
    if annotation in (int, float, str, bool, None, types.NoneType):
        return False
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return True
    return not any(
        d.info.mode in ("before", "wrap") for d in annotation.__pydantic_decorators__.model_validators.values()
    )


def _lost(stored: Any, again: Any, path: str) -> Any:
    """The paths that are in the stored JSON and not in what was made of it."""
    if isinstance(stored, dict) and isinstance(again, dict):
        for key, value in stored.items():
            here = f"{path}.{key}".lstrip(".")
            if key not in again:
                yield here
            else:
                yield from _lost(value, again[key], here)
    elif isinstance(stored, list) and isinstance(again, list):
        if len(stored) != len(again):
            yield path
        for i, (a, b) in enumerate(zip(stored, again, strict=False)):
            yield from _lost(a, b, f"{path}[{i}]")
