"""R11: whatever is done to runs, in whatever order, they are what a naive model says: after each step, to the row.

Hypothesis chooses what happens next: which invocation ends and how, who dies, who takes over, what is damaged, which commit is
held up. Two processes share a store and may drive the same runs; see `machine.py`.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from figures import FACTOR, SEED, tell
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from machine import (
    SHAPES,
    Drive,
    Driver,
    InFile,
    InMemory,
    Outcome,
    Process,
    Row,
    Run,
    Store,
    World,
    enabled_by,
)

from asyncflow.errors import (
    CheckpointCorruptError,
    MethodError,
    RunCancelledError,
    RunFencedError,
    RunLockedError,
    RunNotFoundError,
)

STEPS = 30
RUNS = 5

DRAWN = (*SHAPES, *SHAPES[-2:], SHAPES[-1])
"""Those in which more runs at the same time, more often."""

number = st.integers(0, 11)
"""Chooses one of what there is."""
outcomes = st.builds(
    Outcome,
    st.sampled_from((*["return"] * 8, "raise", "unstorable")),
    st.integers(1, 9),
    st.sampled_from(("", "P", "Q")),
    st.sampled_from(("again", "done")),
)
ends = st.lists(st.tuples(number, outcomes), min_size=1, max_size=6)
few = st.integers(0, 3)
has_drive = precondition(lambda self: self.drives())
has_running = precondition(lambda self: self.running())


def pick(things: list[Any], which: int) -> Any:
    return things[which % len(things)]


class Machine(RuleBasedStateMachine):
    def __init__(self, store: Store, figures: Counter[str]) -> None:
        super().__init__()
        self.figures = figures
        self.world = World(store)
        self.processes = [Process(self.world), Process(self.world)]
        self.reader = Process(self.world)
        self.runs: list[Run] = []
        self.touched: set[str] = set()
        for process in (*self.processes, self.reader):
            self.enter(process)
        figures["examples"] += 1

    def enter(self, process: Process) -> None:
        if hasattr(process.inner, "__aenter__"):
            with self.world.asked():
                self.world.loop.run_until_complete(process.inner.__aenter__())

    def leave(self, process: Process) -> None:
        if hasattr(process.inner, "__aexit__"):
            with self.world.asked():
                self.world.loop.run_until_complete(process.inner.__aexit__(None, None, None))

    def drives(self) -> list[Drive]:
        return [drive for run in self.runs for drive in run.drives if drive.over is None]

    def running(self) -> list[tuple[Drive, str]]:
        return [(drive, key) for drive in self.drives() for key in drive.running]

    def running_in(self, process: Process) -> list[tuple[Drive, str]]:
        return [(drive, key) for drive, key in self.running() if drive.process is process]

    # ---- driving -------------------------------------------------------------------------------------------------

    @initialize(shape=st.integers(0, 7), well=few)
    def begin_with_a_run(self, shape: int, well: int) -> None:
        self.start(shape, 0, 0, well)

    @precondition(lambda self: len(self.runs) < RUNS)
    @rule(shape=st.integers(0, 7), where=number, given=st.integers(0, 5), well=few)
    def start(self, shape: int, where: int, given: int, well: int) -> None:
        run = Run(f"run {len(self.runs)}", pick(DRAWN, shape))
        self.runs.append(run)
        self.go(run, pick(self.processes, where), "kickoff", given)
        self.figures["runs"] += 1
        self.go_well(run, well)

    @rule(
        which=number,
        where=number,
        well=few,
        how=st.sampled_from(("again", "again", "resume", "kickoff", "load", "load old")),
    )
    def go_on(self, which: int, where: int, well: int, how: str) -> None:
        """Resume it, begin a new pass, or be refused: by the status of the run."""
        run, process = pick(self.runs, which), pick(self.processes, where)
        if how == "again":
            how, process = ("load", process) if run.last is None else (how, run.last.process)
        self.go(run, process, how, 0)
        if how == "again" and run.drives and run.last is not None and run.drives[-1].driver.flow is run.last.flow:
            run.last = None  # it is busy
        self.go_well(run, well)

    def go_well(self, run: Run, times: int) -> None:
        """For a while: what runs ends, the oldest first."""
        for _ in range(times):
            running = [(drive, key) for drive, key in self.running() if drive.run is run]
            if running:
                self.check()
                self.end(*running[0], Outcome())

    def go(self, run: Run, process: Process, how: str, given: int) -> None:
        """What a call means is written here a second time."""
        self.touched.add(run.id)
        driver = self.world.begin(process, lambda driver: self.call(driver, run, how, given))
        newest = run.rows[-1] if run.rows else None
        if newest is None and how != "kickoff":
            self.refused(driver, RunLockedError if how == "resume" and run.is_locked_for(process) else RunNotFoundError)
        elif run.is_locked_for(process):
            self.refused(driver, RunLockedError)
        elif newest is None:
            self.new_pass(run, driver, given)
        else:
            run.acquire(process)
            if newest.status == "cancelled":
                run.give_back()
                self.refused(driver, RunCancelledError)
            elif newest.status != "finished":
                self.resumed(run, driver, newest)
            elif how == "resume":
                run.give_back()
                self.world.settle()
                assert driver.task.result() == newest.output
            else:
                self.new_pass(run, driver, given)
                self.figures["second passes"] += 1

    async def call(self, driver: Driver, run: Run, how: str, given: int) -> Any:
        flow, init = run.shape.flow, {"driver": driver, "persistence": driver.process}
        match how:
            case "kickoff":
                return await flow(**init).kickoff({"id": run.id, **({"total": given} if given else {})})
            case "resume":
                return await flow.resume(run.id, **init)
            case "again":
                assert run.last is not None
                driver.flow = run.last.flow
                driver.flow.driver = driver
                return await driver.flow.kickoff()
        loaded = await flow.load(run.id, seq=0 if how == "load old" else None, **init)
        return await loaded.kickoff()

    def refused(self, driver: Driver, error: type[Exception]) -> None:
        self.world.settle()
        with pytest.raises(error):
            driver.task.result()
        assert not driver.starts
        self.figures[error.__name__] += 1

    def new_pass(self, run: Run, driver: Driver, given: int) -> None:
        fresh = {"id": run.id, "total": 0, "trail": [], "seen": {}, "mark": "", "odd": None}
        state = run.rows[-1].state if run.rows else fresh
        state = {**state, "total": given or state["total"]}
        count = run.rows[-1].number + 1 if run.rows else 1
        row = Row("started", "running", count, run.epoch, state, launches=tuple(enabled_by(run.shape.nodes, ())[0]))
        drive = Drive(run, driver, run.epoch, [*run.rows, row], len(run.rows), len(run.rows))
        run.drives.append(drive)
        self.commit(drive)

    def resumed(self, run: Run, driver: Driver, newest: Row) -> None:
        again = tuple(run.pending(newest.events))
        row = Row("resumed", "running", newest.number, run.epoch, newest.state, newest.events, launches=again)
        drive = Drive(run, driver, run.epoch, [*run.rows, row], len(run.rows), len(run.rows))
        run.drives.append(drive)
        self.commit(drive)
        self.figures["resumed"] += 1

    def commit(self, drive: Drive) -> None:
        """Let the newest row, which is on its way, be stored, or not yet."""
        how = drive.process.holds(drive.run.id)
        drive.commit(how)
        self.world.settle()
        self.figures["held up" if how else "acknowledged"] += 1
        self.figures["fenced"] += drive.over in (RunFencedError, RunLockedError)

    @has_running
    @rule(ends=ends)
    def step(self, ends: list[tuple[int, Outcome]]) -> None:
        """Invocations end, one after the other."""
        for which, outcome in ends:
            if self.running():
                self.end(*pick(self.running(), which), outcome)
                self.check()

    @rule(
        which=number, where=number, well=few, how=st.sampled_from(("before", "after")), ends=ends, knows=st.booleans()
    )
    def race(self, which: int, where: int, well: int, how: Any, ends: list[tuple[int, Outcome]], knows: bool) -> None:
        """Invocations of a run end before the first of their commits is known. It is driven for that, if it is not."""
        run = pick(self.runs, which)
        if not run.drives:
            self.go(run, pick(self.processes, where), "kickoff", 0)
        self.go_well(run, well)
        self.check()
        for drive in run.drives[:1]:
            drive.process.hold = how
            for choice, outcome in ends:
                if drive.running:
                    self.end(drive, pick(list(drive.running), choice), outcome)
                    self.check()
            self.figures["races"] += len([held for held in drive.process.queue if held.run_id == run.id]) > 1
        if knows:
            self.let_go()

    @has_running
    @rule(which=number, times=st.integers(2, 9))
    def all_goes_well(self, which: int, times: int) -> None:
        drive, _ = pick(self.running(), which)
        self.go_well(drive.run, times)

    @has_running
    @rule(which=number, kind=st.sampled_from(("raise", "unstorable")), then=st.lists(outcomes, max_size=3))
    def fail(self, which: int, kind: Any, then: list[Outcome]) -> None:
        """An invocation fails, and some of those that run at the same time end, each in its way."""
        failing, key = pick(self.running(), which)
        self.end(failing, key, Outcome(kind))
        self.check()
        for outcome in then:
            if failing.running:
                self.end(failing, next(iter(failing.running)), outcome)
                self.check()

    def end(self, drive: Drive, key: str, outcome: Outcome) -> None:
        self.touched.add(drive.run.id)
        others = drive.running[key] is not drive.rows[-1].state
        drive.driver.gates[key].set_result(outcome)
        drive.end(key, outcome)
        self.figures["ends"] += 1
        self.figures[drive.rows[-1].error.partition(":")[0] or "ended well"] += 1
        self.figures["merges"] += others
        self.figures["ends after a failure"] += bool(drive.held)
        self.commit(drive)

    # ---- commits that take their time ----------------------------------------------------------------------------

    @rule(
        where=number, how=st.sampled_from(("before", "after")), ends=st.lists(st.tuples(number, outcomes), max_size=3)
    )
    def hold_up(self, where: int, how: Any, ends: list[tuple[int, Outcome]]) -> None:
        """From now on commits wait before they are stored, or after; and some come."""
        process = pick(self.processes, where)
        process.hold = how
        for which, outcome in ends:
            if running := self.running_in(process):
                self.end(*pick(running, which), outcome)
                self.check()

    @precondition(lambda self: any(process.queue or process.hold for process in self.processes))
    @rule()
    def let_go(self) -> None:
        for process in self.processes:
            process.hold = None
            while process.queue:
                self.let_one_go(process)
                self.check()

    def let_all_go(self, process: Process) -> None:
        while process.queue:
            self.let_one_go(process)

    def let_one_go(self, process: Process) -> None:
        """The oldest that is held up."""
        held = process.queue.pop(0)
        held.is_let_go.set()
        run = next(run for run in self.runs if run.id == held.run_id)
        drive = next(drive for drive in run.drives if drive.process is process)
        if drive.over is None:
            drive.go_on()
            self.figures["fenced"] += drive.over in (RunFencedError, RunLockedError)
        self.figures["let go"] += 1
        self.world.settle()
        self.touched.add(run.id)

    # ---- the end of who drives -----------------------------------------------------------------------------------

    @has_drive
    @rule(which=number)
    def cancel_the_task(self, which: int) -> None:
        drive = pick(self.drives(), which)
        while len([held for held in drive.process.queue if (held.run_id, held.how) == (drive.run.id, "after")]) > 1:
            self.let_one_go(drive.process)  # else others run until the commit that the task itself waits for is known
        if drive.over is not None:
            return
        self.touched.add(drive.run.id)
        drive.driver.task.cancel()
        self.figures["cancelled in a commit"] += drive.process.holds(drive.run.id) is not None
        drive.stop(asyncio.CancelledError)
        self.world.settle()
        self.let_all_go(drive.process)
        self.figures["cancelled"] += 1

    @has_drive
    @rule(which=number)
    def cancel_for_good(self, which: int) -> None:
        drive = pick(self.drives(), which)
        if not drive.has_begun:
            self.let_go()
        if drive.over is None:
            self.cancel_driven(drive.run, drive)

    def cancel_driven(self, run: Run, drive: Drive) -> None:
        self.touched.add(run.id)
        drive.process.hold = None
        cancelling = self.world.loop.create_task(drive.driver.flow.cancel())
        self.world.settle()
        newest = run.rows[-1]
        how: Any = RunCancelledError
        if newest.status == "finished":  # it had been stored before it was cancelled
            how = newest.output
        elif newest.status != "cancelled" and drive.is_zombie:
            how = RunFencedError
        drive.stop(how)
        if how is RunCancelledError and newest.status != "cancelled":
            self.store_cancelled(run, drive.process)
        self.let_all_go(drive.process)
        assert cancelling.done()
        if how is RunFencedError:
            assert isinstance(cancelling.exception(), how)
        else:
            cancelling.result()
        self.figures["cancelled for good"] += 1

    def store_cancelled(self, run: Run, process: Process) -> None:
        newest = run.rows[-1]
        row = Row("cancelled", "cancelled", newest.number, run.epoch, newest.state, newest.events)
        run.store(row, process)

    def cancel_at_rest(self, run: Run, process: Process) -> None:
        """Also of a run that is cancelled already, and one that another drives."""
        if not self.edited(run, process, lambda flow: flow.cancel()):
            return
        if run.rows[-1].status not in ("finished", "cancelled"):
            self.store_cancelled(run, process)
        run.give_back()
        self.figures["cancelled at rest"] += 1

    def edited(self, run: Run, process: Process, how: Callable[[Any], Coroutine[Any, Any, None]]) -> bool:
        """Load a run and do this to it, in one process; whether that is allowed."""
        self.touched.add(run.id)
        process.hold = None

        async def work(driver: Driver) -> None:
            await how(await run.shape.flow.load(run.id, driver=driver, persistence=process))

        driver = self.world.begin(process, work)
        if not run.rows:
            self.refused(driver, RunNotFoundError)
            return False
        if run.is_locked_for(process):
            self.refused(driver, RunLockedError)
            return False
        self.world.settle()
        driver.task.result()
        run.acquire(process)
        return True

    @rule(where=number, at=st.sampled_from((None, "before", "after")), which=number, outcome=outcomes)
    def crash(self, where: int, at: Any, which: int, outcome: Outcome) -> None:
        """A process dies: anywhere, or at a commit, before it is stored or before that is known."""
        process = pick(self.processes, where)
        running = self.running_in(process)
        if at is not None and running:
            process.hold = at
            self.end(*pick(running, which), outcome)
            self.figures["crashes at a commit"] += 1
        self.die(process)
        self.processes[self.processes.index(process)] = new = Process(self.world)
        self.enter(new)

    def die(self, process: Process) -> None:
        dying = [drive for run in self.runs for drive in run.drives if drive.process is process]
        process.is_dead = True
        for drive in dying:
            self.touched.add(drive.run.id)
            self.figures["crashes"] += drive.over is None
            if drive.over is None:
                drive.stop(None)
            drive.run.drives.remove(drive)
            drive.driver.task.cancel()
        for held in [*process.queue]:
            held.is_let_go.set()
        self.world.settle()
        for drive in dying:
            assert drive.driver.task.done()
            assert len(drive.driver.starts) == len(drive.started), "the dead start nothing"
            drive.driver.task.cancelled() or drive.driver.task.exception()
        for run in self.runs:
            if run.last is not None and run.last.process is process:
                run.last = None
        self.leave(process)

    @precondition(lambda self: any(run.owner and run.drives for run in self.runs))
    @rule(which=number)
    def expire(self, which: int) -> None:
        """The lease of an owner who lives runs out: the process that asks is the next owner."""
        self.expired(pick([run for run in self.runs if run.owner and run.drives], which))

    def expired(self, run: Run) -> None:
        run.is_expired = True
        self.world.expired.add(run.id)

    @precondition(lambda self: any(run.owner and run.drives for run in self.runs))
    @rule(which=number, how=st.sampled_from(("resume", "kickoff", "load")))
    def steal(self, which: int, how: str) -> None:
        run = pick([run for run in self.runs if run.owner and run.drives], which)
        other = next(process for process in self.processes if process is not run.owner)
        before = run.epoch
        self.expired(run)
        self.go(run, other, how, 0)
        self.figures["steals"] += run.epoch > before

    # ---- what is stored ------------------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(("edit", "edit", "fork", "load old", "corrupt", "corrupt", "cancel")),
        which=number,
        where=number,
        seq=number,
        how=st.integers(0, 999),
    )
    def is_stored(self, what: str, which: int, where: int, seq: int, how: int) -> None:
        """Something is done to what is stored; in one rule, so that there is more driving than this."""
        run, process = pick(self.runs, which), pick(self.processes, where)
        match what:
            case "edit":
                self.edit(run, process, how)
            case "cancel" if len(self.runs) > 1:
                self.cancel_at_rest(run, process)
            case "load old" if run.rows:
                self.load_old(run, seq)
            case "fork" if run.rows and len(self.runs) < RUNS:
                self.fork(run, process, seq % len(run.rows))
            case "corrupt" if run.rows and not run.drives:
                self.corrupt(run, process, seq % len(run.rows), how)

    def edit(self, run: Run, process: Process, total: int) -> None:
        if not self.edited(run, process, lambda flow: flow.update_state(total=total)):
            return
        newest = run.rows[-1]
        state = {**newest.state, "total": total}
        row = Row("edited", newest.status, newest.number, run.epoch, state, newest.events)
        run.store(self.with_outcome_of(newest, row), process)
        run.give_back()
        self.figures["edits"] += 1

    @staticmethod
    def with_outcome_of(newest: Row, row: Row) -> Row:
        return Row(**{**vars(row), "error": newest.error, "output": newest.output})

    def fork(self, run: Run, process: Process, seq: int) -> None:
        """Also of a run that is being driven."""
        source = run.rows[seq]
        process.hold = None
        init = {"driver": Driver(self.world, process), "persistence": process}
        flow = self.world.do(run.shape.flow.fork(run.id, seq=seq, **init))
        fork = Run(flow.run_id, run.shape)
        is_over = source.status == "finished" or not run.pending(source.events)
        status = "finished" if is_over else "running"
        row = Row("started", status, source.number, 1, {**source.state, "id": fork.id}, source.events)
        fork.store(self.with_outcome_of(source, row), process)
        fork.give_back()
        self.runs.append(fork)
        self.touched |= {run.id, fork.id}
        self.figures["forks"] += 1

    def load_old(self, run: Run, seq: int) -> None:
        if seq < len(run.rows):
            self.check_loaded(run, seq)
            self.figures["old loads"] += seq < len(run.rows) - 1
        else:
            with pytest.raises(RunNotFoundError):
                self.loaded(run, seq)

    def corrupt(self, run: Run, process: Process, seq: int, how: int) -> None:
        """Damage a row: the run is refused, and kept as it is; the others are well. Then it is put right."""
        store = self.world.store
        sound = store.raw(run.id)
        put_right = store.damage(run.id, seq, how)
        damaged = store.raw(run.id)
        if damaged != sound:
            self.check_refused(run, process)
            assert store.raw(run.id) == damaged
            put_right()
            assert store.raw(run.id) == sound
            self.figures["corrupt"] += 1
        self.touched |= {run.id for run in self.runs}

    def check_refused(self, run: Run, process: Process) -> None:
        """By all that look at the damaged row: loading begins with the newest complete one."""
        with pytest.raises(CheckpointCorruptError):
            self.world.do(self.reader.history(run.id))
        try:
            self.loaded(run, None)
        except CheckpointCorruptError:
            for how in ("resume", "kickoff", "load"):
                driver = self.world.begin(process, lambda driver, how=how: self.call(driver, run, how, 0))
                if how != "load" and run.is_locked_for(process):
                    self.refused(driver, RunLockedError)
                    continue
                self.refused(driver, CheckpointCorruptError)
                if how != "load":
                    run.acquire(process)  # and it stays so: of a storage that is not well nothing more is asked
        for other in self.runs:
            if other is not run:
                self.check_stored(other)

    # ---- what must be --------------------------------------------------------------------------------------------

    @invariant()
    def check(self) -> None:
        """After each rule."""
        assert self.world.complaints == [], self.world.complaints
        for run in self.runs:
            for drive in [*run.drives]:
                self.check_drive(run, drive)
            owner = self.world.owners.get(run.id, (None, 0))[0]
            assert owner is run.owner, "who owns it"
            for invocation, faults in self.world.starts.items():
                assert faults <= 1 + run.faults[invocation] or not invocation.startswith(f"{run.id}/")
        for run in self.runs:
            if run.id in self.touched:
                self.check_stored(run)
        self.touched.clear()

    def check_drive(self, run: Run, drive: Drive) -> None:
        driver = drive.driver
        started = [(one, received, {**state, "trail": list(state["trail"])}) for one, received, state in drive.started]
        assert sorted(driver.starts, key=repr) == sorted(started, key=repr), "what was started, with what"
        assert set(driver.gates) == set(drive.running), "what runs"
        if drive.over is None:
            assert not driver.task.done()
            if drive.has_begun:
                assert driver.flow.status == "running"
                assert driver.flow.state.model_dump() == drive.rows[drive.acknowledged - 1].state
            return
        if any(held.run_id == run.id for held in drive.process.queue):
            assert not driver.task.done(), "the outcome of a commit is waited for"
            return
        drive.close()
        run.last = driver if driver.flow.run_id == run.id and run.rows else None
        self.check_end(run, drive, driver)

    def check_end(self, run: Run, drive: Drive, driver: Driver) -> None:
        assert driver.task.done()
        if drive.over is asyncio.CancelledError:
            assert driver.task.cancelled()
        elif isinstance(drive.over, type):
            error = driver.task.exception()
            assert isinstance(error, drive.over)
            if isinstance(error, MethodError):
                failed = {f.invocation_id.rpartition("/")[2] for f in error.failures}
                assert failed == set(drive.failed)
        else:
            assert driver.task.result() == drive.over == driver.flow.result
            self.figures["finished"] += 1
        is_own_end = not isinstance(drive.over, type) or (drive.over is MethodError and not run.shape.is_hasty)
        if is_own_end:
            is_finished = not isinstance(drive.over, type)  # also if it was cancelled while its last commit was held
            shown = drive.rows[-1 if is_finished else drive.acknowledged - 1]
            if is_finished and shown.status != "finished":  # it was cancelled here, after its new owner had finished it
                shown = run.rows[-1]
            self.check_shown(driver.flow, run, shown)
        elif drive.over not in (RunFencedError, RunLockedError) and run.rows:
            self.check_shown(driver.flow, run, run.rows[-1])  # it was cut short, and has looked

    def loaded(self, run: Run, seq: int | None) -> Any:
        init = {"driver": Driver(self.world, self.reader), "persistence": self.reader}
        return self.world.do(run.shape.flow.load(run.id, seq=seq, **init))

    def check_loaded(self, run: Run, seq: int | None) -> None:
        row = run.rows[-1 if seq is None else seq]
        flow = self.loaded(run, seq)
        self.check_shown(flow, run, row)
        assert flow.result == row.output

    def check_shown(self, flow: Any, run: Run, row: Row) -> None:
        assert flow.run_id == run.id
        assert flow.status == {"running": "interrupted"}.get(row.status, row.status)
        assert flow.state.model_dump() == row.state
        assert list(flow.pending) == [launch.key for launch in run.pending(row.events)]

    def check_stored(self, run: Run) -> None:
        """The run is what the model says, to the row, and its chain is whole."""
        if not run.rows:
            assert not self.world.do(self.reader.history(run.id))
            return
        self.check_loaded(run, None)
        rows = self.world.do(self.reader.history(run.id))
        assert [row.seq for row in rows] == list(range(len(run.rows)))
        assert all(row.digest == row.expected_digest() for row in rows)
        assert [row.previous for row in rows] == [b"", *(row.digest for row in rows[:-1])]
        assert [row.epoch for row in rows] == [row.epoch for row in run.rows]
        self.check_history(run)

    def check_history(self, run: Run) -> None:
        entries = self.world.do(self.loaded(run, None).history())
        told = [(e.kind, e.status, e.pass_number, e.method, e.skipped) for e in entries]
        assert told == [(row.kind, row.status, row.number, row.method, row.skipped) for row in run.rows]
        assert [bool(e.error) for e in entries] == [bool(row.error) for row in run.rows]
        assert all(e.error.startswith(row.error) for e, row in zip(entries, run.rows, strict=True))
        changed = [
            {k: v for k, v in b.items() if a.get(k) != v} for a, b in pairwise([{}, *(r.state for r in run.rows)])
        ]
        if run.rows:
            changed[0] = run.rows[0].state
        assert [e.changed for e in entries] == changed
        ends = Counter((e.pass_number, e.method) for e in entries if e.kind in ("method", "finished"))
        assert set(ends.values()) <= {1}, "a completed invocation has exactly one checkpoint"
        assert set(ends) >= {(row.number, row.events[-1].key) for row in run.rows if row.kind in ("method", "finished")}

    def teardown(self) -> None:
        try:
            self.touched = {run.id for run in self.runs}
            self.check()
            self.figures["rows"] += sum(len(run.rows) for run in self.runs)
        finally:
            for process in [*self.processes]:
                self.die(process)
            self.leave(self.reader)
            self.world.loop.close()


# ---- the tests -------------------------------------------------------------------------------------------------------

OFTEN = {
    "runs": 0.5,
    "rows": 4,
    "acknowledged": 3,
    "ended well": 2.5,
    "finished": 0.3,
    "merges": 0.3,
    "resumed": 0.3,
    "second passes": 0.1,
    "crashes": 0.2,
    "held up": 0.3,
    "let go": 0.1,
}
"""What happens, at least, in an example: a fifth of the least that eight seeds had."""
AT_ALL = (
    *("cancelled", "cancelled in a commit", "cancelled for good", "cancelled at rest", "crashes at a commit"),
    *("races", "steals", "fenced", "edits", "forks", "old loads", "corrupt", "ends after a failure", "machine.Boom"),
    *("asyncflow.errors.StateNotStorableError", "asyncflow.errors.StateConflictError"),
    *("RunLockedError", "RunCancelledError", "CheckpointCorruptError"),
)
"""What happens in two hundred of them."""


def play(examples: int, store: Callable[[int], Store]) -> None:
    """Play so many examples, each over a new store."""
    figures: Counter[str] = Counter()

    def machine() -> Machine:
        return Machine(store(figures["examples"]), figures)

    seed(SEED)(machine)
    began = time.perf_counter()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"ASYNCFLOW_SEED={SEED}: {dict(figures)}, in {time.perf_counter() - began:.1f} s")
    faults = ("crashes", "steals", "cancelled", "cancelled for good", "corrupt", "machine.Boom", "held up")
    acknowledged, hits = figures["acknowledged"], sum(figures[fault] for fault in faults)
    tell("R11", trials=figures["examples"], faults=hits, acknowledged=acknowledged)
    assert figures["examples"] >= examples
    assert {what: figures[what] for what, least in OFTEN.items() if figures[what] < least * examples} == {}
    assert examples < 200 or [what for what in AT_ALL if not figures[what]] == []


proves = pytest.mark.clauses(
    *("D1", "D2", "D4", "E1", "E2", "E3", "E4", "C1", "C2", "C3", "C4", "X1", "X2", "X3", "L1", "L2", "L4", "V4")
)


@proves
def test_runs_in_memory_are_what_the_model_says() -> None:
    play(max(1, round(200 * FACTOR)), lambda _: InMemory())


@proves
def test_runs_in_a_file_are_what_the_model_says(tmp_path: Path) -> None:
    play(max(1, round(40 * FACTOR)), lambda number: InFile(tmp_path / f"{number}.db"))
