"""What an inspector costs the runs that it watches: `python -m benchmarks.watching [--runs 1000] [--followed 1]`.

A runner drives live runs on one SQLite file, as fast as it can. In turn, nothing watches them, or a client as a browser does: it opens the
list every 2 seconds and some runs, follows their events, and opens a run again when it has news, as often as the script of a page does. The
inspector is a process of its own, or part of the runner's. Printed are the time and the CPU time of the runner's process, in comparison
with those of the turn before, unwatched.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from html import unescape
from pathlib import Path
from statistics import median
from typing import Literal

import anyio
import uvicorn

from asyncflow import Flow, FlowRunner, FlowState, SQLiteFlowPersistence, listen, or_, router, start
from asyncflow.integrations.inspector import inspector

from .__main__ import machine

SERVE = "from benchmarks.watching import serve_alone; serve_alone({path!r})"
SHARE = 30
"""As in the inspector's script: the part of the time that all pages may take to be opened again."""

CLIENT = "from benchmarks.watching import watch; import anyio; anyio.run(watch, {url!r}, {pages})"


class Order(FlowState):
    customer: str = "a customer"
    steps: int = 0
    most: int = 0


gates = [anyio.Event()]


class Loop(Flow[Order]):
    """Does a number of steps, one after the other."""

    name = "benchmarks.Loop"

    @start()
    async def begin(self) -> None:
        await gates[0].wait()

    @listen(or_(begin, "more"))
    async def step(self) -> None:
        self.state.steps += 1

    @router(step)
    async def decide(self) -> Literal["more", "enough"]:
        return "more" if self.state.steps < self.state.most else "enough"


# ---- the inspector, and who watches -----------------------------------------------------------------------------------------------


def serve_alone(path: str) -> None:
    """Serve an inspector in this process."""
    from asyncflow.integrations.inspector import serve

    serve(SQLiteFlowPersistence(path), [Loop], port=0, on_ready=lambda url: print(url, flush=True))


async def watch(url: str, pages: int) -> None:
    """Watch the runs of an inspector, as a browser with so many pages does."""
    import httpx2

    limits = httpx2.Limits(max_connections=None)
    async with (
        httpx2.AsyncClient(base_url=url, timeout=None, limits=limits) as http,
        anyio.create_task_group() as group,
    ):
        ids, link = list[str](), "/"
        while len(ids) < pages:
            page = await _text(http, link)
            ids += _ids(page)
            link = unescape(page.partition('rel="next" href="')[2].partition('"')[0])
        for run_id in ids[:pages]:
            if pages < 50:
                await _text(http, f"/run?id={run_id}")
            group.start_soon(_follow, http, run_id, pages < 50)
        print("watching", flush=True)
        pause = 2.0
        while True:
            await anyio.sleep(pause)
            pause = max(2.0, await _pause_after(http, "/"))


def _ids(page: str) -> list[str]:
    return [part.partition('"')[0] for part in page.split("run?id=")[1:]]


async def _text(http: object, path: str) -> str:
    text: str = (await http.get(path)).text  # type: ignore[attr-defined]  # imported where it is used
    return text


async def _pause_after(http: object, path: str) -> float:
    """Open a page, and return how many seconds its script waits until it does that again."""
    begun = time.monotonic()
    page = await _text(http, path)
    followed = max(1, int(page.partition('data-followed="')[2].partition('"')[0]))
    return SHARE * followed * (time.monotonic() - begun)


async def _follow(http: object, run_id: str, opens: bool) -> None:
    """Follow the events of a run and, if this client opens it, open it again at news."""
    due = 0.0
    async with http.stream("GET", f"/run/events?id={run_id}") as stream:  # type: ignore[attr-defined]
        async for line in stream.aiter_lines():
            if opens and line.startswith("data") and time.monotonic() > due:
                pause = await _pause_after(http, f"/run?id={run_id}")
                due = time.monotonic() + max(0.3, pause)


# ---- turns ------------------------------------------------------------------------------------------------------------------------


@contextmanager
def _process(code: str) -> Iterator[str]:
    """Run a Python process, and yield the first line that it prints."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@asynccontextmanager
async def _mounted(runner: FlowRunner) -> AsyncIterator[str]:
    """Serve an inspector on the event loop of the runner."""
    config = uvicorn.Config(inspector(flows=[Loop], runner=runner), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve)
        while not server.started:  # noqa: ASYNC110 - it has no event
            await anyio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.force_exit = server.should_exit = True


async def turn(runs: int, steps: int, watched: str, pages: int) -> tuple[float, float]:
    """Drive the runs once. Return the time, and the CPU time of this process.

    - `watched`: "" for not at all, "alone" by an inspector of its own process, "mounted" by one in this process.
    """
    gates[0] = gate = anyio.Event()
    async with AsyncExitStack() as stack:
        path = str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "runs.db")
        given = {"max_running": runs, "grace": 0, "recover_every": None}
        runner = await stack.enter_async_context(FlowRunner(SQLiteFlowPersistence(path), **given))  # type: ignore[arg-type]
        handles = [await runner.start(Loop, {"most": steps}) for _ in range(runs)]
        if watched:
            alone = _process(SERVE.format(path=path))
            url = (
                stack.enter_context(alone) if watched == "alone" else await stack.enter_async_context(_mounted(runner))
            )
            client = _process(CLIENT.format(url=url, pages=pages))
            stack.callback(client.__exit__, None, None, None)
            await anyio.to_thread.run_sync(client.__enter__)
        begun, cpu = time.perf_counter(), time.process_time()
        gate.set()
        for handle in handles:
            await handle.result()
        return time.perf_counter() - begun, time.process_time() - cpu


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--followed", type=int, default=1, help="so many runs have a page that is open")
    asked = parser.parse_args()
    print(f"{machine()}; {asked.runs:,} runs of {2 * asked.steps} steps, {asked.times} times")
    for watched in ("alone", "mounted"):
        ratios = []
        for _ in range(asked.times):
            plain = await turn(asked.runs, asked.steps, "", 0)
            seen = await turn(asked.runs, asked.steps, watched, asked.followed)
            ratios.append([after / before for after, before in zip(seen, plain, strict=True)])
        took, cpu = (median(column) for column in zip(*ratios, strict=True))
        print(
            f"inspector {watched}, {asked.followed} of the runs followed: time x{took:.3f}, CPU of the runner's process x{cpu:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    anyio.run(main)
