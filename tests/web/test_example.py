"""`examples/fastapi_app.py` does what it says: in this process, and with two workers, one of which is killed."""

import contextlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

ROOT = Path(__file__).parents[2]
KEY = {"X-Key": "let-me-in"}


def order(count: int = 2) -> dict[str, Any]:
    return {"customer": "Ada", "lines": [{"item": "tea", "count": count}]}


def test_an_order_is_priced_paid_and_shipped_or_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_SECONDS", "0.01")
    with TestClient(runpy.run_path(str(ROOT / "examples" / "fastapi_app.py"))["app"]) as client:
        small, large = (client.post("/flows/PlaceOrder?wait=10", json=order(n), headers=KEY).json() for n in (2, 50))
        assert client.post("/flows/PlaceOrder", json=order()).status_code in (401, 403)
        assert client.post("/flows/PlaceOrder", json=order(), headers={"X-Key": "é".encode()}).status_code == 403
        assert client.get("/readyz").status_code == 200

    assert small["result"] == {"total": "9.00", "parcel": "parcel for Ada"}
    assert small["state"]["payment"].endswith("pay:1")
    assert large["result"] == {"total": "225.00", "parcel": "none: call us first"}


@pytest.fixture
def workers() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The command of the README, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "-m",
        "uvicorn",
        "examples.fastapi_app:app",
        "--workers",
        "2",
        "--port",
        str(port),
        "--log-level",
        "critical",
    ]
    env = {**os.environ, "SHOP_SECONDS": "0.4", "ASYNCFLOW_DB": str(Path.cwd() / "shop.db")}
    process = subprocess.Popen(
        [sys.executable, *command, "--timeout-graceful-shutdown", "1"], cwd=ROOT, env=env, start_new_session=True
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers, too, should anything have failed
        process.wait(10)


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.skipif(sys.platform != "linux", reason="it looks for the workers in /proc")
def test_orders_outlive_a_worker(workers: tuple[subprocess.Popen[bytes], str]) -> None:
    process, url = workers

    def asked(method: str, path: str, **options: Any) -> httpx2.Response:
        """A client that tries again: its worker may have been killed, or not have begun."""
        until = time.monotonic() + 60
        while True:
            try:
                return httpx2.request(method, url + path, headers={**KEY, **options.pop("headers", {})}, **options)
            except httpx2.TransportError:
                assert time.monotonic() < until
                time.sleep(0.05)

    assert asked("GET", "/readyz").status_code == 200
    places = [asked("POST", "/flows/PlaceOrder", json=order()).headers["location"] for _ in range(6)]
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    ended = []
    for place in places:
        while (run := asked("GET", place).json())["status"] == "running":
            time.sleep(0.05)
        ended.append(run["result"])
    process.send_signal(signal.SIGTERM)

    assert ended == [{"total": "9.00", "parcel": "parcel for Ada"}] * 6
    assert process.wait(20) in (0, -signal.SIGTERM)
