"""The detector of blocking calls on an event loop bites, and bites nothing else."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import blocking
import pytest

PLANTED = """
import socket, sqlite3, subprocess, sys, tempfile, threading, time

lock = threading.Lock()

def opens(): open(__file__ + ".none", "w").close()
def lists(): __import__("os").listdir(".")
def connects(): sqlite3.connect(":memory:").close()
def resolves(): socket.gethostbyname("127.0.0.1")
def sleeps(): time.sleep(0.001)
def runs(): subprocess.run([sys.executable, "-c", ""])
def uses_a_library(): tempfile.TemporaryFile().close()

def waits():
    lock.acquire()
    threading.Timer(0.05, lock.release).start()
    with lock:
        pass

def calls(function): return function()
def drops(kept): kept.clear()
"""

BLOCKING = {
    "opens": "open",
    "lists": "os.listdir",
    "connects": "sqlite3.connect",
    "resolves": "socket.gethostbyname",
    "sleeps": "time.sleep",
    "runs": "subprocess.Popen",
    "uses_a_library": "open",
    "waits": "Lock.acquire",
}


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, Any]:
    """A module that, by its file's name, is one of asyncflow's."""
    module: dict[str, Any] = {"__name__": "planted", "__file__": str(tmp_path / "planted.py")}
    with blocking.watching():  # so that its lock is watched
        exec(compile(PLANTED, blocking.PACKAGE + "planted.py", "exec"), module)
    return module


@pytest.mark.parametrize("name", BLOCKING)
async def test_a_blocking_call_of_asyncflow_on_a_loop_is_found(planted: dict[str, Any], name: str) -> None:
    with blocking.watching() as found:
        planted[name]()

    assert f"planted.{name}: {BLOCKING[name]}" in " ".join(found)


@pytest.mark.parametrize("name", BLOCKING)
async def test_the_same_call_in_a_worker_thread_is_not(planted: dict[str, Any], name: str) -> None:
    with blocking.watching() as found:
        await anyio.to_thread.run_sync(planted[name])

    assert found == []


def test_the_same_call_without_a_loop_is_not(planted: dict[str, Any]) -> None:
    with blocking.watching() as found:
        for name in BLOCKING:
            planted[name]()

    assert found == []


async def test_what_a_method_of_a_flow_does_is_its_own_affair(planted: dict[str, Any]) -> None:
    def method() -> None:
        time.sleep(0.001)
        Path("report").write_text("done")
        subprocess.run(["true"], check=True)

    with blocking.watching() as found:
        planted["calls"](method)

    assert found == []


async def test_what_has_called_the_loop_has_not_called_what_the_loop_runs(planted: dict[str, Any]) -> None:
    def in_a_loop_of_its_own(work: Callable[[], Any]) -> None:
        planted["calls"](lambda: anyio.run(work))

    async def work() -> None:
        await anyio.to_thread.run_sync(time.sleep, 0.001)

    with blocking.watching() as found:
        await anyio.to_thread.run_sync(in_a_loop_of_its_own, work)

    assert found == []


async def test_a_finalizer_that_runs_by_chance_in_asyncflow_is_not_its_own(planted: dict[str, Any]) -> None:
    kept = [tempfile.TemporaryDirectory()]

    with blocking.watching() as found, pytest.warns(ResourceWarning):
        planted["drops"](kept)

    assert found == []


async def test_a_lock_that_is_free_blocks_nothing(planted: dict[str, Any]) -> None:
    with blocking.watching() as found, planted["lock"]:
        pass

    assert found == []


def test_every_lock_of_asyncflow_is_known() -> None:
    """They are made when their modules are imported, so that nothing can watch them. A new one has to be justified."""
    import asyncflow.testing

    assert asyncflow.testing
    assert sorted(set(blocking.locks())) == sorted(blocking.UNCONTENDED)


def test_nothing_is_watched_outside_of_the_block() -> None:
    with blocking.watching():
        pass

    assert time.sleep is blocking._sleep
    assert threading.Lock is blocking._Lock
