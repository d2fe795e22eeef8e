"""The list of runs, page by page."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from ...inspection import RunPage, list_runs
from ...persistence.protocol import session
from .access import Action
from .problems import Problem
from .reading import STATUSES, WITHIN, Filters, number
from .site import Site

__all__ = ["show_runs"]

PAGE = 50
"""Runs on one page."""


async def show_runs(site: Site, request: Request) -> Response:
    """Answer with a page of the list of runs, filtered as the query says."""
    await site.allow(request, Action("list"))
    filters, before = Filters.of(request.query_params), number(request, "before")
    runs, problem = RunPage(), None
    try:
        asked = filters.asked(time.time())
    except ValueError as error:
        problem = Problem(400, "These filters make no sense", "", str(error))
    else:
        async with session(site.storage):
            runs = await list_runs(site.storage, **asked, before=before, limit=PAGE)
    failed = [run.run_id for run in runs if run.status == "failed" and site.can_drive(run)]
    return site.page(
        request,
        "runs",
        200 if problem is None else problem.status,
        runs=runs,
        next=runs.next,
        filters=filters,
        before=before,
        problem=problem,
        flows=sorted({*site.flows, *(run.flow for run in runs)}),
        statuses=("unfinished", *STATUSES),
        within=WITHIN,
        failed=failed if site.may_act and site.runner.is_open else [],
        retried=number(request, "retried"),
    )
