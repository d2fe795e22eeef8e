"""The versions of a run's state. None is ever changed: a commit makes a new one.

An invocation that runs alone may be lent the state of a large version, and change it in place, where that would otherwise be
copied for it: the version is made anew from its bytes, should anybody look at it meanwhile, or the invocation not end well.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final, NamedTuple

import anyio.lowlevel

from .._values import copied, is_long
from ..errors import LimitExceededError
from ..persistence.codec import MAX_BYTES
from .recorder import LARGE, Codecs, Recorder
from .sole import is_held_once, is_sole

__all__ = ["Encoded", "Version", "encoded_in_pieces", "lendable", "own", "recorded", "taken"]

_LENT: Final = object()


class Version:
    """A committed state and its number. `again`: makes the state anew; given where it may be lent, being nobody else's."""

    __slots__ = ("_again", "_state", "number")

    def __init__(self, number: int, state: Any, again: Callable[[], Any] | None = None) -> None:
        self.number = number
        self._state = state
        self._again = again

    @property
    def state(self) -> Any:
        """The state, which is not to be changed."""
        state = self._state  # looked at once: another thread may ask while it is lent
        if state is _LENT:
            assert self._again is not None, "lent only where it can be made anew"
            state = self._state = self._again()
        return state

    def draft(self, *, is_alone: bool) -> Any:
        """A state to be changed: a copy, or the version's own one for an invocation that runs alone."""
        if self._again is None:
            return copied(self._state)
        if not is_alone:
            return copied(self.state)
        held, self._state = [self.state], _LENT
        return held.pop() if is_held_once(held) else copied(held[0])  # else another thread is copying it


def recorded(
    number: int, held: list[Any], recorder: Recorder, method: str | None = None, *, is_copy: bool = False
) -> tuple[bytes, Version]:
    """The bytes and the version of a state, the only one in a list. It is taken as it is where nobody else holds any of it.

    `is_copy`: nobody does, as far as the caller knows. Raises `StateNotStorableError`, `LimitExceededError`.
    """
    is_mine = is_copy or is_sole(held)  # asked first: what has to be copied is encoded once
    if not is_mine:
        held[0] = own(held[0])
    data, kept = recorder.state_bytes(held[0], method)
    if kept is held[0] and len(data) >= LARGE and recorder.codecs.may_be_lent:
        del kept
        if is_sole(held):  # again: who was asked to write it may have kept a part
            return data, lendable(number, held[0], recorder.codecs, data)
        kept = held[0]
    if is_mine and not is_copy:
        data, kept = recorder.state_bytes(own(held[0]), method)
    return data, Version(number, kept)


def lendable(number: int, state: Any, codecs: Codecs, data: bytes) -> Version:
    """The version of a state that nobody else holds, and of its bytes."""
    return Version(number, state, partial(codecs.state.decode, data))


class Encoded(NamedTuple):
    """The bytes of a large state, and whether it can be made anew from them, being nobody else's."""

    data: bytes
    is_lendable: bool

    def version(self, number: int, state: Any, codecs: Codecs) -> Version:
        return lendable(number, state, codecs, self.data) if self.is_lendable else Version(number, state)


async def encoded_in_pieces(
    held: list[Any], codecs: Codecs, *, is_stored: bool, is_copy: bool = False
) -> Encoded | None:
    """The bytes of a large state, the only one in a list, while other tasks have their turns.

    If somebody else holds a part of it, a copy takes its place, made at once, so that it is of one moment. None where JSON may
    not keep it as it is; and where it is not stored, if it cannot be lent: then its bytes are of no use.
    """
    pieces, is_lendable = codecs.state.pieces, is_sole(held)
    if pieces is None or not (is_lendable or is_stored):
        return None
    if not (is_lendable or is_copy or is_sole(held, to_be_lent=False)):
        held[0] = own(held[0])
        is_lendable = is_sole(held)
    data = await _exhausted(pieces.encode(held[0]))
    return Encoded(data, is_lendable) if data is not None and len(data) <= MAX_BYTES else None


async def _exhausted(encoding: Generator[None, None, bytes | None]) -> bytes | None:
    while True:
        try:
            next(encoding)
        except StopIteration as done:
            data: bytes | None = done.value
            return data
        await anyio.lowlevel.checkpoint()


async def taken(held: list[Any], codecs: Codecs, *, is_stored: bool) -> Encoded | None:
    """The bytes of a state that begins a pass, the only one in a list, if it is a large one.

    It stays the one that is given, if nobody else holds any of it; else a copy takes its place.
    """
    if is_long(held[0]):
        is_copy = not is_sole(held)
        if is_copy:
            held[0] = own(held[0])
        encoded = await encoded_in_pieces(held, codecs, is_stored=is_stored, is_copy=is_copy)
        if encoded is not None or is_copy:
            return encoded
    held[0] = own(held[0])
    return None


def own(value: Any) -> Any:
    """A copy of what a method leaves behind, which nobody else can reach."""
    try:
        return copied(value)
    except RecursionError:
        raise LimitExceededError(
            f"a {type(value).__name__} is nested too deeply to be kept, or contains itself; flatten it. Nothing of this call was "
            "saved"
        ) from None
