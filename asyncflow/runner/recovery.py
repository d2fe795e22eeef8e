"""Recovers interrupted runs: those that a dead process left behind, and those that stopped in this process without a request.

What stopped a run here may stop it again: a storage that fails, a class that has lost a method. Its owner lives, so no other
process recovers it. The runner logs it, and retries it with back-off. A run that killed its process may kill the next one (a
poison run): it is taken over at most `max_takeovers` times, from half of that on alone, and is then quarantined.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Set
from contextlib import suppress
from typing import Final

import anyio

from .._pace import Pace
from .._runs.run_pages import RunPages
from .._runtime.audience import Audience
from ..errors import (
    MethodError,
    RunCancelledError,
    RunFencedError,
    RunLockedError,
    RunNotFoundError,
    StaleCheckpoint,
    StorageError,
)
from ..persistence.protocol import Catalog, Fencing, FlowPersistence, RunEntry, offers
from .live import Live

__all__ = ["Recovery"]

PAGE: Final = 200
"""Number of runs that one query of the catalog returns."""

REST: Final = 5.0
"""The rest after a scan, as a multiple of the time that the scan took: a scan takes 4 ms for 1,000 runs with a living owner."""

LONGEST: Final = 2.0
"""Maximum seconds of such a rest: a scan may also wait for places, or for an event loop that was blocked."""

AGAIN: Final = 0.5
LATEST: Final = 60.0
"""Seconds until a run that stopped here is retried: the first and the longest back-off."""

LIVED: Final = 60.0
"""Seconds that a process has to survive with a run that was taken over: then that run did not kill the processes before."""

ALONE: Final = 30.0
"""Seconds that a suspected poison run is the only suspect in a process, unless it commits a checkpoint earlier; then the next starts."""

ENDED: Final = (MethodError, RunCancelledError, RunLockedError, RunFencedError, RunNotFoundError)
"""Errors after which a run is not retried here: it has ended, another owner drives it, or it has been deleted."""

logger: Final = logging.getLogger("asyncflow")


class Recovery:
    """Scans for runs that no process drives, and recovers them."""

    def __init__(
        self,
        persistence: FlowPersistence,
        is_recoverable: Callable[[RunEntry], bool],
        identities: Callable[[], Collection[str]],
        recover: Callable[[RunEntry], Awaitable[bool]],
        live: Mapping[str, Live],
        max_takeovers: int | None,
        audience: Audience,
    ) -> None:
        """Keep what it queries and calls.

        `is_recoverable`: whether a run is of a registered flow and not driven here; `identities`: the identities under which runs of
        registered flows are stored; `recover`: recovers a run, and returns whether it did; `live`: the runs that are driven here;
        `audience`: who observes them.
        """
        self._persistence = persistence
        self._is_recoverable = is_recoverable
        self._identities = identities
        self._recover = recover
        self._live = live
        self._max_takeovers = max_takeovers
        self._audience = audience
        self._stopped: dict[str, tuple[float, float]] = {}
        """For each run that stopped here: when to retry it, and its next back-off in seconds."""
        self._quarantined = set[str]()
        self._is_recovering = self._is_scanning = False
        self._alone_until = 0.0
        self._taken_over_at: dict[str, float] = {}
        """Since when this process drives each run that it took over from a dead process, as long as the run commits no checkpoint."""

    def note_end(self, run_id: str, flow: str, error: BaseException | None, *, is_refused: bool = False) -> None:
        """Record how a run ended here, or that it could not be recovered.

        `is_refused`: its start or resume was refused, and the caller got the error. After an error of the storage this process may own
        the run all the same: then no other process recovers it.
        """
        if is_refused and not isinstance(error, StorageError):
            return
        if error is None or isinstance(error, ENDED):
            self._stopped.pop(run_id, None)
            return
        _, pause = self._stopped.get(run_id, (0.0, AGAIN))
        self._stopped[run_id] = anyio.current_time() + pause, min(2 * pause, LATEST)
        if is_refused:
            return
        retry = f"retry in {pause:.1f} s" if self._is_scanning else "no retry; resume it"
        about = {"run_id": run_id, "flow": flow}
        logger.warning("run stopped unexpectedly: %s of %s; %s: %s", run_id, flow, retry, error, extra=about)

    @property
    def stopped(self) -> int:
        """The number of runs that stopped here, and are retried with back-off."""
        return len(self._stopped)

    def may_retry(self, run_id: str) -> bool:
        """Whether the back-off of a run that stopped here is over; also if it did not stop here."""
        return run_id not in self._stopped or self._stopped[run_id][0] <= anyio.current_time()

    async def keep_scanning(self, seconds: float) -> None:
        """Scan every `seconds` seconds, or less often where a scan takes long. The runs found wait for places in a task of their own."""
        self._is_scanning, logged = bool(offers(self._persistence, Catalog)), ""
        pace = Pace()
        async with anyio.create_task_group() as group:
            while True:
                began = anyio.current_time()
                try:
                    found = await self._found(is_patient=True)
                    logged = ""
                    if found and not self._is_recovering:
                        self._is_recovering = True
                        group.start_soon(self._recover_each, found)
                except Exception as error:  # any exception of a backend: the runs that are driven here continue
                    if str(error) != logged:  # once, and not twice a second until it is repaired
                        logger.warning(
                            "recovery scan failed: it is retried, but until then no run is recovered: %s", error
                        )
                    logged = str(error)
                took = anyio.current_time() - began
                await pace.pause(max(seconds, min(REST * took, LONGEST)))

    async def _recover_each(self, found: list[RunEntry]) -> None:
        try:
            for entry in found:
                await self._recover_run(entry)
        finally:
            self._is_recovering = False

    async def _recover_run(self, entry: RunEntry) -> bool:
        is_recovered = await self._recover(entry)
        if is_recovered:
            about = {"run_id": entry.run_id, "flow": entry.flow}
            logger.info("run recovered: %s of %s is resumed here", entry.run_id, entry.flow, extra=about)
            self._audience.measured(lambda each: each.on_recovery(entry.run_id, entry.flow), entry.run_id)
        return is_recovered

    async def recover_all(self) -> int:
        """Recover every run that no process drives, also those to retry later and quarantined ones. Return how many."""
        return sum([await self._recover_run(entry) for entry in await self._found(is_patient=False)])

    async def _found(self, *, is_patient: bool) -> list[RunEntry]:
        """Return the runs to recover. `is_patient`: without runs that are to be retried later, and without quarantined runs."""
        persistence = self._persistence
        if not offers(persistence, Catalog):
            return []
        stored = {run_id for run_id, run in self._live.items() if run.admitted.is_set()}
        stopped = dict(self._stopped)  # read first: what stops during the scan may be missing from its pages
        running, ids = dict[str, RunEntry](), frozenset(self._identities())
        async for page in RunPages(persistence, PAGE, status="unfinished", identities=ids):
            running.update((entry.run_id, entry) for entry in page)
        self._forget_ended(stopped, running.keys())
        await self._fence_lost(stored - running.keys())
        await self._reset_takeovers([running[run_id] for run_id in self._live if run_id in running])
        free = [entry for entry in running.values() if self._is_free(entry)]
        if not is_patient:
            return free
        return self._runs_to_recover(free, [running[run_id] for run_id in self._live if run_id in running])

    async def _fence_lost(self, missing: set[str]) -> None:
        """Stop the runs here that another owner has ended or deleted: else their methods run to their end, and are fenced only then."""
        for run_id in missing:
            run = self._live.get(run_id)
            stored = None if run is None else await self._persistence.load(run_id)
            if run is None or not run.epoch:
                continue
            if stored is None or stored.epoch > run.epoch or stored.status == "cancelled":
                run.fence()

    async def _reset_takeovers(self, driven: list[RunEntry]) -> None:
        """Reset the count of takeovers once this process has survived for a while with a run: the run does not kill processes.

        Such a run may wait for days for a person or a message, and commit no checkpoint.
        """
        now = anyio.current_time()
        began = self._taken_over_at
        self._taken_over_at = {entry.run_id: began.get(entry.run_id, now) for entry in driven if entry.takeovers}
        fence = self._persistence.fence() if offers(self._persistence, Fencing) else None
        if fence is None:
            return
        for run_id, since in list(self._taken_over_at.items()):
            run = self._live.get(run_id)
            if now - since >= LIVED and run is not None and run.epoch:
                with suppress(StaleCheckpoint):  # another owner has it: that is detected elsewhere
                    await fence.confirm(run_id, run.epoch)

    def _runs_to_recover(self, free: list[RunEntry], driven: list[RunEntry]) -> list[RunEntry]:
        """Return the runs to recover now. Recover suspected poison runs one at a time, so that the others do not die with them."""
        chosen = [entry for entry in free if not self._is_deferred(entry)]
        suspects = sorted(filter(self._is_suspect, chosen), key=lambda entry: entry.takeovers)
        now = anyio.current_time()
        is_one_driven = any(map(self._is_suspect, driven)) and now < self._alone_until
        if suspects and not is_one_driven:
            self._alone_until = now + ALONE
        return [e for e in chosen if not self._is_suspect(e)] + ([] if is_one_driven else suspects[:1])

    def _is_suspect(self, entry: RunEntry) -> bool:
        """Whether a run may be a poison run: it was taken over at least half as often as `max_takeovers` allows."""
        return self._max_takeovers is not None and entry.takeovers >= max(1, self._max_takeovers // 2)

    def _is_free(self, entry: RunEntry) -> bool:
        """Whether no process drives a run of a registered flow. The catalog may still list this process as owner of a stopped run."""
        return (not entry.is_driven or entry.run_id in self._stopped) and self._is_recoverable(entry)

    def _is_deferred(self, entry: RunEntry) -> bool:
        """Whether a run is to be retried later, or is quarantined. Logs a quarantined run once."""
        if entry.run_id in self._stopped:
            return self._stopped[entry.run_id][0] > anyio.current_time()
        if self._max_takeovers is None or entry.takeovers < self._max_takeovers:
            self._quarantined.discard(entry.run_id)
            return False
        if entry.run_id not in self._quarantined:
            self._quarantined.add(entry.run_id)
            logger.error(
                "run quarantined: %s of %s. Since its last progress it was taken over from %d dead processes, none of which had "
                "survived %d seconds with it, so it may be what kills them (max_takeovers=%s). It stays interrupted, and no scan "
                "recovers it. Find the cause, such as memory that runs out; then resume it with runner.resume(%r), or cancel it. A "
                "larger max_takeovers, or None, makes runners recover it again",
                entry.run_id,
                entry.flow,
                entry.takeovers,
                LIVED,
                self._max_takeovers,
                entry.run_id,
                extra={"run_id": entry.run_id, "flow": entry.flow},
            )
        return True

    def _forget_ended(self, stopped: dict[str, tuple[float, float]], unfinished: Set[str]) -> None:
        """Forget those of the `stopped` runs that are no longer unfinished, because another owner has ended them."""
        for run_id, when in stopped.items():
            if run_id not in unfinished and self._stopped.get(run_id) == when:
                del self._stopped[run_id]
        self._quarantined &= unfinished
