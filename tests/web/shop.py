"""A small service in the test's own event loop: its flows wait for gates, and say what ran."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, NamedTuple

import anyio
import httpx2
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field, field_validator

from asyncflow import Flow, FlowRunner, FlowState, MemoryFlowPersistence, listen, start
from asyncflow.integrations.fastapi import flow_router, lifespan

GOING_ON = ("running", "interrupted")

ran: list[str] = []
gates: dict[str, anyio.Event] = {}


class Address(BaseModel):
    street: str
    number: Annotated[int, Field(ge=1)] = 1


class OrderState(FlowState):
    item: str
    count: Annotated[int, Field(ge=1, le=9)] = 1
    to: Address | None = None
    gate: str = ""
    fails: bool = False

    @field_validator("item")
    @classmethod
    def is_sold(cls, item: str) -> str:
        if item == "air":
            raise ValueError("nobody sells that")
        return item


class Order(Flow[OrderState]):
    """Prices an order, and ships it."""

    @start()
    async def price(self) -> int:
        ran.append("price")
        if self.state.gate:
            await gates[self.state.gate].wait()
        return 3 * self.state.count

    @listen(price)
    async def ship(self, price: int) -> str:
        ran.append("ship")
        if self.state.fails:
            raise LookupError("no ship")
        return f"{self.state.count} {self.state.item} for {price}"


class Count(Flow[dict[str, int]]):
    initial_state = {"n": 1}  # noqa: RUF012 - as users write it

    @start()
    async def count(self) -> int:
        return self.state["n"]


class Secret(Flow):
    """In the same storage, and not served."""

    @start()
    async def keep(self) -> str:
        return "secret"


def untold(app: FastAPI, answers: list[httpx2.Response]) -> set[tuple[str, str, int]]:
    """Method, path and status of answers that the schema does not declare."""
    found: set[tuple[str, str, int]] = set()
    paths = app.openapi()["paths"]
    for answer in answers:
        asked, method = answer.request.url.path, answer.request.method.lower()
        for path, methods in paths.items():
            pattern = re.sub(r"\\{[^}]*\\}", ".*", re.escape(path))
            if method in methods and re.fullmatch(pattern, asked):
                if str(answer.status_code) not in methods[method]["responses"]:
                    found.add((method, path, answer.status_code))
                break
    return found


class Service(NamedTuple):
    http: httpx2.AsyncClient
    runner: FlowRunner
    app: FastAPI

    async def order(self, query: str = "", key: str | None = None, **inputs: Any) -> httpx2.Response:
        headers = {} if key is None else {"Idempotency-Key": key.encode("latin-1")}
        return await self.http.post(f"/flows/Order{query}", json={"item": "tea", **inputs}, headers=headers)

    async def ended(self, where: str) -> dict[str, Any]:
        """A run, when it has ended."""
        with anyio.fail_after(120):
            while (await self.http.get(where)).json()["status"] in GOING_ON:  # noqa: ASYNC110 - no event to wait for
                await anyio.sleep(0.001)
        told: dict[str, Any] = (await self.http.get(where)).json()
        return told


Serve = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    ran.clear()
    gates.clear()
    yield
    gates.clear()


@pytest.fixture
def serve() -> Serve:
    """Make a service; keywords go to the runner, and to the router."""

    @asynccontextmanager
    async def served(
        persistence: Any = None, authorize: Any = None, inner: Any = None, **options: Any
    ) -> AsyncIterator[Service]:
        runner = FlowRunner(persistence or MemoryFlowPersistence(), **{"grace": 0, "patience": 1, **options})
        app = FastAPI(lifespan=lifespan(runner, inner))
        app.include_router(flow_router(runner, [Order, Count], authorize=authorize))
        transport = httpx2.ASGITransport(app)
        answers: list[httpx2.Response] = []

        async def noted(answer: httpx2.Response) -> None:
            answers.append(answer)

        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://x", event_hooks={"response": [noted]}) as http,
        ):
            yield Service(http, runner, app)
        assert untold(app, answers) == set(), "the schema tells all answers that are given"

    return served


def gate(name: str) -> anyio.Event:
    gates[name] = anyio.Event()
    return gates[name]
