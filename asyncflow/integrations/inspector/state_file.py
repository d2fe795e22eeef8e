"""The state of a run at one step, as a file: also what is too long for a page."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ...inspection import state_at
from ...persistence.protocol import session
from ...state import parse_run_id
from .access import Action
from .reading import number
from .showing import json_text
from .site import Site

__all__ = ["send_state"]


async def send_state(site: Site, request: Request) -> Response:
    """Answer with the state as a JSON file."""
    run_id = parse_run_id(request.query_params.get("id", ""))
    await site.allow(request, Action("read", run_id))
    async with session(site.storage):
        state = await state_at(site.storage, run_id, number(request, "at"), redact=site.redact)
    headers = {"Content-Disposition": 'attachment; filename="state.json"'}
    return Response(json_text(state), headers=headers, media_type="application/json")
