"""Send a signal to a run: check it against the class, encode its payload, and store it."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import from_json

from .._codec.codec import Misfit, Refused
from .._definition.definition import FlowDefinition
from .._definition.signals import Signal
from .._pace import stored_runs_changed
from .._runtime.codecs import Codecs
from .._runtime.unstored import UNSTORED
from .._runtime.waits import awaited_signals
from .._scheduling.signals import expected
from .._values.copying import path_text
from .._values.explaining import explained, reason_of
from ..errors import (
    CapabilityMissingError,
    InboxChanged,
    NotWaitingError,
    SignalPayloadError,
    UnknownSignalError,
)
from ..persistence.checkpoint import decode_progress
from ..persistence.inbox import Inbox, NewSignal
from ..persistence.protocol import Catalog, FlowPersistence, offers, session
from . import call_errors as refusals
from .matching import check_entry, check_flow
from .setup import Setup

__all__ = ["JsonPayload", "inbox_of", "send"]

LONGEST_KEY = 200
"""The longest idempotency key, in characters."""


NOT_WAITING = -1
"""A seq that no checkpoint has, so that nothing is stored."""


class JsonPayload(NamedTuple):
    """The payload of a signal as JSON from outside, such as the body of a request. It is validated by the signal's type."""

    data: bytes
    """The JSON; empty for a signal without a payload."""


async def send(
    setup: Setup, run_id: str, signal: Signal[Any] | str, payload: Any, key: str | None, sender: str = ""
) -> bool:
    """Send a signal to a run. Return False if the run has received it already. Raises `SignalError`s."""
    declared = _declared(setup.settings.definition, signal, run_id)
    if isinstance(payload, JsonPayload):
        payload = _read(setup.codecs, declared, payload.data, run_id)
    new = NewSignal(declared.name, _encoded(setup.codecs, declared, payload, run_id), _key(key), sender, setup.clock())
    if setup.persistence is None:
        return UNSTORED.send(run_id, new, refuses_early=declared.early == "refuse")
    inbox = inbox_of(setup.persistence)
    async with session(setup.persistence):
        new = new._replace(at=setup.clock())  # the clock of the storage, which is known now
        while True:
            seq = await _checked(setup, setup.persistence, run_id, declared)
            try:
                is_new = await inbox.send(run_id, new, seq=seq)
                stored_runs_changed()
                return is_new
            except InboxChanged:  # the run has a new checkpoint: look again whether it waits
                if seq == NOT_WAITING:
                    raise NotWaitingError(
                        f"nothing waits for {declared.name} in run {run_id} now; it was not stored",
                        signal=declared.name,
                        run_id=run_id,
                    ) from None


def _declared(definition: FlowDefinition, signal: Signal[Any] | str, run_id: str) -> Signal[Any]:
    """Return the signal that a flow declares. Raises `UnknownSignalError`."""
    name = signal.name if isinstance(signal, Signal) else signal
    declared = definition.signals.get(name) if isinstance(name, str) else None
    if declared is None:
        known = sorted(definition.signals)
        near = difflib.get_close_matches(str(name), known, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UnknownSignalError(
            f"{definition.name} declares no signal {name!r}; it was not sent.{hint} Known: {', '.join(known) or 'none'}",
            signal=str(name),
            run_id=run_id,
        )
    if isinstance(signal, Signal) and declared != signal:
        raise UnknownSignalError(
            f"{definition.name} declares the signal {name!r} with another payload, or another `early`; it was not sent",
            signal=name,
            run_id=run_id,
        )
    return declared


def inbox_of(persistence: FlowPersistence) -> Inbox:
    """Return a backend as one that stores signals. Raises `CapabilityMissingError`."""
    if not offers(persistence, Inbox):
        raise CapabilityMissingError(
            f"signals need a backend that stores them, and {type(persistence).__name__} does not (see persistence.Inbox)",
            capability="Inbox",
        )
    return persistence


async def _checked(setup: Setup, persistence: FlowPersistence, run_id: str, signal: Signal[Any]) -> int | None:
    """Check that a run belongs to the flow. Return its seq if the signal is to be refused early: `NOT_WAITING` if nothing waits for it.

    Only the backend knows whether the run has received the signal already, and this is a repeated call.
    """
    if signal.early != "refuse" and offers(persistence, Catalog):
        entries = await persistence.runs(run_id=run_id, limit=1)
        if not entries:
            raise refusals.unknown_run(persistence, run_id, None)
        check_entry(setup.settings.identity, entries[0])
        return None
    stored = await persistence.load(run_id)
    if stored is None:
        raise refusals.unknown_run(persistence, run_id, None)
    check_flow(setup.settings.identity, stored)
    if signal.early != "refuse" or stored.status in ("finished", "cancelled"):
        return None
    progress = decode_progress(stored.progress or b"")
    is_awaited = signal.name in expected(setup.settings.definition, progress) | awaited_signals(progress, setup.clock())
    return stored.seq if is_awaited else NOT_WAITING


def _read(codecs: Codecs, signal: Signal[Any], data: bytes, run_id: str) -> Any:
    """Return the value of a payload in JSON. Raises `SignalPayloadError`, which contains no value."""
    try:
        if data:
            from_json(data, allow_inf_nan=False)
    except ValueError as error:  # its message has the error and its position, and no more
        detail = f"it is not JSON: {error}"
        raise _misfit(signal, detail, run_id, found=[{"type": "json_invalid", "loc": (), "msg": detail}]) from None
    try:
        return codecs.payload(signal.name).validate_json(data or b"null")
    except ValidationError as error:
        raise _of_validation(signal, error, run_id) from None
    except Exception as error:  # the type's own code may raise anything
        raise _misfit(signal, f"its own code raised {type(error).__name__}", run_id) from error


def _of_validation(signal: Signal[Any], error: ValidationError, run_id: str) -> SignalPayloadError:
    faults = error.errors(include_url=False, include_input=False)
    found = [{"type": fault["type"], "loc": fault["loc"], "msg": reason_of(fault)} for fault in faults]
    return _misfit(signal, explained(faults), run_id, [path_text(fault["loc"]) for fault in faults], found)


def _misfit(
    signal: Signal[Any], detail: str, run_id: str, paths: Sequence[str] = (), found: Sequence[Mapping[str, Any]] = ()
) -> SignalPayloadError:
    return SignalPayloadError(
        f"the payload of {signal.name} does not fit what the signal declares: {detail}. It was not stored",
        detail=detail,
        paths=[path for path in paths if path],
        found=found or [{"type": "value_error", "loc": (), "msg": detail}],
        signal=signal.name,
        run_id=run_id,
    )


def _encoded(codecs: Codecs, signal: Signal[Any], payload: Any, run_id: str) -> bytes:
    codec = codecs.result(signal.name)
    paths: tuple[str, ...]
    try:
        codecs.payload(signal.name).validate_python(payload)
    except ValidationError as error:  # it says what is expected
        raise _of_validation(signal, error, run_id) from None
    except Exception:  # the type's own code may raise anything: the codec reports it
        pass
    try:
        data, _ = codec.encode(payload)
        codec.decode(data)
    except Refused as refused:
        where = f" at '{refused.path}'" if refused.path else ""
        text = f"{refused.type_name or 'the value'}{where}: {refused.reason}"
        paths = (refused.path,) if refused.path else ()
    except Misfit as misfit:
        text, paths = str(misfit.detail), tuple(misfit.paths)
    else:
        return data
    raise _misfit(signal, text, run_id, paths)


def _key(key: str | None) -> str:
    """Return the idempotency key of a signal: a new one, if its sender gave none. Raises `ValueError`."""
    if key is None:
        return f" {uuid.uuid4().hex}"
    if not isinstance(key, str) or not 1 <= len(key) <= LONGEST_KEY or not key.isprintable() or key != key.strip():
        raise ValueError(
            f"the key of a signal must have 1 to {LONGEST_KEY} printable characters and no surrounding spaces"
        )
    return key
