"""A large state encoded piece by piece, so that the event loop can turn in between: what one call would hold it for long.

The pieces, put together, are the bytes that the codec would have written at once, in the order of the fields. Only long lists
and dicts that are fields of the state's own model, are cut, optional ones too; the rest is small, as a rule.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticSerializationError, to_json

from ..merge import FUNCTIONS
from .exact import Plan, plans_of_fields
from .interference import is_read_by_code
from .marks import TYPED

__all__ = ["Pieces", "pieces_for"]

PIECE: Final = 32 * 1024
"""Bytes of a piece, about: 0.1 ms."""

FEW: Final = 32
"""Items that are encoded together before it is known how large they are."""

Encode = Callable[[Any], bytes]


class _Field(NamedTuple):
    name: str
    plan: Plan
    """Of the whole value, and, being a list's or a dict's, of any part of it: each item is kept, or tried, for itself."""
    encode: Encode | None
    """Encodes such a part; None where it cannot be cut."""


class Pieces:
    """Encodes the instances of one model."""

    def __init__(self, model: type[BaseModel], plans: list[tuple[str, Plan]]) -> None:
        self._model = model
        self._to_json: Callable[..., bytes] = model.__pydantic_serializer__.to_json
        self._fields = [_field(model, name, plan) for name, plan in plans]
        self._asks = is_read_by_code(model)

    def encode(self, value: Any) -> Generator[None, None, bytes | None]:
        """The bytes, in the end; None where JSON may not keep the value as it is: then the codec is to be asked.

        Where code of the model's has a say in what is read, they are read, in one call, and what was read is written again.
        """
        data = yield from self._written(value)
        if data is None or not self._asks:
            return data
        yield
        read = self._read(data)
        yield
        again = None if read is None else (yield from self._written(read))
        return data if again == data else None

    def _read(self, data: bytes) -> Any:
        try:
            return self._model.model_validate_json(data, by_alias=False, by_name=True)
        except Exception:  # whatever code of the model's raises: the codec tells it
            return None

    def _written(self, value: Any) -> Generator[None, None, bytes | None]:
        if type(value) is not self._model or value.__pydantic_extra__ or len(value.__dict__) != len(self._fields):
            return None
        parts: list[bytes] = [TYPED, b"{"]
        for n, field in enumerate(self._fields):
            parts += b"," if n else b"", to_json(field.name), b":"
            try:
                encoded = yield from self._of_field(field, value)
            except (PydanticSerializationError, KeyError, RecursionError):
                return None
            if encoded is None:
                return None
            parts += encoded
        parts.append(b"}")
        return b"".join(parts)

    def _of_field(self, field: _Field, value: Any) -> Generator[None, None, list[bytes] | None]:
        held = value.__dict__[field.name]
        if field.encode is None or type(held) not in (list, dict) or len(held) <= FEW:
            if not field.plan.one(held):
                return None
            name = to_json(field.name)
            return [self._to_json(value, include={field.name}, **_AS_STORED)[len(name) + 2 : -1]]
        encoded: list[bytes] = []
        for part in _parts(held, encoded):
            if not field.plan.one(part):
                return None
            encoded += b",", field.encode(part)[1:-1]
            yield
        opened, closed = (b"[", b"]") if type(held) is list else (b"{", b"}")
        return [opened, *encoded[1:], closed]


_AS_STORED: Final[dict[str, Any]] = {"by_alias": False, "round_trip": True, "warnings": "none"}


def _parts(held: Any, encoded: list[bytes]) -> Iterator[Any]:
    """The items, some together: as many as make a piece, judged by the last one."""
    items = iter(held if type(held) is list else held.items())
    kind, n = type(held), FEW
    while part := kind(islice(items, n)):
        yield part
        n = max(1, n * PIECE // max(len(encoded[-1]), n))


def _field(model: type[BaseModel], name: str, plan: Plan) -> _Field:
    field = model.model_fields[name]
    cut = _cut(field.annotation) if all(isinstance(m, FUNCTIONS) for m in field.metadata) else None
    if cut is None:
        return _Field(name, plan, None)
    adapter: TypeAdapter[Any] = TypeAdapter(cut, config={**model.model_config, "defer_build": False})
    return _Field(name, plan, lambda part: adapter.serializer.to_json(part, **_AS_STORED))


def _cut(annotation: Any) -> Any:
    """What may be a list or a dict by its annotation, and be cut then; None for others."""
    if get_origin(annotation) in (Union, types.UnionType):
        others = [member for member in get_args(annotation) if member is not types.NoneType]
        return _cut(others[0]) if len(others) == 1 else None
    can_be_cut = get_origin(annotation) in (list, dict) or annotation in (list, dict, Any, object)
    return annotation if can_be_cut else None


def pieces_for(annotation: Any) -> Pieces | None:
    """What encodes the instances of a model in pieces; None for what is no model, or is written by code of its own."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return None
    plans = plans_of_fields(annotation)
    return None if plans is None else Pieces(annotation, plans)
