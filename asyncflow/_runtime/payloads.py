"""The payloads of signals: a sender may not have known the type that the flow declares."""

from __future__ import annotations

from typing import Any, NamedTuple

from .._codec.codec import Misfit, Refused
from ..persistence.checkpoint import UNREADABLE
from ..persistence.inbox import StoredSignal
from .codecs import Codecs

__all__ = ["Problem", "kept_of"]


class Problem(NamedTuple):
    """Why a payload does not fit."""

    text: str


def kept_of(stored: StoredSignal, codecs: Codecs, *, is_encoded: bool) -> Any:
    """Return what is kept of a payload: its bytes, if the run is stored (`is_encoded`), else its value. A `Problem` if it does not fit."""
    codec = codecs.result(stored.signal.name)
    try:
        value = codec.decode(stored.signal.payload)
        return codec.encode(value)[0] if is_encoded else value
    except Misfit as misfit:
        return Problem(misfit.detail)
    except Refused as refused:
        return Problem(refused.reason)
    except UNREADABLE as error:
        return Problem(f"it cannot be read ({type(error).__name__})")
