"""The order saga in the test's own loop: every way in which an order may end, and what the outside world has seen of it."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from moments import until

from asyncflow import MemoryFlowPersistence
from asyncflow.persistence.children import Children

ROOT = Path(__file__).parents[2]
OVER = ("finished", "failed", "cancelled")
CONFIRMED = ("confirmed", {"reference": "bank-1"})
CANCELLED = ("cancelled", {"reason": "too dear"})
UNDONE = ["refund", "release"]


class Saga:
    """The service, and its outside world, in which a test may hold up calls or let them fail."""

    def __init__(self, module: Any, http: httpx2.AsyncClient) -> None:
        self.module, self.http = module, http
        self.storage: Any = module.runner.persistence
        self.held: dict[str, anyio.Event] = {}
        """The calls that arrive, but whose first answer comes only when the event is set."""
        self.failing: dict[str, list[Exception]] = {}
        """The errors that the next calls get."""
        self.tried: list[str] = []
        self._outside = module.outside
        module.outside = self.outside

    async def outside(self, call: str, order: str, about: str = "") -> bool:
        self.tried.append(call)
        gate = self.held.pop(call, None)
        if self.failing.get(call):
            raise self.failing[call].pop(0)
        counts: bool = await self._outside(call, order, about)
        if gate is not None:
            await gate.wait()
        return counts

    async def order(self, key: str = "order-1", **inputs: str) -> str:
        """Begin an order, and return its id."""
        body = {"item": "tea", "card": "visa", "address": "here", **inputs}
        sent = await self.http.post("/flows/Sell", json=body, headers={"Idempotency-Key": key})
        assert sent.status_code == 202
        run_id: str = sent.json()["run_id"]
        return run_id

    async def send(self, order: str, signal: tuple[str, Any], key: str = "") -> int:
        """Send a signal, and return the status of the response."""
        name, body = signal
        headers = {"Idempotency-Key": key or name}
        return (await self.http.post(f"/runs/{order}/signals/{name}", json=body, headers=headers)).status_code

    async def abort(self, order: str) -> Any:
        """Abort an order twice, and return the result."""
        sent = [await self.http.delete(f"/runs/{order}") for _ in range(2)]
        assert [each.status_code for each in sent] == [202, 202]
        assert sent[0].json() == sent[1].json()
        return (await self.ended(sent[0].json()["run_id"]))["result"]

    async def run(self, order: str) -> dict[str, Any]:
        shown: dict[str, Any] = (await self.http.get(f"/runs/{order}")).json()
        return shown

    async def ended(self, order: str) -> dict[str, Any]:
        """Wait for the end of a run, and of its children."""

        async def is_over() -> bool:
            return (await self.run(order))["status"] in OVER

        async def has_no_orphans() -> bool:
            return await self.storage.orphans(1) == []

        await until(is_over)
        await until(has_no_orphans)
        return await self.run(order)

    async def is_asked(self, order: str) -> bool:
        """Whether an order waits for its confirmation."""
        return "confirmed" in (await self.run(order))["waits_for"]

    def calls(self, order: str) -> list[str]:
        """What has arrived outside, in order."""
        path = Path(self.module.LOG)
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [call for _, call, of in lines if of == order]


Serve = Callable[..., AbstractAsyncContextManager[Saga]]


@pytest.fixture(params=["memory", "sqlite"])
def serve(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Serve:
    if request.param == "memory":
        monkeypatch.setattr("asyncflow.runner.runner.default_persistence", MemoryFlowPersistence)

    @asynccontextmanager
    async def served() -> AsyncIterator[Saga]:
        monkeypatch.setenv("SAGA_SECONDS", "0.002")
        monkeypatch.setenv("SAGA_UNRELIABLE", "0")
        spec = importlib.util.spec_from_file_location("order_saga", ROOT / "examples" / "order_saga.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        app, transport = module.app, httpx2.ASGITransport(module.app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://x") as http,
        ):
            yield Saga(module, http)

    return served


@pytest.mark.clauses("K5", "K6")
async def test_a_confirmed_order_is_shipped(serve: Serve) -> None:
    async with serve() as saga:
        order = await saga.order()
        assert await saga.order() == order
        await until(lambda: saga.is_asked(order))
        assert await saga.send(order, CONFIRMED) == 202
        run = await saga.ended(order)

    assert run["result"] == run["state"]["happened"] == ["reserve", "charge", "confirmed: bank-1", "ship"]
    assert saga.calls(order) == ["reserve", "charge", "ship"]


@pytest.mark.parametrize(
    ("refused", "happened", "calls"),
    [
        ({"item": "unicorn"}, ["reserve", "reserve failed", "release"], ["release"]),
        (
            {"card": "declined"},
            ["reserve", "charge", "charge failed", *UNDONE],
            ["reserve", *UNDONE],
        ),
        (
            {"address": "nowhere"},
            ["reserve", "charge", "confirmed: bank-1", "ship", "ship failed", "recall", *UNDONE],
            ["reserve", "charge", "recall", *UNDONE],
        ),
    ],
    ids=["stock", "card", "parcel"],
)
async def test_what_fails_permanently_is_undone_in_reverse_order(
    serve: Serve, refused: dict[str, str], happened: list[str], calls: list[str]
) -> None:
    async with serve() as saga:
        order = await saga.order(**refused)
        await saga.send(order, CONFIRMED)
        run = await saga.ended(order)

    assert run["status"] == "finished"
    assert run["state"]["happened"] == happened
    assert saga.calls(order) == calls


@pytest.mark.parametrize("is_early", [False, True], ids=["waiting", "early"])
async def test_a_customer_cancels_before_the_shipment(serve: Serve, is_early: bool) -> None:
    async with serve() as saga:
        gate = anyio.Event()
        if is_early:
            saga.held["reserve"] = gate
        order = await saga.order()
        if not is_early:
            await until(lambda: saga.is_asked(order))
        assert [await saga.send(order, CANCELLED), await saga.send(order, CANCELLED)] == [202, 200]
        gate.set()
        run = await saga.ended(order)

    assert run["state"]["happened"] == ["reserve", "charge", "cancelled: too dear", *UNDONE]
    assert saga.calls(order) == ["reserve", "charge", *UNDONE]


async def test_a_customer_cancels_too_late(serve: Serve) -> None:
    async with serve() as saga:
        saga.held["ship"] = gate = anyio.Event()
        order = await saga.order()
        await saga.send(order, CONFIRMED)
        await until(lambda: seen(saga, order, "ship"))
        during = await saga.send(order, CANCELLED)
        gate.set()
        run = await saga.ended(order)
        after = await saga.send(order, CANCELLED, key="again")

    assert (during, after) == (202, 409)
    assert run["state"]["happened"][-1] == "ship"
    assert saga.calls(order) == ["reserve", "charge", "ship"]


async def test_an_order_that_is_not_confirmed_expires(serve: Serve) -> None:
    async with serve() as saga:
        order = await saga.order(confirm_within="PT0.02S")
        run = await saga.ended(order)

    assert run["state"]["happened"] == ["reserve", "charge", "expired", *UNDONE]
    assert saga.calls(order) == ["reserve", "charge", *UNDONE]


async def seen(saga: Saga, order: str, call: str) -> bool:
    return call in saga.calls(order)


@pytest.mark.clauses("K8")
@pytest.mark.parametrize(
    ("moment", "undone"),
    [
        ("reserve", ["recall", *UNDONE]),
        ("charge", ["recall", *UNDONE]),
        ("ship", ["too late: the parcel has gone"]),
        ("refund", ["recall", *UNDONE]),
    ],
)
async def test_an_operator_aborts_an_order_in_the_middle_of_a_child(
    serve: Serve, moment: str, undone: list[str]
) -> None:
    """Its call has arrived, but the child has not completed."""
    async with serve() as saga:
        saga.held[moment] = anyio.Event()
        order = await saga.order(address="nowhere" if moment == "refund" else "here")
        await saga.send(order, CONFIRMED)
        await until(lambda: seen(saga, order, moment))
        result = await saga.abort(order)
        run = await saga.ended(order)
        children = [each.status for each in await saga.storage.children(order)]
        late = await saga.send(order, CANCELLED)

    calls = list(dict.fromkeys(saga.calls(order)))
    assert result == undone
    assert run["status"] == "cancelled"
    assert children[-1] == "cancelled"
    assert late == 409
    assert ("ship" in calls) != ("refund" in calls)
    assert moment == "ship" or calls[-2:] == UNDONE


@pytest.mark.parametrize("is_shipped", [True, False])
async def test_an_order_that_is_over_is_not_aborted(serve: Serve, is_shipped: bool) -> None:
    async with serve() as saga:
        order = await saga.order()
        await saga.send(order, CONFIRMED if is_shipped else CANCELLED)
        before = await saga.ended(order)
        calls = saga.calls(order)
        assert await saga.abort(order) == ["too late: it has finished"]

        assert saga.calls(order) == calls
        assert await saga.run(order) == before


async def test_an_order_that_waits_is_aborted(serve: Serve) -> None:
    async with serve() as saga:
        order = await saga.order()
        await until(lambda: saga.is_asked(order))
        assert await saga.abort(order) == ["recall", *UNDONE]

        assert (await saga.run(order))["status"] == "cancelled"
        assert saga.calls(order) == ["reserve", "charge", "recall", *UNDONE]


async def test_what_was_undone_is_not_done_afterwards(serve: Serve) -> None:
    """By a process that does not know yet that its run was cancelled."""
    async with serve() as saga:
        first = [await saga.module.outside(call, "x") for call in ("refund", "charge", "ship", "recall", "ship")]

    assert first == [True, False, True, False, True]


async def test_calls_without_an_answer_are_made_again(serve: Serve) -> None:
    async with serve() as saga:
        saga.failing = {call: [ConnectionError("no answer")] * 3 for call in ("reserve", "charge", *UNDONE)}
        order = await saga.order()
        await saga.send(order, CANCELLED)
        run = await saga.ended(order)

    assert run["state"]["happened"] == ["reserve", "charge", "cancelled: too dear", *UNDONE]
    assert saga.tried == [call for call in ("reserve", "charge", *UNDONE) for _ in range(4)]
    assert saga.calls(order) == ["reserve", "charge", *UNDONE]


@pytest.mark.clauses("K7")
async def test_an_order_whose_refund_fails_permanently_is_resumed_there(serve: Serve) -> None:
    async with serve() as saga:
        saga.failing["refund"] = [LookupError("no such account")]
        order = await saga.order()
        await saga.send(order, CANCELLED)
        assert (await saga.ended(order))["status"] == "failed"
        assert saga.calls(order) == ["reserve", "charge"]
        await saga.http.post(f"/runs/{order}/resume")
        run = await saga.ended(order)

    assert run["status"] == "finished"
    assert run["state"]["happened"] == ["reserve", "charge", "cancelled: too dear", *UNDONE]
    assert saga.calls(order) == ["reserve", "charge", *UNDONE]


async def test_only_orders_are_aborted_and_cancelled_in_no_other_way(serve: Serve) -> None:
    async with serve() as saga:
        order = await saga.order()
        await until(lambda: saga.is_asked(order))
        (first, *_) = await saga.storage.children(order)
        missing = [(await saga.http.delete(f"/runs/{run_id}")).status_code for run_id in ("x", first.run_id)]
        refused = [
            (await saga.http.post(path, json={"order": order})).status_code
            for path in (f"/runs/{order}/cancel", "/flows/Abort")
        ]

        assert isinstance(saga.storage, Children)
        assert (missing, refused) == ([404, 404], [403, 403])
        assert await saga.is_asked(order)
