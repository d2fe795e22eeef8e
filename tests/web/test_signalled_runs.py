"""Signals over HTTP: who may send which, what a client is answered, and what a run waits for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import anyio
import httpx2
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel, Field, field_validator

from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MemoryFlowPersistence,
    Signal,
    after,
    and_,
    listen,
    or_,
    router,
    start,
)
from asyncflow.integrations.fastapi import Action, action_of, flow_router, lifespan
from asyncflow.persistence import NewSignal


class Decision(BaseModel):
    ok: bool
    until: datetime | None = Field(None, alias="validUntil")


class Letter(FlowState):
    to: str = "Ada"


class Publish(Flow[Letter]):
    decided = Signal("decided", Decision)
    hidden = Signal("hidden")
    refused = Signal("refused", int, early="refuse")

    @start()
    async def draft(self) -> str:
        return f"Dear {self.state.to}"

    @listen(or_(and_(draft, decided), after(draft, timedelta(days=2))))
    async def publish(self, decided: Decision | None = None) -> str:
        return "late" if decided is None else f"{decided.ok} {decided.until}"

    @router(draft, emit=["ghost"])
    async def choose(self) -> None: ...

    @listen(and_("ghost", refused))
    async def never(self) -> None: ...


class Service:
    def __init__(self, http: httpx2.AsyncClient, runner: FlowRunner, app: FastAPI) -> None:
        self.http, self.runner, self.app = http, runner, app
        self.where = ""

    async def begin(self) -> str:
        """Start a run, and return its address once it waits."""
        self.where = (await self.http.post("/flows/Publish", json={})).headers["location"]
        with anyio.fail_after(60):
            while not (await self.run())["waits_for"]:  # noqa: ASYNC110 - no event reports it
                await anyio.sleep(0.002)
        return self.where

    async def run(self) -> dict[str, Any]:
        shown: dict[str, Any] = (await self.http.get(self.where)).json()
        return shown

    async def send(self, name: str = "decided", key: str | None = None, **content: Any) -> httpx2.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.http.post(f"{self.where}/signals/{name}", headers=headers, **content)


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[Service]:
    runner = FlowRunner(MemoryFlowPersistence(), grace=0, patience=1)
    app = FastAPI(lifespan=lifespan(runner))
    options = {"signals": [Publish.decided, "refused"], **options}
    app.include_router(flow_router(runner, [Publish], **options))
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://x", headers={"user": "ada"}) as http,
    ):
        yield Service(http, runner, app)


async def test_a_signal_is_accepted_once_under_a_key() -> None:
    async with served() as service:
        await service.begin()
        body = {"ok": True, "validUntil": "2026-12-24T12:00:00Z"}
        first = await service.send(json=body, key="click")
        again = await service.send(json=body, key="click")
        other = await service.send(json={"ok": False}, key="click")

        assert (first.status_code, first.json()["is_new"]) == (202, True)
        assert (again.status_code, again.json()["is_new"]) == (200, False)
        assert (other.status_code, other.json()["detail"]) == (
            409,
            "The run has another signal with this Idempotency-Key. Send the same one, or another key.",
        )
        with anyio.fail_after(60):
            while (await service.run())["status"] != "finished":  # noqa: ASYNC110 - no event reports it
                await anyio.sleep(0.002)
        assert (await service.run())["result"] == "True 2026-12-24 12:00:00+00:00"
        ended = await service.send(json=body)
        assert (ended.status_code, ended.json()["detail"]) == (409, "The run has ended, and takes no signals.")
        assert (await service.send(json=body, key="click")).status_code == 200


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"json": {"ok": "perhaps"}}, ["body", "ok"]),
        ({"json": {}}, ["body", "ok"]),
        ({"content": b"{"}, ["body"]),
        ({"content": b""}, ["body"]),
        ({"content": b"NaN"}, ["body"]),
        ({"content": b"\xff"}, ["body"]),
    ],
)
async def test_a_payload_that_does_not_fit_is_a_422_that_names_the_place_and_no_value(
    content: Any, place: list[str]
) -> None:
    async with served() as service:
        await service.begin()
        refused = await service.send(**content)

    assert refused.status_code == 422
    (fault,) = refused.json()["detail"]
    assert fault["loc"] == place
    assert "perhaps" not in refused.text


class Line(BaseModel):
    count: int


class Cash(BaseModel):
    kind: Literal["cash"]


class Card(BaseModel):
    kind: Literal["card"]


class Order(BaseModel):
    lines: list[Line]
    more: dict[str, int] = {}
    paid: Annotated[Cash | Card, Field(discriminator="kind")] | None = None
    coupon: str = ""
    breaks: bool = False

    @field_validator("coupon")
    @classmethod
    def is_valid(cls, coupon: str) -> str:
        if coupon:
            raise ValueError(f"{coupon} is not valid")
        return coupon

    @field_validator("breaks")
    @classmethod
    def is_whole(cls, breaks: bool) -> bool:
        if breaks:
            raise KeyError("SECRET")
        return breaks


class Shop(Flow[dict]):
    ordered = Signal("ordered", Order)

    @start()
    async def open(self) -> None: ...

    @listen(and_(open, ordered))
    async def ship(self, ordered: Order) -> int:
        return len(ordered.lines)


async def refused_order(body: Any) -> Any:
    async with served() as service:
        service.app.include_router(flow_router(service.runner, [Shop], signals=[Shop.ordered], prefix="/shop"))
        service.where = (await service.http.post("/shop/flows/Shop")).headers["location"]
        refused = await service.send("ordered", json=body)
    assert refused.status_code == 422
    assert "SECRET" not in refused.text
    return refused.json()["detail"]


async def test_each_fault_of_a_payload_is_an_entry_with_its_own_message_and_place() -> None:
    number = "Input should be a valid integer, unable to parse string as an integer"
    faults = await refused_order(
        {
            "lines": [{"count": 1}, {"count": "SECRET"}],
            "more": {"a.b": "SECRET", "0": "SECRET"},
            "paid": {"kind": "SECRET"},
            "coupon": "SECRET",
        }
    )

    assert all(fault.keys() == {"type", "loc", "msg", "input"} and fault["input"] is None for fault in faults)
    assert [(fault["type"], fault["loc"], fault["msg"]) for fault in faults] == [
        ("int_parsing", ["body", "lines", 1, "count"], number),
        ("int_parsing", ["body", "more", "a.b"], number),
        ("int_parsing", ["body", "more", "0"], number),
        ("union_tag_invalid", ["body", "paid"], "union_tag_invalid"),
        ("value_error", ["body", "coupon"], "value_error"),
    ]


async def test_a_payload_whose_own_code_raises_is_a_422_without_the_value() -> None:
    (fault,) = await refused_order({"lines": [], "breaks": True})

    assert (fault["loc"], fault["msg"]) == (["body"], "its own code raised KeyError")


async def test_only_the_listed_signals_of_a_run_that_is_there_can_be_sent() -> None:
    async with served() as service:
        where = await service.begin()
        for name in ("hidden", "unknown", "decide"):
            refused = await service.send(name, json=None)
            assert (refused.status_code, refused.json()["detail"][:15]) == (404, "No such signal:")
        service.where = "/runs/unknown"
        assert (await service.send(json={"ok": True})).status_code == 404
        assert f"{where}/signals" not in str(service.app.openapi())
        assert "/runs/{run_id}/signals/{name}" in service.app.openapi()["paths"]


@pytest.mark.parametrize("signals", [["ghost"], ["decided", "ghost"], [Signal("ghost", Decision)]])
def test_a_signal_that_no_flow_declares_cannot_be_served(signals: list[Any]) -> None:
    with pytest.raises(
        ValueError, match=r"signal 'ghost': none of its flows declares it\. Known: decided, hidden, refused"
    ):
        flow_router(FlowRunner(MemoryFlowPersistence()), [Publish], signals=signals)


@pytest.mark.parametrize("signal", [Signal("decided", int), Signal("decided", Decision, early="refuse")])
def test_a_signal_that_the_flows_declare_otherwise_cannot_be_served(signal: Signal[Any]) -> None:
    with pytest.raises(
        ValueError, match="signal 'decided': its flows declare it with another payload, or another `early`"
    ):
        flow_router(FlowRunner(MemoryFlowPersistence()), [Publish], signals=[signal])


async def test_without_signals_there_is_no_route() -> None:
    async with served(signals=()) as service:
        await service.begin()
        assert (await service.send(json={"ok": True})).status_code in (404, 405)
        assert not any("signals" in path for path in service.app.openapi()["paths"])


async def test_a_signal_that_nothing_waits_for_is_a_409_and_a_large_one_a_413() -> None:
    async with served() as service:
        await service.begin()
        early = await service.send("refused", json=3)
        large = await service.send(content=b'{"ok": true, "x": "' + b"x" * 65_536 + b'"}')

    assert (early.status_code, early.json()["detail"]) == (
        409,
        "Nothing waits for this signal now. Send it when `waits_for` of the run has it.",
    )
    assert large.status_code == 413


async def test_a_full_inbox_is_a_429() -> None:
    async with served(signals=["decided"]) as service:
        await service.begin()
        run_id = service.where.rpartition("/")[2]
        inbox: Any = service.runner.persistence
        for n in range(1_000):
            inbox._inbox.add(run_id, NewSignal("hidden", b"null", f"k{n}", "", 0.0))
        assert (await service.send(json={"ok": True})).status_code == 429


async def test_a_run_shows_the_signals_and_the_time_that_it_waits_for() -> None:
    async with served() as service:
        await service.begin()
        shown = await service.run()

        assert shown["waits_for"] == ["decided"]
        left = datetime.fromisoformat(shown["due_at"]) - datetime.now(UTC)
        assert timedelta(days=1) < left < timedelta(days=2)
        await service.http.post(f"{service.where}/cancel")
        ended = await service.run()
        assert (ended["waits_for"], ended["due_at"]) == ([], None)


@pytest.mark.parametrize("wait", ["", "?wait=0.2"])
async def test_a_run_that_waits_is_parked_again_after_a_resume(wait: str) -> None:
    async with served() as service:
        await service.begin()
        with anyio.fail_after(60):
            while (before := await service.run())["status"] != "waiting":  # noqa: ASYNC110 - no event reports it
                await anyio.sleep(0.002)
        resumed = await service.http.post(f"{service.where}/resume{wait}")
        with anyio.fail_after(60):
            while (now := await service.run())["status"] != "waiting":  # noqa: ASYNC110 - no event reports it
                await anyio.sleep(0.002)
        history = await service.runner.persistence.history(before["run_id"])  # type: ignore[attr-defined]

        assert resumed.status_code == 202
        assert resumed.json()["status"] in (["running", "waiting"] if wait else ["running"])
        assert now == before
        assert [row.kind for row in history] == ["started", "method", "method"]
        assert (await service.send(json={"ok": True})).status_code == 202


async def test_authorize_decides_by_action_and_names_the_sender() -> None:
    asked: list[Action] = []

    async def authorize(action: Annotated[Action, Depends(action_of)], user: Annotated[str, Header()]) -> str:
        asked.append(action)
        if action.name == "signal" and user != "boss":
            raise HTTPException(403)
        return user

    async with served(authorize=authorize) as service:
        await service.begin()
        run_id = service.where.rpartition("/")[2]
        assert (await service.send(json={"ok": True})).status_code == 403
        service.http.headers["user"] = "boss"
        assert (await service.send(json={"ok": True}, key="k")).status_code == 202
        await service.http.get("/runs")
        await service.http.post(f"{service.where}/resume")
        await service.http.post(f"{service.where}/cancel")

    assert asked[0] == Action("start", flow="Publish")
    assert Action("signal", None, run_id, "decided") in asked
    assert [action.name for action in asked[-3:]] == ["list", "resume", "cancel"]
    assert Action("read", None, run_id) in asked


async def test_each_client_has_keys_of_its_own() -> None:
    async def authorize(user: Annotated[str, Header()]) -> str:
        return user

    async with served(authorize=authorize) as service:
        where = await service.begin()
        assert (await service.send(json={"ok": True}, key="k")).status_code == 202
        with anyio.fail_after(60):
            while (await service.run())["status"] != "finished":  # noqa: ASYNC110 - no event reports it
                await anyio.sleep(0.002)
        service.http.headers["user"] = "bob"
        assert (
            await service.send(json={"ok": True}, key="k")
        ).status_code == 409  # another signal, to a run that has ended
        assert where
