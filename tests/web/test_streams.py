"""A run's events as they come: streamed, resumed after the last one seen, and left by clients that go away."""

import gc
import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from shop import Serve, Service, gate, gates
from starlette.requests import ClientDisconnect

from asyncflow import MemoryFlowPersistence, SQLiteFlowPersistence, events
from asyncflow.persistence import Checkpoint

IDS = ["0.0", "1.0", "2.0", "2.1"]
ALL = ["RunStarted", "MethodFinished", "MethodFinished", "RunFinished"]


class Client:
    """One request of raw ASGI, whose answer is seen piece by piece, and whose connection can be cut."""

    def __init__(
        self, service: Service, path: str, method: str = "GET", query: str = "", body: bytes = b"", **headers: str
    ):
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.app = service.app
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [*sent, (b"content-type", b"application/json")],
            "server": ("x", 80),
            "client": ("y", 1),
        }
        self.gone = anyio.Event()
        self.status = 0
        self.text = ""
        self.news = anyio.Event()
        self._body = body
        self._has_sent = False

    async def __call__(self) -> None:
        await self.app(self.scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if not self._has_sent:
            self._has_sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if self.gone.is_set() and self.scope["asgi"]["spec_version"] == "2.4":
            raise OSError("the client has gone")
        self.status = message.get("status", self.status)
        self.text += message.get("body", b"").decode()
        self.news.set()
        self.news = anyio.Event()
        await anyio.lowlevel.checkpoint()

    async def has(self, what: str) -> None:
        with anyio.fail_after(120):
            while what not in self.text:
                await self.news.wait()


def told(text: str) -> list[dict[str, str]]:
    """The events of a stream."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def name(event: dict[str, str]) -> str:
    """What a listener of all messages knows an event by."""
    assert "event" not in event, "a browser's onmessage hears only events without a name"
    named: str = json.loads(event["data"])["event"]
    return named


def stored(text: str) -> list[dict[str, str]]:
    """The stored events of a stream: those with an id."""
    return [event for event in told(text) if "id" in event]


async def test_a_stream_sends_all_events_and_ends_with_the_run(serve: Serve) -> None:
    async with serve() as service:
        answer = await service.order("?wait=5")
        stream = await service.http.get(f"{answer.headers['location']}/events")

    events = told(stream.text)
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert [name(event) for event in events] == ALL
    assert [event["id"] for event in events] == IDS
    data = json.loads(events[1]["data"])
    assert data.pop("at")
    assert data == {
        "event": "MethodFinished",
        "run_id": answer.json()["run_id"],
        "flow": "Order",
        "seq": 1,
        "n": 0,
        "invocation": "price:1",
        "enabled": ["ship:1"],
    }


@pytest.mark.found("T18")
async def test_one_listener_hears_every_event_and_those_who_ask_hear_them_by_name(serve: Serve) -> None:
    async with serve() as service:
        where = (await service.order("?wait=5", fails=True)).headers["location"]
        plain = told((await service.http.get(f"{where}/events")).text)
        named = told((await service.http.get(f"{where}/events?named=true")).text)

    names = ["RunStarted", "MethodFinished", "MethodFailed", "RunFailed"]
    assert [name(event) for event in plain] == names
    assert [event.pop("event") for event in named] == names
    assert named == plain
    assert json.loads(plain[2]["data"])["type"] == "builtins.LookupError"


async def test_a_stream_sends_each_event_when_it_occurs(serve: Serve) -> None:
    gate("g")
    async with serve() as service:
        where = (await service.order(gate="g")).headers["location"]
        client = Client(service, f"{where}/events")
        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                group.start_soon(client)
                await client.has("RunStarted")
                assert "MethodFinished" not in client.text
                gates["g"].set()

    assert [name(event) for event in stored(client.text)] == ALL


@pytest.mark.parametrize("seen", range(1, 4))
async def test_a_client_that_reconnects_gets_the_rest(serve: Serve, seen: int) -> None:
    async with serve() as service:
        where = (await service.order("?wait=5")).headers["location"]
        stream = await service.http.get(f"{where}/events", headers={"Last-Event-ID": IDS[seen - 1]})

    assert [event["id"] for event in told(stream.text)] == IDS[seen:]


@pytest.mark.parametrize("last", [IDS[-1], "2.7", "99.0", "999999999999999.999999999"])
async def test_a_client_that_has_received_all_events_gets_204(serve: Serve, last: str) -> None:
    async with serve() as service:
        where = (await service.order("?wait=5")).headers["location"]
        stream = await service.http.get(f"{where}/events", headers={"Last-Event-ID": last})

    assert (stream.status_code, stream.content) == (204, b"")


@pytest.mark.parametrize("last", ["", "x", "1", "1.", ".1", "-1.0", "1.0.0", "1" * 16 + ".0"])
async def test_an_event_id_that_was_never_given_is_refused(serve: Serve, last: str) -> None:
    async with serve() as service:
        where = (await service.order("?wait=5")).headers["location"]
        client = Client(service, f"{where}/events", **{"last-event-id": last})
        await client()

    assert client.status == 422


async def test_a_client_reconnects_while_the_run_continues(serve: Serve) -> None:
    gate("g")
    async with serve() as service:
        where = (await service.order(gate="g")).headers["location"]
        first, second = (
            Client(service, f"{where}/events"),
            Client(service, f"{where}/events", **{"last-event-id": "0.0"}),
        )
        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                group.start_soon(first)
                await first.has("RunStarted")
                first.gone.set()
            async with anyio.create_task_group() as group:
                group.start_soon(second)
                gates["g"].set()

    assert [event["id"] for event in stored(first.text + second.text)] == IDS


async def test_a_stream_of_a_run_that_another_process_drives_ends_with_it(serve: Serve) -> None:
    gate("g")
    storage = SQLiteFlowPersistence("runs.db", durability="process")
    async with serve(storage) as one, serve(SQLiteFlowPersistence("runs.db")) as other:
        where = (await one.order(gate="g")).headers["location"]
        client = Client(other, f"{where}/events")
        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                group.start_soon(client)
                await client.has("RunStarted")
                gates["g"].set()

    assert [event["id"] for event in told(client.text)] == IDS


# ---- clients that go away --------------------------------------------------------------------------------------------


class Counting(MemoryFlowPersistence):
    """Counts how often its histories are read."""

    reads = 0

    async def history(self, run_id: str, *, after: int = -1) -> list[Checkpoint]:
        self.reads += 1
        return await super().history(run_id, after=after)


async def settled(count: Callable[[], int]) -> int:
    """The value at which a count settles."""
    last = -1
    while last != count():
        last = count()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
    return last


@pytest.mark.filterwarnings(
    "ignore:Async generator 'fastapi.routing:ResourceWarning"
)  # FastAPI's own, which trio reports
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_client_of_a_stream_that_goes_away_leaves_nothing_behind(
    serve: Serve, spec_version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the newer specification a server reports it when something is sent: at the next event, or the next ping."""
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.01)
    gate("g")
    async with serve(Counting()) as service:
        where = (await service.order(gate="g")).headers["location"]
        before = await settled(lambda: len(anyio.get_running_tasks()))
        for _ in range(3):
            client = Client(service, f"{where}/events")
            client.scope["asgi"]["spec_version"] = spec_version
            with anyio.fail_after(120):
                async with anyio.create_task_group() as group:
                    group.start_soon(_left, client)
                    await client.has("RunStarted")
                    client.gone.set()

        assert await settled(lambda: len(anyio.get_running_tasks())) == before
        gates["g"].set()
        assert (await service.ended(where))["status"] == "finished"
        gc.collect()


async def _left(client: Client) -> None:
    try:
        await client()
    except* ClientDisconnect:
        pass


async def test_a_client_that_waits_and_goes_away_leaves_the_run_and_nothing_else(serve: Serve) -> None:
    gate("g")
    async with serve() as service:
        before = await settled(lambda: len(anyio.get_running_tasks()))
        body = json.dumps({"item": "tea", "gate": "g"}).encode()
        client = Client(service, "/flows/Order", "POST", "wait=60", body)
        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                group.start_soon(client)
                while not service.runner.running:  # noqa: ASYNC110 - no event to wait for
                    await anyio.sleep(0.001)
                client.gone.set()
        assert await settled(lambda: len(anyio.get_running_tasks())) == before + 1  # the run's own
        gates["g"].set()
        where = f"/runs/{json.loads(client.text)['run_id']}"
        assert (await service.ended(where))["status"] == "finished"


def test_the_guide_lists_every_event_with_its_fields() -> None:
    named = {getattr(events, name) for name in events.__all__} - {events.Event}
    sent = {each for each in named if issubclass(each, events.Event)}
    common = {field.name for field in fields(events.Event)}
    page = Path(__file__, "../../../examples/guide/events.md").resolve().read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[A-Z]\w+`(?:, )?)+) \| (.*) \|$", page.partition("## All events")[2], re.MULTILINE)
    listed = {name: set(re.findall(r"`(\w+)`", told)) for names, told in rows for name in re.findall(r"`(\w+)`", names)}

    assert listed.keys() == {event.__name__ for event in sent}
    for event in sent:
        assert {field.name for field in fields(event)} - common <= listed[event.__name__], event
    live = set(re.findall(r"^\| `(\w+)` \| live", page, re.MULTILINE))
    assert live == set(re.findall(r"\w+", str(events.__doc__).partition("live     ")[2].partition(";")[0]))
