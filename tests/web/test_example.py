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
GOING_ON = ("running", "interrupted")
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
    assert large["result"] == {"total": "225.00", "parcel": "none: please call us first"}


UVICORN = (
    "uvicorn examples.fastapi_app:app --workers 2 --timeout-graceful-shutdown 1 --log-level critical --port {port}"
)
"""The command of the guide's page on FastAPI, on a free port."""
HYPERCORN = "hypercorn examples.fastapi_app:app --worker-class trio --graceful-timeout 1 --bind 127.0.0.1:{port}"


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The example, served by a command, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving([sys.executable, "-m", *request.param.format(port=port).split()]) as process:
        yield process, f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def serving(command: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A server, and its workers, which outlive a killed one: all are ended."""
    env = {**os.environ, "SHOP_SECONDS": "0.4", "ASYNCFLOW_DB": str(Path.cwd() / "shop.db")}
    process = subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def asked(method: str, url: str, **options: Any) -> httpx2.Response:
    """A client that tries again: its worker may have been killed, or not have begun."""
    until = time.monotonic() + 60
    while True:
        try:
            return httpx2.request(method, url, headers={**KEY, **options.pop("headers", {})}, **options)
        except httpx2.TransportError:
            assert time.monotonic() < until
            time.sleep(0.05)


def result(url: str) -> Any:
    """What a run ends with."""
    while (run := asked("GET", url).json())["status"] in GOING_ON:
        time.sleep(0.05)
    return run["result"]


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.skipif(sys.platform != "linux", reason="it looks for the workers in /proc")
@pytest.mark.parametrize("server", [UVICORN], indirect=True)
def test_orders_outlive_a_worker(server: tuple[subprocess.Popen[bytes], str]) -> None:
    process, url = server
    assert asked("GET", f"{url}/readyz").status_code == 200
    places = [asked("POST", f"{url}/flows/PlaceOrder", json=order()).headers["location"] for _ in range(6)]
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    ended = [result(url + place) for place in places]
    process.send_signal(signal.SIGTERM)

    assert ended == [{"total": "9.00", "parcel": "parcel for Ada"}] * 6
    assert process.wait(20) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("server", [HYPERCORN], indirect=True)
def test_on_trio_a_server_runs_orders_streams_their_events_and_resumes_them(
    server: tuple[subprocess.Popen[bytes], str],
) -> None:
    process, url = server
    first = asked("POST", f"{url}/flows/PlaceOrder?wait=20", json=order()).json()
    place = asked("POST", f"{url}/flows/PlaceOrder", json=order()).headers["location"]
    with httpx2.stream("GET", f"{url}{place}/events", headers=KEY, timeout=120) as stream:
        events = [line for line in stream.iter_lines() if line.startswith("data:")]
    left = [asked("POST", f"{url}/flows/PlaceOrder", json=order()).headers["location"] for _ in range(3)]
    process.send_signal(signal.SIGTERM)
    ended = process.wait(20)
    with serving(process.args):
        results = [result(url + place) for place in left]

    assert first["result"] == {"total": "9.00", "parcel": "parcel for Ada"}
    assert len(events) >= 4
    assert ended == 0
    assert results == [{"total": "9.00", "parcel": "parcel for Ada"}] * 3
