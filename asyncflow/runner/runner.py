"""`FlowRunner`: owns runs independently of their callers, and recovers interrupted runs that a dead process left behind.

No error of a flow ends its tasks, and it never decides what a flow does next. A run takes a *place* (`max_running` + `max_queued`)
when it is accepted, and a *slot* (`max_running`) while it runs. It is stored before it waits for a slot, so it can be loaded then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any, Self, TypeVar

import anyio
from anyio.abc import TaskGroup

from .._durations import seconds
from .._runs import call_errors as refusals
from .._runs.inputs import JsonInputs, materialized
from .._runs.json_inputs import JsonInputsError
from .._runtime.parking import PARK_AFTER
from .._waiting import current_loop
from ..errors import RunnerClosedError
from ..events import Observer
from ..flow import Flow
from ..persistence.checks import check_backend
from ..persistence.default import default_persistence
from ..persistence.protocol import FlowPersistence, RunEntry
from ..state import StateType, parse_run_id, reconcile_run_ids
from .background import Background
from .capacity import Limits, Overload, Places
from .driver import driver_of, instantiate
from .handles import SOON, RunFailure, RunHandle, RunView
from .live import ELSEWHERE, Live
from .opening import Opening
from .owned import OwnedRuns
from .registry import FlowInfo, FlowRegistry, MakeFlow, described
from .stored import StoredRuns
from .views import Viewed

__all__ = ["FlowInfo", "FlowRunner", "JsonInputs", "JsonInputsError", "MakeFlow", "RunFailure", "RunHandle", "RunView"]

S = TypeVar("S")
R = TypeVar("R")

Given = dict[str, Any] | None  # the inputs of a run; None for a run that is stored already


class FlowRunner(StoredRuns):
    """Owns runs of flows while it is entered, and drains them on exit.

    - `persistence`: where all its runs are stored; the default SQLite file, unless given.
    - `flows`: classes, or functions that return a flow: the runner recovers their interrupted runs. Started flows are added.
    - `max_running`: maximum number of runs that run at the same time.
    - `max_queued`: maximum number of further runs, which are stored and wait for a slot, in order.
    - `overload`: what `start` does when there are more (the backpressure): "wait", or "raise" a `RunnerOverloadedError`.
    - `grace`: seconds that its runs have to finish on exit (graceful shutdown); then they stop at their next checkpoint.
    - `patience`: seconds after that until the runner cancels the runs that have not reached a checkpoint. Either way they can be
      resumed. By default the two are 9 seconds together: Docker kills a container 10 seconds after it has asked it to stop. On
      entry, the runner also waits `patience` seconds for a storage that is unavailable, and then raises `StorageUnreachableError` or
      `StorageBusyError`. See `enter` for a runner that serves meanwhile.
    - `recover_every`: seconds between two scans for interrupted runs; more where a scan takes long. None: no scans.
    - `park_after`: seconds from which on a run that only waits leaves this process, until any runner that knows its flow wakes it.
    - `max_waiting`: the former name of `max_queued`.
    - `waiting_warning`: seconds, or a timedelta; once a day the runner logs how many runs have waited for longer. None: never.
    - `observers`: objects with `on_event(event)`, called with each event of its runs and their children: see `asyncflow.events`.
    - `max_takeovers`: how often a run is taken over from dead processes without progress, that is, without a checkpoint in between
      other than of a resume (None: no limit). Such a run may be a poison run, which kills the processes: after half of that number
      the runner recovers such runs one at a time, so that other runs do not die with them. At the limit the run is quarantined: the
      runner logs it, and leaves it until it is resumed, started or cancelled explicitly.

    Raises `ValueError` for a number out of range.
    """

    def __init__(
        self,
        persistence: FlowPersistence | None = None,
        *,
        flows: Iterable[MakeFlow] = (),
        max_running: int = 1_000,
        max_queued: int = 10_000,
        overload: Overload = "wait",
        grace: float = 4.0,
        patience: float = 5.0,
        recover_every: float | None = 0.5,
        max_takeovers: int | None = 10,
        park_after: float = PARK_AFTER,
        waiting_warning: float | timedelta | None = timedelta(days=7),
        max_waiting: int | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        warns = None if waiting_warning is None else seconds(waiting_warning) or 0.0
        times = grace, patience, max_takeovers, park_after, warns
        queued = max_queued if max_waiting is None else max_waiting
        self._limits = limits = Limits(max_running, queued, overload, *times)
        self.persistence: FlowPersistence = default_persistence() if persistence is None else persistence
        check_backend(self.persistence)
        self._flows = known = FlowRegistry(self.persistence)
        self._recover_every, self._live = recover_every, (live := OwnedRuns(observers))
        self._viewed = Viewed(self.persistence, known.instance_of, lambda: self._background.waker.look_now(), live)
        for make in flows:
            self._flows.register(make)
        calls = self._is_recoverable, self._recover_one, lambda: self._places.slots.free if self.is_open else 0
        self._background = Background(self.persistence, known, live, limits, *calls)
        self._recovery = self._background.recovery
        self._group: TaskGroup | None = None
        self._is_ending = False
        self._loop: object = None
        self._opening: Opening
        self._places: Places
        self._stack: AsyncExitStack

    # ---- entering and leaving ----------------------------------------------------------------------------------

    async def enter(self, *, waits: bool = True) -> Self:
        """Enter the runner, as `async with` does; `__aexit__` ends it.

        - `waits`: whether to wait for a storage that is unavailable, for `patience` seconds. False: open it in the background, however
          long that takes. Until then `is_open` is False, and `start` raises `RunnerClosedError`: a server can start, and answer 503.

        Raises `RunnerClosedError` if it has been entered already, and `StorageError`s.
        """
        if self._group is not None:
            raise RunnerClosedError("the runner is already in use; create another one")
        self._places = Places(self._limits)
        async with AsyncExitStack() as stack:
            self._opening = await Opening(self.persistence).begin(stack, self._limits.patience, waits=waits)
            self._group = await stack.enter_async_context(anyio.create_task_group())
            self._stack = stack.pop_all()
        self._is_ending, self._loop = False, current_loop()
        self._group.start_soon(self._background.work, self._opening, self._recover_every)
        return self

    __aenter__ = enter

    async def __aexit__(self, *raised: Any) -> None:
        """Drain the runs. If the block has raised, or this is cancelled, stop them at once. All runs can be resumed."""
        self._is_ending, group = True, self._group
        assert group is not None, "entered"
        try:
            if raised[0] is None:
                await self._live.drain(self._limits.grace, self._limits.patience)
            await self._live.stop()
        finally:
            self._group = None
            self._live.close()
            group.cancel_scope.cancel()
            await self._stack.aclose()

    @property
    def is_open(self) -> bool:
        """Whether it accepts runs: it has been entered, its storage is open, and it is not ending."""
        return self._group is not None and self._opening.is_there and not self._is_ending

    @property
    def is_full(self) -> bool:
        """Whether it is at its limit of runs, so that `start` waits, or raises `RunnerOverloadedError`."""
        return self.is_open and self._places.is_full

    def add(self, flow: MakeFlow) -> FlowInfo:
        """Register a flow, so that its interrupted runs are recovered, too. Return its description.

        - `flow`: a flow class, or a function without arguments that returns a flow.

        Raises `FlowDefinitionError` if another flow has its name or a former identity, and `TypeError` for anything else than a flow.
        """
        return described(self._flows.register(flow))

    # ---- runs --------------------------------------------------------------------------------------------------

    async def start(
        self,
        flow: Callable[[], Flow[S, R]],
        inputs: S | Mapping[str, Any] | None = None,
        *,
        run_id: object | None = None,
        patience: float | None = None,
    ) -> RunHandle[R]:
        """Start a run that the runner owns, and return a handle on it once the run is stored.

        With a `run_id` the call is idempotent: it attaches to a run that is running, here or elsewhere; it resumes an interrupted run; for
        a run that has ended, the handle has its stored outcome: the result, or the error that `result()` raises. A caller that
        disconnects or is cancelled does not affect the run.

        - `flow`: a flow class, or a function without arguments that returns a flow.
        - `inputs`: as in `kickoff`. `JsonInputs` are validated as JSON.
        - `run_id`: the id of the run, for an idempotent call. None: a new one.
        - `patience`: seconds to wait for a free place, where `overload` is "wait"; None: no limit.

        Raises what `kickoff` raises before a run starts; `RunnerOverloadedError`, `RunnerClosedError`, `TypeError` for another `flow`.
        """
        self._check_open()
        types: StateType | None = getattr(flow, "_state_type", None)  # a function is called only where it has to be
        given = materialized(inputs, lambda: types or instantiate(flow)._state_type)
        wanted = reconcile_run_ids(*(types.ids_taken(given) if types else [given.pop("id", None)]), run_id)
        if wanted is not None and wanted not in self._live and self.is_full:
            ended = await self._ended(flow, wanted, given)  # that needs no free place
            if ended is not None:
                return ended
        while True:
            run = self._live.get(wanted or "") or await self._admit(flow, wanted, given, patience)
            await run.admitted.wait()
            handle = await self._served(run, flow, given)
            if handle is not None:
                return handle

    async def _served(self, run: Live, flow: MakeFlow, given: dict[str, Any]) -> RunHandle[Any] | None:
        """Return a handle on the requested run, or None if the caller has to try again. Raises the error that refused the run."""
        is_ours = run.inputs is given  # the same object: this call launched the run
        is_elsewhere = isinstance(run.refusal, ELSEWHERE)
        if run.refusal is not None and not is_elsewhere:
            if is_ours:
                raise run.refusal
            return None  # the refusal was for another caller; this one may succeed
        if is_ours and not is_elsewhere:
            return self._handle(run.run_id, run)
        stored = await self.persistence.load(run.run_id)
        if stored is None:
            await anyio.sleep(SOON)  # its owner is about to store it
            return None
        driver_of(self._flows.register(flow)).check_same(stored, given)
        return self._handle(run.run_id, None if is_elsewhere else run, is_elsewhere=is_elsewhere)

    async def _ended(self, flow: MakeFlow, run_id: str, given: dict[str, Any]) -> RunHandle[Any] | None:
        """Return a handle on a run that has ended; None if it is running or not stored."""
        stored = await self.persistence.load(run_id)
        if stored is None or stored.status == "running":
            return None
        driver_of(self._flows.register(flow)).check_same(stored, given)
        return self._handle(run_id)

    async def run(
        self, flow: Callable[[], Flow[S, R]], inputs: S | Mapping[str, Any] | None = None, *, run_id: object = None
    ) -> R:
        """Start a run, and await its result. Cancelling the call does not affect the run.

        - `flow`: a flow class, or a function without arguments that returns a flow.
        - `inputs`: as in `kickoff`.
        - `run_id`: as in `start`.

        Raises what `start` and `RunHandle.result` raise.
        """
        return await (await self.start(flow, inputs, run_id=run_id)).result()

    async def resume(self, run_id: object, *, patience: float | None = None) -> RunHandle[Any]:
        """Resume an interrupted or failed run of a registered flow, owned by the runner: run only what failed or never ended.

        If the run is running, here or elsewhere, return a handle attached to it; the handle of a finished run returns its result.

        - `run_id`: the id of the run.
        - `patience`: as in `start`.

        Raises `RunNotFoundError`, `RunCancelledError`, `RunFlowMismatchError` if the flow is not registered,
        what `Flow.resume` raises before it runs anything, `RunnerOverloadedError`, `RunnerClosedError`.
        """
        wanted = parse_run_id(run_id)
        while True:
            self._check_open()
            stored = await self.persistence.load(wanted)
            if stored is None:
                raise refusals.unknown_run(self.persistence, wanted, None)
            make = self._flows.of(stored)
            if make is None:
                raise refusals.unknown_flow(stored)
            if stored.status == "cancelled":
                raise refusals.cancelled(wanted)
            if stored.status == "finished":
                return self._handle(wanted)
            live = self._live.get(wanted)
            run = live or await self._admit(make, wanted, None, patience, again=True)
            await run.admitted.wait()
            if stored.status == "failed" and not run.again:
                # The live task only reads the stored failure, or the run is just failing: resume it in a task of its own after that.
                await run.ended.wait()
            elif isinstance(run.refusal, ELSEWHERE):
                return self._handle(wanted, is_elsewhere=True)
            elif run.refusal is None:
                return self._handle(wanted, run)
            elif run is not live:
                raise run.refusal

    # ---- recovering interrupted runs ---------------------------------------------------------------------------

    async def recover(self) -> int:
        """Recover the interrupted runs of registered flows that no process drives, also quarantined ones. Return how many.

        Parked runs are woken without it. None if the backend lacks `Catalog`. Raises `StorageError`s, `RunnerClosedError` elsewhere.
        """
        self._check_loop()
        return await self._recovery.recover_all()

    def _is_recoverable(self, entry: RunEntry) -> bool:
        return self.is_open and entry.run_id not in self._live and self._flows.named(entry.identity) is not None

    async def _recover_one(self, entry: RunEntry) -> bool:
        """Recover a run as soon as there is a free place, unless it no longer needs that by then. Return whether it was recovered."""
        await self._places.take_when_free()
        try:
            if self.is_open and entry.run_id not in self._live:
                make = self._flows.named(entry.identity)
                assert make is not None, "only runs of registered flows are recovered"
                self._launch(make, entry.run_id, None)
                return True
        except Exception as error:  # a function that makes a flow may raise any exception
            self._recovery.note_end(entry.run_id, entry.flow, error)
        self._places.release()
        return False

    # ---- one run -----------------------------------------------------------------------------------------------

    def _check_open(self) -> TaskGroup:
        if self._group is None or self._is_ending:
            raise RunnerClosedError(
                "the runner has not been entered, or is shutting down; use it in `async with FlowRunner(...)`"
            )
        self._check_loop()
        self._opening.check()
        return self._group

    async def _admit(
        self, flow: MakeFlow, run_id: str | None, inputs: Given, patience: float | None, *, again: bool = False
    ) -> Live:
        """Take a place, and launch a run; or return the run of this id that another caller has launched in the meantime."""
        await self._places.take_or_refuse(patience)
        try:
            other = self._live.get(run_id or "")
            run = other or self._launch(flow, run_id, inputs, again=again)
        except BaseException:
            self._places.release()
            raise
        if run is other or run.inputs is not inputs:
            self._places.release()
        return run

    def _launch(self, make: MakeFlow, run_id: str | None, inputs: Given, *, again: bool = False) -> Live:
        """Start a run and return it; or return the run that is already driven under this id, or under the id that the flow has."""
        group = self._check_open()
        flow = self._flows.register(make)
        other = self._live.get(run_id or flow.run_id)
        if other is not None:
            return other
        run = Live(
            driver_of(flow), run_id, inputs, self._places, self._on_ended, self._live.audience, flow=flow, again=again
        )
        run.is_followed = partial(self._live.is_awaited, run.run_id)
        self._live[run.run_id] = run
        group.start_soon(run.drive)
        return run

    def _on_ended(self, run: Live) -> None:
        self._live.remove(run)
        # The error of a refused start or resume is raised to its caller. A recovered run has none.
        is_refused = run.refusal is not None and (run.inputs is not None or run.again)
        if not run.winds_down and self.is_open:
            self._recovery.note_end(run.run_id, run.driver.flow_name, run.error, is_refused=is_refused)
        if run.has_place:
            self._places.release()
