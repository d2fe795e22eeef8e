"""The inspector's streams of events: resumed, left by their clients, ended by their server."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from press import CANARY, Count, Publish, gates, reached, running, started, visited

from asyncflow import MemoryFlowPersistence, SQLiteFlowPersistence, errors
from asyncflow.events import Streamed
from asyncflow.integrations.inspector import streaming
from asyncflow.integrations.inspector.app import application, make_site

ROOT = Path(__file__).parents[2]


def told(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The ids and the data of a stream's events."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines and "event" not in lines:
            found.append((lines.get("id", ""), json.loads(lines["data"])))
    return found


async def test_a_stream_has_the_events_of_a_run_and_continues_after_the_last_one(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = (await runner.start(Count)).run_id
        await reached(runner, run_id, "finished")
    async with visited(storage) as at:
        whole = await at.get("run/events", id=run_id)
        rest = await at.get("run/events", id=run_id, headers={"Last-Event-ID": "1.0"})
        none = await at.get("run/events", id=run_id, after="99.0")

    events = told(whole.text)
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert [(place, event["event"]) for place, event in events] == [
        ("0.0", "RunStarted"),
        ("1.0", "MethodFinished"),
        ("2.0", "MethodFinished"),
        ("2.1", "RunFinished"),
    ]
    assert told(rest.text) == events[2:]
    assert told(none.text) == []
    assert whole.text.endswith("event: end\ndata: {}\n\n")


@pytest.mark.parametrize("last", ["x", "1", "1.", ".1", "1.0.0", "99999999999999999999999999.0", "1.-1", CANARY])
async def test_an_unknown_place_in_a_stream_is_refused(last: str) -> None:
    storage = MemoryFlowPersistence()
    async with running(storage) as runner:
        run_id = (await runner.start(Count)).run_id
        async with visited(storage) as at:
            answer = await at.get("run/events", id=run_id, after=last)

    assert answer.status_code == 400


class Secretive:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("tok\u202een", "tok\\u202een"),
        (1.5, 1.5),
        (float("nan"), None),
        (None, None),
        (True, True),
        ({"a": [1, None]}, '{"a": [1, null]}'),
        ({"a": float("nan")}, "{'a': nan}"),
        ([float("inf")], "[inf]"),
        ({1, 2}, "{1, 2}"),
        (Secretive(), "<Secretive>"),
    ],
)
def test_whatever_a_method_emits_is_a_line_of_json(value: Any, shown: Any) -> None:
    emitted = Streamed(run_id="x", flow="F", seq=-1, n=1, at=0.0, invocation="a:1", value=value)
    ((place, event),) = told(streaming._sent(emitted, None))

    assert place == ""
    assert event["value"] == shown


def test_a_large_value_is_cut() -> None:
    emitted = Streamed(run_id="x", flow="F", seq=-1, n=1, at=0.0, invocation="a:1", value={"a": "x" * 1_000_000})

    assert len(streaming._sent(emitted, None)) < 3_000


class Watching:
    """A client of a stream: it reads pieces as they come, or does not, and goes when it likes."""

    def __init__(self, site: Any, run_id: str) -> None:
        self.app, self.run_id = application(site), run_id
        self.text, self.gone, self.may_read = "", anyio.Event(), True
        self.sends = 0

    async def __call__(self) -> None:
        headers = [(b"host", b"127.0.0.1")]
        scope = {"type": "http", "method": "GET", "path": "/run/events", "headers": headers, "client": ("127.0.0.1", 1)}
        query = f"id={self.run_id}".encode()
        given = {**scope, "query_string": query, "root_path": "", "scheme": "http", "server": ("127.0.0.1", 80)}
        await self.app(given, self._receive, self._send)  # type: ignore[arg-type]

    async def _receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sends += 1
        self.text += message.get("body", b"").decode()
        if not self.may_read:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()

    async def has(self, what: str) -> None:
        with anyio.fail_after(60):
            while what not in self.text:  # noqa: ASYNC110 - no event to wait for
                await anyio.sleep(0.005)


async def test_a_stream_follows_a_live_run_and_its_methods(storage: Any) -> None:
    gates["g"] = anyio.Event()
    async with running(storage) as runner, anyio.create_task_group() as group:
        run_id = (await runner.start(Publish, {"title": "tea", "gate": "g"})).run_id
        site = make_site(storage, [Publish], runner=runner)
        watching = Watching(site, run_id)
        group.start_soon(watching)
        await watching.has("RunStarted")
        gates["g"].set()
        await watching.has('"MethodFinished"')
        await watching.has('"MethodStarted"')
        watching.gone.set()

    events = told(watching.text)
    assert [place for place, event in events if event["event"] == "MethodStarted"] == [""], "live ones have no id"
    assert site.streams == set()


async def test_a_client_that_goes_ends_its_stream(storage: Any) -> None:
    async with running(storage) as runner, anyio.create_task_group() as group:
        site = make_site(storage, [Publish])
        watching = Watching(site, await started(runner, "waiting"))
        group.start_soon(watching)
        await watching.has("RunStarted")
        assert len(site.streams) == 1
        watching.gone.set()

    assert site.streams == set()


async def test_a_server_that_reports_a_client_that_has_gone_ends_the_stream(storage: Any) -> None:
    class Gone(Watching):
        async def _send(self, message: Any) -> None:
            await super()._send(message)
            if "RunStarted" in self.text:
                raise OSError("the client has gone")  # as servers of ASGI 2.4 do

    async with running(storage) as runner:
        site = make_site(storage, [Publish])
        watching = Gone(site, await started(runner, "waiting"))
        with anyio.fail_after(60):
            await watching()

    assert site.streams == set()


async def test_a_client_that_does_not_read_holds_one_event_and_may_go(storage: Any) -> None:
    async with running(storage) as runner, anyio.create_task_group() as group:
        site = make_site(storage, [Publish])
        watching = Watching(site, await started(runner, "waiting"))
        watching.may_read = False
        group.start_soon(watching)
        with anyio.fail_after(60):
            while not watching.sends:  # noqa: ASYNC110 - no event to wait for
                await anyio.sleep(0.005)
        await anyio.sleep(0.1)
        assert watching.sends == 1
        watching.gone.set()


async def test_the_end_of_the_server_ends_streams(storage: Any) -> None:
    async with running(storage) as runner, anyio.create_task_group() as group:
        site = make_site(storage, [Publish])
        run_id = await started(runner, "waiting")
        watching, late = Watching(site, run_id), Watching(site, run_id)
        group.start_soon(watching)
        await watching.has("RunStarted")
        site.end_streams()
        group.start_soon(late)

    assert "event: end" not in watching.text, "so the browser reconnects"
    assert told(late.text) == []


async def test_a_stream_ends_after_a_time_so_that_a_server_can_shut_down(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "LONGEST", 0.3)
    async with running(storage) as runner:
        watching = Watching(make_site(storage, [Publish]), await started(runner, "waiting"))
        with anyio.fail_after(60):
            await watching()

    assert "RunStarted" in watching.text
    assert "event: end" not in watching.text


async def test_a_quiet_stream_has_comments(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "LONGEST", 0.5)
    monkeypatch.setattr(streaming, "BEAT", 0.1)
    async with running(storage) as runner:
        watching = Watching(make_site(storage, [Publish]), await started(runner, "waiting"))
        with anyio.fail_after(60):
            await watching()

    assert (
        1 <= watching.text.count(": the stream is open\n\n") <= 5
    )  # one each 0.1 s, as far as the machine is quick enough


async def test_nothing_follows_the_end_of_a_stream(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Watching):
        ended = False

        async def _send(self, message: Any) -> None:
            assert not self.ended, "servers of ASGI raise an error, and log it"
            self.ended = message.get("more_body") is False
            if self.ended:
                await anyio.sleep(0.2)

    monkeypatch.setattr(streaming, "LONGEST", 0.1)
    monkeypatch.setattr(streaming, "BEAT", 0.03)
    async with running(storage) as runner:
        watching = Slow(make_site(storage, [Publish]), await started(runner, "waiting"))
        await watching()

    assert watching.ended


@pytest.mark.parametrize(
    ("error", "has_end"),
    [
        (errors.CheckpointCorruptError("damaged"), True),
        (errors.RunNotFoundError("deleted"), True),
        (errors.CapabilityMissingError("no history", capability="CheckpointHistory"), True),
        (errors.StorageBusyError("locked"), False),
        (errors.StorageUnreachableError("away"), False),
    ],
)
async def test_a_stream_that_cannot_be_read_is_asked_for_again_only_where_that_may_help(
    error: Exception, has_end: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def events(*_: Any, **__: Any) -> Any:
        raise error
        yield

    monkeypatch.setattr(streaming, "follow", events)
    storage = MemoryFlowPersistence()
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
    async with visited(storage) as at:
        answer = await at.get("run/events", id=run_id)

    assert answer.status_code == 200
    assert ("event: end" in answer.text) == has_end


# ---- a server of its own ------------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
sys.path[:0] = [{folder!r}, {root!r}]
from press import Count, Publish
from asyncflow import SQLiteFlowPersistence
from asyncflow.integrations.inspector import serve
serve(SQLiteFlowPersistence(sys.argv[1]), [Publish, Count], port=0, actions=True, on_ready=lambda url: print(url, flush=True))
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_server_of_its_own_resumes_runs_and_ends_at_once(tmp_path: Path) -> None:
    storage = SQLiteFlowPersistence(tmp_path / "runs.db")
    async with running(storage) as runner:
        waiting = await started(runner, "waiting")
        failed = await started(runner, "failed", fails=True)
    code = PROGRAM.format(folder=str(Path(__file__).parent), root=str(ROOT))
    process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
        [sys.executable, "-c", code, str(tmp_path / "runs.db")], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert process.stdout is not None
        url = (await anyio.to_thread.run_sync(process.stdout.readline)).strip()
        assert url.startswith("http://127.0.0.1:")
        own = {"Origin": url.rstrip("/")}
        async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
            page = await http.get("/")
            kept = await http.post("/run/edit", data={"id": failed, "field": "fails", "value": "false"}, headers=own)
            resumed = await http.post("/run/retry", data={"id": failed}, headers=own)
            with anyio.fail_after(60):
                while 'class="badge waiting"' not in (await http.get("/run", params={"id": failed})).text:  # noqa: ASYNC110 - it polls
                    await anyio.sleep(0.05)
            async with http.stream("GET", "/run/events", params={"id": waiting}) as stream:
                async for line in stream.aiter_lines():
                    if "RunStarted" in line:
                        break
                process.send_signal(signal.SIGTERM)
                begun = anyio.current_time()
                await anyio.to_thread.run_sync(process.wait)
                seconds = anyio.current_time() - begun
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

    assert (page.status_code, kept.status_code, resumed.status_code) == (200, 303, 303)
    assert failed in page.text
    assert seconds < 3


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_a_server_that_others_reach_needs_authorize(host: str) -> None:
    from asyncflow.errors import ArgumentsError
    from asyncflow.integrations.inspector import serve

    with pytest.raises(ArgumentsError, match="without authorize="):
        serve(MemoryFlowPersistence(), host=host)


def test_a_port_that_is_in_use_is_an_os_error() -> None:
    from asyncflow.integrations.inspector import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            serve(MemoryFlowPersistence(), port=taken.getsockname()[1])
