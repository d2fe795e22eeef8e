"""Compare two values of one class that hold no others, and describe how they differ.

Python's `==` is not strict enough for some: -0.0 equals 0.0, and for arrays it broadcasts and ignores the dtype, or raises.
"""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable
from typing import Any, Final

from pydantic_core import TzInfo

__all__ = ["changed", "named_class", "zone_name"]

Same = Callable[[Any, Any], bool]
"""Whether two values of any kind are the same at every level."""


def changed(a: Any, b: Any, same: Same) -> str | None:
    """Return how a value that holds no others differs, or None. Raises whatever the comparison raises."""
    if isinstance(a, float):
        is_same = bool(a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b))
    elif isinstance(a, complex):
        is_same = changed(a.real, b.real, same) is None and changed(a.imag, b.imag, same) is None
    elif isinstance(a, datetime.datetime | datetime.time):
        return _changed_time(a, b)
    elif isinstance(a, decimal.Decimal):
        is_same = bool(a.as_tuple() == b.as_tuple())
    else:
        is_array = isinstance(getattr(a, "shape", None), tuple)
        return _changed_array(a, b, same) if is_array else _changed_object(a, b, same)
    return None if is_same else "its value changes"


def _changed_time(a: Any, b: Any) -> str | None:
    if not (a == b and a.utcoffset() == b.utcoffset() and a.fold == b.fold):
        return "its value changes"
    zones = type(a.tzinfo), type(b.tzinfo)
    if zones[0] is not zones[1] and not set(zones) <= {datetime.timezone, TzInfo}:
        return f"its time zone, {named_class(zones[0])}, becomes a fixed offset"
    if zone_name(a.tzinfo) not in (None, zone_name(b.tzinfo), b.tzname()):
        return "the name of its time zone is lost"
    return None


def zone_name(zone: datetime.tzinfo | None) -> str | None:
    """Return the name that a fixed zone was given, such as `timezone(timedelta(hours=1), "CET")`: JSON has only the offset."""
    if type(zone) is not datetime.timezone:
        return None
    given: tuple[Any, ...] = zone.__getinitargs__()  # type: ignore[attr-defined]  # pickle uses it
    return given[1] if len(given) > 1 else None


_LABELS: Final = ("shape", "dtype", "dtypes", "index", "columns", "name", "names", "unit", "units")
"""Attributes of an array or a table besides its values. `==` ignores them, broadcasts, or raises."""


def _changed_array(a: Any, b: Any, same: Same) -> str | None:
    """Return how an array or a table, which is compared item by item, differs. NaN is the same as NaN."""
    for label in _LABELS:
        x, y = getattr(a, label, None), getattr(b, label, None)
        if not (callable(x) or x is a or same(x, y)):
            return f"its {label} changes"
    equals = getattr(a, "equals", None)
    if callable(equals):
        return None if bool(equals(b)) else "its value changes"
    if getattr(getattr(a, "dtype", None), "kind", "") == "O":  # objects: 1 equals True
        return None if same(a.tolist(), b.tolist()) else "its value changes"
    if _has_length(a) and len(a) != len(b):
        return f"its {len(a)} items become {len(b)}"
    is_same = a == b
    if isinstance(is_same, list | tuple):
        return None if all(is_same) else "its value changes"
    if not _all(is_same):
        is_same = is_same | ((a != a) & (b != b))
    return None if _all(is_same) else "its value changes"


def _has_length(array: Any) -> bool:
    return hasattr(array, "__len__") and getattr(array, "shape", None) != ()  # an array without dimensions has none


def _all(compared: Any) -> bool:
    return bool(getattr(compared, "all", lambda: compared)())


def _changed_object(a: Any, b: Any, same: Same) -> str | None:
    try:
        is_same = a == b
    except Exception:  # raised by a third-party comparison; the class may offer one by another name
        return _changed_array(a, b, same)
    if not isinstance(is_same, bool):
        return _changed_array(a, b, same)
    return None if is_same else "its value changes"


def named_class(cls: type) -> str:
    """Return a class's name with its article."""
    name = cls.__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
