"""Two workers of uvicorn whose database is away when they start, and when one of them is killed and started again."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import Server

APP = """
import os
from asyncflow import Flow, FlowRunner, start
from asyncflow.integrations.fastapi import flow_router, lifespan
from asyncflow.persistence.postgres import PostgresFlowPersistence, persistence
from fastapi import FastAPI

class Short(Flow):
    @start()
    async def only(self) -> int:
        return 1

persistence.BUSY_SECONDS = 0.2  # a worker waits for so long before it begins without its database
runner = FlowRunner(PostgresFlowPersistence(os.environ["CONNINFO"], schema=os.environ["SCHEMA"]), flows=[Short], grace=0.2)
app = FastAPI(lifespan=lifespan(runner))
app.include_router(flow_router(runner, [Short]))

@app.get("/state")
async def state() -> tuple[int, bool]:
    return os.getpid(), runner.is_open
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it kills a worker, and looks for the next one")


@pytest.fixture
def stopped(private_server: Server) -> Iterator[Server]:
    private_server.stop()
    yield private_server
    if not private_server.is_running:
        private_server.start()


@pytest.fixture
def service(stopped: Server, schema: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """uvicorn with two workers, and its address."""
    (tmp_path / "served.py").write_text(APP)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "CONNINFO": stopped.conninfo, "SCHEMA": schema, "PYTHONPATH": path}
    command = f"uvicorn served:app --workers 2 --timeout-graceful-shutdown 1 --log-level critical --port {port}"
    process = subprocess.Popen([sys.executable, "-m", *command.split()], cwd=tmp_path, env=env, start_new_session=True)
    yield process, f"http://127.0.0.1:{port}"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def asked(url: str, path: str, method: str = "GET") -> tuple[int, Any] | None:
    """Status and JSON of an answer of one of the workers, on a connection of its own; None if there is none."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, method=method), timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    except OSError:  # none has begun, or it was killed
        return None


def until_both(url: str, *, are_open: bool, but: int = 0) -> set[int]:
    """Wait until two workers answer, neither of them the one that was killed, and both runners are open, or both are not."""
    until = time.monotonic() + 120
    known: dict[int, bool] = {}
    while len(known) < 2 or {*known.values()} != {are_open}:
        assert time.monotonic() < until, known
        answer = asked(url, "/state")
        if answer is None:
            time.sleep(0.05)
        elif answer[1][0] != but:
            known[answer[1][0]] = answer[1][1]
    return {*known}


@pytest.mark.found("D7")
def test_workers_outlive_a_database_that_is_away_and_a_worker_that_is_killed_meanwhile(
    stopped: Server, service: tuple[subprocess.Popen[bytes], str]
) -> None:
    process, url = service
    victim = min(until_both(url, are_open=False))
    os.kill(victim, signal.SIGKILL)
    until_both(url, are_open=False, but=victim)
    away = [asked(url, "/readyz"), asked(url, "/flows/Short", "POST")]
    assert process.poll() is None

    stopped.start()
    until_both(url, are_open=True, but=victim)
    ready, begun = asked(url, "/readyz"), asked(url, "/flows/Short?wait=60", "POST")
    process.send_signal(signal.SIGTERM)

    assert [answer and answer[0] for answer in away] == [503, 503]
    assert ready == (200, {"status": "ready"})
    assert begun is not None
    assert (begun[0], begun[1]["result"]) == (200, 1)
    assert process.wait(60) in (0, -signal.SIGTERM)
