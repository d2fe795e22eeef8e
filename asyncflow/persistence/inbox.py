"""The inbox of a run: the signals that were sent to it, until a checkpoint takes them. A capability of backends."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from pydantic_core import to_json

from ..errors import (
    CheckpointCorruptError,
    InboxChanged,
    InboxFullError,
    NotWaitingError,
    RunEndedError,
    RunNotFoundError,
    SignalKeyError,
)
from .checkpoint import UNREADABLE, Checkpoint

__all__ = [
    "CAPACITY",
    "FINISH",
    "LEFT",
    "Inbox",
    "NewSignal",
    "StoredSignal",
    "changed",
    "ended",
    "full",
    "key_in_use",
    "second",
    "unknown_run",
]

CAPACITY: Final = 1_000
"""How many signals that nothing has taken a run can have."""


class NewSignal(NamedTuple):
    """A signal to be stored."""

    name: str
    """The name of the signal."""
    payload: bytes
    """JSON, as the codec of the signal's type has encoded it."""
    key: str
    """The idempotency key: within a run, a key stands for one signal. One that begins with a space was made for a sender without one."""
    sender: str
    """Who sent it; '' if that is unknown."""
    at: float
    """When it was sent, in seconds since the Unix epoch."""

    @property
    def content(self) -> bytes:
        """A digest of name and payload: two signals with one key must have the same. BLAKE2b, 16 bytes."""
        return hashlib.blake2b(self.name.encode() + b"\0" + self.payload, digest_size=16).digest()


class StoredSignal(NamedTuple):
    """A signal in the inbox of a run."""

    id: int
    """Its position: larger for signals that came later."""
    run_id: str
    """The id of the run."""
    signal: NewSignal
    """What was sent."""

    def digest(self, key: bytes, taken: int | None = None, problem: str | None = None) -> bytes:
        """Return the digest of its row: BLAKE2b, 16 bytes, keyed if there is a key.

        - `key`: the storage's secret key; b"" for none.
        - `taken`: the seq of the checkpoint that took it; None: none.
        - `problem`: why it was set aside; None: it was not.
        """
        return self.digest_of(self.signal.content, key, taken, problem)

    def digest_of(self, content: bytes, key: bytes, taken: int | None, problem: str | None) -> bytes:
        """Return the digest of its row, of a signal whose payload need not be there any more.

        - `content`: the digest of name and payload.
        - `key`: the storage's secret key; b"" for none.
        - `taken`: the seq of the checkpoint that took it; None: none.
        - `problem`: why it was set aside; None: it was not.
        """
        name, _, signal_key, sender, at = self.signal
        fields = to_json((self.run_id, name, signal_key, sender, at, taken, problem))
        return hashlib.blake2b(content + fields, digest_size=16, key=key).digest()

    def check(
        self, content: bytes, digest: bytes, key: bytes, taken: int | None = None, problem: str | None = None
    ) -> None:
        """Check the row of a signal. One that was taken has no payload any more: it is in the checkpoint.

        - `content`: the digest of name and payload in the row.
        - `digest`: the digest of the row.
        - `key`: the storage's secret key; b"" for none.
        - `taken`: the seq of the checkpoint that took it; None: none.
        - `problem`: why it was set aside; None: it was not.

        Raises `CheckpointCorruptError` if they do not match.
        """
        try:
            found = content if taken is not None and not self.signal.payload else self.signal.content
            is_sound = all(map(isinstance, self.signal, _TYPES)) and found == content
            is_sound = is_sound and self.digest_of(content, key, taken, problem) == digest
        except UNREADABLE:
            is_sound = False
        if not is_sound:
            raise CheckpointCorruptError(
                f"signal {self.id} of run {self.run_id} fails its digest: it was changed since it was stored, or stored under another "
                "key. Nothing was changed; restore the database from a backup",
                run_id=self.run_id,
            )


_TYPES: Any = (str, bytes, str, str, (float, int))


@runtime_checkable
class Inbox(Protocol):
    """Stores signals for runs, and takes them in the transaction of a checkpoint. For backends that store deltas, too."""

    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        """Store a signal for a run. It is durable on return. Return False if the run has received it already.

        That is so if it has the same key, and the same content; also if it was taken since, or the run has ended.

        - `run_id`: the id of the run.
        - `signal`: the signal.
        - `seq`: store it only if this is the seq of the run's newest checkpoint, and the inbox has no other signal of this name.

        Raises `RunNotFoundError`, `RunEndedError` for a finished or cancelled run, `SignalKeyError` for a key with another content,
        `InboxFullError`; with `seq`, `InboxChanged` if the run has another newest checkpoint, and `NotWaitingError` for the second
        signal of a name.
        """
        ...

    async def inbox(self, run_id: str) -> list[StoredSignal]:
        """Return the signals of a run that were neither taken nor set aside, the oldest first.

        - `run_id`: the id of the run.

        Raises `CheckpointCorruptError` for a signal that was changed since it was stored.
        """
        ...

    def append_taking(self, checkpoint: Checkpoint, signal: StoredSignal) -> Coroutine[Any, Any, None]:
        """Store a checkpoint as `append` does and, in the same transaction, take a signal from the inbox of its run.

        - `checkpoint`: the next checkpoint of its run.
        - `signal`: the signal, as `inbox` returned it.

        Raises what `append` raises, and `StaleCheckpoint` also if the signal is not in the inbox.
        """
        ...

    def append_last(self, checkpoint: Checkpoint, newest: int) -> Coroutine[Any, Any, None]:
        """Store the last checkpoint of a pass as `append` does and, in the same transaction, set aside what is left in the inbox.

        - `checkpoint`: the next checkpoint of its run.
        - `newest`: the largest id of the signals that the caller has read. Nothing is stored if the inbox has one with a larger id.

        Raises what `append` raises, and `InboxChanged`.
        """
        ...

    async def set_aside(self, signal: StoredSignal, problem: str) -> None:
        """Keep a signal out of the inbox from now on, because it cannot be taken.

        - `signal`: the signal, as `inbox` returned it.
        - `problem`: why it cannot be taken.
        """
        ...

    def watch(self, run_id: str, arrived: Callable[[], object]) -> AbstractContextManager[object]:
        """Return a context manager within which a function is called on this event loop whenever a signal may have arrived for a run.

        A signal of another process is noticed within a second.

        - `run_id`: the id of the run.
        - `arrived`: the function. It takes no arguments.
        """
        ...


FINISH: Final = " finish"
"""The name, and the key, of the reserved signal that asks a run to finish. No signal of a flow begins with a space."""

LEFT: Final = "the pass ended before anything took it"
"""Why a signal was set aside that was in the inbox at the end of a pass."""


def ended(run_id: str, status: str, signal: NewSignal) -> RunEndedError:
    """Return the error for a signal to a run that takes none any more."""
    return RunEndedError(
        f"run {run_id} is {status}, and takes no signal; this one was not stored", run_id=run_id, signal=_shown(signal)
    )


def changed(run_id: str) -> InboxChanged:
    """Return the answer for an end that has come too early, and for a signal that has come too late."""
    return InboxChanged(f"run {run_id}, or its inbox, has changed since it was read; nothing was stored", run_id=run_id)


def second(run_id: str, signal: NewSignal) -> NotWaitingError:
    """Return the error for an early signal whose place another one has taken."""
    return NotWaitingError(
        f"run {run_id} has another signal {signal.name}, and waits for one only; this one was not stored",
        run_id=run_id,
        signal=signal.name,
    )


def full(run_id: str, signal: NewSignal) -> InboxFullError:
    """Return the error for one signal too many."""
    return InboxFullError(
        f"run {run_id} has {CAPACITY} signals that nothing has taken, the maximum; this one was not stored",
        run_id=run_id,
        signal=_shown(signal),
    )


def _shown(signal: NewSignal) -> str:
    """Return the name of a signal, as an error has it."""
    return "" if signal.name == FINISH else signal.name


def unknown_run(run_id: str) -> RunNotFoundError:
    """Return the error for a signal to a run that is not stored."""
    return RunNotFoundError(f"no run {run_id} is stored; the signal was not stored", run_id=run_id)


def key_in_use(run_id: str, signal: NewSignal) -> SignalKeyError:
    """Return the error for a key that stands for another signal."""
    return SignalKeyError(
        f"run {run_id} already has another signal with the key {signal.key!r}: another name, or another payload. This one was not "
        "stored; use a key for one signal only",
        run_id=run_id,
        signal=signal.name,
    )
