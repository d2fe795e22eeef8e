"""Taking up interrupted runs: those that a dead process left behind, and those that stopped here although nobody asked for that.

What stopped a run may do so again: a storage that fails, a class that has lost a method; its owner lives, so no other process
takes it up. It is told, and tried again ever more seldom. And what ended a run's process may end the next one: it is taken over
so often, from half of that on alone, and no more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Set
from contextlib import suppress
from typing import Final

import anyio

from ..errors import MethodError, RunCancelledError, RunFencedError, RunLockedError, RunNotFoundError, StaleCheckpoint
from ..persistence.protocol import Catalog, Fencing, FlowPersistence, RunEntry, offers
from .handles import Live

__all__ = ["Recovery"]

PAGE: Final = 200
"""Runs that are looked at together."""

REST: Final = 5.0
"""How many times as long as a look takes nothing is looked for after it: 4 ms for 1,000 that are alive."""

LONGEST: Final = 2.0
"""Seconds of such a rest, at most: a look may also wait for places, or for a loop that was held up."""

AGAIN: Final = 0.5
LATEST: Final = 60.0
"""Seconds until a run that stopped here is tried again: at first, and at most."""

LIVED: Final = 60.0
"""Seconds of a process with a run that was taken over, after which that run is not what ended the ones before."""

ALONE: Final = 30.0
"""Seconds that a run which may be what ends processes is alone with it, if it has no checkpoint before: then comes the next."""

ENDED: Final = (MethodError, RunCancelledError, RunLockedError, RunFencedError, RunNotFoundError)
"""What a run does not stop here with before its end: it has ended, is driven by another, or has been deleted."""

logger = logging.getLogger("asyncflow")


class Recovery:
    """Looks for runs that nobody drives, and hands them over to be taken up."""

    def __init__(
        self,
        persistence: FlowPersistence,
        is_known: Callable[[RunEntry], bool],
        identities: Callable[[], Collection[str]],
        take_up: Callable[[RunEntry], Awaitable[bool]],
        live: Mapping[str, Live],
        max_takeovers: int | None,
    ) -> None:
        """What it asks, and whom it tells.

        `is_known`: whether a run is of a known flow, and not driven here; `identities`: what runs of known flows are stored under;
        `take_up`: whether it was taken up; `live`: those that are driven here.
        """
        self._persistence = persistence
        self._is_known = is_known
        self._identities = identities
        self._take_up = take_up
        self._live = live
        self._max_takeovers = max_takeovers
        self._stopped: dict[str, tuple[float, float]] = {}
        """When each that stopped here is to be tried again, and how long that was put off."""
        self._given_up = set[str]()
        self._is_taking = False
        self._alone_until = 0.0
        self._at_work: dict[str, float] = {}
        """Since when each run is driven here that was taken over from a dead process, and has no checkpoint since."""

    def note(self, run_id: str, flow: str, error: BaseException | None) -> None:
        """What a run came to here, or that it could not be taken up."""
        if error is None or isinstance(error, ENDED):
            self._stopped.pop(run_id, None)
            return
        _, pause = self._stopped.get(run_id, (0.0, AGAIN))
        self._stopped[run_id] = anyio.current_time() + pause, min(2 * pause, LATEST)
        logger.warning("run %s of %s stopped before its end, and stays as it is stored: %s", run_id, flow, error)

    async def keep_looking(self, seconds: float) -> None:
        """Look every so often, or more seldom where a look takes long; what is found waits for places by itself."""
        told = ""
        async with anyio.create_task_group() as group:
            while True:
                began = anyio.current_time()
                try:
                    found = await self._found(is_patient=True)
                    told = ""
                    if found and not self._is_taking:
                        self._is_taking = True
                        group.start_soon(self._take, found)
                except Exception as error:  # whatever a backend raises: the runs that there are go on
                    if str(error) != told:  # once, and not twice a second until it is mended
                        logger.warning("interrupted runs could not be looked for: %s", error)
                    told = str(error)
                took = anyio.current_time() - began
                await anyio.sleep(max(seconds, min(REST * took, LONGEST)))

    async def _take(self, found: list[RunEntry]) -> None:
        try:
            for entry in found:
                await self._take_up(entry)
        finally:
            self._is_taking = False

    async def take_up_all(self) -> int:
        """Take up what is free, also what came to nothing before; how many."""
        return sum([await self._take_up(entry) for entry in await self._found(is_patient=False)])

    async def _found(self, *, is_patient: bool) -> list[RunEntry]:
        """What is free. `is_patient`: what came to nothing before, only from time to time, or no more."""
        persistence = self._persistence
        if not offers(persistence, Catalog):
            return []
        stored = {run_id for run_id, run in self._live.items() if run.known.is_set()}
        running, before, known = dict[str, RunEntry](), None, frozenset(self._identities())
        while known:
            page = await persistence.runs(status="unfinished", identities=known, before=before, limit=PAGE)
            running.update((entry.run_id, entry) for entry in page)
            if len(page) < PAGE:
                break
            before = page[-1].position
        self._forget_all_but(running.keys())
        await self._look_after(stored - running.keys())
        await self._forgive([running[run_id] for run_id in self._live if run_id in running])
        free = [entry for entry in running.values() if self._is_free(entry)]
        if not is_patient:
            return free
        return self._chosen(free, [running[run_id] for run_id in self._live if run_id in running])

    async def _look_after(self, gone: set[str]) -> None:
        """Stop the runs here that another owner has ended, or deleted: methods would go on to their end, and only then be refused."""
        for run_id in gone:
            run = self._live.get(run_id)
            stored = None if run is None else await self._persistence.load(run_id)
            if run is None or not run.epoch:
                continue
            if stored is None or stored.epoch > run.epoch or stored.status == "cancelled":
                run.lose()

    async def _forgive(self, at_work: list[RunEntry]) -> None:
        """Forget how often a run was taken over, once its process has lived for a while with it: it is not what ends processes.

        It may wait for days for a person or a message, and make no checkpoint.
        """
        now = anyio.current_time()
        began = self._at_work
        self._at_work = {entry.run_id: began.get(entry.run_id, now) for entry in at_work if entry.takeovers}
        fence = self._persistence.fence() if offers(self._persistence, Fencing) else None
        if fence is None:
            return
        for run_id, since in list(self._at_work.items()):
            run = self._live.get(run_id)
            if now - since >= LIVED and run is not None and run.epoch:
                with suppress(StaleCheckpoint):  # another has it: that is found out elsewhere
                    await fence.confirm(run_id, run.epoch)

    def _chosen(self, free: list[RunEntry], at_work: list[RunEntry]) -> list[RunEntry]:
        """Those that are to be taken up now: what may be what ends processes, alone, so that the others are not ended with it."""
        chosen = [entry for entry in free if not self._is_put_off(entry)]
        suspects = sorted(filter(self._is_suspect, chosen), key=lambda entry: entry.takeovers)
        now = anyio.current_time()
        is_one_at_work = any(map(self._is_suspect, at_work)) and now < self._alone_until
        if suspects and not is_one_at_work:
            self._alone_until = now + ALONE
        return [e for e in chosen if not self._is_suspect(e)] + ([] if is_one_at_work else suspects[:1])

    def _is_suspect(self, entry: RunEntry) -> bool:
        """Whether a run was taken over half as often as it may be."""
        return self._max_takeovers is not None and entry.takeovers >= max(1, self._max_takeovers // 2)

    def _is_free(self, entry: RunEntry) -> bool:
        """Whether nobody drives a known run. One that stopped here before its end may still be called ours."""
        return (not entry.is_driven or entry.run_id in self._stopped) and self._is_known(entry)

    def _is_put_off(self, entry: RunEntry) -> bool:
        """Whether a run is to be tried again later, or not any more."""
        if entry.run_id in self._stopped:
            return self._stopped[entry.run_id][0] > anyio.current_time()
        if self._max_takeovers is None or entry.takeovers < self._max_takeovers:
            return False
        if entry.run_id not in self._given_up:
            self._given_up.add(entry.run_id)
            logger.error(
                "run %s of %s is quarantined: since its last checkpoint it was taken over from %d dead processes, none of which "
                "had lived for %d seconds with it, so it may be what kills them (max_takeovers=%s). It is interrupted, and no "
                "runner resumes it. Look for the cause, such as memory that runs out; then continue it with %s.resume(%r), or "
                "cancel it. A larger max_takeovers, or None, makes runners resume it again",
                entry.run_id,
                entry.flow,
                entry.takeovers,
                LIVED,
                self._max_takeovers,
                entry.flow,
                entry.run_id,
            )
        return True

    def _forget_all_but(self, seen: Set[str]) -> None:
        """What is not running any more, somebody else has ended."""
        self._stopped = {run_id: when for run_id, when in self._stopped.items() if run_id in seen}
        self._given_up &= seen
