"""Leaving: however a program ends, it ends within a second, says nothing that does not belong there, and can be resumed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from figures import tell

import asyncflow

LIMIT = 120.0
"""Seconds for a program, all in all."""
SOON = 20.0
"""Seconds. A tenth of one is usual; what waits for something waits without limit, and other tests may keep both cores busy."""

FLOW = """
import asyncio, gc, os, sys, threading, time
import anyio, asyncflow
from asyncflow import Flow, FlowState, SQLiteFlowPersistence, errors, listen, start

def note(text):
    with open("effects.log", "a") as file:
        file.write(text + chr(10))

class Work(FlowState):
    done: list[str] = []

class Steps(Flow[Work]):
    name = "Steps"
    persistence = SQLiteFlowPersistence("runs.db")

    async def hang(self):
        if HANGS:
            print("ready", flush=True)
            ready.set()  # not before: a fork in the middle of the print would leave its lock to the child
            await anyio.sleep_forever()

    @start()
    async def first(self) -> int:
        note("first")
        self.state.done.append("first")
        return 1

    @listen(first)
    async def second(self, n: int) -> int:
        await self.hang()
        note("second")
        self.state.done.append("second")
        return n + 1

    @listen(second)
    async def third(self, n: int) -> int:
        note("third")
        self.state.done.append("third")
        return n + 1

ready = threading.Event()

def leaving():
    print("leaving", time.monotonic(), flush=True)

async def until_ready():
    while not ready.is_set():
        await anyio.sleep(0.001)
"""


@dataclass(frozen=True)
class Left:
    """A program that has ended. `seconds`: from when it should have left to when it had."""

    code: int
    out: str
    errors: str
    seconds: float


def left(program: str, *, hangs: bool = True, interrupt: bool = False, command: tuple[str, ...] = ()) -> Left:
    """Run a program, and interrupt it once it is ready; it has `LIMIT` seconds."""
    Path("program.py").write_text(f"HANGS = {hangs}\n{FLOW}\n{program}\n")
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    whole = [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", *(command or ("program.py",))]
    pipe = subprocess.PIPE
    with subprocess.Popen(whole, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        try:
            asked = None
            if interrupt:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                process.send_signal(signal.SIGINT)
                asked = time.monotonic()
            out, errors = process.communicate(timeout=LIMIT)
            ended = time.monotonic()
        finally:
            process.kill()
    tell("R26", trials=1, faults=1)
    told = [line.split()[1] for line in out.splitlines() if line.startswith("leaving ")]
    assert asked or told, f"it never came to where it should leave:\n{out}\n{errors}"
    slow = ("Executing <",)  # asyncio's debug mode, about a busy machine
    kept = "".join(line + "\n" for line in errors.splitlines() if not line.startswith(slow))
    return Left(process.returncode, out, kept, ended - (asked or float(told[-1])))


def resumed() -> tuple[Any, list[str], list[str]]:
    """The result of the run that was left, its state, and the effects of all its lives."""
    names: dict[str, Any] = {"HANGS": False, "__name__": "resumed"}
    exec(FLOW, names)
    steps = names["Steps"]

    async def go_on() -> tuple[Any, list[str]]:
        result = await steps.resume("left")
        return result, (await steps.load("left")).state.done

    return (*anyio.run(go_on), Path("effects.log").read_text().split())


def assert_it_goes_on(again: int = 0) -> None:
    """What had completed is kept, what had not is run. `again`: how often `second` was run to its end and not stored."""
    names = ["first", "second", "third"]
    result, done, effects = resumed()

    assert (result, done) == (3, names)
    assert effects == ["first", *["second"] * (1 + again), "third"]
    assert sorted(os.listdir()) == KEPT


KEPT = ["effects.log", "program.py", "runs.db"]


def last_line(text: str) -> str:
    return text.splitlines()[-1]


# ---- persistences that are not closed ------------------------------------------------------------------------------

LEAKED = """
async def main():
    {entered}
    async with anyio.create_task_group() as group:
        group.start_soon(Steps(persistence=persistence).kickoff, {{"id": "left"}})
        await until_ready()
        group.cancel_scope.cancel()
    {then}

persistence = SQLiteFlowPersistence("runs.db")
anyio.run(main, backend={loop!r})
leaving()
"""


@pytest.mark.clauses("C1")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_leaked_persistence_keeps_no_process(loop: str) -> None:
    ended = left(LEAKED.format(entered="await persistence.__aenter__()", then="", loop=loop))

    assert (ended.code, ended.errors) == (0, "")
    assert ended.seconds < SOON
    assert_it_goes_on()


@pytest.mark.clauses("C1")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_persistence_that_is_dropped_without_closing_keeps_no_process(loop: str) -> None:
    entered = "global persistence; await persistence.__aenter__()"
    ended = left(LEAKED.format(entered=entered, then="persistence = None; gc.collect()", loop=loop))

    assert (ended.code, ended.errors) == (0, "")
    assert ended.seconds < SOON
    assert_it_goes_on()


# ---- exits and interrupts ------------------------------------------------------------------------------------------

EXITS = """
class Exits(Steps):
    name = "Steps"

    async def second(self, n: int) -> int:
        leaving()
        sys.exit(3)

anyio.run(Exits().kickoff, {{"id": "left"}}, backend={loop!r})
"""


@pytest.mark.clauses("X4")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_system_exit_in_a_method_leaves_with_its_code(loop: str) -> None:
    ended = left(EXITS.format(loop=loop))

    assert (ended.code, ended.errors) == (3, "")
    assert ended.seconds < SOON
    assert_it_goes_on()


@pytest.mark.clauses("X4", "C1")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_an_interrupt_during_a_kickoff_leaves_at_once(loop: str) -> None:
    ended = left(f"anyio.run(Steps().kickoff, {{'id': 'left'}}, backend={loop!r})", interrupt=True)

    assert ended.code == -signal.SIGINT
    assert last_line(ended.errors) == "KeyboardInterrupt"
    assert_nothing_forgotten(ended.errors)
    assert ended.seconds < SOON
    assert_it_goes_on()


def assert_nothing_forgotten(errors: str) -> None:
    for phrase in ("never awaited", "ResourceWarning", "never retrieved", "was destroyed", "Exception ignored"):
        assert phrase not in errors, errors


def test_a_sys_exit_after_a_run_leaves_with_its_code() -> None:
    ended = left("anyio.run(Steps().kickoff, {'id': 'left'}); leaving(); sys.exit(4)", hangs=False)

    assert (ended.code, ended.errors) == (4, "")
    assert ended.seconds < SOON
    assert_it_goes_on()


# ---- runs in flight ------------------------------------------------------------------------------------------------

UNHANDLED = """
async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(Steps().kickoff({"id": "left"}))
        await until_ready()
        leaving()
        raise ValueError("unhandled")

asyncio.run(main())
"""


@pytest.mark.clauses("C1")
def test_an_unhandled_exception_next_to_a_run_leaves_at_once() -> None:
    ended = left(UNHANDLED)

    assert ended.code == 1
    assert "ValueError: unhandled" in ended.errors
    assert ended.errors.count("Traceback") == 2  # the group's and the exception's: no other error is printed
    assert_nothing_forgotten(ended.errors)
    assert ended.seconds < SOON
    assert_it_goes_on()


FAILING = """
from program import *

async def test_failing():
    async with anyio.create_task_group() as group:
        group.start_soon(Steps().kickoff, {"id": "left"})
        await until_ready()
        leaving()
        assert not "so"
"""


@pytest.mark.clauses("C1")
def test_a_failing_test_with_a_run_in_flight_ends_pytest() -> None:
    Path("test_failing.py").write_text(FAILING)
    pytest_ = (
        "-m",
        "pytest",
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        "-p",
        "anyio",
        "-o",
        "anyio_mode=auto",
        "-W",
        "error",
    )
    ended = left("", command=(*pytest_, "--rootdir=.", "test_failing.py", "-k", "asyncio"))
    Path("test_failing.py").unlink()

    assert (ended.code, ended.errors) == (1, "")
    assert last_line(ended.out).startswith("1 failed")
    assert "warning" not in last_line(ended.out)
    assert_nothing_forgotten(ended.out)
    assert ended.seconds < SOON  # pytest reports the failure first
    assert_it_goes_on()


LEFT_BY_RUN = """
async def main():
    global task
    task = asyncio.create_task(Steps().kickoff({"id": "left"}))
    await until_ready()
    leaving()

asyncio.run(main())
"""


@pytest.mark.clauses("C1")
def test_a_main_that_ends_before_its_run_leaves_at_once() -> None:
    ended = left(LEFT_BY_RUN)

    assert (ended.code, ended.errors) == (0, "")
    assert ended.seconds < SOON
    assert_it_goes_on()


CLOSED = """
import aiosqlite

class Slow(Steps):
    name = "Steps"
    persistence = SQLiteFlowPersistence("runs.db", lease={lease})

    async def second(self, n: int) -> int:
        note("second")
        self.state.done.append("second")
        commits.append("next")
        return n + 1

commits = []
execute = aiosqlite.Connection._execute

def slow(function, *args):
    {commit_first} and function(*args)
    loop.call_soon_threadsafe(loop.stop)
    time.sleep(0.3)
    {commit_first} or function(*args)

async def stopping(self, function, *args, **named):
    if commits and function.__name__ == {hop!r}:
        return await execute(self, slow, function, *args)
    return await execute(self, function, *args, **named)

aiosqlite.Connection._execute = stopping
loop = asyncio.new_event_loop()
task = loop.create_task(Slow().kickoff({{"id": "left"}}))
loop.run_forever()
loop.close()
leaving()
"""


@pytest.mark.clauses("D1", "E2", "E3")
@pytest.mark.parametrize("commit_first", [True, False], ids=["committed", "not committed"])
@pytest.mark.parametrize(
    ("hop", "lease"),
    [
        pytest.param("execute", 60.0, id="by one statement"),
        pytest.param("commit", 0.001, id="after several"),  # a lease that is always due goes into the transaction
    ],
)
def test_a_loop_that_is_closed_in_mid_commit_keeps_no_process(hop: str, lease: float, commit_first: bool) -> None:
    ended = left(CLOSED.format(commit_first=commit_first, hop=hop, lease=lease), hangs=False)

    assert (ended.code, ended.errors) == (0, "")
    assert ended.seconds < SOON
    assert_it_goes_on(again=0 if commit_first else 1)


DAEMON = """
def drive():
    asyncio.run(Steps().kickoff({"id": "left"}))

threading.Thread(target=drive, daemon=True).start()
assert ready.wait(5)
leaving()
"""


@pytest.mark.clauses("E2")
def test_a_daemon_thread_with_a_loop_of_its_own_keeps_no_process() -> None:
    ended = left(DAEMON)

    assert (ended.code, ended.errors) == (0, "")
    assert ended.seconds < SOON
    assert_it_goes_on()


# ---- a fork --------------------------------------------------------------------------------------------------------

MAY_FORK = """
import warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # Python 3.12 says so; see the guide
"""

FORKED = """
def drive():
    asyncio.run(main())

async def main():
    async with persistence:
        run = asyncio.create_task(Steps(persistence=persistence).kickoff({"id": "left"}))
        await until_ready()
        while not goes_on.is_set():
            await asyncio.sleep(0.01)
        assert (await Steps(persistence=persistence).load("left")).pending == ("second:1",)
        run.cancel()

goes_on = threading.Event()
persistence = SQLiteFlowPersistence("runs.db")
thread = threading.Thread(target=drive)
thread.start()
assert ready.wait(5)
child = os.fork()
if not child:
    leaving()
    try:
        asyncio.run(Steps(persistence=persistence).kickoff({"id": "other"}))
    except errors.ForkedProcessError:
        sys.exit(7)
began = time.monotonic()
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print("child", status, time.monotonic() - began, flush=True)
goes_on.set()
thread.join()
leaving()
"""


@pytest.mark.clauses("S4")
def test_a_forked_process_is_refused_and_leaves_and_its_parent_continues() -> None:
    ended = left(MAY_FORK + FORKED)
    _, code, seconds = next(line for line in ended.out.splitlines() if line.startswith("child")).split()

    assert (ended.code, ended.errors) == (0, "")
    assert (code, float(seconds) < SOON) == ("7", True)
    assert ended.seconds < SOON
    assert_it_goes_on()


FORKED_IN_THE_LOOP = """
async def main():
    async with persistence:
        child = os.fork()
        if not child:
            try:
                await Steps(persistence=persistence).kickoff({"id": "other"})
            except BaseException as error:
                print(type(error).__name__, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        run = asyncio.create_task(Steps(persistence=persistence).kickoff({"id": "left"}))
        await until_ready()
        run.cancel()

persistence = SQLiteFlowPersistence("runs.db")
asyncio.run(main())
leaving()
"""


@pytest.mark.clauses("S4")
def test_a_process_forked_inside_the_event_loop_is_refused_by_name() -> None:
    ended = left(MAY_FORK + FORKED_IN_THE_LOOP)

    assert (ended.code, ended.errors) == (0, "")
    assert ended.out.splitlines()[0] == "ForkedProcessError"
    assert_it_goes_on()


CHECKPOINTS = ["started", "method", "method", "finished"]

FORKED_IN_A_METHOD = """
class Forks(Steps):
    async def hang(self):
        self.child = os.fork()

async def main():
    async with persistence:
        flow = Forks(persistence=persistence)
        try:
            result = await flow.kickoff({"id": "left"})
        except BaseException as error:
            while error.__context__ is not None:  # Python finds no running loop in a child: so what comes out at last says that
                error = error.__context__
            print(type(error).__name__, flush=True)
            os._exit(7)
        print("child", os.waitstatus_to_exitcode(os.waitpid(flow.child, 0)[1]), result, flush=True)

persistence = SQLiteFlowPersistence("runs.db")
asyncio.run(main())
leaving()
"""


@pytest.mark.clauses("S4")
def test_a_run_that_continues_in_a_forked_process_is_refused_at_its_next_commit() -> None:
    ended = left(MAY_FORK + FORKED_IN_A_METHOD)

    assert (ended.code, ended.errors) == (0, "")
    assert ended.out.splitlines()[:2] == ["ForkedProcessError", "child 7 3"]
    assert [c.kind for c in anyio.run(asyncflow.SQLiteFlowPersistence("runs.db").history, "left")] == CHECKPOINTS
