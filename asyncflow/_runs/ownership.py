"""Who owns a run: acquire it in its backend, so that one owner at a time drives it, and release it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from .._pace import stored_runs_changed
from .._runtime.parking import Parked
from .._waiting import call_on, current_loop, is_closed, to_its_end
from ..errors import RunLockedError, StorageError
from ..persistence.fence import Fence
from ..persistence.parking import Parking
from ..persistence.protocol import Catalog, CheckpointLog, Fencing, FlowPersistence, Ownership, RunEntry, offers
from ..persistence.status import Status, status_of

__all__ = [
    "Claim",
    "can_create",
    "catalog_entry",
    "driven_as_child",
    "driven_no_more",
    "is_driven",
    "is_driven_here",
    "is_same_place",
    "owned",
    "owned_by_creating",
    "owned_within",
    "place_of",
    "release_run",
    "status_now",
    "stop_child",
]

logger = logging.getLogger("asyncflow")


@dataclass(slots=True)
class Claim:
    """This process's ownership of a run.

    `epoch` is 0 while nothing is stored. `is_over`: the run's last checkpoint has released it. `parked`: set if it is to be parked.
    """

    owner: Ownership | None = None
    epoch: int = 0
    is_over: bool = False
    parked: Parked | None = None
    fence: Fence | None = None
    stretch: object = None
    """The period in which the owner's lease has held without a gap (see `Fence.stretch`), read before the run was acquired."""

    async def acquire(self, run_id: str) -> None:
        """Acquire the run. It is awaited to its end: a caller that is cancelled meanwhile has a run to release."""
        await to_its_end(lambda: self._take(run_id))

    async def _take(self, run_id: str) -> None:
        if self.fence is not None:
            self.stretch = self.fence.stretch
        if self.owner is not None:
            self.epoch = await self.owner.acquire(run_id)


_DRIVEN: dict[tuple[object, str], object] = {}
"""Maps (place, run id) of each run that this process drives to the event loop that drives it."""

_CHILDREN: dict[tuple[object, str], tuple[object, Callable[[], object]]] = {}
"""Maps (place, run id) of each child that a method of this process drives to its event loop, and to what stops it there."""

_claiming = threading.Lock()
"""Held while a run is looked up in `_DRIVEN` and added to it: if two threads want one run, only one gets it."""


def _forked() -> None:
    global _claiming
    _claiming = threading.Lock()  # another thread of the parent may have held it at the fork
    _DRIVEN.clear()  # the child does not drive the parent's runs
    _CHILDREN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def is_same_place(one: object, other: object) -> bool:
    """Whether two backends store in one place, so that the runs of one can be loaded from the other."""
    return one is other or place_of(one) == place_of(other)


def is_driven_here(persistence: FlowPersistence, run_id: str) -> bool:
    """Whether this process drives a run, through any backend of its place."""
    loop = _DRIVEN.get((place_of(persistence), run_id))
    return loop is not None and not is_closed(loop)


def driven_as_child(persistence: FlowPersistence, run_id: str, stop: Callable[[], object]) -> tuple[object, str]:
    """Note that a child is driven, and return the key for `driven_no_more`.

    `stop`: called on this event loop once this process has cancelled the child by its storage.
    """
    key = place_of(persistence), run_id
    _CHILDREN[key] = current_loop(), stop
    return key


def driven_no_more(key: tuple[object, str]) -> None:
    """Note that a child is not driven any more."""
    _CHILDREN.pop(key, None)


def stop_child(persistence: FlowPersistence, run_id: str) -> None:
    """Stop a child here that was cancelled by its storage: else its methods run to their end, and are fenced only then."""
    known = _CHILDREN.get((place_of(persistence), run_id))
    if known is not None:
        call_on(*known)


async def is_driven(persistence: FlowPersistence, run_id: str) -> bool:
    """Whether a live owner drives a run, here or in another process. Other processes are visible only if the backend has a catalog."""
    return await status_now(persistence, run_id, "running") == "running"


async def status_now(persistence: FlowPersistence, run_id: str, stored: Status) -> Status:
    """Return the status of a run from its stored one: whether an owner drives it, and whether it is parked, as the catalog shows it."""
    if stored != "running" or is_driven_here(persistence, run_id):
        return stored
    entry = await catalog_entry(persistence, run_id)
    if entry is None:
        return status_of(stored, is_driven=False)
    return status_of(stored, is_driven=entry.is_driven, is_parked=entry.wake_at is not None)


async def catalog_entry(persistence: FlowPersistence, run_id: str) -> RunEntry | None:
    """Return the entry of a run in its backend's catalog; None if there is none."""
    known = await persistence.runs(run_id=run_id, limit=1) if offers(persistence, Catalog) else []
    return known[0] if known else None


def place_of(persistence: object) -> object:
    """Return the place of a backend's storage; of one without ownership, a key of the object."""
    return persistence.place if offers(persistence, Ownership) else id(persistence)


def owned(persistence: FlowPersistence, run_id: str, *, is_new: bool) -> _Owned:
    """Return a context manager that owns the run: no other owner drives it meanwhile.

    `is_new`: this process made the id, so no other process knows it. Entering it raises `RunLockedError` if another owner drives the run.
    """
    return _Owned(persistence, run_id, is_new, 0.0)


def owned_by_creating(persistence: FlowPersistence, run_id: str) -> _Owned:
    """Like `owned`, for a run that is probably not stored yet: acquire nothing. The caller commits its first checkpoint.

    If that is refused, because the run is stored already, the caller acquires the run by `Claim.acquire`. See `can_create`.
    """
    return _Owned(persistence, run_id, False, 0.0, acquires=False)


def can_create(persistence: object) -> bool:
    """Whether a backend refuses the first checkpoint of a run that is stored already: it compares and sets.

    A backend that may have lost ids to damage says so by an attribute `can_create`, until it has looked for that.
    """
    is_log = offers(persistence, Ownership) and offers(persistence, CheckpointLog)
    return is_log and bool(getattr(persistence, "can_create", True))


def owned_within(wait: float, persistence: FlowPersistence, run_id: str, *, is_new: bool = False) -> _Owned:
    """Like `owned`, but wait until no other owner drives the run. Raises `RunLockedError` if that takes longer than `wait` seconds."""
    return _Owned(persistence, run_id, is_new, wait)


class _Owned:
    """Owns a run exclusively. It lives as long as the run, and there can be thousands: generators would take ten times as much memory."""

    __slots__ = ("_acquires", "_claim", "_driven", "_is_new", "_wait")

    def __init__(
        self, persistence: FlowPersistence, run_id: str, is_new: bool, wait: float, *, acquires: bool = True
    ) -> None:
        owner = persistence if offers(persistence, Ownership) else None
        self._driven = (place_of(persistence), run_id)
        self._claim = Claim(owner)
        self._is_new = is_new
        self._acquires = acquires
        self._wait = wait

    async def __aenter__(self) -> Claim:
        until = anyio.current_time() + self._wait if self._wait > 0 else None  # the usual 0 needs no clock
        pause = 0.01
        while True:
            try:
                await self._acquire()
                return self._claim
            except RunLockedError:
                if until is None or anyio.current_time() >= until:
                    raise
            await anyio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def _acquire(self) -> None:
        driven, run_id = self._driven, self._driven[1]
        loop = current_loop()
        with _claiming:
            if driven in _DRIVEN and not is_closed(_DRIVEN[driven]):
                raise RunLockedError(
                    f"run {run_id} is already being driven in this process; await that call, or retry when it has ended",
                    run_id=run_id,
                )
            _DRIVEN[driven] = loop
        claim = self._claim
        claim.fence = claim.owner.fence() if offers(claim.owner, Fencing) else None
        claim.stretch = None if claim.fence is None else claim.fence.stretch
        claim.epoch, claim.is_over = 1 if self._is_new or claim.owner is None else 0, False
        try:
            if not claim.epoch and self._acquires:
                await claim.acquire(run_id)
        except BaseException as error:
            await self._left(error)
            raise

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._left(error)

    async def _left(self, error: BaseException | None) -> None:
        """Release the run, unless it is over or the backend failed.

        After a backend failure the run becomes free when this owner ends, or when this owner is asked for it again.
        """
        claim = self._claim
        owner, run_id = claim.owner, self._driven[1]
        if isinstance(error, StorageError):
            claim.is_over = True
        if claim.parked is not None:
            _DRIVEN.pop(self._driven, None)  # who sees that it is parked may acquire it: then this parks it no more
        try:
            if owner is not None and claim.epoch and not claim.is_over:
                await to_its_end(lambda: release_run(owner, run_id, claim.epoch, claim.parked))
        finally:
            if claim.parked is None:
                _DRIVEN.pop(self._driven, None)  # a forked child has no entry
            stored_runs_changed()


async def release_run(owner: Ownership, run_id: str, epoch: int, parked: Parked | None = None) -> None:
    """Release a run, or park it. Log a backend's error instead of raising it: it must not replace what ended the run.

    The caller will get that.
    """
    try:
        if parked is not None and offers(owner, Parking):
            await owner.park(run_id, epoch, wake_at=parked.wake_at, newest=parked.newest)
        else:
            await owner.release(run_id, epoch)
    except StorageError as error:
        logger.warning(
            "run not released: %s stays owned by this process until a retry succeeds or its storage is closed: %s",
            run_id,
            error,
            extra={"run_id": run_id},
        )
