"""Errors of a call that sends a signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._calls import CallError

__all__ = [
    "InboxFullError",
    "NotWaitingError",
    "RunEndedError",
    "SignalError",
    "SignalKeyError",
    "SignalPayloadError",
    "UnknownSignalError",
]


class SignalError(CallError):
    """A signal was not stored. `signal` is its name; empty for a request to finish the run."""

    def __init__(self, message: str, *, signal: str = "", **where: Any) -> None:
        super().__init__(message, **where)
        self.signal = signal


class UnknownSignalError(SignalError, LookupError):
    """The flow declares no signal of this name."""


class SignalPayloadError(SignalError, ValueError):
    """The payload does not fit the type that the signal declares. `paths` names the fields, `detail` says why.

    `found` has the type, the location and the message of each fault, without values of the payload.
    """

    def __init__(
        self,
        message: str,
        *,
        detail: str = "",
        paths: Sequence[str] = (),
        found: Sequence[Mapping[str, Any]] = (),
        **where: Any,
    ) -> None:
        super().__init__(message, **where)
        self.detail = detail
        self.paths: tuple[str, ...] = tuple(paths)
        self.found: tuple[Mapping[str, Any], ...] = tuple(found)


class SignalKeyError(SignalError):
    """The run already has another signal with this key: another name, or another payload."""


class RunEndedError(SignalError):
    """The run has finished or was cancelled: it takes no signal any more."""


class NotWaitingError(SignalError):
    """Nothing waits for this signal now, and it is declared with `early="refuse"`."""


class InboxFullError(SignalError):
    """The run has as many signals that nothing has taken as it can have."""
