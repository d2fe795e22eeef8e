"""The OpenAPI schema: each route, each answer and each event has a description and a model."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from fastapi import FastAPI
from test_redaction import Door, Enter, Inner, attempts, served
from test_streams import told

from asyncflow import FlowRunner, MemoryFlowPersistence, events
from asyncflow.integrations.fastapi import flow_router
from asyncflow.integrations.fastapi.event_models import MODELS

KINDS = {
    name: kind
    for name in events.__all__
    if isinstance(kind := getattr(events, name), type) and issubclass(kind, events.Event) and kind is not events.Event
}


@pytest.fixture(params=[False, True], ids=["open", "guarded"])
def schema(request: pytest.FixtureRequest) -> dict[str, Any]:
    async def authorize() -> None: ...

    app = FastAPI()
    options: Any = {"authorize": authorize} if request.param else {}
    runner = FlowRunner(MemoryFlowPersistence())
    app.include_router(flow_router(runner, [Enter, Inner, Door], signals=[Enter.leave], **options))
    return app.openapi()


def routes(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{method} {path}": it for path, methods in schema["paths"].items() for method, it in methods.items()}


def test_each_parameter_and_each_answer_has_a_description_and_each_body_a_model(schema: dict[str, Any]) -> None:
    for route, it in routes(schema).items():
        assert it.get("description") or route.startswith("post /flows/"), route
        for parameter in it.get("parameters", ()):
            is_plain = parameter["in"] == "path" or parameter["name"] == "status"
            assert is_plain or parameter.get("description"), (route, parameter["name"])
        for status, answer in it["responses"].items():
            assert answer["description"], (route, status)
            if status == "204":
                continue
            ((media, content),) = answer["content"].items()
            is_stream = route.endswith("/events") and status == "200"
            assert media == ("text/event-stream" if is_stream else "application/json"), (route, status)
            assert content.get("itemSchema" if is_stream else "schema"), (route, status)


def test_a_guarded_route_declares_that_it_refuses(schema: dict[str, Any]) -> None:
    is_guarded = "401" in routes(schema)["get /runs"]["responses"]
    for route, it in routes(schema).items():
        assert ({"401", "403"} <= it["responses"].keys()) == (is_guarded and route != "get /readyz"), route


def test_each_event_has_a_model_with_its_fields(schema: dict[str, Any]) -> None:
    content = routes(schema)["get /runs/{run_id}/events"]["responses"]["200"]["content"]["text/event-stream"]
    data = content["itemSchema"]["properties"]["data"]
    assert data["contentMediaType"] == "application/json"
    assert data["contentSchema"]["discriminator"]["propertyName"] == "event"
    models = {each["title"]: each for each in data["contentSchema"]["oneOf"]}
    assert models.keys() == KINDS.keys()
    for name, kind in KINDS.items():
        properties = models[name]["properties"]
        assert properties.keys() == {"event", "note", *(field.name for field in fields(kind))}
        assert properties["event"]["const"] == name
        assert models[name]["description"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_a_stream_sends_fits_the_models(anyio_backend: str) -> None:
    models = {model.__name__: model for model in MODELS}
    attempts.clear()
    async with served() as (http, _):
        where = (await http.post("/flows/Enter?wait=20", json={})).headers["location"]
        found = [json.loads(event["data"]) for event in told((await http.get(f"{where}/events")).text)]

    assert {"StepFinished", "ChildEnded", "MethodRetrying", "RunFinished"} <= {event["event"] for event in found}
    for event in found:
        read = models[event["event"]].model_validate(event)
        assert {**read.model_dump(mode="json"), "at": event["at"]} == {"note": None, **event}
