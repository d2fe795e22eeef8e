"""A process that is held up for longer than its lease, at any line of asyncflow, and replaced meanwhile.

Time is set forward instead of slept through, and the other owner is a statement on a connection of its own: between two lines of a
blocked event loop nothing else can happen, so this is what the process sees when it continues.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import anyio

import asyncflow
from asyncflow import Flow, listen, persist, start
from asyncflow.persistence._database import lease as fencing

PACKAGE = os.path.dirname(asyncflow.__file__) + os.sep

Trace = Callable[[FrameType, str, Any], Any]


class Clock:
    """The clocks that leases are measured by; they can be set forward."""

    def __init__(self) -> None:
        self.shift = 0.0
        self.looks = 0
        """How often it was looked at since it was set forward."""

    def clock_gettime(self, which: int) -> float:
        self.looks += 1
        return time.clock_gettime(which) + self.shift

    def monotonic(self) -> float:
        self.looks += 1
        return time.monotonic() + self.shift

    def time(self) -> float:
        return time.time() + self.shift

    def forward(self, seconds: float) -> None:
        self.shift += seconds
        self.looks = 0


@contextmanager
def clock() -> Iterator[Clock]:
    """The leases of this process are measured by this clock."""
    kept, fencing.time = fencing.time, Clock()
    try:
        yield fencing.time
    finally:
        fencing.time = kept


class AtLine:
    """Calls `strike` before the n-th line of the package that this thread runs, from when it is armed until it is disarmed.

    For an n of 0, before each line, until that is true.
    """

    def __init__(self, at: int, strike: Callable[[], object]) -> None:
        self.at = at
        self.strike = strike
        self.lines = 0
        self.where = ""
        self.has_struck = False

    def arm(self) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:  # those that are under way already, too
            if frame.f_code.co_filename.startswith(PACKAGE):
                frame.f_trace = self._traced
            frame = frame.f_back
        sys.settrace(self._called)

    def disarm(self) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, arg: Any) -> Trace | None:
        return self._traced if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _traced(self, frame: FrameType, event: str, arg: Any) -> Trace | None:
        if event == "line" and not self.has_struck:
            self.lines += 1
            if not self.at:
                self.has_struck = bool(self.strike())
            elif self.lines == self.at:
                self.has_struck = True
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                self.disarm()
                self.strike()
                return None
        return self._traced


# ---- a process that is stopped ---------------------------------------------------------------------------------------

SECONDS = 120
STOPPED = """
import logging, os, signal, sys
import anyio
import asyncflow
import held_up

class Stop(logging.Handler):
    def emit(self, record):
        if "invocation='first:1'" in record.getMessage():
            os.kill(os.getpid(), signal.SIGSTOP)

logging.getLogger("asyncflow").addHandler(Stop())
logging.getLogger("asyncflow").setLevel("INFO")
anyio.run(held_up.Told(persistence={storage}).kickoff, {{"id": "run"}}, backend={loop!r})
"""


@persist(verbose=True)
class Told(Flow[dict]):
    """Each method has an effect outside. It is logged when the first one is stored, and the second not yet started."""

    @start()
    async def first(self) -> None:
        effect("first")

    @listen(first)
    async def second(self) -> None:
        effect("second")


def effect(what: str) -> None:
    with open("effects.log", "a") as file:
        file.write(f"{what} {os.getpid()}\n")


def finished_while_it_was_stopped(storage: str, another: Any, loop: str) -> str:
    """What a process says that was stopped between a commit and the next start, until another has finished its run."""
    here = Path(__file__).parent
    places = os.pathsep.join((str(Path(asyncflow.__file__).parents[1]), str(here), str(here.parent)))
    program = STOPPED.format(storage=storage, loop=loop)
    env = {**os.environ, "PYTHONPATH": places}
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), process.communicate()[1]
            anyio.run(functools.partial(Told.resume, "run", persistence=another, wait=SECONDS))
            process.send_signal(signal.SIGCONT)
            return process.communicate(timeout=SECONDS)[1]
        finally:
            process.kill()
