"""Explain why a value is refused and how to fix it, from the value itself: one sentence would be wrong for most values."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, TzInfo, from_json, to_json

from .._values.copying import Difference, key_text
from .._values.equality import named_class
from .errors import MAX_DEPTH, Refused

__all__ = ["changed", "deep", "foreign", "is_written", "placed", "raised", "unfit", "unreadable", "unwritable"]

_UTC: Final = "use datetime.timezone.utc, and store the zone's name in a field of its own"


# ---- refusals ----------------------------------------------------------------------------------------------------------


def deep(value: Any) -> Refused:
    """Return the refusal of a value that is nested too deeply, or contains itself."""
    reason = f"it is nested more than {MAX_DEPTH} deep"
    return Refused("", type(value).__name__, reason, "flatten it", limit=True)


def changed(found: Difference) -> Refused:
    """Return the refusal of a value that loads as a different value."""
    return Refused(found.path, type(found.a).__name__, f"when loaded, {found.reason}", _kept_by(found.a, found.b))


def unfit(value: Any, error: ValidationError) -> Refused:
    """Return the refusal of a value that does not pass its own annotation once it is written."""
    first = error.errors(include_url=False, include_input=False)[0]
    located = _at(value, first["loc"])
    type_name = type(located.value).__name__
    if not _is_finite(located.value):
        return Refused(located.path, type_name, "JSON has no infinity and no NaN", _finite_by(located))
    reason = f"it does not fit its own annotation when loaded ({first['type']})"
    if isinstance(located.value, enum.Enum):
        name = type(located.value).__name__
        reason = f"its value, {named_class(type(located.value.value))}, cannot be read back from JSON"
        return Refused(
            located.path,
            name,
            reason,
            f"store it by name: Annotated[{name}, PlainSerializer(lambda e: e.name), "
            f"BeforeValidator(lambda v: {name}[v] if isinstance(v, str) else v)]",
        )
    return Refused(located.path, type_name, reason, _fitting_by(located))


def raised(value: Any, error: str, places: Sequence[str]) -> Refused:
    """Return the refusal of a value for which its class's own code raises: validators, serializers and others."""
    reason = f"code of its class, such as a validator or a serializer, raises {error} when it is written or loaded"
    cure = "make its validators and serializers accept every value that the field can have"
    return Refused(next(iter(places), ""), type(value).__name__, reason, cure)


def unwritable(value: Any, error: Exception) -> Refused:
    """Return the refusal of a value that pydantic does not write."""
    located = next(
        (located for located in _leaves(value, _Located("", value, None), 0) if not is_written(located.value)), None
    )
    if located is None or "Error calling function" in str(error):
        reason = "it cannot be written as JSON: a serializer of its class fails, or one of its types has no JSON form"
        return Refused(
            "", type(value).__name__, reason, "use a type that JSON keeps, or exclude it: Field(exclude=True)"
        )
    type_name = type(located.value).__name__
    if isinstance(located.value, bytes):
        return Refused(
            located.path, type_name, "bytes are written as UTF-8, and these are not valid UTF-8", _bytes_by(located)
        )
    if isinstance(located.value, str):
        reason = "it contains a lone surrogate, which UTF-8 cannot encode"
        cure = "remove it: value.encode('utf-8', 'replace').decode(), or store bytes"
        return Refused(located.path, type_name, reason, cure)
    cure = _simpler(located.value) or "use a type that JSON keeps, or exclude it: Field(exclude=True)"
    return Refused(located.path, type_name, "its type has no JSON form", cure)


def placed(value: Any, refused: Refused) -> Refused:
    """Return the refusal of a value that has no tag, at an `Any` of an annotation, with its path from the whole value on."""
    path = _path_to(refused.whole, value, "", 0)
    if path is not None:
        joint = "" if refused.path.startswith("[") else "."
        refused.path = f"{path}{joint}{refused.path}".strip(".")
    return refused


def unreadable(value: Any) -> Refused:
    """Return the refusal of a number with more digits than Python reads."""
    located = next(
        (located for located in _leaves(value, _Located("", value, None), 0) if not _is_read(located.value)), None
    )
    path, type_name = (located.path, type(located.value).__name__) if located else ("", type(value).__name__)
    return Refused(path, type_name, "it has more digits than Python parses", "store it as text", limit=True)


# ---- fixes -------------------------------------------------------------------------------------------------------------

_BUILTINS: Final = (bool, int, float, str, bytes, list, tuple, set, frozenset, dict)


def _kept_by(value: Any, loaded: Any) -> str:
    """Return the fix for a value that loads as a different value."""
    if isinstance(value, datetime.datetime | datetime.time):
        zone = value.tzinfo
        if zone is not None and type(zone) not in (datetime.timezone, TzInfo):
            return _UTC
        return "store it in UTC" if zone is not None or value.fold else "declare the field's exact type"
    if type(loaded) in _BUILTINS and type(value) is not type(loaded):
        is_atom = type(loaded) in (bool, int, float, str, bytes)
        simpler = "" if is_atom else _simpler(value)
        return f"{simpler or f'store {type(loaded).__name__}(value)'}, or declare the field with the type of the value"
    if hasattr(value, "dtype") or hasattr(value, "dtypes"):
        return "add a serializer that writes the arguments of its constructor, and a validator that reads them"
    return "use a type that JSON keeps, declare the field's exact type, or exclude it: Field(exclude=True)"


def foreign(value: Any) -> str:
    """Return the fix for a class that cannot be stored without an annotation."""
    simpler = _simpler(value)
    return "annotate its type: as a model's field, or as the method's return type" + (simpler and f"; or {simpler}")


def _simpler(value: Any) -> str:
    """Return how values of a third-party class become builtin ones, if the class offers a method for it."""
    if type(value).__module__ in ("builtins", "datetime") or isinstance(value, type | enum.Enum | BaseModel):
        return ""
    methods = (name for name in ("to_pydatetime", "tolist", "to_dict") if callable(getattr(value, name, None)))
    name = next(methods, None)
    return f"store the result of its {name}()" if name else ""


def _fitting_by(located: _Located) -> str:
    """Return the fix for a value that is not of its declared type: most often None, as a default."""
    name = located.path.rpartition(".")[2]
    field = None if located.model is None else located.model.__pydantic_fields__.get(name)
    if located.value is not None or field is None:
        return "assign a value of the declared type"
    declared = getattr(field.annotation, "__name__", None) or str(field.annotation)
    return f"allow None: `{name}: {declared} | None`, or assign a value of the declared type"


def _finite_by(located: _Located) -> str:
    if isinstance(located.value, decimal.Decimal):
        return "store it as text" if located.model is None else "allow it: Field(allow_inf_nan=True)"
    setting = 'ConfigDict(ser_json_inf_nan="constants")'
    if located.model is not None:
        return f"set it on {located.model.__name__}: model_config = {setting}"
    return f"remove the annotation, or use a model with model_config = {setting}"


def _bytes_by(located: _Located) -> str:
    setting = 'ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")'
    if located.model is not None:
        return f"set it on {located.model.__name__}: model_config = {setting}"
    return f"remove the annotation, or use a model with model_config = {setting}"


# ---- paths -------------------------------------------------------------------------------------------------------------


class _Located(NamedTuple):
    """A value within another: its path, and the model class that declares it."""

    path: str
    value: Any
    model: type[BaseModel] | None


def _at(value: Any, loc: Sequence[int | str]) -> _Located:
    """Return the value at a location, as far as the location can be followed: pydantic names union members in it, too."""
    model, path = None, ""
    for part in loc:
        model = type(value) if isinstance(value, BaseModel) else model
        located = [inner for name, inner in _inside(value) if type(name) in (int, str) and str(name) == str(part)]
        path += _step(value, part) if located else key_text(str(part)) if part != "[key]" else ""
        value = located[0] if located else value
    return _Located(path.lstrip("."), value, model)


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, BaseModel):
        yield from value.__dict__.items()
        yield from (value.__pydantic_extra__ or {}).items()
    elif isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))


def _path_to(wanted: Any, value: Any, path: str, depth: int) -> str | None:
    """Return the path of this very object within a value."""
    if value is wanted:
        return path
    for part, inner in _inside(value) if depth < MAX_DEPTH else ():
        found = _path_to(wanted, inner, f"{path}{_step(value, part)}", depth + 1)
        if found is not None:
            return found.lstrip(".")
    return None


def _step(value: Any, part: Any) -> str:
    is_place = isinstance(part, int) and not isinstance(value, BaseModel | dict)
    return f"[{part}]" if is_place else key_text(part)


def _leaves(value: Any, at: _Located, depth: int) -> Iterator[_Located]:
    """Yield all values that hold no others, and all keys of dicts, which may be more than names."""
    is_holder = isinstance(value, BaseModel | dict | list | tuple | set | frozenset) or dataclasses.is_dataclass(value)
    if not is_holder or isinstance(value, type):
        yield at
        return
    model = type(value) if isinstance(value, BaseModel) else at.model
    for part, inner in _inside(value) if depth < MAX_DEPTH else ():
        path = f"{at.path}{_step(value, part)}".lstrip(".")
        if isinstance(value, dict):
            yield _Located(path, part, model)
        yield from _leaves(inner, _Located(path, inner, model), depth + 1)


def _is_finite(value: Any) -> bool:
    if isinstance(value, decimal.Decimal):
        return value.is_finite()
    return not isinstance(value, float) or math.isfinite(value)


def _is_read(value: Any) -> bool:
    try:
        from_json(to_json(value))
    except (PydanticSerializationError, ValueError):
        return False
    return True


def is_written(value: Any) -> bool:
    """Whether a value has a JSON form, by its own type."""
    try:
        to_json(value)
    except (PydanticSerializationError, ValueError):
        return False
    return True
