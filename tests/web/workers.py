"""Processes of an example's service under uvicorn, on one SQLite file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import httpx2

ROOT = Path(__file__).parents[2]


class Worker:
    """A process that serves an application, such as `examples.approval_service:app`, with its database in `folder`."""

    def __init__(self, folder: Path, app: str, **env: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = {**os.environ, "ASYNCFLOW_DB": str(folder / "runs.db"), "PYTHONPATH": str(ROOT), **env}
        command = (sys.executable, "-m", "uvicorn", app, "--port", str(port))
        self.process = subprocess.Popen([*command, "--log-level", "error"], env=env, cwd=folder)
        self.url = f"http://127.0.0.1:{port}"

    async def ready(self, http: httpx2.AsyncClient) -> None:
        with anyio.fail_after(120):
            while True:
                assert self.process.poll() is None, f"the worker ended with exit code {self.process.returncode}"
                with suppress(httpx2.HTTPError):
                    if (await http.get(f"{self.url}/readyz")).status_code == 200:
                        return
                await anyio.sleep(0.02)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
