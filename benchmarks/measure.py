"""One measurement, in a process of its own: `python -m benchmarks.measure MODULE WAY LOOP WORK SIZE SECONDS FOLDER`.

It writes `figures.json` into the folder, or the error to stderr. Nothing may be reached but this machine.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import anyio

from .works import WORKS

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
HERE = ("localhost", "127.0.0.1", "::1", None, "")


def stay_here(event: str, args: tuple[Any, ...]) -> None:
    """Reject every connection to another machine: an audit hook, which no library can remove."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        reached = args[1][0] if isinstance(args[1], tuple) else None
    elif event == "socket.getaddrinfo":
        reached = args[0]
    else:
        return
    if reached not in HERE:
        raise PermissionError(f"benchmarks must not connect to other machines, but this one tried to reach {reached!r}")


async def measure(module: str, way: str, work: str, size: int, seconds: float, folder: Path) -> None:
    """Run one workload with one peer, write its figures, and exit at once: a clean shutdown can take longer than the measurement."""
    make = importlib.import_module(f"benchmarks.peers.{module}").WAYS[way]
    stored = folder / "stored"
    stored.mkdir()
    async with anyio.create_task_group() as background:
        async with make(stored) as peer:
            figures = await WORKS[work].measure(peer, size, seconds, background)
            (folder / "figures.json").write_text(json.dumps(figures))
            os._exit(0)


def first_of(error: BaseException) -> BaseException:
    """Return the first error that is not a group: the parent process reports its last line."""
    return first_of(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def main(module: str, way: str, loop: str, work: str, size: str, seconds: str, folder: str) -> None:
    sys.addaudithook(stay_here)
    try:
        anyio.run(measure, module, way, work, int(size), float(seconds), Path(folder), **LOOPS[loop])
    except BaseException as error:
        traceback.print_exception(first_of(error))
        sys.stderr.flush()
        os._exit(1)  # threads that a peer has left would keep the process


if __name__ == "__main__":
    main(*sys.argv[1:])
