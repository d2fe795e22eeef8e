"""An application with the inspector, on a loopback port, whose runs the tests start and signal from their own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import uvicorn
from press import Count, Publish, gates, reached, started
from starlette.applications import Starlette
from starlette.routing import Mount

from asyncflow import FlowRunner, SQLiteFlowPersistence
from asyncflow.integrations.inspector import inspector

T = TypeVar("T")


class Inspected:
    """The application, mounted at /flows, and its runner."""

    def __init__(self, folder: Path) -> None:
        self.storage = SQLiteFlowPersistence(folder / "runs.db")
        self.runner = FlowRunner(self.storage, grace=0, patience=1, park_after=0.0, flows=[Publish, Count])
        self.app = Starlette(
            routes=[Mount("/flows", inspector(self.storage, [Publish, Count], runner=self.runner, actions=True))],
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def served(self) -> Iterator[Inspected]:
        """Serve it in a thread."""
        server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="warning", timeout_graceful_shutdown=1))
        ready = threading.Event()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            async with self.runner, anyio.create_task_group() as group:
                group.start_soon(server.serve)
                while not server.started:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                ready.set()

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        assert ready.wait(30)
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/flows"
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop of the server."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def run(self, status: str, **inputs: Any) -> str:
        """The id of a run of `Publish` that has reached a status. Of a running one, the `gate` is closed."""

        async def begin() -> str:
            if "gate" in inputs:
                gates[inputs["gate"]] = anyio.Event()
            return await started(self.runner, status, **inputs)

        return self.call(begin())

    def open(self, gate: str) -> None:
        """Let the runs at a gate continue."""

        async def set_it() -> None:
            gates[gate].set()

        self.call(set_it())

    def wait(self, run_id: str, status: str) -> None:
        """Wait until a run has a status."""
        self.call(reached(self.runner, run_id, status))
