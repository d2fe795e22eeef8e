"""No file handle is left: the error says so, nothing is lost, and all is well once there are handles again."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from loops import LOOPS

import asyncflow
from asyncflow import Flow, errors, start
from asyncflow.persistence._database.handle_limit import no_handles_left


class Echo(Flow[dict[str, Any]]):
    @start()
    async def work(self) -> int:
        return 1


@contextmanager
def no_handles(left: int) -> Iterator[None]:
    """So many handles are left."""
    taken = [os.open(os.devnull, os.O_RDONLY)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(map(int, os.listdir("/proc/self/fd"))) + 20), hard))
    try:
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for _ in range(left):
            os.close(taken.pop())
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


PROGRAM = """
import sys
import anyio
sys.path[:0] = [{tests!r}, {tests!r} + "/faults"]
from asyncflow import SQLiteFlowPersistence
from test_no_handles import *

async def main():
    storage = SQLiteFlowPersistence("runs.db")
    flow = Echo(persistence=storage)
    await flow.kickoff()
    for left in range(12):
        try:
            with no_handles(left):
                async with storage:
                    await storage.load(flow.run_id)
            break
        except errors.StorageBusyError as error:
            assert "no file handles left" in str(error) and "ulimit -n" in str(error), error
            print("refused", flush=True)
    assert await storage.load(flow.run_id) is not None
    with pytest.raises(errors.StorageBusyError, match="no file handles left"):
        async with storage:
            with no_handles(0):
                await storage.load(flow.run_id)
    await Echo(persistence=storage).kickoff()
    print("well", flush=True)

name, options = {loop!r}
anyio.run(main, backend=name, backend_options=options)
"""


@pytest.mark.found("R8")
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux tells which handles there are")
@pytest.mark.parametrize("loop", LOOPS)
def test_without_file_handles_the_error_says_so(loop: str) -> None:
    tests = Path(__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    program = PROGRAM.format(tests=str(tests), loop=LOOPS[loop])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=env)

    assert done.stdout.split()[-1:] == ["well"], done.stderr
    assert done.stdout.split().count("refused") >= 2


@pytest.mark.found("R8")
def test_what_a_driver_says_of_handles_and_threads_is_understood() -> None:
    said = no_handles_left(Exception("connection failed: could not create socket: Too many open files"), "database 'x'")
    threads = no_handles_left(RuntimeError("can't start new thread"), "runs.db")

    assert isinstance(said, errors.StorageBusyError)
    assert "ulimit -n" in str(said)
    assert isinstance(threads, errors.StorageBusyError)
    assert "ulimit -u" in str(threads)
    assert no_handles_left(PermissionError(13, "Permission denied"), "runs.db") is None
    assert no_handles_left(None, "runs.db") is None
