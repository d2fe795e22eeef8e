"""`redact` of the router: what it hides is in no response, whichever route, whatever the place; and no route is without `authorize`."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any

import anyio
import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field, field_validator, model_validator
from test_streams import told

from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MemoryFlowPersistence,
    Retry,
    Signal,
    listen,
    report,
    run_child,
    start,
    step,
    stream,
    wait_for,
)
from asyncflow.integrations.fastapi import Action, action_of, flow_router, lifespan

CANARY = "hunter2"


class User(BaseModel):
    name: str = "ada"
    password: str = Field(CANARY, serialization_alias="pw")


class Login(FlowState):
    user: User = User()
    notes: list[str] = Field(["of " + CANARY])
    by_key: dict[str, Any] = Field({"deep": [{"er": CANARY}]})
    fails: bool = False
    waits: bool = False


class Leave(BaseModel):
    reason: str


class Inner(Flow):
    @start()
    async def inner(self) -> str:
        return CANARY


async def call(number: int) -> str:
    return f"{CANARY} {number}"


async def busy() -> None:
    raise LookupError(f"busy {CANARY}")


attempts: list[int] = []
go: list[anyio.Event] = []


class Enter(Flow[Login, dict[str, Any]]):
    leave = Signal("leave", Leave)

    @start()
    async def open(self) -> str:
        if go:
            await go[0].wait()
        report(1, 2, f"opens {CANARY}")
        stream({"token": CANARY})
        await step(call, 1, key=CANARY)
        await run_child(Inner)
        self.state.notes.append(CANARY)
        return CANARY

    @listen(open, retry=Retry(attempts=2, initial=0.001))
    async def enter(self) -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise LookupError(f"first {CANARY}")
        self.state.user.password = CANARY * 2
        if self.state.fails:
            raise LookupError(f"no {CANARY}")
        return CANARY

    @listen(enter, output=True)
    async def stay(self) -> dict[str, Any]:
        if self.state.waits:
            self.state.notes.append((await wait_for(self.leave, timeout=timedelta(hours=1), key=CANARY)).reason)
        return {"done": CANARY}

    @listen(enter)
    async def lag(self) -> None:
        if self.state.waits:
            await step(busy, key=CANARY, retry=Retry(attempts=2, initial=3_600))


def hide(path: tuple[str | int, ...], value: Any) -> Any:
    return value.replace(CANARY, "***") if isinstance(value, str) else value


class Guarded(FlowState):
    pin: int = 0
    secret: str = CANARY

    @model_validator(mode="after")
    def fits(self) -> "Guarded":
        if self.pin:
            raise ValueError(f"{self.pin} is not {self.secret}")
        return self


class Bolt(BaseModel):
    key: str

    @field_validator("key")
    @classmethod
    def fits(cls, key: str) -> str:
        raise ValueError(f"not {CANARY}")


class Door(Flow[Guarded]):
    bolt = Signal("bolt", Bolt)

    @start()
    async def shut(self) -> None:
        await wait_for(self.bolt)


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[tuple[httpx2.AsyncClient, FastAPI]]:
    attempts.clear()
    go.clear()
    runner = FlowRunner(MemoryFlowPersistence(), grace=0)
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, [Enter, Inner, Door], signals=[Enter.leave, Door.bolt], **options))
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://x") as http,
    ):
        yield http, app


async def bodies(http: httpx2.AsyncClient, app: FastAPI) -> dict[str, str]:
    """What all routes answer, for a run that finishes, one that fails, and one that waits."""
    found: dict[str, str] = {}
    runs: list[str] = []
    for inputs in ({"fails": True}, {"waits": True}, {}):
        attempts.clear()
        go[:] = [anyio.Event()]
        answer = await http.post("/flows/Enter", json=inputs)
        where = answer.headers["location"]
        runs.append(where)
        async with anyio.create_task_group() as group:
            if "waits" not in inputs:
                group.start_soon(keep, http, f"{where}/events", found, str(inputs))
                await anyio.sleep(0.05)
            go[0].set()
        with anyio.fail_after(60):
            while True:
                run = (await http.get(where)).json()
                if run["status"] in ("finished", "failed") or len(run["waits"]) == 2:
                    break
                await anyio.sleep(0.01)
    failed, waiting, finished = runs
    body = {"reason": CANARY}
    found["start"] = (await http.post("/flows/Enter?wait=20", json={})).text
    for n, where in enumerate(runs):
        for what in ("", "/history", "/events?live=false") if where != waiting else ("", "/history"):
            found[f"{n}{what}"] = (await http.get(f"{where}{what}")).text
    found["resume"] = (await http.post(f"{failed}/resume?wait=20")).text
    found["signal"] = (await http.post(f"{waiting}/signals/leave", json=body)).text
    found["bad signal"] = (await http.post(f"{waiting}/signals/leave", json={"raison": 1})).text
    found["cancel"] = (await http.post(f"{waiting}/cancel")).text + (await http.post(f"{finished}/cancel")).text
    found["bad start"] = (await http.post("/flows/Door", json={"pin": 1})).text
    door = (await http.post("/flows/Door", json={})).headers["location"]
    found["bad bolt"] = (await http.post(f"{door}/signals/bolt", json={"key": "x"})).text
    await http.post(f"{door}/cancel")
    await http.post("/flows/Inner", json={})
    found["list"] = (await http.get("/runs")).text
    found["children"] = (await http.get("/runs", params={"parent": failed.rpartition("/")[2]})).text
    for child in (await http.get("/runs", params={"flow": "Inner"})).json()["runs"]:
        found["child"] = (await http.get(f"/runs/{child['run_id']}")).text
    return found


async def keep(http: httpx2.AsyncClient, url: str, found: dict[str, str], name: str) -> None:
    found[f"events of {name}"] = (await http.get(url)).text


def _pattern(route: str) -> str:
    return re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(route))


SHOW_IT = {
    *("start", "resume", "child", "0", "0/history", "0/events?live=false", "1", "1/history", "2", "2/history"),
    *("2/events?live=false", "events of {}", "events of {'fails': True}"),
}
"""The responses that show values of runs."""


@pytest.mark.clauses("O4")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_redact_hides_is_in_no_response(anyio_backend: str) -> None:
    async with served() as (http, app):
        plain = await bodies(http, app)
    asked: set[str] = set()

    async def noted(request: httpx2.Request) -> None:
        asked.update(
            route for route in ACTIONS if re.fullmatch(_pattern(route), f"{request.method} {request.url.path}")
        )

    async with served(redact=hide) as (http, app):
        http.event_hooks = {"request": [noted]}
        hidden = await bodies(http, app)

    assert asked == ACTIONS.keys(), "each route is asked"
    assert {name for name, text in plain.items() if CANARY in text} == SHOW_IT
    assert [name for name, text in hidden.items() if CANARY in text] == []
    assert {name for name, text in hidden.items() if "***" in text} == SHOW_IT
    events = [json.loads(event["data"]) for event in told(hidden["events of {}"])]
    assert {"event": "Streamed", "value": {"token": "***"}}.items() <= next(
        event for event in events if event["event"] == "Streamed"
    ).items()
    assert next(event for event in events if event["event"] == "Reported")["text"] == "opens ***"
    waits = {wait["kind"]: wait["name"] for wait in json.loads(hidden["1"])["waits"]}
    assert waits.keys() == {"signal", "step"}
    assert "***" in waits["step"]


@pytest.mark.clauses("O4")
async def test_paths_have_the_names_of_fields_as_in_python() -> None:
    seen: set[tuple[str | int, ...]] = set()

    def by_path(path: tuple[str | int, ...], value: Any) -> Any:
        seen.add(path)
        return "hidden" if path == ("state", "user", "password") else value

    async with served(redact=by_path) as (http, _):
        answer = await http.post("/flows/Enter?wait=20", json={})
        history = (await http.get(f"{answer.headers['location']}/history")).json()["entries"]

    assert answer.json()["state"]["user"] == {"name": "ada", "pw": "hidden"}
    users = [entry["changed"]["user"] for entry in history if "user" in entry["changed"]]
    assert users == [{"name": "ada", "pw": "hidden"}] * 2
    befores = [entry["before"]["user"] for entry in history if "user" in entry["before"]]
    assert befores == [{"name": "ada", "pw": "hidden"}]
    assert {("state",), ("state", "by_key", "deep", 0, "er"), ("result", "done"), ("error", "message")} <= seen


@pytest.mark.parametrize("given", [lambda path, value: None, lambda path, value: int(f"{value}")])
async def test_a_hook_that_hides_all_or_raises_shows_null(given: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with served(redact=given) as (http, _):
        answer = await http.post("/flows/Enter?wait=20", json={})
        history = (await http.get(f"{answer.headers['location']}/history")).json()["entries"]

    assert (answer.json()["state"], answer.json()["result"], answer.json()["status"]) == (None, None, "finished")
    assert {value for entry in history for value in entry["changed"].values()} == {None}
    assert {entry["error"] for entry in history} == {None, ""}
    assert CANARY not in caplog.text


ACTIONS = {
    "POST /flows/Enter": "start",
    "POST /flows/Inner": "start",
    "POST /flows/Door": "start",
    "GET /runs": "list",
    "GET /runs/{run_id}": "read",
    "GET /runs/{run_id}/events": "read",
    "GET /runs/{run_id}/history": "history",
    "POST /runs/{run_id}/cancel": "cancel",
    "POST /runs/{run_id}/resume": "resume",
    "POST /runs/{run_id}/signals/{name}": "signal",
}
"""The action that each route asks `authorize` for."""


async def test_each_route_but_readyz_asks_for_its_action() -> None:
    asked: list[str] = []

    async def authorize(action: Annotated[Action, Depends(action_of)]) -> None:
        asked.append(action.name)
        raise HTTPException(403)

    async with served(authorize=authorize) as (http, app):
        paths = app.openapi()["paths"]
        routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
        assert routes == {*ACTIONS, "GET /readyz"}
        for route, action in ACTIONS.items():
            method, path = route.format(run_id="x", name="leave").split()
            assert (await http.request(method, path)).status_code == 403
            assert asked.pop() == action, route


async def test_the_history_is_an_action_of_its_own() -> None:
    names: list[str] = []

    async def authorize(action: Annotated[Action, Depends(action_of)]) -> None:
        names.append(action.name)

    async with served(authorize=authorize) as (http, _):
        where = (await http.post("/flows/Enter?wait=20", json={})).headers["location"]
        for what in ("", "/history", "/events"):
            await http.get(f"{where}{what}")

    assert names == ["start", "read", "history", "read"]
