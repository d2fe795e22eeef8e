"""The document service: in this process, on every loop; and R35, two uvicorn workers on one file, one of which is killed in every round."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import httpx2
import pytest
from figures import FACTOR, SEED, tell
from workers import Worker

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
        self.run_id, _, self.invocation, self.task = key.split("/")
        self.attempt, self.at = int(attempt), float(at)


def calls(log: Path, start: int = 0) -> list[Call]:
    return [Call(line) for line in log.read_bytes()[start:].decode().splitlines()]


def heard(text: str) -> Events:
    """The stored events of a stream."""
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    return [event for event in events if event["seq"] >= 0]


def event_id(event: dict[str, Any]) -> str:
    return f"{event['seq']}.{event['n']}"


def summaries(run: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(summary["document"], summary["title"], summary["text"]) for summary in run["result"]["summaries"]]


def expected(names: list[str]) -> list[tuple[str, str, str]]:
    return [(name, f"The title of {name}.", f"The text of {name}.") for name in names]


# ---- in this process ---------------------------------------------------------------------------------------------


@pytest.mark.clauses("N1", "N3", "M1")
async def test_documents_are_summarized_once_and_reported_in_their_order(serve: Serve, tmp_path: Path) -> None:
    names = [f"document {n}" for n in range(8)]
    async with serve() as http:
        run = (await http.post("/flows/Summarize?wait=50", json={"documents": [*names, "document 3"]})).json()

    log = calls(tmp_path / "calls")
    assert run["status"] == "finished"
    assert summaries(run) == expected(names)
    answers = Counter((call.invocation, call.task) for call in log if call.what == "answered")
    assert answers == {(f"summarize:1[{n}]", task): 1 for n in range(8) for task in ("text", "title")}
    failed_titles = sum(call.task == "title" for call in log) - 2 * 8
    assert failed_titles > 0, "the text was not repeated for them"
    assert run["result"]["attempts"] == len({(call.invocation, call.attempt) for call in log})


async def test_the_same_request_finds_the_same_run(serve: Serve) -> None:
    async with serve() as http:
        answers = [
            await http.post("/flows/Summarize", json={"documents": ["a"]}, headers={"Idempotency-Key": "1"})
            for _ in range(2)
        ]
        assert len((await http.get("/runs")).json()["runs"]) == 1

    assert len({answer.json()["run_id"] for answer in answers}) == 1


async def test_the_events_show_what_is_done_and_what_is_tried_again_and_continue_after_the_last_one(
    serve: Serve,
) -> None:
    async with serve() as http:
        where = (await http.post("/flows/Summarize", json={"documents": [*"abcdef"]})).headers["location"]
        events = heard((await http.get(f"{where}/events")).text)  # until the run has ended
        run = (await http.get(where)).json()
        rest = await http.get(f"{where}/events", headers={"Last-Event-ID": event_id(events[5])})
        nothing = await http.get(f"{where}/events", headers={"Last-Event-ID": event_id(events[-1])})

    failed = Counter(event["invocation"] for event in events if event["event"] == "MethodRetrying")
    done = [event["invocation"] for event in events if event["event"] == "MethodFinished"]
    assert [failed[f"summarize:1[{n}]"] + 1 for n in range(6)] == [s["attempt"] for s in run["result"]["summaries"]]
    assert sorted(done) == sorted(["fetch:1", "join:1", "summarize:1", *(f"summarize:1[{n}]" for n in range(6))])
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

    async def unreadable(task: str, document: str) -> str:
        if (task, document) == ("title", "c"):
            raise ValueError("unreadable")
        text: str = await answers(task, document)
        return text

    unreadable.__qualname__ = answers.__qualname__  # by which a step is known

    async with serve() as http:
        monkeypatch.setattr(example, "call_api", unreadable)
        failed = await http.post("/flows/Summarize?wait=50", json={"documents": [*"abcdef"]})
        monkeypatch.setattr(example, "call_api", answers)
        resumed = await http.post(f"/runs/{failed.json()['run_id']}/resume?wait=50")

    assert failed.json()["status"] == "failed"
    assert summaries(resumed.json()) == expected([*"abcdef"])
    called = Counter((call.invocation, call.task) for call in calls(tmp_path / "calls") if call.what == "called")
    assert called == {(f"summarize:1[{n}]", task): 1 for n in range(6) for task in ("text", "title")}


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


# ---- R35: two workers, of which one is killed in every round -------------------------------------------------------

APP = "examples.document_service:app"
ROUNDS = max(3, round(4 * FACTOR))
DOCUMENTS = 10
KILLED = ("items", "pauses", "starts")
"""When the worker is killed, round by round: some documents are done; one waits for its next attempt; or a start was acknowledged."""


OVER = ("RunFinished", "RunFailed", "RunCancelled")


class Client:
    """Sends a list of documents to a worker, and once more to another one, and hears the events of its run."""

    def __init__(self, name: str) -> None:
        self.names = [f"{name}.{n}" for n in range(DOCUMENTS)]
        self.headers = {"Idempotency-Key": name}
        self.run_id = ""
        self.events: Events = []
        self.run: dict[str, Any] = {}

    async def __call__(self, http: httpx2.AsyncClient, url: str, other: str) -> None:
        """`url`: of the worker that may be killed meanwhile."""
        with suppress(httpx2.HTTPError):
            await self.send(http, url)
            await self.follow(http, url)
        await self.send(http, other)
        while not self.events or self.events[-1]["event"] not in OVER:
            await self.follow(http, other)
        assert heard((await http.get(f"{other}/runs/{self.run_id}/events")).text) == self.events, (
            "none lost, none twice"
        )
        self.run = (await http.get(f"{other}/runs/{self.run_id}")).json()

    async def send(self, http: httpx2.AsyncClient, url: str) -> None:
        answer = await http.post(f"{url}/flows/Summarize", json={"documents": self.names}, headers=self.headers)
        assert answer.status_code == 202, answer.text
        assert self.run_id in ("", answer.json()["run_id"])
        self.run_id = answer.json()["run_id"]

    async def follow(self, http: httpx2.AsyncClient, url: str) -> None:
        """Hear what comes after the last event that was heard."""
        last = {"Last-Event-ID": event_id(self.events[-1])} if self.events else {}
        async with http.stream("GET", f"{url}/runs/{self.run_id}/events", headers=last) as stream:
            async for line in stream.aiter_lines():
                self.events += heard(line)

    def of_documents(self, name: str) -> Events:
        return [event for event in self.events if event["event"] == name and "[" in event["invocation"]]

    @property
    def done(self) -> int:
        return len(self.of_documents("MethodFinished"))

    @property
    def is_in_pause(self) -> bool:
        """Whether one of its documents waits for its next attempt."""
        return any(event["due"] > time.time() for event in self.of_documents("MethodRetrying"))

    def is_ripe(self, when: str, least: int) -> bool:
        """Whether the worker of its run may be killed now. `least`: so many documents are done."""
        if when == "starts":
            return self.run_id != ""
        return 0 < self.done < DOCUMENTS and (self.is_in_pause if when == "pauses" else self.done >= least)


class World:
    """Two workers, the log of calls, and what was counted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.dice = folder, folder / "calls", random.Random(SEED)
        self.log.touch()
        self.started: list[Worker] = []
        self.workers = [self.worker(), self.worker()]
        self.counts = Counter[str]()

    def worker(self) -> Worker:
        worker = Worker(self.folder, APP, API_LOG=str(self.log), API_SECONDS="0.05", API_SEED=f"{SEED}.")
        self.started.append(worker)
        return worker

    async def round(self, http: httpx2.AsyncClient, turn: int) -> None:
        """Send three lists, two of them to a worker that is killed."""
        when, least, start = KILLED[turn % 3], self.dice.randrange(1, DOCUMENTS), self.log.stat().st_size
        victim = self.workers.pop(self.dice.randrange(2))
        (other,) = self.workers
        clients = [Client(f"{turn}-{n}") for n in range(3)]
        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                for n, client in enumerate(clients):
                    group.start_soon(client, http, (victim if n < 2 else other).url, other.url)
                hit = clients[:2]
                while not any(client.is_ripe(when, least) for client in hit):  # noqa: ASYNC110 - no event to wait for
                    await anyio.sleep(0.001)
                victim.kill()
                self.counts["in_a_pause"] += any(client.is_in_pause for client in hit)
                self.counts["acknowledged"] += sum(client.done + (client.run_id != "") for client in hit)
                self.workers.append(self.worker())
        log = calls(self.log, start)
        for client in clients:
            self.check(client, [call for call in log if call.run_id == client.run_id], str(victim.process.pid))
        await self.workers[1].ready(http)

    def check(self, client: Client, log: list[Call], victim: str) -> None:
        """One report, in order; no attempt ran after its end was stored, and one ran twice only if it was cut off by the kill."""
        assert client.run["status"] == "finished", client.run
        assert summaries(client.run) == expected(client.names)
        ends = Counter(event["invocation"] for event in client.events if event["event"] == "MethodFinished")
        items = [f"summarize:1[{n}]" for n in range(DOCUMENTS)]
        assert ends == dict.fromkeys(("fetch:1", "summarize:1", "join:1", *items), 1)
        for event in (*client.of_documents("MethodFinished"), *client.of_documents("MethodRetrying")):
            last, stored = event.get("attempt", 99), datetime.fromisoformat(event["at"]).timestamp()
            again = [c for c in log if c.invocation == event["invocation"] and c.attempt <= last and c.at > stored]
            assert not again, f"{event} had been stored"
        for item, summary in zip(items, client.run["result"]["summaries"], strict=True):
            self.check_item([call for call in log if call.invocation == item], summary["attempt"], victim)
        self.counts["taken_up"] += len({call.process for call in log}) > 1

    def check_item(self, log: list[Call], attempts: int, victim: str) -> None:
        assert {call.attempt for call in log} == set(range(1, attempts + 1))
        texts = [n for n, call in enumerate(log) if call.task == "text"]
        titles = [n for n, call in enumerate(log) if call.task == "title"]
        assert texts[-1] < titles[0], "once it was stored, the text is not repeated"
        for (task, attempt), processes in by_attempt(log).items():
            assert len(processes) == 1 or (processes[0] == victim and processes[1:] != [victim]), (task, attempt)
            assert len(processes) <= 2
            self.counts["cut_off"] += len(processes) - 1
        self.counts["charged_twice"] += sum(call.what == "answered" for call in log) - 2


def by_attempt(log: list[Call]) -> dict[tuple[str, int], list[str]]:
    """The processes that made each attempt of each call."""
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for call in log:
        if call.what == "called":
            found[call.task, call.attempt].append(call.process)
    return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for worker in world.started:  # also one that a failed round had not killed yet
        worker.kill()


async def all_runs(http: httpx2.AsyncClient, url: str) -> list[str]:
    found, cursor = [], {}
    while True:
        page = (await http.get(f"{url}/runs", params={"status": "finished", "limit": "200", **cursor})).json()
        found += [run["run_id"] for run in page["runs"]]
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.clauses("N1", "N3", "R2", "E2", "M1")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_no_document_that_was_done_is_done_again_though_a_worker_is_killed_in_every_round(
    world: World, anyio_backend: str
) -> None:
    async with httpx2.AsyncClient(timeout=60) as http:
        for worker in world.workers:
            await worker.ready(http)
        for turn in range(ROUNDS):
            await world.round(http, turn)
        runs = await all_runs(http, world.workers[0].url)

    assert len(runs) == len(set(runs)) == 3 * ROUNDS, "one run for each list, however often it was sent"
    tell("R35", trials=ROUNDS, faults=ROUNDS, **world.counts)
    assert world.counts["in_a_pause"] >= ROUNDS // 3
    assert world.counts["taken_up"] >= ROUNDS // 4
    assert world.counts["acknowledged"] >= 3 * ROUNDS
