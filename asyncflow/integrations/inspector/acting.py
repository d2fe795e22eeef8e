"""What the inspector does with runs, if it may: resume, try again, cancel, copy, edit, and send signals.

Each request is a form of one of its own pages. What succeeds answers with a redirect to the run, which says what was done; what fails
shows the page with the reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple, cast

import anyio
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..._runs.edits import edit, fork, load_into
from ..._runs.instance import Instance
from ...errors import AsyncflowError, RunnerOverloadedError, SignalPayloadError
from ...inspection import run_detail, state_at
from ...persistence.protocol import RunEntry, session
from ...runner import JsonInputs, JsonPayload
from ...state import parse_run_id
from .access import Action, check_origin
from .forms import ANY_JSON, Field, fields_of, payload_of
from .problems import Problem, problem_of
from .reading import Form, form_of
from .run_page import Refused, is_shown, run_page
from .showing import path_text
from .site import KnownFlow, Site

__all__ = ["ACTIONS", "act", "retry_many"]

SOON: Final = 5.0
"""Seconds that a request waits for a place in the runner, or until a run has stopped."""


class Asked(NamedTuple):
    """An action that is allowed."""

    site: Site
    entry: RunEntry
    form: Form
    client: str
    """The name of the client; '' if it has none."""

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.entry.run_id

    @property
    def known(self) -> KnownFlow:
        """The flow of the run. Raises `HTTPException` 409 if its class is not known."""
        known = self.site.flow_of(self.entry)
        if known is None:
            raise HTTPException(
                409,
                f"The inspector does not know the class of {self.entry.flow}, so nothing was done. Pass it: inspector(storage, "
                f"flows=[...]).",
            )
        return known


Outcome = tuple[str, str]
"""The id of the run to show, and a word of `run_page.DONE`."""


async def _resume(asked: Asked) -> Outcome:
    await _driven(asked)
    return asked.run_id, "resumed"


async def _retry(asked: Asked) -> Outcome:
    await _driven(asked)
    return asked.run_id, "retried"


async def _driven(asked: Asked) -> None:
    site = asked.site
    if not site.can_drive(asked.entry):
        raise HTTPException(
            409,
            f"The runner of the inspector does not know the class of {asked.entry.flow}, so nothing was done. Pass it: "
            "inspector(storage, flows=[...]).",
        )
    if not site.runner.is_open:
        raise HTTPException(
            409,
            "Nothing was done: the inspector has no open FlowRunner that could continue the run. Pass the one of the application: "
            "inspector(storage, flows=[...], runner=runner).",
        )
    await site.runner.resume(asked.run_id, patience=SOON)


async def _cancel(asked: Asked) -> Outcome:
    with anyio.move_on_after(SOON):
        await asked.site.runner.cancel(asked.run_id)
        return asked.run_id, "cancelled"
    return asked.run_id, "cancelling"


def _instance(asked: Asked) -> Instance:
    """Return a new instance of the flow of a run, which stores where the inspector reads."""
    instance = asked.known.make()._instance
    instance.store_in(asked.site.storage)
    return cast(Instance, instance)


async def _fork(asked: Asked) -> Outcome:
    instance = _instance(asked)
    await fork(instance, asked.run_id, asked.form.seq())
    return instance.run_id, "forked"


async def _edit(asked: Asked) -> Outcome:
    field = asked.form.fields.get("field", "")
    if asked.site.redact is not None:
        plain, shown = [
            await state_at(asked.site.storage, asked.run_id, redact=hook) for hook in (None, asked.site.redact)
        ]
        if isinstance(plain, dict) and field in plain and not is_shown(plain, shown, field):
            raise HTTPException(409, f"The value of {field} is not shown here, so it was not changed.")
    try:
        value = from_json(asked.form.fields.get("value", ""), allow_inf_nan=False)
    except ValueError:
        raise HTTPException(422, f"The new value of {field} is not JSON, so nothing was changed.") from None
    instance = _instance(asked)
    await load_into(instance, asked.run_id)
    await edit(instance, JsonInputs({field: value}), {})
    return asked.run_id, "edited"


async def _signal(asked: Asked) -> Outcome:
    name, given = asked.form.fields.get("name", ""), asked.form.fields
    fields = _fields_of(asked, name)
    data, wrong = payload_of(fields, given)
    if wrong:
        raise UnfilledError(name, given, wrong)
    handle = await asked.site.runner.get(asked.run_id)
    try:
        key = given.get("key") or None
        is_new = await handle.signal(name, JsonPayload(data), key=key, sender=asked.client)
    except SignalPayloadError as error:
        raise UnfilledError(name, given, _mistakes(fields, error.found)) from error
    return asked.run_id, "sent" if is_new else "sent-again"


def _mistakes(fields: tuple[Field, ...], found: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return what is wrong with a payload, by the field of the form that has it; '' for what no field has."""
    names, wrong = {each.name for each in fields}, dict[str, list[str]]()
    for each in found:
        place: tuple[Any, ...] = tuple(each["loc"])
        name = str(place[0]) if place and str(place[0]) in names else ""
        within = place[1:] if name else place
        wrong.setdefault(name, []).append(f"{path_text(within)}: {each['msg']}" if within else each["msg"])
    return {name: ". ".join(texts) for name, texts in wrong.items()}


def _fields_of(asked: Asked, signal: str) -> tuple[Field, ...]:
    """Return the inputs of a signal's form. Raises `HTTPException` 409 if there is no form for it."""
    if asked.site.flow_of(asked.entry) is None and asked.site.can_drive(asked.entry):
        return (ANY_JSON,)  # the runner knows the class, and the inspector does not
    declared = next((each for each in asked.known.info.signals if each.name == signal), None)
    if declared is None:
        raise HTTPException(409, f"{asked.entry.flow} declares no such signal, so nothing was sent.")
    return fields_of(declared.payload)


class UnfilledError(Exception):
    """A form whose content does not fit."""

    def __init__(self, signal: str, given: Mapping[str, str], wrong: Mapping[str, str]) -> None:
        super().__init__(signal)
        self.refused: Refused = Refused(
            Problem(422, f"The signal {signal} was not sent", "See the marked fields of its form."),
            signal,
            given,
            wrong,
        )


Name = Literal["resume", "retry", "cancel", "fork", "edit", "signal"]

ACTIONS: Final[Mapping[Name, Callable[[Asked], Awaitable[Outcome]]]] = {
    "resume": _resume,
    "retry": _retry,
    "cancel": _cancel,
    "fork": _fork,
    "edit": _edit,
    "signal": _signal,
}


async def act(site: Site, request: Request) -> Response:
    """Do what a form of a run's page asks for."""
    name = cast(Name, request.path_params["action"])
    if name not in ACTIONS:
        raise HTTPException(404)
    form = await _form_of(site, request)
    run_id = parse_run_id(form.fields.get("id", ""))
    sent = form.fields.get("name") if name == "signal" else None
    client = await site.allow(request, Action(name, run_id, sent))
    async with session(site.storage):
        try:
            found = (await run_detail(site.storage, run_id)).entry
            shown, word = await ACTIONS[name](Asked(site, found, form, client))
        except UnfilledError as error:
            return await run_page(site, request, run_id, error.refused)
        except HTTPException as error:
            if error.status_code not in (409, 422):
                raise
            refused = Problem(error.status_code, f"Not done: {name}", error.detail)
            return await run_page(site, request, run_id, Refused(refused))
        except AsyncflowError as error:
            problem = problem_of(error)
            if problem.status == 404:
                raise
            return await run_page(site, request, run_id, Refused(problem))
    return RedirectResponse(site.url(request, "run", id=shown, did=word), 303)


async def retry_many(site: Site, request: Request) -> Response:
    """Try several failed runs again. The list says how many continue; the first reason why one does not is shown."""
    form = await _form_of(site, request)
    ids = dict.fromkeys(map(parse_run_id, form.ids))
    clients = {run_id: await site.allow(request, Action("retry", run_id)) for run_id in ids}
    tried, refused = 0, ""
    async with session(site.storage):
        for run_id, client in clients.items():
            try:
                found = (await run_detail(site.storage, run_id)).entry
                if found.status == "failed":
                    await _retry(Asked(site, found, form, client))
                    tried += 1
            except HTTPException as error:
                refused = refused or error.detail
            except AsyncflowError as error:
                refused = refused or str(error)
                if isinstance(error, RunnerOverloadedError):
                    break  # so would each of the others be refused, and each after a pause
    if refused:
        problem = Problem(409, f"{tried} of {len(ids)} runs continue", "One that does not:", refused)
        return site.page(request, "problem", 409, problem=problem)
    return RedirectResponse(site.url(request, status="failed", retried=tried), 303)


async def _form_of(site: Site, request: Request) -> Form:
    if not site.may_act:
        raise HTTPException(403, "The inspector only shows runs: it was made without actions=True. Nothing was done.")
    check_origin(request)
    return await form_of(request)
