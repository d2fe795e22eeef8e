"""The page of one run: what is stored of it, at one of its steps."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from ...errors import CapabilityMissingError, RunNotFoundError
from ...inspection import Change, RunDetail, Span, diff, run_detail, run_history, state_at, timeline
from ...inspection.pictured import run_picture
from ...persistence.protocol import Catalog, offers, session
from ...persistence.status import has_ended, is_over
from ...state import parse_run_id
from .access import Action
from .forms import ANY_JSON, Field, fields_of
from .problems import Problem
from .reading import number
from .showing import Shown, json_text, shown
from .site import KnownFlow, Site

__all__ = ["DONE", "Refused", "is_shown", "run_page", "show_run"]

STEPS: Final = 100
"""Steps on one page."""

SPANS: Final = 120
"""Bars of the timeline."""

EVENTS: Final = 200
"""Steps whose events are shown at first."""

FIELDS: Final = 200
"""Fields of a state on the page."""

EDITABLE: Final = 4_000
"""The longest value of a field that can be edited, as JSON, in characters."""

DONE: Final = {
    "resumed": "The run continues.",
    "retried": "The run continues: what failed is tried again.",
    "cancelled": "The run is cancelled.",
    "cancelling": "The run is about to end: one of its methods has not stopped yet.",
    "forked": "This is the copy. Resume it to continue from here.",
    "edited": "The state is changed.",
    "sent": "The signal is stored.",
    "sent-again": "The run had received this signal already.",
}
"""What a page says after an action, by the word in its address."""


class Refused(NamedTuple):
    """An action that failed, and what its form contained."""

    problem: Problem
    signal: str = ""
    given: Mapping[str, str] = {}
    wrong: Mapping[str, str] = {}


class StateField(NamedTuple):
    """A field of the state."""

    name: str
    shown: Shown
    is_changed: bool
    """Whether the step has changed it."""
    editable: str | None
    """Its value as JSON, if it may be edited."""


class SignalForm(NamedTuple):
    """The form of a signal."""

    name: str
    is_awaited: bool
    fields: tuple[Field, ...]
    given: Mapping[str, str]
    wrong: Mapping[str, str]
    key: str
    """An idempotency key: a form that is sent twice sends one signal."""


class Bar(NamedTuple):
    """A span of the timeline, and its place in it, of 1,000."""

    span: Span
    start: float
    width: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Step:
    """The state at one step."""

    seq: int
    is_newest: bool
    fields: tuple[StateField, ...]
    whole: Shown | None
    """The state, if it has no fields."""
    changes: tuple[Change, ...] = ()
    cut: int = 0
    """How many further changes there are."""
    cut_fields: int = 0
    """How many further fields the state has."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """Steps of a run, some of them."""

    entries: Sequence[Any] = ()
    earlier: int | None = None
    """The first step of the page before; None if there is none."""
    later: int | None = None
    bars: Sequence[Bar] = ()
    begins: float = 0.0
    ends: float = 0.0
    problem: str = ""


async def show_run(site: Site, request: Request) -> Response:
    """Answer with the page of a run."""
    return await run_page(site, request, request.query_params.get("id", ""))


async def run_page(site: Site, request: Request, text: str, refused: Refused | None = None) -> Response:
    """Write the page of a run. Raises `RunNotFoundError`."""
    run_id = parse_run_id(text)
    await site.allow(request, Action("read", run_id))
    async with session(site.storage):
        known = await _known(site, run_id)
        detail = await run_detail(site.storage, run_id, flow=None if known is None else known.cls, redact=site.redact)
        known = known or site.flow_of(detail.entry)
        at = number(request, "at")
        step = await _step(site, detail, at)
        history = await _history(site, detail, number(request, "from"))
        picture = ""
        if known is not None:
            picture = (await run_picture(site.storage, run_id, known.cls, seq=at)).to_json()
    is_known = known is not None
    return site.page(
        request,
        "run",
        200 if refused is None else refused.problem.status,
        detail=detail,
        run=detail.entry,
        known=known,
        is_known=is_known,
        can_drive=site.can_drive(detail.entry),
        has_runner=site.runner.is_open,
        is_over=is_over(detail.entry.status),
        has_ended=has_ended(detail.entry.status),
        step=step,
        history=history,
        inputs=shown(detail.inputs) if detail.inputs else None,
        result=shown(detail.result),
        picture=picture,
        signals=_signals(known, detail, refused) if is_known or site.can_drive(detail.entry) else [],
        refused=refused,
        done=DONE.get(request.query_params.get("did", ""), ""),
        after=f"{max(-1, detail.entry.seq - EVENTS)}.0",
    )


async def _known(site: Site, run_id: str) -> KnownFlow | None:
    """Return the flow of a run; None if the class or the run is not known."""
    if not offers(site.storage, Catalog):
        return None
    found = await site.storage.runs(run_id=run_id, limit=1)
    return site.flow_of(found[0]) if found else None


# ---- the state at a step ----------------------------------------------------------------------------------------------------

MOST_CHANGES: Final = 50


async def _step(site: Site, detail: RunDetail, at: int | None) -> Step:
    """Return the state at a step, and what that step has changed. Raises `RunNotFoundError` for an unknown step."""
    run_id, newest = detail.entry.run_id, detail.entry.seq
    seq = newest if at is None else at
    if seq > newest:
        raise RunNotFoundError(f"run {run_id} has no step {seq}", run_id=run_id)
    state = detail.state if seq == newest else await state_at(site.storage, run_id, seq, redact=site.redact)
    changes: list[Change] = []
    problem = ""
    if seq > 0:
        try:
            changes = await diff(site.storage, run_id, seq - 1, seq, redact=site.redact)
        except (RunNotFoundError, CapabilityMissingError):
            problem = "The step before is not stored, so no difference is shown."
    fields: tuple[StateField, ...] = ()
    if isinstance(state, dict):
        plain = await _plain_state(site, run_id, state) if seq == newest and site.may_act else None
        changed = {change.path[0] for change in changes if change.path}
        fields = tuple(
            StateField(name, shown(value), name in changed, _editable(plain, state, name))
            for name, value in islice(state.items(), FIELDS)
        )
    return Step(
        seq,
        seq == newest,
        fields,
        None if isinstance(state, dict) else shown(state),
        tuple(changes[:MOST_CHANGES]),
        max(0, len(changes) - MOST_CHANGES),
        len(state) - len(fields) if isinstance(state, dict) else 0,
        problem,
    )


async def _plain_state(site: Site, run_id: str, shown: Any) -> Any:
    """Return the newest state without redaction: only values that are shown as they are can be edited."""
    return shown if site.redact is None else await state_at(site.storage, run_id)


def is_shown(plain: Any, shown: Any, name: str) -> bool:
    """Whether a field of the state is shown as it is."""
    both = (plain, shown)
    return all(isinstance(each, dict) and name in each for each in both) and plain[name] == shown[name]


def _editable(plain: Any, shown: Any, name: str) -> str | None:
    if name == "id" or not is_shown(plain, shown, name):
        return None
    text = json_text(shown[name])
    return text if len(text) <= EDITABLE else None


# ---- steps and timeline ------------------------------------------------------------------------------------------------------


async def _history(site: Site, detail: RunDetail, first: int | None) -> History:
    run_id, newest = detail.entry.run_id, detail.entry.seq
    start = max(0, newest + 1 - STEPS) if first is None else min(first, newest)
    try:
        entries = await run_history(site.storage, run_id, after=start - 1, limit=STEPS, redact=site.redact)
        spans = await timeline(site.storage, run_id, after=start - 1, until=entries[-1].seq if entries else None)
    except CapabilityMissingError as error:
        return History(problem=str(error))
    last = start + STEPS - 1
    bars, begins, ends = _bars(spans[-SPANS:], detail.entry.updated_at)
    return History(
        entries,
        max(0, start - STEPS) if start > 0 else None,
        last + 1 if last < newest else None,
        bars,
        begins,
        ends,
    )


def _bars(spans: Sequence[Span], updated_at: float) -> tuple[list[Bar], float, float]:
    """Return the bars of a timeline, and when it begins and ends."""
    if not spans:
        return [], 0.0, 0.0
    begins = min(span.start for span in spans)
    ends = max(updated_at, *(span.start if span.end is None else span.end for span in spans))
    whole = max(ends - begins, 0.001)
    found = []
    for span in spans:
        end = ends if span.end is None else span.end
        width = max(1_000 * (end - span.start) / whole, 4.0)
        start = min(1_000 * (span.start - begins) / whole, 1_000 - width)
        found.append(Bar(span, round(start, 1), round(width, 1), end - span.start))
    return found, begins, ends


# ---- signals ------------------------------------------------------------------------------------------------------------------


def _signals(known: KnownFlow | None, detail: RunDetail, refused: Refused | None) -> list[SignalForm]:
    """Return the forms of the signals that a run waits for, and of those that its flow declares besides."""
    if is_over(detail.entry.status):
        return []
    awaited = dict.fromkeys(wait.name for wait in detail.waits if wait.kind == "signal")
    declared = {} if known is None else {each.name: each for each in known.info.signals}
    found = []
    sent = [refused.signal] if refused is not None and refused.signal else []
    for name in dict.fromkeys((*awaited, *declared, *sent)):
        is_refused = refused is not None and refused.signal == name
        given = refused.given if refused is not None and is_refused else {}
        wrong = refused.wrong if refused is not None and is_refused else {}
        fields = fields_of(declared[name].payload) if name in declared else (ANY_JSON,)
        found.append(SignalForm(name, name in awaited, fields, given, wrong, given.get("key") or str(uuid.uuid4())))
    return found
