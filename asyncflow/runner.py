"""`FlowRunner`: owns runs, so that whoever asked for one may go away; takes up those that a dead process left behind.

Its tasks are in its own task group, which no flow's error ends. It never decides what a flow does next; it starts, bounds
and ends runs. A run waits for its turn when it is stored already, so that a run id which was handed out can be loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, Self

import anyio
from anyio.abc import TaskGroup

from ._runtime import refusals
from ._runtime.ending import cancel_stored
from ._runtime.handles import SOON, Live, RunFailure, RunHandle, RunView
from ._runtime.inputs import JsonInputs, told_once
from ._runtime.json_inputs import JsonInputsError
from ._runtime.known import KnownFlow, KnownFlows, MakeFlow, described, warn_of_another_storage
from ._runtime.opening import Opening
from ._runtime.places import Overload, Places
from ._runtime.recovery import Recovery
from ._runtime.runs import is_driven_here
from ._runtime.viewed import Viewed
from .errors import RunLockedError, RunnerClosedError
from .flow import Flow, check_backend, made_by
from .persistence.checkpoint import Checkpoint
from .persistence.default import default_persistence
from .persistence.protocol import FlowPersistence, RunEntry
from .state import StateType, one_run_id, parse_run_id

__all__ = ["FlowRunner", "JsonInputs", "JsonInputsError", "KnownFlow", "MakeFlow", "RunFailure", "RunHandle", "RunView"]

LEAVING: Final = 30.0
"""Seconds that stopped runs have to leave, one by one, before they are cancelled all together."""

Given = dict[str, Any] | None  # the inputs of a run; None for one that is stored
logger = logging.getLogger("asyncflow")


class FlowRunner:
    """Owns runs of flows for as long as it is entered, and drains them when it ends.

    `persistence`: where all its runs are stored; the default SQLite file, unless given. `flows`: classes, or functions that make
    a flow, whose interrupted runs are to be taken up: at the start, and every `recover_every` seconds, or less often where a look
    takes long (None: never). What is started is added to them. `max_running`: runs at the same time; `max_waiting` more are stored
    and wait for their turn, in order. `overload`: what `start` does when there are more: "wait", or "raise" a `RunnerOverloadedError`.
    `grace`: seconds that its runs have to finish when it ends; then they stop at their next checkpoint, and what has not come to
    one after `patience` seconds more is cancelled. Either way they can be resumed. Together they are 9 seconds unless you say
    otherwise: Docker kills a container 10 seconds after it has asked it to stop. For `patience` seconds it also waits, when it
    is entered, for a storage that is away: `StorageUnreachableError`, `StorageBusyError`. See `enter` for one that serves meanwhile.
    `max_takeovers`: how often a run is taken over from dead processes without a checkpoint in between (None: no bound). It may be
    what ends them: from half of that on such runs are taken up one at a time, so that others are not ended with it; then it is
    told to the log, and left to whoever resumes, starts or cancels it.
    """

    def __init__(
        self,
        persistence: FlowPersistence | None = None,
        *,
        flows: Iterable[MakeFlow] = (),
        max_running: int = 1_000,
        max_waiting: int = 10_000,
        overload: Overload = "wait",
        grace: float = 4.0,
        patience: float = 5.0,
        recover_every: float | None = 0.5,
        max_takeovers: int | None = 10,
    ) -> None:
        if max_running < 1 or max_waiting < 0:
            raise ValueError("max_running is at least 1, and max_waiting at least 0")
        if not (grace >= 0 and patience >= 0):
            raise ValueError("grace and patience are numbers of seconds, 0 or more")
        if max_takeovers is not None and max_takeovers < 1:
            raise ValueError("max_takeovers is at least 1, or None: no bound")
        if overload not in ("wait", "raise"):
            raise ValueError(f"overload is 'wait' or 'raise', not {overload!r}")
        self.persistence: FlowPersistence = default_persistence() if persistence is None else persistence
        check_backend(self.persistence)
        self._flows = KnownFlows()
        self._viewed = Viewed(self._instance_of)
        for make in flows:
            self._known(make)
        self._most = (max_running, max_waiting)
        self._overload: Overload = overload
        self._grace = grace
        self._patience = patience
        self._recover_every = recover_every
        self._live: dict[str, Live] = {}
        self._recovery = Recovery(
            self.persistence,
            self._is_known,
            lambda: self._flows.identities,
            self._taken_up,
            self._live,
            max_takeovers,
        )
        self._group: TaskGroup | None = None
        self._is_ending = False
        self._opening: Opening
        self._places: Places
        self._idle: anyio.Event
        self._stack: AsyncExitStack

    # ---- its own life ------------------------------------------------------------------------------------------

    async def enter(self, *, waits: bool = True) -> Self:
        """What `async with` does at its beginning; `__aexit__` ends it.

        `waits=False`: a storage that is away is opened in the background, however long that takes. Until then `is_open` is False, and
        `start` raises `RunnerClosedError`. So a server can begin, and answer 503, while its database is away.
        """
        if self._group is not None:
            raise RunnerClosedError("the runner is in use already; make another one")
        self._places = Places(*self._most, self._overload)
        async with AsyncExitStack() as stack:
            self._opening = await Opening(self.persistence).begin(stack, self._patience, waits=waits)
            self._group = await stack.enter_async_context(anyio.create_task_group())
            self._stack = stack.pop_all()
        self._is_ending, self._idle = False, anyio.Event()
        self._group.start_soon(self._look_for_others)
        return self

    __aenter__ = enter

    async def _look_for_others(self) -> None:
        await self._opening.finish()
        if self._recover_every is not None:
            await self._recovery.keep_looking(self._recover_every)

    async def __aexit__(self, *raised: Any) -> None:
        """Drain; where the block has raised, or this is cancelled, stop at once. All runs can be resumed."""
        self._is_ending, group = True, self._group
        assert group is not None, "entered"
        try:
            if raised[0] is None:
                await self._drain()
            await self._stop()
        finally:
            self._group = None
            group.cancel_scope.cancel()
            await self._stack.aclose()

    async def _drain(self) -> None:
        with anyio.move_on_after(self._grace):
            await self._until_idle()
        for run in self._live.values():
            run.wind_down()
        with anyio.move_on_after(self._patience):
            await self._until_idle()

    async def _stop(self) -> None:
        """Stop each run by itself: a scope that cancels them all goes through all of them again whenever one has got on."""
        for run in self._live.values():
            run.stop()
        with anyio.move_on_after(LEAVING):
            await self._until_idle()

    async def _until_idle(self) -> None:
        while self._live:
            self._idle = anyio.Event()
            await self._idle.wait()

    @property
    def is_open(self) -> bool:
        """Whether it takes runs: it has been entered, its storage is there, and it is not ending."""
        return self._group is not None and self._opening.is_there and not self._is_ending

    @property
    def is_full(self) -> bool:
        """Whether it has as many runs as it takes, so that `start` waits, or raises `RunnerOverloadedError`."""
        return self.is_open and self._places.is_full

    def add(self, flow: MakeFlow) -> KnownFlow:
        """Know a flow, so that its interrupted runs are taken up, too; what there is to know of it."""
        return described(self._known(flow))

    def is_driven(self, entry: RunEntry) -> bool:
        """Whether somebody drives a run that the catalog lists: in this process, or elsewhere."""
        return entry.is_driven or is_driven_here(self.persistence, entry.run_id)

    @property
    def names(self) -> Mapping[str, str]:
        """The flows that it knows: the name of each, by all that its runs may be stored under (`RunEntry.identity`)."""
        return self._flows.names

    # ---- runs --------------------------------------------------------------------------------------------------

    async def start(
        self,
        flow: MakeFlow,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: object | None = None,
        patience: float | None = None,
    ) -> RunHandle:
        """A run, owned by the runner, once it is stored.

        With a `run_id` it is the same however often it is called: a run that is running is attached to, here or elsewhere; an
        interrupted one goes on; one that has ended gives its stored outcome: the result, or the error that `result()` raises. A
        caller that goes away changes nothing. `patience`: how many seconds a place is waited for, where `overload` is "wait".
        `inputs` that are `JsonInputs` are validated as JSON. Raises what `kickoff` raises before a run begins;
        `RunnerOverloadedError`, `RunnerClosedError`.
        """
        self._check_open()
        types: StateType | None = getattr(
            flow, "_state_type", None
        )  # a function that makes flows is asked where it must be
        given = told_once(inputs, lambda: types or made_by(flow)._state_type)
        known = one_run_id(*(types.ids_taken(given) if types else [given.pop("id", None)]), run_id)
        if known is not None and known not in self._live and self.is_full:
            ended = await self._ended(flow, known, given)  # that needs no place
            if ended is not None:
                return ended
        while True:
            run = self._live.get(known or "") or await self._placed(flow, known, given, patience)
            await run.known.wait()
            handle = await self._served(run, flow, given)
            if handle is not None:
                return handle

    async def _served(self, run: Live, flow: MakeFlow, given: dict[str, Any]) -> RunHandle | None:
        """A handle on the run that was asked for, or None if it is to be asked for again. Raises why it is refused."""
        is_ours, is_elsewhere = run.inputs is given, isinstance(run.refusal, RunLockedError)
        if run.refusal is not None and not is_elsewhere:
            if is_ours:
                raise run.refusal
            return None  # another asked for it; this one may be served
        if is_ours and not is_elsewhere:
            return self._handle(run.run_id, run)
        stored = await self.persistence.load(run.run_id)
        if stored is None:
            await anyio.sleep(SOON)  # whoever drives it is about to store it
            return None
        self._known(flow)._instance.check_same(stored, given)
        return self._handle(run.run_id, None if is_elsewhere else run, is_elsewhere=is_elsewhere)

    async def _ended(self, flow: MakeFlow, run_id: str, given: dict[str, Any]) -> RunHandle | None:
        """A handle on a run that has ended."""
        stored = await self.persistence.load(run_id)
        if stored is None or stored.status == "running":
            return None
        self._known(flow)._instance.check_same(stored, given)
        return self._handle(run_id)

    async def run(
        self, flow: MakeFlow, inputs: Mapping[str, Any] | None = None, *, run_id: object | None = None
    ) -> Any:
        """Start a run, and await its result."""
        return await (await self.start(flow, inputs, run_id=run_id)).result()

    async def resume(self, run_id: object, *, patience: float | None = None) -> RunHandle:
        """Go on with an interrupted or failed run of a known flow, owned by the runner: only what failed or never ended is run.

        A run that is driven, here or elsewhere, is attached to, and one that has finished gives its result. `patience`: as of
        `start`. Raises `RunNotFoundError`, `RunCancelledError`, `RunFlowMismatchError` if the flow is not known, what
        `MyFlow.resume` raises before anything is run, `RunnerOverloadedError`, `RunnerClosedError`.
        """
        known = parse_run_id(run_id)
        while True:
            self._check_open()
            stored = await self.persistence.load(known)
            if stored is None:
                raise refusals.unknown_run(self.persistence, known, None)
            make = self._flows.of(stored)
            if make is None:
                raise refusals.unknown_flow(stored)
            if stored.status == "cancelled":
                raise refusals.cancelled(known)
            if stored.status == "finished":
                return self._handle(known)
            live = self._live.get(known)
            run = live or await self._placed(make, known, None, patience, again=True)
            await run.known.wait()
            if stored.status == "failed" and not run.again:
                await run.ended.wait()  # it only tells how it has failed, or fails at this moment
            elif isinstance(run.refusal, RunLockedError):
                return self._handle(known, is_elsewhere=True)
            elif run.refusal is None:
                return self._handle(known, run)
            elif run is not live:
                raise run.refusal

    async def get(self, run_id: object) -> RunHandle:
        """A handle on any stored run, whoever drives it. Raises `RunNotFoundError`."""
        known = parse_run_id(run_id)
        if known not in self._live and await self.persistence.load(known) is None:
            raise refusals.unknown_run(self.persistence, known, None)
        return self._handle(known)

    async def cancel(self, run_id: object) -> None:
        """End a run for good, durably, whoever drives it; one that has finished stays as it is. Raises `RunNotFoundError`."""
        known = parse_run_id(run_id)
        live = self._live.get(known)
        if live is not None:
            await live.known.wait()
        if live is not None and not live.ended.is_set():
            await live.cancel()
        else:
            await cancel_stored(self.persistence, known)

    @property
    def running(self) -> int:
        """How many runs it owns, those that wait for their turn included."""
        return len(self._live)

    # ---- taking up what others left ----------------------------------------------------------------------------

    async def recover(self) -> int:
        """Take up the interrupted runs of known flows that nobody drives, however often they were; how many."""
        return await self._recovery.take_up_all()

    def _is_known(self, entry: RunEntry) -> bool:
        return self.is_open and entry.run_id not in self._live and self._flows.named(entry.identity) is not None

    async def _taken_up(self, entry: RunEntry) -> bool:
        """Take up a run, when there is a place for it, unless it is no longer to be taken up then."""
        await self._places.take()
        try:
            if self.is_open and entry.run_id not in self._live:
                make = self._flows.named(entry.identity)
                assert make is not None, "taken up only where the flow is known"
                self._begun(make, entry.run_id, None)
                return True
        except Exception as error:  # a function that makes a flow may raise whatever it likes
            self._recovery.note(entry.run_id, entry.flow, error)
        self._places.release()
        return False

    # ---- one run -----------------------------------------------------------------------------------------------

    def _check_open(self) -> TaskGroup:
        if self._group is None or self._is_ending:
            raise RunnerClosedError(
                "the runner has not been entered, or is ending: use it in `async with FlowRunner(...)`"
            )
        self._opening.check()
        return self._group

    async def _placed(
        self, flow: MakeFlow, run_id: str | None, inputs: Given, patience: float | None, *, again: bool = False
    ) -> Live:
        """A run in a place of its own, or the one of this id that somebody else has started meanwhile."""
        await self._places.ask(patience)
        try:
            other = self._live.get(run_id or "")
            run = other or self._begun(flow, run_id, inputs, again=again)
        except BaseException:
            self._places.release()
            raise
        if run is other or run.inputs is not inputs:
            self._places.release()
        return run

    def _known(self, make: MakeFlow) -> Flow[Any]:
        """A new flow, stored where the runner's runs are; its name is remembered."""
        flow = made_by(make)
        instance = flow._instance
        if self._flows.add(instance.setup.settings.identity, make):
            warn_of_another_storage(instance.setup, self.persistence)
        instance.store_in(self.persistence)
        return flow

    def _begun(self, make: MakeFlow, run_id: str | None, inputs: Given, *, again: bool = False) -> Live:
        """A run that is begun, or the one that is driven already under the id that its flow brings."""
        group = self._check_open()
        flow = self._known(make)
        known = self._live.get(run_id or flow.run_id)
        if known is not None:
            return known
        run = Live(flow, run_id, inputs, self._places, self._gone, again=again)
        self._live[run.run_id] = run
        group.start_soon(run.drive)
        return run

    def _gone(self, run: Live) -> None:
        del self._live[run.run_id]
        is_ours = run.refusal is None or (run.inputs is None and not run.again)  # else its starter was told why
        if is_ours and not run.winds_down and self.is_open:
            self._recovery.note(run.run_id, run.flow._instance.setup.settings.name, run.error)
        self._places.release()
        if not self._live:
            self._idle.set()

    def _handle(self, run_id: str, live: Live | None = None, *, is_elsewhere: bool = False) -> RunHandle:
        live, cancel = live or self._live.get(run_id), partial(self.cancel, run_id)
        return RunHandle(
            run_id, self.persistence, live, self._viewed.outcome, cancel, self._viewed.view, is_elsewhere=is_elsewhere
        )

    def _instance_of(self, c: Checkpoint) -> Any:
        """A new instance of a stored run's flow; None where that is not known here."""
        make = self._flows.of(c)
        return None if make is None else self._known(make)._instance
