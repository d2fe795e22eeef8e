"""Encode the states of flows: a model as its annotation says, a dict by its keys and values."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json

from ..state import DictState, StateType
from .chunked import pieces_for
from .codec import Codec, PlainCodec, TypedCodec, codec_for
from .errors import Misfit, Refused
from .marks import BY_ANNOTATION, TAGGED
from .tagged import tagged, untagged

__all__ = ["state_codec_for"]


def state_codec_for(state_type: StateType) -> Codec:
    """Return the codec of a flow's states."""
    if isinstance(state_type, DictState):
        return PlainDictStateCodec() if state_type.values is Any else DictStateCodec(state_type.values)
    codec = codec_for(state_type.annotation)
    if isinstance(codec, TypedCodec):  # a model that is not complete yet gets the plain codec
        codec.pieces = pieces_for(state_type.annotation, codec.mark)
    return codec


class DictStateCodec(Codec):
    """Encodes the states of a `Flow[dict[str, X]]`: every value except the `id` is an X."""

    def __init__(self, values: Any) -> None:
        self._values = codec_for(dict[str, values])

    def encode(self, value: Any) -> tuple[bytes, Any]:
        _refuse_keys(value)
        values = {key: inner for key, inner in value.items() if key != "id"}
        data, kept = self._values.encode(values)
        if data.startswith(TAGGED):
            data = TAGGED + to_json(tagged(value, "", 0))
        else:
            data = b'%b{"id":%b%b%b' % (data[:1], to_json(value["id"]), b"," if values else b"", data[2:])
        return data, value if kept is values else {"id": value["id"], **kept}

    def decode(self, data: bytes) -> Any:
        mark = data[:1] if data[:1] == TAGGED or data[:1] in BY_ANNOTATION else b""
        stored = from_json(data)
        if mark == TAGGED:
            stored = untagged(stored)
        stored = _state_dict(stored)
        run_id = stored.pop("id")
        tree = tagged(stored, "", 0) if mark == TAGGED else stored
        return {"id": run_id, **self._values.decode(mark + to_json(tree))}


class PlainDictStateCodec(PlainCodec):
    """Encodes the states of a `Flow[dict]`."""

    def encode(self, value: Any) -> tuple[bytes, Any]:
        _refuse_keys(value)
        return super().encode(value)

    def decode(self, data: bytes) -> Any:
        return _state_dict(super().decode(data))


def _refuse_keys(state: dict[Any, Any]) -> None:
    """Raise `Refused` for a state with a key that is not a string: its keys are names, as inputs and patches give them."""
    for key in state:
        if not isinstance(key, str):
            what = type(key).__name__
            reason = f"the keys of a state must be strings, and one is of type {what}"
            raise Refused("", "dict", reason, "use strings as keys of the state, or store that dict under one of them")


def _state_dict(value: Any) -> Any:
    if type(value) is not dict or type(value.get("id")) is not str or any(type(key) is not str for key in value):
        raise Misfit("it is not a dict with string keys and a string id")
    return value
