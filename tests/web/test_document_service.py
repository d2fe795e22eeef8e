"""The document service: in this process, on every loop; and R35, two uvicorn workers on one file, one of which is killed in every round."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest

GOING_ON = ("running", "waiting", "interrupted")
Events = list[dict[str, Any]]
Serve = Callable[[], AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setenv("API_SECONDS", "0.02")
    monkeypatch.setenv("API_LOG", str(tmp_path / "calls"))
    return importlib.reload(importlib.import_module("examples.document_service"))


@pytest.fixture
def serve(example: ModuleType) -> Serve:
    @asynccontextmanager
    async def served() -> AsyncIterator[httpx2.AsyncClient]:
        transport = httpx2.ASGITransport(example.app)
        async with (
            example.app.router.lifespan_context(example.app),
            httpx2.AsyncClient(transport=transport, base_url="http://x", timeout=60) as http,
        ):
            yield http

    return served


class Call:
    """A line of the log of calls."""

    def __init__(self, line: str) -> None:
        self.what, key, attempt, self.process, at = line.split()
        self.run_id, _, self.invocation = key.split("/")
        self.attempt, self.at = int(attempt), float(at)


def calls(log: Path, start: int = 0) -> list[Call]:
    return [Call(line) for line in log.read_bytes()[start:].decode().splitlines()]


def heard(text: str) -> Events:
    """The events of a stream."""
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def position(event: dict[str, Any]) -> tuple[int, int]:
    return event["seq"], event["n"]


def summaries(run: dict[str, Any]) -> list[tuple[str, str]]:
    return [(summary["document"], summary["text"]) for summary in run["result"]["summaries"]]


def expected(names: list[str]) -> list[tuple[str, str]]:
    return [(name, f"All about {name}.") for name in names]


# ---- in this process ---------------------------------------------------------------------------------------------


@pytest.mark.clauses("N1", "N3")
async def test_documents_are_summarized_once_and_reported_in_their_order(serve: Serve, tmp_path: Path) -> None:
    names = [f"document {n}" for n in range(8)]
    async with serve() as http:
        run = (await http.post("/flows/Summarize?wait=50", json={"documents": [*names, "document 3"]})).json()

    log = calls(tmp_path / "calls")
    assert run["status"] == "finished"
    assert summaries(run) == expected(names)
    assert Counter(call.invocation for call in log if call.what == "answered") == {
        f"summarize:1[{n}]": 1 for n in range(8)
    }
    assert run["result"]["attempts"] == sum(call.what == "called" for call in log) > 8


async def test_the_same_request_finds_the_same_run(serve: Serve) -> None:
    async with serve() as http:
        answers = [
            await http.post("/flows/Summarize", json={"documents": ["a"]}, headers={"Idempotency-Key": "1"})
            for _ in range(2)
        ]
        assert len((await http.get("/runs")).json()["runs"]) == 1

    assert len({answer.json()["run_id"] for answer in answers}) == 1


async def test_the_stream_tells_what_is_done_and_what_is_tried_again_and_continues_after_the_last_event(
    serve: Serve,
) -> None:
    async with serve() as http:
        where = (await http.post("/flows/Summarize", json={"documents": [*"abcdef"]})).headers["location"]
        events = heard((await http.get(f"{where}/events")).text)  # until the run has ended
        run = (await http.get(where)).json()
        rest = await http.get(f"{where}/events", headers={"Last-Event-ID": "{seq}.{n}".format(**events[5])})
        nothing = await http.get(f"{where}/events", headers={"Last-Event-ID": "{seq}.{n}".format(**events[-1])})

    failed = Counter(event["invocation"] for event in events if event["event"] == "MethodRetrying")
    done = [event["invocation"] for event in events if event["event"] == "MethodFinished"]
    assert [failed[f"summarize:1[{n}]"] + 1 for n in range(6)] == [s["attempt"] for s in run["result"]["summaries"]]
    assert sorted(done) == sorted(["fetch:1", "report:1", "summarize:1", *(f"summarize:1[{n}]" for n in range(6))])
    assert events[-1]["event"] == "RunFinished"
    assert heard(rest.text) == events[6:]
    assert nothing.status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"documents": []},
        {"documents": "a"},
        {"documents": [" "]},
        {"documents": [1]},
        {"documents": ["a" * 101]},
        {"documents": ["a"] * 101},
        {"documents": ["a"], "limit": 9},
        [],
    ],
)
async def test_what_is_no_list_of_documents_is_refused(serve: Serve, body: Any) -> None:
    async with serve() as http:
        assert (await http.post("/flows/Summarize", json=body)).status_code == 422
        assert (await http.get("/runs")).json()["runs"] == []


@pytest.mark.clauses("N4", "X3")
async def test_a_failed_list_is_resumed_with_the_documents_that_are_missing(
    serve: Serve, example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "SEED", "")  # no call fails but this one
    answers = example.call_api

    async def unreadable(document: str, **call: Any) -> str:
        if document == "c":
            raise ValueError("unreadable")
        text: str = await answers(document, **call)
        return text

    async with serve() as http:
        monkeypatch.setattr(example, "call_api", unreadable)
        failed = await http.post("/flows/Summarize?wait=50", json={"documents": [*"abcdef"]})
        monkeypatch.setattr(example, "call_api", answers)
        resumed = await http.post(f"/runs/{failed.json()['run_id']}/resume?wait=50")

    assert failed.json()["status"] == "failed"
    assert summaries(resumed.json()) == expected([*"abcdef"])
    assert Counter(call.attempt for call in calls(tmp_path / "calls") if call.what == "called") == {1: 5, 2: 1}


async def test_the_page_runs_its_own_script_alone(serve: Serve) -> None:
    async with serve() as http:
        page = await http.get("/")

    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert policy["default-src"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == f"'sha256-{hashed}'"
    assert not re.search(r"https?://|\bsrc=|\bon\w+=\"|style=|innerHTML|\beval\b", page.text)
    assert "/^summarize:1\\[(\\d+)\\]$/" in script
