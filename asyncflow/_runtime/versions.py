"""The versions of a run's state. A version never changes: a commit makes a new one.

An invocation that runs alone may borrow the state of a large version and change it in place, while others would get a copy. If
anything reads that version meanwhile, or the invocation fails, the version's state is decoded again from its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final, NamedTuple

import anyio.lowlevel

from .._codec.codec import MAX_BYTES
from .._values.copying import copied, is_long
from ..errors import LimitExceededError
from .recorder import LARGE, Codecs, Recorder
from .uniqueness import is_exclusively_owned, is_held_once

__all__ = ["Encoded", "Version", "encoded_in_pieces", "lendable", "own", "recorded", "taken"]

_LENT: Final = object()


class Version:
    """A committed state and its index. `again` makes the state again; it is set if the state may be lent, as no other object holds it."""

    __slots__ = ("_again", "_state", "index")

    def __init__(self, index: int, state: Any, again: Callable[[], Any] | None = None) -> None:
        self.index = index
        self._state = state
        self._again = again

    @property
    def state(self) -> Any:
        """The state, which must not be changed."""
        state = self._state  # read once: another thread may read it while it is lent
        if state is _LENT:
            assert self._again is not None, "lent only if it can be decoded again"
            state = self._state = self._again()
        return state

    def draft(self, *, is_alone: bool) -> Any:
        """Return a state that may be changed: a copy or, for an invocation that runs alone, the version's own state."""
        if self._again is None:
            return copied(self._state)
        if not is_alone:
            return copied(self.state)
        held, self._state = [self.state], _LENT
        return held.pop() if is_held_once(held) else copied(held[0])  # else another thread is copying it


def recorded(
    index: int, held: list[Any], recorder: Recorder, method: str | None = None, *, is_copy: bool = False
) -> tuple[bytes, Version]:
    """Return the bytes and the version of a state, the only item of `held`. Use it without a copy if no other object holds any of it.

    `is_copy`: no other object does, as far as the caller knows. Raises `StateNotStorableError`, `LimitExceededError`.
    """
    is_mine = is_copy or is_exclusively_owned(held)  # checked first: a state that has to be copied is encoded once
    if not is_mine:
        held[0] = own(held[0])
    data, kept = recorder.state_bytes(held[0], method)
    if kept is held[0] and len(data) >= LARGE and recorder.codecs.may_be_lent:
        del kept
        if is_exclusively_owned(held):  # again: code that encoded it may have kept a part
            return data, lendable(index, held[0], recorder.codecs, data)
        kept = held[0]
    if is_mine and not is_copy:
        data, kept = recorder.state_bytes(own(held[0]), method)
    return data, Version(index, kept)


def lendable(index: int, state: Any, codecs: Codecs, data: bytes) -> Version:
    """Return a version that may be lent, from a state that no other object holds, and its bytes."""
    return Version(index, state, partial(codecs.state.decode, data))


class Encoded(NamedTuple):
    """The bytes of a large state, and whether it may be lent: no other object holds it, and it can be decoded again from the bytes."""

    data: bytes
    is_lendable: bool

    def version(self, index: int, state: Any, codecs: Codecs) -> Version:
        return lendable(index, state, codecs, self.data) if self.is_lendable else Version(index, state)


async def encoded_in_pieces(
    held: list[Any], codecs: Codecs, *, is_stored: bool, is_copy: bool = False
) -> Encoded | None:
    """Encode a large state, the only item of `held`, in pieces, and let other tasks run in between. Return its bytes.

    If another object holds a part of it, a copy replaces it. The copy is made in one step, so that it is consistent. Return None if
    JSON may not preserve the state. Without persistence, also return None if it cannot be lent: its bytes are then of no use.
    """
    pieces, is_lendable = codecs.state.pieces, is_exclusively_owned(held)
    if pieces is None or not (is_lendable or is_stored):
        return None
    if not (is_lendable or is_copy or is_exclusively_owned(held, to_be_lent=False)):
        held[0] = own(held[0])
        is_lendable = is_exclusively_owned(held)
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
    """Encode the state that starts a pass, the only item of `held`, if it is large.

    A large state stays the given one if no other object holds any of it; otherwise a copy replaces it.
    """
    if is_long(held[0]):
        is_copy = not is_exclusively_owned(held)
        if is_copy:
            held[0] = own(held[0])
        encoded = await encoded_in_pieces(held, codecs, is_stored=is_stored, is_copy=is_copy)
        if encoded is not None or is_copy:
            return encoded
    held[0] = own(held[0])
    return None


def own(value: Any) -> Any:
    """Return a copy of what a method leaves, which no other code can reach."""
    try:
        return copied(value)
    except RecursionError:
        raise LimitExceededError(
            f"a {type(value).__name__} is nested too deeply to be kept, or contains itself; flatten it. Nothing of this call was "
            "saved"
        ) from None
