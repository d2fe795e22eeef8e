"""Large states: they take too long to copy twice a method, and to encode in one piece.

An invocation that runs alone may borrow the state of a large version and change it in place, while others would get a copy. If
anything reads that version meanwhile, or the invocation fails, the version's state is decoded again from its bytes. At the end
the draft becomes the next version without a copy, if no other object holds a part of it. It is encoded in pieces, and other
tasks run in between.

The functions take a state as the only item of a list, which holds the only reference to it: `uniqueness` counts references.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final, NamedTuple

import anyio.lowlevel

from .._codec.codec import MAX_BYTES
from .._values.copying import copied, is_long
from .codecs import Codecs
from .state_version import Version, detached_copy
from .uniqueness import is_exclusively_owned, is_held_once

__all__ = ["LARGE", "Encoded", "LendableVersion", "encoded_in_pieces", "first_version", "large_version"]

LARGE: Final = 4 * 1024
"""Bytes of a state from which on it costs less to find out who holds the state than to copy it."""

_LENT: Final = object()


class LendableVersion(Version):
    """A version whose state no other object holds, so that it may be lent. `again` decodes the state from its bytes."""

    __slots__ = ("_again", "_state")

    def __init__(self, index: int, state: Any, again: Callable[[], Any]) -> None:
        self.index = index
        self._state = state
        self._again = again

    @property
    def state(self) -> Any:
        """The state, which must not be changed."""
        state = self._state  # read once: another thread may read it while it is lent
        if state is _LENT:
            state = self._state = self._again()
        return state

    def draft(self, is_alone: bool) -> Any:
        """Return a copy or, for an invocation that runs alone, the version's own state."""
        if not is_alone:
            return copied(self.state)
        held, self._state = [self.state], _LENT
        return held.pop() if is_held_once(held) else copied(held[0])  # else another thread is copying it


class Encoded(NamedTuple):
    """The bytes of a large state, and whether it may be lent: no other object holds it, and it can be decoded again from the bytes."""

    data: bytes
    is_lendable: bool

    def version(self, index: int, state: Any, codecs: Codecs) -> Version:
        return _lendable(index, state, codecs, self.data) if self.is_lendable else Version(index, state)


def large_version(
    index: int, draft: list[Any], encoded: Encoded | None, codecs: Codecs, run_id: str, method: str
) -> tuple[bytes, Version]:
    """Return the bytes and the version of a draft. `encoded`: what `encoded_in_pieces` returned for it.

    Raises `StateNotStorableError`, `LimitExceededError`.
    """
    if encoded is not None:
        return encoded.data, encoded.version(index, draft[0], codecs)
    return _encoded_at_once(index, draft, codecs, run_id, method)


def _encoded_at_once(
    index: int, held: list[Any], codecs: Codecs, run_id: str, method: str | None = None, *, is_copy: bool = False
) -> tuple[bytes, Version]:
    """Return the bytes and the version of a state. Use it without a copy if no other object holds any of it.

    `is_copy`: no other object does, as far as the caller knows.
    """
    is_mine = is_copy or is_exclusively_owned(held)  # checked first: a state that has to be copied is encoded once
    if not is_mine:
        held[0] = detached_copy(held[0])
    data, kept = codecs.encode_state(held[0], run_id, method)
    if kept is held[0] and len(data) >= LARGE and codecs.may_be_lent:
        del kept
        if is_exclusively_owned(held):  # again: code that encoded it may have kept a part
            return data, _lendable(index, held[0], codecs, data)
        kept = held[0]
    if is_mine and not is_copy:
        data, kept = codecs.encode_state(detached_copy(held[0]), run_id, method)
    return data, Version(index, kept)


def _lendable(index: int, state: Any, codecs: Codecs, data: bytes) -> Version:
    """Return a version that may be lent, from a state that no other object holds, and its bytes."""
    return LendableVersion(index, state, partial(codecs.state.decode, data))


async def encoded_in_pieces(
    held: list[Any], codecs: Codecs, *, is_stored: bool, is_copy: bool = False
) -> Encoded | None:
    """Encode a large state in pieces, and let other tasks run in between. Return its bytes.

    If another object holds a part of it, a copy replaces it. The copy is made in one step, so that it is consistent. Return None if
    JSON may not preserve the state. Without persistence, also return None if it cannot be lent: its bytes are then of no use.
    """
    pieces, is_lendable = codecs.state.pieces, is_exclusively_owned(held)
    if pieces is None or not (is_lendable or is_stored):
        return None
    if not (is_lendable or is_copy or is_exclusively_owned(held, to_be_lent=False)):
        held[0] = detached_copy(held[0])
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


async def first_version(
    held: list[Any], codecs: Codecs, run_id: str, *, is_stored: bool
) -> tuple[bytes | None, Version]:
    """Return the version with which a pass starts, and its bytes if it is stored. The state is copied if another object holds any of it.

    Raises `StateNotStorableError`, `LimitExceededError`.
    """
    encoded = await _encoded_if_large(held, codecs, is_stored=is_stored)
    if encoded is not None:
        return encoded.data, encoded.version(0, held[0], codecs)
    if is_stored:
        return _encoded_at_once(0, held, codecs, run_id, is_copy=True)
    return None, Version(0, held[0])


async def _encoded_if_large(held: list[Any], codecs: Codecs, *, is_stored: bool) -> Encoded | None:
    """Encode a large state in pieces. It stays the given one if no other object holds any of it; a copy replaces any other state."""
    if is_long(held[0]):
        is_copy = not is_exclusively_owned(held)
        if is_copy:
            held[0] = detached_copy(held[0])
        encoded = await encoded_in_pieces(held, codecs, is_stored=is_stored, is_copy=is_copy)
        if encoded is not None or is_copy:
            return encoded
    held[0] = detached_copy(held[0])
    return None
