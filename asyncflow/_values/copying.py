"""Copy values, and compare whether two are the same. This module knows containers and models, but no flow."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import re
import types
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from .equality import changed, named_class

__all__ = [
    "ATOMS",
    "WITHOUT_ID",
    "Difference",
    "attributes_of",
    "copied",
    "difference",
    "is_long",
    "key_text",
    "path_text",
    "promoted",
    "same",
]

WITHOUT_ID: Final = "__asyncflow_without_id__"
"""Attribute of a model class to which an `id` was added: the model class that the user declared."""

LONG: Final = 256
"""Number of items of a list or dict above which the state that holds it counts as large."""

ATOMS: frozenset[type] = frozenset(
    {
        *(bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range),
        *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone, decimal.Decimal),
        *(uuid.UUID, pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath),
        *(type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType),
    }
)
"""Types whose values are shared by reference because they are immutable."""


def copied(value: Any) -> Any:
    """Return a structural copy: new containers, models and dataclasses; immutable values are shared.

    A value that cannot be copied at all (a lock, a client) is shared by reference.
    """
    cls = type(value)
    if cls in ATOMS:
        return value
    copier = _COPIERS.get(cls)
    return copier(value) if copier else _copied_object(value, cls)


def is_long(state: Any) -> bool:
    """Whether a state holds a long list or dict, so that copying it may take milliseconds."""
    values = state if type(state) is dict else state.__dict__
    for part in values.values():  # a loop: `any` of a generator takes three times as long, at each method end
        cls = type(part)
        if (cls is list or cls is dict) and len(part) > LONG:
            return True
    return False


def _slot(name: str) -> Callable[[Any, Any], None]:
    setter: Callable[[Any, Any], None] = vars(BaseModel)[name].__set__
    return setter


_set_dict, _set_fields_set = _slot("__dict__"), _slot("__pydantic_fields_set__")
_set_extra, _set_private = _slot("__pydantic_extra__"), _slot("__pydantic_private__")


def _copier_of(cls: type[BaseModel]) -> Callable[[Any], Any]:
    """Return the function that copies a model's instances. It looks up once what they have in common: each step copies twice."""
    fields, width, new_of = cls.__pydantic_fields__, len(cls.__pydantic_fields__), object.__new__

    def copy_of(model: BaseModel) -> BaseModel:
        new = new_of(cls)
        values = model.__dict__.copy()
        if len(values) != width:  # cached properties: a copy computes them again
            values = {name: value for name, value in values.items() if name in fields}
        if not ATOMS.issuperset(map(type, values.values())):
            values = {name: value if type(value) in ATOMS else copied(value) for name, value in values.items()}
        extra, private = model.__pydantic_extra__, model.__pydantic_private__
        _set_dict(new, values)
        _set_fields_set(new, model.__pydantic_fields_set__.copy())
        _set_extra(new, None if extra is None else copied(extra))
        _set_private(new, None if private is None else copied(private))
        return new

    return copy_of


def _copied_object(value: Any, cls: type) -> Any:
    if isinstance(value, BaseModel):
        copier = _COPIERS[cls] = _copier_of(cls)
        return copier(value)
    if isinstance(value, enum.Enum | type):
        return value
    if dataclasses.is_dataclass(value):
        new = copy.copy(value)
        if new is value:  # its class declares that one instance is enough
            return value
        getattr(new, "__dict__", {}).clear()  # and its cached properties: a copy computes them again
        for name, part in attributes_of(value).items():
            object.__setattr__(new, name, copied(part))
        return new
    try:
        return copy.deepcopy(value)
    except Exception:  # whatever a third-party __deepcopy__ or __reduce__ raises: it cannot be copied, so it is shared
        return value


def _copied_tuple(value: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple([copied(v) for v in value])


_COPIERS: dict[type, Callable[[Any], Any]] = {
    list: lambda value: [v if type(v) in ATOMS else copied(v) for v in value] if value else [],
    dict: lambda value: {k: v if type(v) in ATOMS else copied(v) for k, v in value.items()} if value else {},
    set: lambda value: {v if type(v) in ATOMS else copied(v) for v in value},
    frozenset: lambda value: value if all(type(v) in ATOMS for v in value) else frozenset(map(copied, value)),
    tuple: _copied_tuple,
    collections.OrderedDict: lambda value: collections.OrderedDict((k, copied(v)) for k, v in value.items()),
    collections.defaultdict: lambda value: collections.defaultdict(
        value.default_factory, ((k, copied(v)) for k, v in value.items())
    ),
    collections.deque: lambda value: collections.deque(map(copied, value), value.maxlen),
    object: lambda value: value,  # a sentinel, which is compared by identity
}


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal and of the same types at every level. NaN is the same as NaN."""
    return a is b or difference(a, b) is None


class Difference(NamedTuple):
    """Where and how two values differ, and the value at that place in each."""

    path: str
    reason: str
    a: Any
    b: Any


def difference(a: Any, b: Any, *, promoted: bool = False) -> Difference | None:
    """Return where and how two values differ, or None. Private, excluded and computed fields do not count.

    With `promoted`, an int in `a` matches the equal float in `b`, as Python's typing allows; and a flow's state in `a`, to whose model
    an `id` was added, matches an instance of the declared model in `b`.
    """
    try:
        found = _difference(a, b, promoted)
    except RecursionError:
        raise
    except Exception as error:  # of third-party keys, members or attributes: hashed, looked up or compared
        return Difference("", _not_comparable(error), a, b)
    return found and Difference("".join(reversed(found[0])).lstrip("."), *found[1:])


def key_text(key: object) -> str:
    """Return a key as a path shows it: by its name if it looks like one. Other keys may be records or addresses: the user's values."""
    return f".{key}" if type(key) is str and len(key) <= LONGEST_NAME and _NAME.fullmatch(key) else "[...]"


def path_text(loc: Iterable[int | str]) -> str:
    """Return a pydantic error location as a path, without keys that may be the user's values."""
    parts = (f".{part}" if isinstance(part, int) or _MEMBER.fullmatch(part) else key_text(part) for part in loc)
    return "".join(parts).lstrip(".")


LONGEST_NAME: Final = 64
_MEMBER: Final = re.compile(r"(list|dict|set|frozenset|tuple|nullable|[a-z]+(-[a-z]+)+)\[.*\]")
"""Matches how pydantic names a union member that is not simply a class."""
_NAME: Final = re.compile(r"[^\W\d][\w-]*")

_Found = tuple[list[str], str, Any, Any]
"""(path parts, innermost first; reason; both values). The path is joined only if there is a difference, not for every value."""


def _difference(a: Any, b: Any, promoted: bool) -> _Found | None:
    cls: Any = type(a)
    if cls is not type(b):
        if promoted and cls is int and type(b) is float and a == b:
            return None
        if promoted and vars(cls).get(WITHOUT_ID) is type(b):
            return _models(a, b, promoted)
        return [], f"it becomes {named_class(type(b))}", a, b
    if a is b or (cls in _EQUAL_IS_SAME and a == b):
        return None
    return _difference_inside(a, b, cls, promoted)


def _difference_inside(a: Any, b: Any, cls: Any, promoted: bool) -> _Found | None:
    if cls in ATOMS or isinstance(a, type):
        return _equal(a, b)
    if isinstance(a, _SEQUENCES):
        return _sequences(a, b, promoted) or (_attribute(a, b, "maxlen") if cls is not list else None)
    if isinstance(a, dict):
        return _dicts(a, b, promoted) or (_attribute(a, b, "default_factory") if cls is not dict else None)
    if isinstance(a, (set, frozenset)):
        return _sets(a, b)
    if isinstance(a, BaseModel):
        return _models(a, b, promoted)
    if _is_known_by_attributes(cls, a):
        return _attributes(a, b, promoted)
    return _equal(a, b)


def _equal(a: Any, b: Any) -> _Found | None:
    try:
        how = changed(a, b, same)
    except RecursionError:
        raise
    except Exception as error:  # raised by a third-party comparison: if a value cannot be compared, it is unknown whether it is preserved
        how = _not_comparable(error)
    return None if how is None else ([], how, a, b)


def _not_comparable(error: Exception) -> str:
    return f"it cannot be compared with itself ({type(error).__name__})"


_EQUAL_IS_SAME = frozenset((str, int, bool, bytes, datetime.date, datetime.timedelta, uuid.UUID))
_BY_IDENTITY: Any = object.__eq__
_SEQUENCES = (list, tuple, collections.deque)


def _is_known_by_attributes(cls: Any, value: Any) -> bool:
    """Whether it is a dataclass, or an object that does not define equality; an Enum member is compared by identity."""
    if dataclasses.is_dataclass(cls):
        return True
    has_attributes = hasattr(value, "__dict__") or any(_layout(cls)[0])
    return cls.__eq__ is _BY_IDENTITY and has_attributes and not isinstance(value, enum.Enum)


def attributes_of(value: Any) -> dict[str, Any]:
    """Return the attributes of an object or a dataclass, from its `__dict__` and its slots, without cached properties."""
    cls: Any = type(value)
    slots, cached = _layout(cls)
    attributes = dict(getattr(value, "__dict__", ()))
    for name in cached:
        attributes.pop(name, None)
    for name in slots:
        if hasattr(value, name):
            attributes[name] = getattr(value, name)
    return attributes


@functools.cache
def _layout(cls: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of a class's slots, and of its cached properties."""
    slots = tuple(dict.fromkeys(name for base in cls.__mro__ for name in _slots(base)))
    cached = (n for base in cls.__mro__ for n, v in vars(base).items() if isinstance(v, functools.cached_property))
    return slots, tuple(dict.fromkeys(cached))


def _slots(cls: type) -> Iterable[str]:
    slots = vars(cls).get("__slots__", ())
    for name in (slots,) if isinstance(slots, str) else tuple(slots):
        is_mangled = name.startswith("__") and not name.endswith("__")
        if name not in ("__dict__", "__weakref__"):
            yield f"_{cls.__name__.lstrip('_')}{name}" if is_mangled else name


def _sequences(a: Any, b: Any, promoted: bool) -> _Found | None:
    if len(a) != len(b):
        return [], f"its {len(a)} items become {len(b)}", a, b
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        found = None if x is y else _difference(x, y, promoted)
        if found is not None:
            return _within(f"[{i}]", found)
    return None


def _named(pairs: Iterable[tuple[str, Any, Any]], promoted: bool) -> _Found | None:
    for name, x, y in pairs:
        found = None if x is y else _difference(x, y, promoted)
        if found is not None:
            return _within(f".{name}", found)
    return None


def _within(part: str, found: _Found) -> _Found:
    found[0].append(part)
    return found


def _attribute(a: Any, b: Any, name: str) -> _Found | None:
    """Return a difference if an attribute that a container was created with differs."""
    return None if getattr(a, name, None) == getattr(b, name, None) else ([], f"its {name} changes", a, b)


def _sets(a: Any, b: Any) -> _Found | None:
    counterparts = {value: value for value in b}
    if len(a) != len(b) or any(v not in counterparts or difference(v, counterparts[v]) is not None for v in a):
        return [], "its value changes", a, b
    return None


def _attributes(a: Any, b: Any, promoted: bool) -> _Found | None:
    """Compare dataclasses, and objects that do not define equality."""
    mine, yours, missing = attributes_of(a), attributes_of(b), object()
    found = _named(((n, mine.get(n, missing), yours.get(n, missing)) for n in mine | yours), promoted)
    return found or _difference(_reduced(a), _reduced(b), promoted)


def _reduced(value: Any) -> Any:
    """Return the pickled parts of an object that is implemented in C or that defines itself how it is copied. None for others."""
    cls: Any = type(value)
    says_itself = cls.__reduce__ is not object.__reduce__ or cls.__reduce_ex__ is not object.__reduce_ex__
    if dataclasses.is_dataclass(cls) or not (says_itself or cls.__getstate__ is not object.__getstate__):
        return None
    try:
        parts = value.__reduce_ex__(4)
    except Exception:  # whatever it raises: it cannot be copied either, and is compared by its attributes
        return None
    return parts if isinstance(parts, str) else [list(p) if isinstance(p, Iterator) else p for p in parts[1:]]


def _dicts(a: dict[Any, Any], b: dict[Any, Any], promoted: bool) -> _Found | None:
    if len(a) == len(b) and list(map(type, a)) != list(map(type, b)):
        return [], "its keys become other keys", a, b
    if a.keys() != b.keys() or (any(type(key) is not str for key in a) and _sets(set(a), set(b)) is not None):
        return [], "its keys change", a, b
    for key, value in a.items():
        found = None if value is b[key] else _difference(value, b[key], promoted)
        if found is not None:
            return _within(key_text(key), found)
    return None


def _models(a: Any, b: Any, promoted: bool) -> _Found | None:
    missing = object()
    mine, yours = a.__dict__, b.__dict__
    fields = type(b).__pydantic_fields__.items()
    pairs = ((n, mine.get(n, missing), yours.get(n, missing)) for n, field in fields if not field.exclude)
    return _named(pairs, promoted) or _dicts(a.__pydantic_extra__ or {}, b.__pydantic_extra__ or {}, promoted)


def promoted(value: Any, loaded: Any) -> Any:
    """Return a copy of the value with ints made floats if loaded as floats, and flow states made instances of the declared model.

    The rest of the value stays the same.
    """
    if type(value) is int and type(loaded) is float:
        return loaded
    if isinstance(value, BaseModel):
        new: Any = copied(value if type(value) is type(loaded) else _as_declared(value, type(loaded)))
        for name, field in type(new).__pydantic_fields__.items():
            if not field.exclude:
                new.__dict__[name] = promoted(new.__dict__[name], loaded.__dict__[name])
        return new
    if type(value) is list:
        return [promoted(x, y) for x, y in zip(value, loaded, strict=True)]
    if type(value) is tuple:
        return tuple(promoted(x, y) for x, y in zip(value, loaded, strict=True))
    if type(value) is dict:
        return {key: promoted(inner, loaded[key]) for key, inner in value.items()}
    return loaded if difference(value, loaded) is not None else value


def _as_declared(model: BaseModel, cls: type[BaseModel]) -> BaseModel:
    """Return a state as an instance of the declared model, without the `id` that was added."""
    new = object.__new__(cls)
    _set_dict(new, {name: value for name, value in model.__dict__.items() if name in cls.__pydantic_fields__})
    _set_fields_set(new, model.__pydantic_fields_set__ - {"id"})
    _set_extra(new, model.__pydantic_extra__)
    _set_private(new, model.__pydantic_private__)
    return new
