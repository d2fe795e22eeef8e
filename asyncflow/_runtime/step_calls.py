"""What a step within a method calls: its name, how its result is stored, and whether it is awaited or runs in a thread."""

from __future__ import annotations

import collections.abc
import functools
import inspect
from collections.abc import Callable
from typing import Any, Final, NamedTuple, get_args, get_origin
from weakref import WeakKeyDictionary

from .._codec.codec import Codec, codec_for, plain_codec
from .._codec.digests import digest_of
from .._definition.aliases import UNRESOLVED
from .._definition.attempting import checked_limit
from .._definition.retry import Retry
from .._definition.signatures import annotation_of
from .._durations import Seconds

__all__ = ["Call", "StepFunction", "call_of", "checked_key"]

LONGEST_KEY: Final = 200
"""The maximum length of a key."""

_AWAITED: Final = (collections.abc.Awaitable, collections.abc.Coroutine)


class StepFunction(NamedTuple):
    """A function that a step calls."""

    name: str
    """Its qualified name, as far as it has one."""
    is_named: bool
    """Whether its name says which function it is."""
    is_async: bool
    codec: Codec
    """Of its result, by its return annotation."""
    is_unresolved: bool = False
    """Whether that annotation uses a name that is not defined where the function is."""
    bound: tuple[Any, ...] = ()
    """The arguments that a partial holds."""


class Call(NamedTuple):
    """A call of `step`."""

    call: str
    """The function of asyncflow that was called."""
    function: Callable[..., Any]
    args: tuple[Any, ...]
    of: StepFunction
    key: str | None
    retry: Retry | None
    timeout: float | None

    @property
    def shown(self) -> str:
        """The name, for people."""
        return self.of.name if self.key is None else f"{self.of.name} (key {self.key!r})"

    def digest(self) -> str:
        """Return the digest of its arguments. Raises `Refused` if they cannot be stored."""
        return digest_of((*self.of.bound, *self.args) if self.of.bound else self.args)


def call_of(
    call: str, function: Any, args: tuple[Any, ...], key: object, retry: object, timeout: Seconds | None
) -> Call:
    """Check what `step` was called with. Raises `TypeError` and `ValueError`."""
    if inspect.iscoroutine(function):
        function.close()  # else Python warns about it, too
        name = function.__name__
        raise TypeError(
            f"{call}() calls the function itself; pass the function, and then its arguments: {call}({name}, ...)"
        )
    if not callable(function):
        raise TypeError(f"{call}() takes a function and its arguments, not {function!r}")
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"the retry of {call}() must be a Retry, not {retry!r}")
    limit = None if timeout is None else checked_limit(f"the timeout of {call}()", timeout)
    return Call(call, function, args, _described(function), checked_key(call, key), retry, limit)


def checked_key(call: str, key: object) -> str | None:
    """Return the key of a call. Raises `ValueError`."""
    if key is None or (isinstance(key, str) and 0 < len(key) <= LONGEST_KEY and key.isprintable()):
        return key
    raise ValueError(f"the key of {call}() must be 1 to {LONGEST_KEY} printable characters, not {key!r}")


_known: WeakKeyDictionary[Any, StepFunction] = WeakKeyDictionary()
"""The functions that steps have called."""


def _described(function: Callable[..., Any]) -> StepFunction:
    plain = getattr(function, "__func__", function)
    known = _known.get(plain) if inspect.isfunction(plain) else None
    if known is not None:
        return known
    if isinstance(function, functools.partial):
        of = _described(function.func)
        keywords = tuple(sorted(function.keywords.items()))
        bound = (*of.bound, *function.args, *((keywords,) if keywords else ()))
        return of._replace(is_named=False, bound=bound)
    made = _of_function(function)
    if inspect.isfunction(plain):
        _known[plain] = made
    return made


def _of_function(function: Callable[..., Any]) -> StepFunction:
    name = str(getattr(function, "__qualname__", ""))
    is_named = bool(name) and not name.endswith("<lambda>")
    if isinstance(function, type):
        return StepFunction(function.__qualname__, True, False, codec_for(function))
    code: Any = function if inspect.isroutine(function) else type(function).__call__
    annotation = annotation_of(code, "return", {})
    is_unresolved = annotation is UNRESOLVED
    if get_origin(annotation) in _AWAITED:  # a plain function that returns a coroutine
        annotation = get_args(annotation)[-1]
    codec = plain_codec if is_unresolved else _codec_of(annotation)
    is_async = inspect.iscoroutinefunction(code)
    return StepFunction(name or _name_of_type(function), is_named, is_async, codec, is_unresolved)


def _name_of_type(thing: object) -> str:
    return type(thing).__qualname__


def _codec_of(annotation: Any) -> Codec:
    """Return the codec of an annotation, the same one for all local functions that have it."""
    try:
        known = _codecs.get(annotation)
    except TypeError:  # it cannot be hashed
        return codec_for(annotation)
    if known is None:
        known = codec_for(annotation)
        if known is not plain_codec:  # else its model may not be defined completely yet
            if len(_codecs) >= MOST_CODECS:
                _codecs.clear()
            _codecs[annotation] = known
    return known


MOST_CODECS: Final = 256
_codecs: dict[Any, Codec] = {}
