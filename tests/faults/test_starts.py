"""A start is fenced: a process held up past its lease starts nothing that another owner may have resumed."""

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from figures import FACTOR, SEED, tell
from held_up import AtLine, Clock, clock, finished_while_it_was_stopped

from asyncflow import Flow, SQLiteFlowPersistence, errors, listen, start
from asyncflow._runtime import starts
from asyncflow.persistence._database import lease as fencing
from asyncflow.persistence._database.jobs import Renew
from asyncflow.persistence._database.lease import Lease
from asyncflow.persistence._database.run_head import Head
from asyncflow.persistence.sqlite import rows

LEASE = 600.0
"""Seconds: only the clock of the test makes it run out."""

STRIDE = max(1, int(3 / FACTOR))
"""Every so many lines are struck; the seed says which, and the long form strikes each of them."""

AT_THE_BODY = 1
"""Lines between the look at the clock and a method's body: nothing can be known of what happens there."""


class Steps(Flow[dict]):
    name = "Steps"

    @start()
    async def first(self) -> None:
        begins("first")
        ends("first")

    @listen(first)
    async def second(self) -> None:
        begins("second")

    @listen(first)
    async def beside(self) -> None:
        begins("beside")


Start = Literal["first", "listeners", "resumed"]


class Replacing:
    """One run, whose owner is replaced before the n-th line from where it is armed; or, for an n of 0, only the lines are counted."""

    def __init__(self, began: Start, persistence: SQLiteFlowPersistence, at: int, leases: Clock) -> None:
        self.began = began
        self.persistence = persistence
        self.leases = leases
        self.run_id = f"{began} {at}"
        self.at = AtLine(at, self._strike if at else self._is_committed)
        self.is_replaced = False
        self._left = 3 if began == "listeners" else 1
        self.leaks: list[str] = []
        """Methods that began after the owner was replaced, and how often the lease was looked at in between."""

    def _is_committed(self) -> bool:
        with contextlib.closing(sqlite3.connect(self.persistence.path, timeout=0)) as connection:
            return self._head(connection) is not None

    def _head(self, connection: sqlite3.Connection) -> Head | None:
        """The run's head, once what the methods are started after is committed."""
        found = connection.execute(rows.SELECT_HEAD, (self.run_id,)).fetchall()
        head = Head.read(self.run_id, found[0], b"") if found else None
        epoch, seq = (2, 0) if self.began == "resumed" else (1, int(self.began == "listeners"))
        return None if head is None or head.owner is None or (head.epoch, head.head) != (epoch, seq) else head

    def _strike(self) -> None:
        """Another process takes the run over, if it can at this moment."""
        with contextlib.closing(sqlite3.connect(self.persistence.path, timeout=0, isolation_level=None)) as connection:
            with contextlib.suppress(sqlite3.OperationalError):  # this process holds the lock
                connection.execute("BEGIN IMMEDIATE")
                head = self._head(connection)
                if head is not None:
                    new = head._replace(owner="another", epoch=head.epoch + 1)
                    connection.execute(rows.OWN_RUN, (new.owner, new.epoch, new.digest(b""), new.run_id))
                    connection.execute("COMMIT")
                    self.is_replaced = True
                    self.leases.forward(LEASE)

    def begins(self, method: str) -> None:
        if self.is_replaced and (self.began != "listeners" or method != "first"):
            self.leaks.append(f"{method}, replaced at {self.at.where}, {self.leases.looks} looks at the clock later")
        self._left -= 1
        if not self._left:
            self.at.disarm()

    def ends(self, method: str) -> None:
        if self.began == "listeners" and method == "first":
            self.at.arm()

    async def drive(self) -> bool:
        """Whether the run was refused here."""
        if self.began == "resumed":
            with anyio.CancelScope() as scope:
                scope.cancel()
                await Steps(persistence=self.persistence).kickoff({"id": self.run_id})
        global watching
        watching = self
        if self.began != "listeners":
            self.at.arm()
        try:
            await Steps(persistence=self.persistence).kickoff({"id": self.run_id})
            return False
        except errors.RunFencedError:
            return True
        finally:
            self.at.disarm()


watching: Replacing | None = None


def begins(method: str) -> None:
    if watching is not None:
        watching.begins(method)


def ends(method: str) -> None:
    if watching is not None:
        watching.ends(method)


@pytest.mark.found("T1")
@pytest.mark.clauses("L1", "E2")
@pytest.mark.parametrize("began", ["first", "listeners", "resumed"])
async def test_no_method_starts_once_the_owner_was_replaced_between_any_two_lines(began: Start) -> None:
    leaks, struck = [], 0
    async with SQLiteFlowPersistence("runs.db", lease=LEASE, durability="process") as persistence:
        await Steps(persistence=persistence).kickoff({"id": "the first, before which the file is checked for damage"})
        with clock() as leases:
            counted = Replacing(began, persistence, 0, leases)
            await counted.drive()
            at = counted.at.lines + SEED % STRIDE
            assert counted.at.has_struck
            while True:
                one = Replacing(began, persistence, at, leases)
                is_refused = await one.drive()
                if not one.at.has_struck:
                    break
                assert is_refused == one.is_replaced, one.at.where
                at, struck, leaks = at + STRIDE, struck + one.is_replaced, leaks + one.leaks

    tell("R31", trials=struck, faults=struck, leaks=len(leaks))
    assert struck >= 3  # how many lines the loop gets to run before it learns of the commit depends on the threads
    assert all(" 0 looks" in leak for leak in leaks), leaks
    places = set(leaks)  # two runs can be struck at one line, because their counts of lines differ
    assert len(places) <= AT_THE_BODY * (2 if began == "listeners" else 1), leaks


# ---- a thread is waited for ------------------------------------------------------------------------------------------


class Plain(Flow[dict]):
    """Its second method waits for a thread."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ran: list[str] = []

    @start()
    async def first(self) -> None:
        self.ran.append("first")

    @listen(first)
    def second(self) -> None:
        self.ran.append("second")


class Wrapped(Plain):
    """Its second method is a plain function that makes a coroutine: the body begins when the thread has returned."""

    @listen(Plain.first)
    def second(self) -> Any:  # type: ignore[override]
        async def body() -> None:
            self.ran.append("second")

        return body()


def replace(run_id: str) -> None:
    """Another process takes the run over."""
    with contextlib.closing(sqlite3.connect("runs.db", isolation_level=None)) as connection:
        head = Head.read(run_id, connection.execute(rows.SELECT_HEAD, (run_id,)).fetchone(), b"")
        new = head._replace(owner="another", epoch=head.epoch + 1)
        connection.execute(rows.OWN_RUN, (new.owner, new.epoch, new.digest(b""), run_id))


@pytest.mark.found("T1")
@pytest.mark.clauses("L1", "E2")
@pytest.mark.parametrize("is_replaced", [True, False])
@pytest.mark.parametrize("is_renewed", [True, False])
@pytest.mark.parametrize("kind", [Plain, Wrapped])
async def test_a_plain_method_starts_only_while_the_lease_holds_when_a_thread_is_free(
    monkeypatch: pytest.MonkeyPatch, kind: type[Plain], is_replaced: bool, is_renewed: bool
) -> None:
    """Also where the lease has been renewed since: it had a gap, in which the run was taken over."""
    in_thread = starts.in_thread
    async with SQLiteFlowPersistence("runs.db", lease=LEASE) as persistence:
        with clock() as leases:

            async def late(call: Callable[[], Any], *_: object) -> Any:
                monkeypatch.setattr(starts, "in_thread", in_thread)
                made = await in_thread(call) if kind is Wrapped else None
                leases.forward(LEASE)
                if is_replaced:
                    replace("run")
                if is_renewed:
                    await persistence._shared.current.commits.submit(Renew())  # type: ignore[union-attr]
                return made if kind is Wrapped else await in_thread(call)

            monkeypatch.setattr(starts, "in_thread", late)
            flow = kind(persistence=persistence)
            with pytest.raises(errors.RunFencedError) if is_replaced else contextlib.nullcontext():
                await flow.kickoff({"id": "run"})

    assert flow.ran == (["first"] if is_replaced else ["first", "second"])


# ---- the lease itself ------------------------------------------------------------------------------------------------


@pytest.mark.found("T1")
def test_a_lease_holds_for_less_than_it_lasts_and_counts_from_before_it_was_sent() -> None:
    with clock() as leases:
        lease = Lease(100)
        assert not lease.holds(lease.stretch)
        sent = fencing.now()
        leases.forward(50)  # the transaction takes so long
        lease.renewed(sent)
        assert lease.holds(lease.stretch)
        leases.forward(45)

        assert not lease.holds(lease.stretch)


@pytest.mark.found("T1")
def test_a_lease_that_was_renewed_in_time_continues_and_one_that_was_not_has_a_gap() -> None:
    with clock() as leases:
        lease = Lease(100)
        lease.renewed(fencing.now())
        stretch = lease.stretch
        leases.forward(60)
        lease.renewed(fencing.now())
        leases.forward(60)
        assert lease.holds(stretch)

        leases.forward(60)
        lease.renewed(fencing.now())
        assert not lease.holds(stretch)
        assert lease.holds(lease.stretch)


@pytest.mark.found("T1")
@pytest.mark.parametrize("which", ["uptime", "clock"])
def test_a_suspended_machine_and_a_clock_set_forward_end_what_is_proven(
    monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    lease = Lease(100)
    lease.renewed(fencing.now())
    assert lease.holds(lease.stretch)
    if which == "uptime":  # suspended: CLOCK_BOOTTIME kept running, and the monotonic clock has not
        known = time.clock_gettime
        monkeypatch.setattr(time, "clock_gettime", lambda which: known(which) + 100 * (which == fencing.BOOTTIME))
    else:
        known_time = time.time
        monkeypatch.setattr(time, "time", lambda: known_time() + 100)

    assert lease.holds(lease.stretch) == (which == "uptime" and fencing.BOOTTIME is None)


# ---- a process that is stopped ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
@pytest.mark.found("T1")
@pytest.mark.clauses("L1", "L3", "E2")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_process_stopped_between_a_commit_and_the_next_start_starts_nothing(loop: str) -> None:
    storage = "asyncflow.SQLiteFlowPersistence('runs.db', lease=0.5)"
    said = finished_while_it_was_stopped(storage, SQLiteFlowPersistence("runs.db", lease=0.5), loop)

    lines = [line.split() for line in Path("effects.log").read_text().splitlines()]
    assert "RunFencedError" in said, said
    assert [what for what, _ in lines] == ["first", "second"]
    assert lines[1][1] == str(os.getpid())
