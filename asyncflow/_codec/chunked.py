"""Encode a large state piece by piece, so that the event loop can run in between: a single call would block it for long.

The joined pieces are the bytes that the codec would have written at once, in the order of the fields. Only long lists
and dicts that are fields of the state's own model are split, optional ones included; the rest is usually small.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticSerializationError, to_json

from ..merge import FUNCTIONS
from .marks import MIXED, TYPED, has_tags
from .model_hooks import is_read_by_code
from .round_trip import Plan, plans_of_fields

__all__ = ["Pieces", "pieces_for"]

PIECE: Final = 32 * 1024
"""Approximate size of a piece, in bytes: 0.1 ms."""

FEW: Final = 32
"""Number of items that are encoded together before their size is known."""

Encode = Callable[[Any], bytes]


class _Field(NamedTuple):
    name: str
    plan: Plan
    """The plan of the whole value, and of any part of a list or dict: each item is checked, or tried, by itself."""
    encode: Encode | None
    """Encodes such a part; None if the value cannot be split."""


class Pieces:
    """Encodes the instances of one model in pieces."""

    def __init__(self, model: type[BaseModel], plans: list[tuple[str, Plan]], mark: bytes) -> None:
        self._mark = mark
        self._model = model
        self._to_json: Callable[..., bytes] = model.__pydantic_serializer__.to_json
        self._fields = [_field(model, name, plan) for name, plan in plans]
        self._asks = is_read_by_code(model)

    def encode(self, value: Any) -> Generator[None, None, bytes | None]:
        """Encode the value, yielding between pieces, and return the bytes; None if JSON may not preserve it: then the codec must decide.

        If the model's own code takes part in reading, the bytes are read back, in one call, and what was read is written again.
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
        except Exception:  # whatever the model's own code raises: the codec reports it
            return None

    def _written(self, value: Any) -> Generator[None, None, bytes | None]:
        if type(value) is not self._model or value.__pydantic_extra__ or len(value.__dict__) != len(self._fields):
            return None
        parts: list[bytes] = [self._mark, b"{"]
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
        data = b"".join(parts)
        return None if self._mark == MIXED and has_tags(data) else data

    def _of_field(self, field: _Field, value: Any) -> Generator[None, None, list[bytes] | None]:
        content = value.__dict__[field.name]
        if field.encode is None or type(content) not in (list, dict) or len(content) <= FEW:
            if not field.plan.one(content):
                return None
            name = to_json(field.name)
            return [self._to_json(value, include={field.name}, **_AS_STORED)[len(name) + 2 : -1]]
        encoded: list[bytes] = []
        for part in _parts(content, encoded):
            if not field.plan.one(part):
                return None
            encoded += b",", field.encode(part)[1:-1]
            yield
        opened, closed = (b"[", b"]") if type(content) is list else (b"{", b"}")
        return [opened, *encoded[1:], closed]


_AS_STORED: Final[dict[str, Any]] = {"by_alias": False, "round_trip": True, "warnings": "none"}


def _parts(content: Any, encoded: list[bytes]) -> Iterator[Any]:
    """Yield groups of items: as many together as fill one piece, estimated from the last group."""
    items = iter(content if type(content) is list else content.items())
    kind, n = type(content), FEW
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
    """Return the annotation (of an optional, its member) if it allows a list or a dict, which can be split; None for others."""
    if get_origin(annotation) in (Union, types.UnionType):
        others = [member for member in get_args(annotation) if member is not types.NoneType]
        return _cut(others[0]) if len(others) == 1 else None
    can_be_cut = get_origin(annotation) in (list, dict) or annotation in (list, dict, Any, object)
    return annotation if can_be_cut else None


def pieces_for(annotation: Any, mark: bytes = TYPED) -> Pieces | None:
    """Return the `Pieces` of a model; None if the annotation is no model, or if the model's own code writes it."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return None
    plans = plans_of_fields(annotation)
    return None if plans is None else Pieces(annotation, plans, mark)
