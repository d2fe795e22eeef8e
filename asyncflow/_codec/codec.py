"""Encode values as bytes and decode them: equal and of the same types, or refused before anything is written.

Types come from the class, never from stored data. If a value has an annotation, pydantic writes its JSON. Without an
annotation, or where it says `Any`, only JSON's own types and a closed list of tagged builtins are allowed. The first byte
records which of the two encodings wrote a value (`marks.py`). No pickle, no import driven by data, no fallback.
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

from .._values import own_code as _own_code
from .._values.copying import difference, key_text, path_text, promoted
from .._values.explaining import explained
from .advice import changed, deep, is_written, raised, unfit, unreadable, unwritable
from .chunked import Pieces
from .errors import MAX_DEPTH, Misfit, Refused
from .marks import BY_ANNOTATION, MIXED, SAME, TAGGED, TYPED, has_tags
from .round_trip import is_json, plan_for
from .schemas import TYPE_IS_GONE, Tagging, has_any, is_plain, settings_of, tagging_of
from .tagged import tagged, untagged

__all__ = ["Codec", "Misfit", "Refused", "codec_for", "plain_codec"]

MAX_BYTES = 256 * 1024 * 1024
"""The largest value that is stored: well below SQLite's own limit of 1,000,000,000 bytes per blob."""


class Codec(ABC):
    """Encodes and decodes the values of one annotation."""

    pieces: Pieces | None = None
    """Encodes the values piece by piece, if that is possible."""

    @abstractmethod
    def encode(self, value: Any) -> tuple[bytes, Any]:
        """Return the bytes, and the value as it will load: the same object, except for an int where the annotation says float.

        Raises `Refused`.
        """

    @abstractmethod
    def decode(self, data: bytes) -> Any:
        """Return the value. Raises `Misfit` if it does not fit the annotation, `ValueError` if the data is not JSON."""


_GONE: Final = (
    "it was written under an annotation that no longer exists, and its JSON alone does not determine the value"
)


class TypedCodec(Codec):
    """Encodes the values of an annotation as pydantic writes them. Where it says `Any`, tags mark what JSON would not preserve."""

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        self._adapter = adapter = TypeAdapter(annotation)
        plan = plan_for(annotation)
        self.holds = None if plan is None else plan.one
        """Whether JSON surely preserves a value; None if that has to be tried for each."""
        self._asks = plan is not None and plan.asks
        # writes JSON only, even if it loses something; created once: the call takes ten times as long with warnings="none"
        self.write: Callable[[Any], bytes] = partial(
            adapter.serializer.to_json, by_alias=False, round_trip=True, warnings=False
        )
        self._checks_fields = _keeps_every_field(annotation)
        is_same, self._is_open = is_plain(self._schema)
        self._has_any = not is_same and has_any(self._schema)
        self.mark = SAME if is_same else MIXED if self._has_any else TYPED
        self._read_as_json = frozenset((SAME,) if self._is_open or self._has_any else (SAME, TYPED))
        self._tries_tags_first = False

    @property
    def _schema(self) -> Any:
        schema: Any = self._adapter.core_schema
        return schema if isinstance(schema, dict) else dict(schema)  # no dict just after the class is completed

    @cached_property
    def _mixed(self) -> Tagging | None:
        """Writes and reads the values with tags at each `Any` of the annotation; None if there is no `Any`."""
        return tagging_of(self._schema)

    # ---- writing -----------------------------------------------------------------------------------------------

    def encode(self, value: Any) -> tuple[bytes, Any]:
        if self.holds is None or not self.holds(value):
            return self._tried(value)
        try:
            data = self.write(value)
        except PydanticSerializationError as error:
            raise self._unwritten(value, error) from None
        if len(data) > MAX_BYTES:
            _limited(data)
        if self._has_any and has_tags(data):  # a dict of the user's at an `Any`, which must not be read as a tag
            return self._tried(value)
        return (self.mark + data, value) if not self._asks or self._is_read_back(data) else self._tried(value)

    def _is_read_back(self, data: bytes) -> bool:
        """Whether the bytes decode to the value that was encoded, although the model's own code takes part."""
        assert self.holds is not None, "it holds for the value"
        try:
            read = self._read(data)
            return self.holds(read) and self.write(read) == data
        except Exception:  # whatever that code raises: `_tried` reports it
            return False

    def _tried(self, value: Any) -> tuple[bytes, Any]:
        """Encode, decode and compare the value, without tags and with them. Try first the way that succeeded last time."""
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
        data, kept = self._compared(value, self.mark, self.write, self._read)
        if self._has_any and has_tags(data):
            raise Refused("", "", "it contains a dict that looks like a type tag", "write it with tags")
        return data, kept

    def _with_tags(self, value: Any) -> tuple[bytes, Any]:
        if self._is_open:
            return self._compared(value, TAGGED, lambda value: to_json(tagged(value, "", 0)), self._validated)
        assert self._mixed is not None, "tried only where there are tags"
        data, kept = self._compared(value, MIXED, self._mixed.write, self._mixed.read)
        if not has_tags(data) and difference(self._read(data), kept) is not None:  # without tags it is read as JSON
            raise unreadable(value)
        return data, kept

    def _compared(
        self, value: Any, mark: bytes, write: Callable[[Any], bytes], read: Callable[[bytes], Any]
    ) -> tuple[bytes, Any]:
        try:
            data = _limited(write(value))
            loaded = read(data)
        except Refused:
            raise
        except PydanticSerializationError as error:
            raise self._unwritten(value, error) from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            if first["type"] == "json_invalid" and not first["loc"]:  # not a pydantic.Json field: all of it
                raise unreadable(value) from None
            raise unfit(value, error) from None
        except Exception as error:  # raised by the class's own code
            places = _own_code.places_of(error, self._annotation)
            if isinstance(error, RecursionError) and not places:
                raise deep(value) from None
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
            is_json_alone = not has_tags(data)
            return self._loaded(data, self._read, self.write) if is_json_alone else self._from_tags(data)
        if mark == MIXED and self._has_any and has_tags(data):
            assert self._mixed is not None, "it has an `Any`"
            return self._else_from_tags(data, self._mixed.read, self._mixed.write)
        if mark == TYPED and self._has_any:
            self._check_each_any(data)
            return self._loaded(data, self._read, self.write)
        if mark in (MIXED, TYPED):
            if self._is_open:
                raise Misfit(_GONE, is_gone=True)
            if not has_tags(data):
                return self._loaded(data, self._read, self.write)
            if "val_json_bytes" in self._settings:
                raise Misfit(_GONE, is_gone=True)
            return self._from_tags(data)  # what was an `Any` when it was written has an annotation now
        return self._else_from_tags(data, self._read, self.write)  # written by 0.1, which does not record the encoding

    def _check_each_any(self, data: bytes) -> None:
        """Raise `Misfit` where an `Any` would read what was written by a type that is gone: its JSON does not say what it was.

        Numbers, booleans and null say it.
        """
        assert self._mixed is not None, "it has an `Any`"
        try:
            self._mixed.check(data)
        except ValidationError as error:
            if any(TYPE_IS_GONE in each["msg"] for each in error.errors(include_url=False, include_input=False)):
                raise Misfit(_GONE, is_gone=True) from None

    def _read(self, data: bytes) -> Any:
        return self._adapter.validate_json(data, by_alias=False, by_name=True)

    def _validated(self, data: bytes) -> Any:
        """Return the value of JSON with tags: remove the tags, then validate the Python value."""
        value = untagged(from_json(data, allow_inf_nan=False))
        try:
            return self._adapter.validate_python(value, by_alias=False, by_name=True)
        except ValidationError:
            if "strict" not in self._settings or not is_written(value):
                raise
        return self._read(to_json(value))  # strict models accept dicts, and lists for tuples, only from JSON

    @cached_property
    def _settings(self) -> set[str]:
        return settings_of(self._schema)

    def _else_from_tags(self, data: bytes, read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Any:
        try:
            return self._loaded(data, read, write)
        except Misfit as misfit:
            if not has_tags(data) or (data.startswith(MIXED) and "val_json_bytes" in self._settings):
                raise
            first = misfit
        try:
            return self._from_tags(data)
        except (Misfit, ValueError, KeyError, TypeError):  # these are no tags, but dicts of the user's
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
        """Return the decoded value if nothing of the stored data is lost."""
        try:
            value = read(data)
            again = write(value) if self._checks_fields else None
        except Exception as error:
            self._check_own(error)
            raise
        is_same = again is None or (len(data) - len(again) in (0, 1) and data.endswith(again))  # except for the mark
        if again is not None and not is_same:
            _check_kept(from_json(data), from_json(again))
        return value

    def _check_own(self, error: Exception) -> None:
        """Raise `Misfit` if the class's own code rejects a value that was read, whatever exception it raises."""
        if isinstance(error, ValidationError):
            faults = error.errors(include_url=False, include_input=False)
            raise Misfit(explained(faults, "the value"), tuple(path_text(e["loc"]) for e in faults)) from None
        found = _own_code.of_serializer(error, self._annotation)
        if found is None and _own_code.is_own(error):
            places = _own_code.places_of(error, self._annotation)
            if places or not isinstance(error, RecursionError):  # else the stored value may be nested too deeply
                found = type(error).__name__, places
        if found is not None:
            name, places = found
            where = ", ".join(place or "the value" for place in places or ("",))
            raise Misfit(f"{where}: its own code raised {name}", tuple(filter(None, places))) from error


def _check_kept(stored: Any, again: Any) -> None:
    """Raise `Misfit` if the value that was read lacks a part of the stored data."""
    lost = tuple(_lost(stored, again, ""))
    if lost:
        raise Misfit(f"the model has no field for {', '.join(lost)}", lost)


class PlainCodec(Codec):
    """Encodes values without an annotation: JSON's own types, and tagged builtins."""

    def encode(self, value: Any) -> tuple[bytes, Any]:
        tree = value if is_json(value, tags=False) else tagged(value, "", 0)
        try:
            return TAGGED + _limited(to_json(tree)), value
        except (PydanticSerializationError, ValueError) as error:
            raise unwritable(value, error) from None

    def decode(self, data: bytes) -> Any:
        mark = data[:1]
        if mark != TAGGED and mark in BY_ANNOTATION:
            if mark == SAME:
                return from_json(data, allow_inf_nan=False)
            raise Misfit(_GONE, is_gone=True)
        return untagged(from_json(data, allow_inf_nan=False))


plain_codec = PlainCodec()


def codec_for(annotation: Any) -> Codec:
    """Return the codec of an annotation: plain for `inspect.Signature.empty`, for `Any`, and if pydantic cannot describe the annotation."""
    if annotation is inspect.Signature.empty or annotation is Any or annotation is object:
        return plain_codec
    try:
        return TypedCodec(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return plain_codec


def _limited(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        reason = f"it takes {len(data)} bytes; the maximum is {MAX_BYTES}"
        raise Refused("", "", reason, "keep large data in files or tables, and their names in the state", limit=True)
    return data


def _fits(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether containers are nested at most `depth` deep. A container that contains itself does not fit."""
    return depth > 0 and all(_fits(inner, depth - 1) for inner in _parts_of(value))


def _parts_of(value: Any) -> Iterable[Any]:
    if isinstance(value, BaseModel):
        return value.__dict__.values()
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple | set | frozenset) else ()


def _keeps_every_field(annotation: Any) -> bool:
    """Whether it is an error if stored data is not loaded.

    It is not if a before-validator (or a wrap-validator) of the model declares that it handles such data; nor if there is nothing to
    lose.
    """
    if annotation in (int, float, str, bool, None, types.NoneType):
        return False
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return True
    return not any(
        d.info.mode in ("before", "wrap") for d in annotation.__pydantic_decorators__.model_validators.values()
    )


def _lost(stored: Any, again: Any, path: str) -> Any:
    """Yield the paths that exist in the stored JSON and are missing from the JSON of the value that was read."""
    if isinstance(stored, dict) and isinstance(again, dict):
        for key, value in stored.items():
            here = f"{path}{key_text(key)}".lstrip(".")
            if type(key) is not str:  # from a tagged value: JSON writes this key in another form
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
