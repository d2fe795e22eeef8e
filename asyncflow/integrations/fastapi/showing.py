"""What is shown of one run: the run itself with what it does and waits for, and its history."""

from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

import anyio.lowlevel
from pydantic_core import from_json

from ..._runs.history import HistoryEntry, entries
from ..._runs.reading import loaded, page_of_history, reading
from ..._runtime.timing import clock_of
from ...inspection import Wait
from ...inspection.doing import pending_of, waits_of
from ...persistence import Catalog, Checkpoint, Children, Owners, RunEntry
from ...persistence.checkpoint import decode_progress, state_after
from ...persistence.protocol import offers
from ...persistence.status import Status, has_ended, is_over
from ...runner import FlowRunner, RunHandle, RunView
from .as_json import aliases_of
from .listing import PAGE
from .models import Driver, HistoryLine, HistoryPage, Links, Pending, Run, RunFailure, Waiting, time_of, view_of
from .redaction import Shown

__all__ = ["RunsShown"]


class RunsShown(NamedTuple):
    """What is shown of the runs of a runner."""

    runner: FlowRunner
    values: Shown
    signals: frozenset[str]
    """The names of the signals that the router serves."""

    async def run(self, handle: RunHandle, stored: Checkpoint, flow: str, status: Status, where: str) -> bytes:
        """Return a run as JSON. `where`: the path of its route."""
        view, problem = view_of(handle, stored)
        progress = decode_progress(stored.progress or b"")
        children = await self._children(handle.run_id)
        parent = progress.parent[0] if progress.parent else None
        details: dict[str, Any] = {"parent": parent, "children": [child.run_id for child in children]}
        if not is_over(stored.status):
            now = clock_of(self.runner.persistence)()
            waits = waits_of(progress, now, children, None)
            known = {wait.name for wait in waits if wait.kind == "signal"}
            waits += tuple([Wait(kind="signal", name=name) for name in view.waits_for if name not in known])
            details["waits"] = [Waiting.of(wait, self.values) for wait in waits]
            details["pending"] = self._pending(progress, now, status)
        driver = None if has_ended(status) else await self._driver(handle.run_id)
        links = self._links(where, status, view, parent)
        shown = Run.of(view, self.values, flow, status, problem, driver=driver, links=links, **details)
        return shown.to_json(self.values)

    def _pending(self, progress: Any, now: float, status: Status) -> list[Pending]:
        return [
            Pending(
                invocation=each.invocation,
                method=each.method,
                doing=each.doing,
                attempts_failed=each.attempts,
                error=RunFailure.of(each.errors[-1], self.values, each.method) if each.errors else None,
            )
            for each in pending_of(progress, now, is_driven=status != "interrupted")
        ]

    async def _children(self, run_id: str) -> list[RunEntry]:
        storage = self.runner.persistence
        if not offers(storage, Children) or not offers(storage, Catalog):
            return []
        of_parent: dict[str, Any] = {"parent": run_id}
        return await storage.runs(limit=PAGE, **of_parent)

    async def _driver(self, run_id: str) -> Driver | None:
        storage = self.runner.persistence
        owner = await storage.owner_of(run_id) if offers(storage, Owners) else None
        if owner is None:
            return None
        return Driver(
            process=self.values.text(owner.process, "driver", "process"),
            is_here=owner.is_here,
            is_alive=owner.is_alive,
            seconds_left=owner.seconds_left,
        )

    def _links(self, where: str, status: Status, view: RunView, parent: str | None) -> Links:
        runs = where.rpartition("/")[0]
        served = [] if has_ended(status) else [name for name in view.waits_for if name in self.signals]
        return Links(
            run=where,
            events=f"{where}/events",
            history=f"{where}/history",
            children=f"{runs}?parent={quote(view.run_id, safe='')}",
            parent=parent and f"{runs}/{quote(parent, safe='')}",
            cancel=None if is_over(status) else f"{where}/cancel",
            resume=f"{where}/resume" if status in ("failed", "interrupted") else None,
            signals={name: f"{where}/signals/{quote(name, safe='')}" for name in served},
        )

    async def history(self, handle: RunHandle, newest: Checkpoint, after: int, limit: int) -> HistoryPage:
        """Return a page of the checkpoints of a run, the oldest first, each with what it changed in the state."""
        storage, run_id = self.runner.persistence, handle.run_id
        rows = await page_of_history(storage, newest, after, limit)
        state, lines = None, list[HistoryLine]()
        if rows and rows[0].seq == after + 1 > 0:  # else: its first one, perhaps of a run that was compacted
            state = (await loaded(storage, run_id, after)).state
        states = _States(handle, newest, self.values)
        for row in rows:
            await anyio.lowlevel.checkpoint()  # its state may be large
            with reading(run_id):
                (entry,) = entries([row], state, partial(states.fields, row))
                state = state_after(state, row)
            lines.append(self._line(entry, states.names))
        return HistoryPage(entries=lines, next=rows[-1].seq if rows and rows[-1].seq < newest.seq else None)

    def _line(self, entry: HistoryEntry, names: dict[str, str]) -> HistoryLine:
        error = self.values.text(entry.error, "error", "message") if entry.error else None
        return HistoryLine(
            seq=entry.seq,
            pass_number=entry.pass_number,
            kind=entry.kind,
            status=entry.status,
            method=entry.method or None,
            at=time_of(entry.at),
            changed={names.get(name, name): value for name, value in entry.changed.items()},
            before={names.get(name, name): value for name, value in entry.before.items()},
            removed=[names.get(name, name) for name in entry.removed],
            skipped=list(entry.skipped),
            error=error,
        )


class _States:
    """The states of a run's checkpoints, as they are shown: as the type of the state serializes them."""

    def __init__(self, handle: RunHandle, newest: Checkpoint, values: Shown) -> None:
        self.names: dict[str, str] = {}
        """The names of the fields in responses, where they are others."""
        self._handle = handle
        self._newest = newest._replace(outcome=None, status="running")
        self._values = values
        self._last: tuple[bytes, dict[str, Any]] | None = None

    def fields(self, row: Checkpoint, state: bytes) -> dict[str, Any]:
        """Return the fields of a stored state by the names under which they are stored."""
        if self._last is None or self._last[0] != state:
            self._last = state, self._decoded(row, state)
        return self._last[1]

    def _decoded(self, row: Checkpoint, state: bytes) -> dict[str, Any]:
        stored: dict[str, Any] = from_json(state)
        if not stored:
            return {}
        as_of = self._newest._replace(seq=row.seq, format=row.format, version=row.version, state=state)
        view, _ = view_of(self._handle, as_of)
        shown = self._values.tree(view.state, "state")
        if not isinstance(shown, dict):  # a serializer or a hook has replaced the whole
            return dict.fromkeys(stored, shown)
        names = aliases_of(view.state)
        self.names = {name: alias for alias, name in names.items()}
        by_name = {names.get(key, key): value for key, value in shown.items()}
        return {name: by_name.get(name) for name in stored}
