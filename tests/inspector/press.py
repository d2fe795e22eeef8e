"""Flows for the inspector's tests, and a client that visits its pages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from html import unescape
from typing import Any, Literal
from urllib.parse import urlsplit

import anyio
import httpx2
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.routing import Mount

from asyncflow import Flow, FlowRunner, FlowState, Signal, and_, errors, listen, router, start
from asyncflow.integrations.inspector import inspector

CANARY = "<script>document.title = 1</script><img src=x onerror=alert(1)>\"'"

gates: dict[str, anyio.Event] = {}


class Decision(BaseModel):
    approved: bool
    remark: str = Field("", description="What is missing.")
    stars: int = Field(3, ge=1, le=5)
    mood: Literal["good", "bad"] | None = None


class Article(FlowState):
    title: str = ""
    text: str = ""
    secret: str = ""
    fails: bool = False
    gate: str = ""
    remarks: list[str] = Field(default_factory=list)


class Publish(Flow[Article]):
    """Drafts an article, and publishes it once it is approved."""

    decided = Signal("decided", Decision)
    noted = Signal("noted")

    @start("revise")
    async def draft(self) -> int:
        self.state.text = f"About {self.state.title}."
        if self.state.gate:
            await gates[self.state.gate].wait()
        return len(self.state.text)

    @listen(draft)
    async def check(self) -> None:
        if self.state.fails:
            raise LookupError(f"no reviewer for {self.state.title}")

    @router(and_(check, decided))
    async def decide(self, decided: Decision) -> Literal["revise", "approved"]:
        self.state.remarks.append(decided.remark)
        return "approved" if decided.approved else "revise"

    @listen("approved")
    async def publish(self) -> str:
        return self.state.text


class Count(Flow[dict[str, int]]):
    initial_state = {"n": 1}  # noqa: RUF012 - as users write it

    @start()
    async def one(self) -> int:
        self.state["n"] += 1
        return self.state["n"]

    @listen(one)
    async def two(self, n: int) -> int:
        self.state["n"] += 10
        return n


class Visitor:
    """Visits the pages of an inspector, as a browser on this machine does, and collects what they answered."""

    def __init__(self, http: httpx2.AsyncClient, base: str) -> None:
        self.http = http
        self.base = base
        self.seen: list[httpx2.Response] = []

    async def get(self, page: str = "", /, headers: dict[str, str] | None = None, **query: Any) -> httpx2.Response:
        answer = await self.http.get(f"{self.base}/{page}", params=query, headers=headers)
        self.seen.append(answer)
        return answer

    async def post(self, page: str, /, headers: dict[str, str | None] | None = None, **data: Any) -> httpx2.Response:
        given = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin", **(headers or {})}
        sent = {name: value for name, value in given.items() if value is not None}
        answer = await self.http.post(f"{self.base}/{page}", data=data, headers=sent)
        self.seen.append(answer)
        return answer

    async def run(self, run_id: str, **query: Any) -> str:
        answer = await self.get("run", id=run_id, **query)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def follow(self, answer: httpx2.Response) -> str:
        """The page that an action has redirected to."""
        assert answer.status_code == 303, text_of(answer.text)
        split = urlsplit(answer.headers["location"])
        page = await self.http.get(f"{split.path}?{split.query}")
        assert page.status_code == 200
        return page.text


def text_of(page: str) -> str:
    """The text of a page, without its tags."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", page)))


def links_of(page: str) -> list[str]:
    """Everything that a page links to, loads, or sends forms to."""
    return [unescape(link) for link in re.findall(r'(?:href|src|action|data-stream)="([^"]*)"', page)]


@asynccontextmanager
async def visited(
    storage: Any, *flows: Any, at: str = "", client: Any = None, **options: Any
) -> AsyncIterator[Visitor]:
    """An inspector of a storage, mounted at a path."""
    site = inspector(storage, flows or (Publish, Count), **options)
    app = Starlette(routes=[Mount(at, site)]) if at else site
    transport = httpx2.ASGITransport(app, client=client or ("127.0.0.1", 5), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        yield Visitor(http, at)


@asynccontextmanager
async def running(storage: Any, **options: Any) -> AsyncIterator[FlowRunner]:
    """A runner of the flows."""
    given = {"grace": 0, "patience": 1, "park_after": 0.0, "flows": [Publish, Count], **options}
    async with FlowRunner(storage, **given) as runner:
        yield runner


async def started(runner: FlowRunner, status: str, **inputs: Any) -> str:
    """The id of a run of `Publish` that has reached a status."""
    handle = await runner.start(Publish, {"title": "tea", **inputs})
    await reached(runner, handle.run_id, status)
    if status == "failed":
        with suppress(errors.MethodError):  # the runner still drives it for a moment after it is stored
            await handle.result()
    return handle.run_id


async def reached(runner: FlowRunner, run_id: str, status: str) -> None:
    with anyio.fail_after(60):
        while await (await runner.get(run_id)).status() != status:  # noqa: ASYNC110 - no event to wait for
            await anyio.sleep(0.005)
