"""Values as bytes and back: equal and of the same types, or refused before anything is written.

Types come from the class, never from stored data. Where there is an annotation, pydantic writes JSON for it; where there
is none, or where it says `Any`, JSON's own types and a closed list of tagged builtins hold. The first byte says which of the
two wrote a value (`marks.py`). No pickle, no import driven by data, no fallback.
"""

from __future__ import annotations

import inspect
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import PydanticSerializationError, from_json, to_json

from .. import _own_code
from .._values import difference, promoted, told_key, told_path
from ..state import DictState, StateType, explained
from .advice import changed, deep, is_written, raised, unfit, unreadable, unwritable
from .exact import Plan, is_json, plan_for
from .marks import MIXED, SAME, TAGGED, TYPED
from .pieces import Pieces, pieces_for
from .refused import MAX_DEPTH, Misfit, Refused
from .schemas import Tagging, is_plain, settings_of, tagging_of
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


_BY_ANNOTATION: Final = frozenset((SAME, TYPED, MIXED))
_GONE: Final = "it was written under an annotation that is gone, without which its JSON does not say what it is"


class TypedCodec(Codec):
    """Values of an annotation, as pydantic writes them; what it calls `Any`, with tags where JSON would not keep it."""

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        self._adapter = adapter = TypeAdapter(annotation)
        self.plan = plan_for(annotation)
        # the JSON alone, whatever it loses; made once, and warnings "none" would take ten times the call
        self.write: Callable[[Any], bytes] = partial(
            adapter.serializer.to_json, by_alias=False, round_trip=True, warnings=False
        )
        self._checks_fields = _keeps_every_field(annotation)
        is_same, self._is_open = is_plain(self._schema)
        self._mark = SAME if is_same else TYPED
        self._read_as_json = frozenset((SAME,) if self._is_open else (SAME, TYPED))
        self._tries_tags_first = False

    @property
    def _schema(self) -> Any:
        schema: Any = self._adapter.core_schema
        return schema if isinstance(schema, dict) else dict(schema)  # of a class that was completed just now

    @cached_property
    def _mixed(self) -> Tagging | None:
        """Writes and reads it with tags where it says `Any`, if it does."""
        return tagging_of(self._schema)

    # ---- writing -----------------------------------------------------------------------------------------------

    def encode(self, value: Any) -> tuple[bytes, Any]:
        plan = self.plan
        if plan is None or not plan.one(value):
            return self._tried(value)
        try:
            data = _limited(self.write(value))
        except PydanticSerializationError as error:
            raise self._unwritten(value, error) from None
        return (self._mark + data, value) if not plan.asks or self._is_read_back(plan, data) else self._tried(value)

    def _is_read_back(self, plan: Plan, data: bytes) -> bool:
        """Whether code of the model's makes of the bytes what they were made of."""
        try:
            read = self._read(data)
            return plan.one(read) and self.write(read) == data
        except Exception:  # whatever that code raises: it is told by whoever tries
            return False

    def _tried(self, value: Any) -> tuple[bytes, Any]:
        """Encoded, decoded and compared: without tags, and with them, whichever did last time first."""
        if not _fits(value):
            raise deep(value)
        ways = (self._without_tags, self._with_tags)
        try:
            return ways[self._tries_tags_first](value)
        except Refused as refused:
            if refused.limit or not (self._is_open or self._mixed):
                raise
            first = refused
        try:
            done = ways[not self._tries_tags_first](value)
        except Refused as refused:
            raise (first if self._tries_tags_first else refused) from None
        self._tries_tags_first = not self._tries_tags_first
        return done

    def _without_tags(self, value: Any) -> tuple[bytes, Any]:
        return self._compared(value, self._mark, self.write, self._read)

    def _with_tags(self, value: Any) -> tuple[bytes, Any]:
        if self._is_open:
            return self._compared(value, TAGGED, lambda value: to_json(tagged(value, "", 0)), self._validated)
        assert self._mixed is not None, "tried only where there are tags"
        return self._compared(value, MIXED, self._mixed.write, self._mixed.read)

    def _compared(
        self, value: Any, mark: bytes, write: Callable[[Any], bytes], read: Callable[[bytes], Any]
    ) -> tuple[bytes, Any]:
        try:
            data = _limited(write(value))
            loaded = read(data)
        except Refused:
            raise
        except (PydanticSerializationError, RecursionError) as error:
            raise self._unwritten(value, error) from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            if first["type"] == "json_invalid" and not first["loc"]:  # not a field of pydantic.Json: all of it
                raise unreadable(value) from None
            raise unfit(value, error) from None
        except Exception as error:  # of the class's own code
            places = _own_code.places_of(error, self._annotation)
            raise raised(value, type(error).__name__, places) from error
        if difference(value, loaded) is None:
            return mark + data, value
        found = difference(value, loaded, promoted=True)
        if found is not None:
            raise changed(found)
        return mark + data, promoted(value, loaded)

    def _unwritten(self, value: Any, error: Exception) -> Refused:
        found = _own_code.of_serializer(error, self._annotation)
        if found is not None:
            return raised(value, *found)
        return unwritable(value, error)

    # ---- reading -----------------------------------------------------------------------------------------------

    def decode(self, data: bytes) -> Any:
        mark = data[:1]
        if mark in self._read_as_json:
            return self._loaded(data, self._read, self.write)
        if mark == TAGGED:
            is_json_alone = not _has_tags(data)
            return self._loaded(data, self._read, self.write) if is_json_alone else self._from_tags(data)
        if mark == MIXED and self._mixed is not None and not self._is_open:
            return self._else_from_tags(data, self._mixed.read, self._mixed.write)
        if mark in (MIXED, TYPED):
            if self._is_open or "val_json_bytes" in self._settings:
                raise Misfit(_GONE, is_gone=True)
            return self._from_tags(data)  # what was an `Any` has an annotation now
        return self._else_from_tags(data, self._read, self.write)  # of 0.1, which does not say how it is written

    def _read(self, data: bytes) -> Any:
        return self._adapter.validate_json(data, by_alias=False, by_name=True)

    def _validated(self, data: bytes) -> Any:
        """The value of JSON with tags, validated as the Python value that it is."""
        value = untagged(from_json(data, allow_inf_nan=False))
        try:
            return self._adapter.validate_python(value, by_alias=False, by_name=True)
        except ValidationError:
            if "strict" not in self._settings or not is_written(value):
                raise
        return self._read(to_json(value))  # strict models take dicts, and lists for tuples, from JSON alone

    @cached_property
    def _settings(self) -> set[str]:
        return settings_of(self._schema)

    def _else_from_tags(self, data: bytes, read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Any:
        try:
            return self._loaded(data, read, write)
        except Misfit as misfit:
            if not _has_tags(data) or (data.startswith(MIXED) and "val_json_bytes" in self._settings):
                raise
            first = misfit
        try:
            return self._from_tags(data)
        except (Misfit, ValueError, KeyError, TypeError):  # tags of nobody's: dicts of the user's
            raise first from None

    def _from_tags(self, data: bytes) -> Any:
        try:
            value = self._validated(data)
            write = partial(self._adapter.serializer.to_python, by_alias=False, round_trip=True, warnings=False)
            again = write(value) if self._checks_fields else None
        except Exception as error:
            self._check_own(error)
            raise
        if self._checks_fields:
            _check_kept(untagged(from_json(data, allow_inf_nan=False)), again)
        return value

    def _loaded(self, data: bytes, read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Any:
        """What is read, if nothing of what is stored is lost."""
        try:
            value = read(data)
            again = write(value) if self._checks_fields else None
        except Exception as error:
            self._check_own(error)
            raise
        is_same = again is None or (len(data) - len(again) in (0, 1) and data.endswith(again))  # but for its first byte
        if again is not None and not is_same:
            _check_kept(from_json(data), from_json(again))
        return value

    def _check_own(self, error: Exception) -> None:
        """Raises `Misfit` for what the class says of a value that was read, whatever it raises to say so."""
        if isinstance(error, ValidationError):
            faults = error.errors(include_url=False, include_input=False)
            raise Misfit(explained(faults, "the value"), tuple(told_path(e["loc"]) for e in faults)) from None
        found = _own_code.of_serializer(error, self._annotation)
        if found is None and not isinstance(error, RecursionError) and _own_code.is_own(error):
            found = type(error).__name__, _own_code.places_of(error, self._annotation)
        if found is not None:
            name, places = found
            where = ", ".join(place or "the value" for place in places or ("",))
            raise Misfit(f"{where}: its own code raised {name}", tuple(filter(None, places))) from error


def _check_kept(stored: Any, again: Any) -> None:
    """Whether all that is stored is in what was made of it. Raises `Misfit`."""
    lost = tuple(_lost(stored, again, ""))
    if lost:
        raise Misfit(f"the model has no place for {', '.join(lost)}", lost)


class PlainCodec(Codec):
    """Values without an annotation: JSON's own types, and tagged builtins."""

    def encode(self, value: Any) -> tuple[bytes, Any]:
        tree = value if is_json(value, tags=False) else tagged(value, "", 0)
        try:
            return TAGGED + _limited(to_json(tree)), value
        except (PydanticSerializationError, ValueError) as error:
            raise unwritable(value, error) from None

    def decode(self, data: bytes) -> Any:
        mark = data[:1]
        if mark != TAGGED and mark in _BY_ANNOTATION:
            if mark == SAME:
                return from_json(data, allow_inf_nan=False)
            raise Misfit(_GONE, is_gone=True)
        return untagged(from_json(data, allow_inf_nan=False))


class DictStateCodec(Codec):
    """The states of a `Flow[dict[str, X]]`: every value but the `id` is an X."""

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
        mark = data[:1] if data[:1] == TAGGED or data[:1] in _BY_ANNOTATION else b""
        stored = from_json(data)
        if mark == TAGGED:
            stored = untagged(stored)
        stored = _state_dict(stored)
        run_id = stored.pop("id")
        tree = tagged(stored, "", 0) if mark == TAGGED else stored
        return {"id": run_id, **self._values.decode(mark + to_json(tree))}


class PlainDictStateCodec(PlainCodec):
    """The states of a `Flow[dict]`."""

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
            reason = f"a key of the state is a string, and one is of type {what}"
            raise Refused("", "dict", reason, "use strings as keys of the state, or store that dict under one of them")


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


def _has_tags(data: bytes) -> bool:
    """Whether there may be tags."""
    return b'{"$' in data


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
            here = f"{path}{told_key(key)}".lstrip(".")
            if type(key) is not str:  # of a value that was tagged: JSON writes another key
                continue
            if key not in again:
                yield here
            else:
                yield from _lost(value, again[key], here)
    elif isinstance(stored, list) and isinstance(again, list):
        if len(stored) != len(again):
            yield path
        for i, (a, b) in enumerate(zip(stored, again, strict=False)):
            yield from _lost(a, b, f"{path}[{i}]")
