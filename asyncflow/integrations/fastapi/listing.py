"""The route that lists runs."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, Literal, NamedTuple, Optional

import anyio
from fastapi import APIRouter, Query
from fastapi.exceptions import RequestValidationError

from ... import inspection
from ...errors import AsyncflowError, CapabilityMissingError
from ...persistence import Catalog, Children, RunEntry
from ...persistence.protocol import offers
from ...persistence.status import Status, status_of
from ...runner import FlowInfo, FlowRunner
from .answers import documented
from .models import RunLine, RunPage, view_of

__all__ = ["LARGEST", "PAGE", "add_catalog"]

PAGE: Final = 200
"""The maximum number of runs or checkpoints in a response, and in one query of the catalog."""

LARGEST: Final = (1 << 63) - 1
"""The largest position in a catalog: the largest 64-bit integer of databases."""

LOOKS: Final = 5
"""How many pages of the catalog are read, at most, for one page of runs whose status or signals the catalog does not know."""

LOADED: Final = 50
"""How many runs are loaded at once, to see what they wait for. A list by a signal looks at `LOOKS` times as many, at most."""

Listed = tuple[RunEntry, Status]


class Asked(NamedTuple):
    """Which runs a request asks for."""

    identities: frozenset[str]
    status: Status | None
    parent: str | None
    signal: str | None

    @property
    def stored(self) -> tuple[Literal["unfinished"] | Status | None, ...]:
        """The statuses to ask the catalog for. That a run here waits for its turn, and so counts as running, it does not know."""
        if self.signal is not None and self.status is None:
            return "waiting", "unfinished"
        return ("unfinished" if self.status in ("running", "interrupted") else self.status,)


def add_catalog(router: APIRouter, runner: FlowRunner, flows: Sequence[FlowInfo]) -> None:
    """Add the route that lists runs of these flows."""
    names = sorted({flow.name for flow in flows})
    declared = {flow.name: {signal.name for signal in flow.signals} for flow in flows}
    signals = sorted(set[str]().union(*declared.values()))

    async def list_runs(
        flow: Any = None,
        status: Annotated[
            Status | None, Query(description="`running`: a live process owns it; `interrupted`: none does.")
        ] = None,
        parent: Annotated[str | None, Query(description="Id of a run: only its direct children.")] = None,
        signal: Any = None,
        limit: Annotated[int, Query(ge=1, le=PAGE, description="The maximum number of runs on the page.")] = 50,
        cursor: Annotated[int | None, Query(ge=0, le=LARGEST, description="The `next` of another page.")] = None,
    ) -> RunPage:
        """List runs, the newest first. A page may have fewer runs than `limit`, or none, and still a `next` page."""
        served = {name for name in names if flow in (None, name)}
        if signal is not None:
            served = _waiting_for(signal, served, declared, status)
        identities = frozenset(identity for identity, name in runner.names.items() if name in served)
        found, following = await _listed(runner, Asked(identities, status, parent, signal), cursor, limit)
        lines = [RunLine.of(entry, runner.names[entry.identity], now) for entry, now in found]
        return RunPage(runs=lines, next=None if following is None else str(following))

    list_runs.__annotations__["flow"] = _one_of(names, "Only runs of the flow with this name.")
    list_runs.__annotations__["signal"] = _one_of(
        signals, "Only runs that wait for this signal, parked or in a method."
    )
    router.add_api_route("/runs", list_runs, methods=["GET"], responses=documented(501, 503))


def _one_of(names: Sequence[str], description: str) -> Any:
    """Return the type of a parameter that is one of some names, or not given."""
    known: Any = Literal[tuple(names)] if names else str
    return Annotated[Optional[known], Query(description=description)]  # noqa: UP045 - built at run time


def _waiting_for(signal: str, flows: set[str], declared: dict[str, set[str]], status: Status | None) -> set[str]:
    """Return those of some flows that declare a signal. Raises the validation error to answer with if no run can be meant."""
    if status in ("failed", "finished", "cancelled"):
        raise _senseless(f"a run that is {status} waits for no signal: leave out `status`, or `signal`")
    found = {flow for flow in flows if signal in declared[flow]}
    if not found:
        raise _senseless(
            f"{', '.join(sorted(flows))}: no such signal is declared; see the parameter's values in the schema"
        )
    return found


def _senseless(message: str) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": ("query", "signal"), "msg": message, "input": None}])


async def _listed(runner: FlowRunner, asked: Asked, before: int | None, limit: int) -> tuple[list[Listed], int | None]:
    """Return a page of runs, the newest first, and the position before which the next one begins; None if there is none."""
    storage = runner.persistence
    if not offers(storage, Catalog):
        raise CapabilityMissingError("the storage does not support a catalog of runs", capability="Catalog")
    if asked.parent is not None and not offers(storage, Children):
        raise CapabilityMissingError("the storage does not support child runs", capability="Children")
    size = LOADED if asked.signal else PAGE if asked.status in ("running", "interrupted") else limit
    found: list[Listed] = []
    for _ in range(LOOKS):
        looked_at, before = await _page_of(runner, asked, before, size)
        now: list[Listed] = [
            (entry, status_of(entry.status, runner.is_driven(entry), is_parked=entry.wake_at is not None))
            for entry in looked_at
        ]
        fitting = [each for each in now if asked.status in (None, each[1])]
        found += fitting if asked.signal is None else await _which_wait(runner, fitting, asked.signal)
        if before is None or len(found) >= limit or len(looked_at) < size:
            break
    if len(found) > limit:
        return found[:limit], found[limit - 1][0].position
    return found, before


async def _page_of(
    runner: FlowRunner, asked: Asked, before: int | None, size: int
) -> tuple[list[RunEntry], int | None]:
    """Return a page of the catalog, and the position before which the next one begins."""
    pages = [
        await inspection.list_runs(
            runner.persistence,
            identities=asked.identities,
            status=status,
            parent=asked.parent,
            before=before,
            limit=size,
        )
        for status in asked.stored
    ]
    lowest = max((page.next for page in pages if page.next is not None), default=None)
    entries = [entry for page in pages for entry in page if lowest is None or entry.position >= lowest]
    return sorted(entries, key=lambda entry: -entry.position), lowest


async def _which_wait(runner: FlowRunner, runs: Sequence[Listed], signal: str) -> list[Listed]:
    """Return those of some runs that wait for a signal. Their newest checkpoints say it; one that cannot be read is left out."""
    waiting: set[str] = set()

    async def look(run_id: str) -> None:
        with suppress(AsyncflowError):  # it is damaged, or was just deleted
            handle = await runner.get(run_id)
            view, _ = view_of(handle, await handle.checkpoint())
            if signal in view.waits_for:
                waiting.add(run_id)

    async with anyio.create_task_group() as group:
        for entry, _ in runs:
            group.start_soon(look, entry.run_id)
    return [each for each in runs if each[0].run_id in waiting]
