"""The routes of a flow: what starts a run and what is refused, what is shown of it, and how it is cancelled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from fastapi import FastAPI, Header, HTTPException
from shop import Count, Order, Secret, Serve, gate, gates, ran

from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, errors, start
from asyncflow.integrations.fastapi import flow_router, run_id_for
from asyncflow.persistence import Checkpoint

# ---- starting --------------------------------------------------------------------------------------------------------


async def test_a_run_is_started_and_found_where_the_answer_says(serve: Serve) -> None:
    async with serve() as service:
        answer = await service.order(count=2, to={"street": "Rua", "number": 3})
        told = await service.ended(answer.headers["location"])

    assert answer.status_code == 202
    assert answer.json() == {"run_id": told["run_id"], "status": "running"}
    assert answer.headers["location"] == f"/runs/{told['run_id']}"
    assert told.pop("updated_at").endswith("Z")
    assert told == {
        "run_id": told["run_id"],
        "flow": "Order",
        "status": "finished",
        "pass_number": 1,
        "seq": 2,
        "waits_for": [],
        "due_at": None,
        "state": {
            "id": told["run_id"],
            "item": "tea",
            "count": 2,
            "to": {"street": "Rua", "number": 3},
            "gate": "",
            "fails": False,
        },
        "result": "2 tea for 6",
        "error": None,
        **{name: [] for name in ("pending", "waits", "children")},
        **dict.fromkeys(("driver", "parent", "forked_from")),
        "links": {
            "run": answer.headers["location"],
            "events": f"{answer.headers['location']}/events",
            "history": f"{answer.headers['location']}/history",
            "children": f"/runs?parent={told['run_id']}",
            **dict.fromkeys(("parent", "cancel", "resume")),
            "signals": {},
        },
    }


async def test_the_end_of_a_run_is_waited_for_as_long_as_asked(serve: Serve) -> None:
    gate("g")
    async with serve() as service:
        at_once = await service.order("?wait=5")
        not_yet = await service.order("?wait=0.01", gate="g")

        assert (at_once.status_code, at_once.json()["result"]) == (200, "1 tea for 3")
        assert (not_yet.status_code, not_yet.json()["status"]) == (202, "running")


async def test_a_failed_run_is_answered_with_its_failure(serve: Serve) -> None:
    async with serve() as service:
        answer = await service.order("?wait=5", fails=True)

    assert (answer.status_code, answer.json()["status"], answer.json()["result"]) == (200, "failed", None)
    assert answer.json()["error"] == {"method": "ship", "type": "builtins.LookupError", "message": "no ship"}


async def test_a_flow_that_needs_no_inputs_is_started_with_no_body(serve: Serve) -> None:
    async with serve() as service:
        assert (await service.http.post("/flows/Count?wait=5")).json()["result"] == 1
        assert (await service.http.post("/flows/Count?wait=5", json={"n": 7})).json()["result"] == 7


@pytest.mark.parametrize(
    ("path", "body", "status", "where"),
    [
        ("/flows/Order", {}, 422, ["body", "item"]),
        ("/flows/Order", None, 422, ["body"]),
        ("/flows/Order", [], 422, ["body"]),
        ("/flows/Order", {"item": 5}, 422, ["body", "item"]),
        ("/flows/Order", {"item": "tea", "count": 0}, 422, ["body", "count"]),
        ("/flows/Order", {"item": "tea", "count": "many"}, 422, ["body", "count"]),
        ("/flows/Order", {"item": "tea", "to": {"street": "x", "number": 0}}, 422, ["body", "to", "number"]),
        ("/flows/Order", {"item": "tea", "id": "mine"}, 422, ["body", "id"]),
        ("/flows/Order", {"item": "tea", "itme": "tea"}, 422, ["body", "itme"]),
        ("/flows/Order", {"item": "air"}, 422, ["body", "item"]),  # what the model's own validator refuses
        ("/flows/Order?wait=soon", {"item": "tea"}, 422, ["query", "wait"]),
        ("/flows/Order?wait=-1", {"item": "tea"}, 422, ["query", "wait"]),
        ("/flows/Order?wait=61", {"item": "tea"}, 422, ["query", "wait"]),
        ("/flows/Order?wait=nan", {"item": "tea"}, 422, ["query", "wait"]),
        ("/flows/Count", {"n": "x"}, 422, ["body", "n"]),
        ("/flows/Count", {"id": 3}, 422, ["body", "id"]),
        ("/flows/Unknown", {}, 404, None),
        ("/flows/Secret", {}, 404, None),
        ("/flows/", {}, 404, None),
    ],
)
async def test_what_does_not_fit_is_refused_and_starts_nothing(
    serve: Serve, path: str, body: Any, status: int, where: list[str] | None
) -> None:
    async with serve() as service:
        answer = await service.http.post(path, json=body)
        runs = (await service.http.get("/runs")).json()["runs"]

    assert answer.status_code == status, answer.text
    assert (answer.json()["detail"][0]["loc"] if where else None) == where
    assert runs == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b'{"item": "tea", "count": NaN}',
        b'{"item": "tea", "\\ud800": "\\ud800"}',
        b'{"item": "\\ud800"}',
        b"[" * 5_000,
    ],
)
async def test_a_body_that_is_no_json_is_refused(serve: Serve, body: bytes) -> None:
    async with serve() as service:
        answer = await service.http.post("/flows/Order", content=body, headers={"content-type": "application/json"})

    assert answer.status_code in (400, 422)


# ---- the same request again ------------------------------------------------------------------------------------------


async def test_a_key_makes_one_run_however_often_it_is_sent(serve: Serve) -> None:
    answers = []

    async with serve() as service:

        async def ask() -> None:
            answers.append(await service.order("?wait=5", key="k", count=2))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask)
        await ask()

    assert {(a.status_code, a.json()["result"], a.json()["run_id"]) for a in answers} == {
        (200, "2 tea for 6", run_id_for("Order", "k"))
    }
    assert ran == ["price", "ship"]


async def test_a_key_names_another_run_of_another_flow(serve: Serve) -> None:
    async with serve() as service:
        one = await service.order(key="k")
        other = await service.http.post("/flows/Count", headers={"Idempotency-Key": "k"})

    assert one.json()["run_id"] != other.json()["run_id"]


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_key_with_other_inputs_is_refused(serve: Serve, is_running: bool) -> None:
    gate("g")
    headers = {"Idempotency-Key": "k"}
    async with serve() as service:
        first = await service.order(key="k", gate="g" if is_running else "", count=2)
        if not is_running:
            await service.ended(first.headers["location"])
        await service.http.post("/flows/Count", json={"n": 2}, headers=headers)

        assert (await service.order(key="k", count=3)).status_code == 409
        assert (await service.http.post("/flows/Count", headers=headers)).status_code == 409  # with none
        assert (await service.order(key="k", gate="g" if is_running else "", count=2)).status_code == 202


@pytest.mark.found("T18")
@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_the_key_of_a_run_that_has_failed_or_was_cancelled_reports_that_again(serve: Serve, how: str) -> None:
    gate("g")
    inputs: dict[str, Any] = {"fails": True} if how == "failed" else {"gate": "g"}
    async with serve() as service:
        where = (await service.order(key="k", **inputs)).headers["location"]
        if how == "cancelled":
            await service.http.post(f"{where}/cancel")
        await service.ended(where)
        again, waited = await service.order(key="k", **inputs), await service.order("?wait=5", key="k", **inputs)

    for answer in (again, waited):
        assert (answer.status_code, answer.json()["status"]) == (409, how)
        assert answer.headers["location"] == where
        assert ("/resume" in answer.json()["detail"]) == (how == "failed")
    assert ran.count("price") <= 1  # it may have been cancelled before


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_is_of_some_length_and_not_too_long(serve: Serve, key: str) -> None:
    async with serve() as service:
        assert (await service.order(key=key)).status_code == 422
        assert (await service.order(key="a/b?#é ü")).status_code == 202


# ---- not now ---------------------------------------------------------------------------------------------------------


class Broken(MemoryFlowPersistence):
    """A storage that can be made to fail, or to keep silent."""

    how = ""

    async def _fail(self) -> None:
        if self.how == "silent":
            await anyio.sleep_forever()
        if self.how == "busy":
            raise errors.StorageBusyError("locked")
        if self.how == "foreign":
            raise OSError("gone")

    async def append(self, checkpoint: Checkpoint) -> None:
        await self._fail()
        await super().append(checkpoint)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        await self._fail()
        return await super().load(run_id, seq)

    async def runs(self, **which: Any) -> Any:
        await self._fail()
        return await super().runs(**which)


def is_told_to_come_back(answer: Any) -> bool:
    return answer.status_code == 503 and int(answer.headers["retry-after"]) > 0 and bool(answer.json()["detail"])


async def test_an_overloaded_service_says_when_to_come_back(serve: Serve) -> None:
    gate("g")
    async with serve(max_running=1, max_queued=0, overload="raise") as service:
        await service.order(gate="g")

        assert is_told_to_come_back(await service.order())
        assert (await service.http.get("/readyz")).status_code == 200


async def test_a_full_service_still_reports_runs_that_have_ended(serve: Serve) -> None:
    gate("g")
    async with serve(max_running=1, max_queued=0, overload="raise") as service:
        done = await service.order("?wait=5", key="k")
        await service.order(gate="g")

        assert (await service.order("?wait=5", key="k")).json() == done.json()
        assert (await service.order(key="k", count=2)).status_code == 409


async def test_a_place_is_waited_for_no_longer_than_a_client_is_patient(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncflow.integrations.fastapi.starting.PATIENCE", 0.05)
    gate("g")
    async with serve(max_running=1, max_queued=0) as service:
        await service.order(gate="g")

        assert is_told_to_come_back(await service.order())
        assert is_told_to_come_back(await service.order("?wait=0.1"))
        answers: list[Any] = []

        async def wait() -> None:
            answers.append(await service.order("?wait=30"))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            gates["g"].set()
        assert [answer.json()["status"] for answer in answers] == ["finished"]
    assert ran == ["price", "ship"] * 2


async def test_a_client_that_went_away_waiting_for_a_place_starts_nothing(serve: Serve) -> None:
    gate("g")
    async with serve(max_running=1, max_queued=0) as service:
        await service.order(gate="g")
        gone = anyio.Event()
        body = [{"type": "http.request", "body": b'{"item": "tea"}', "more_body": False}]

        async def receive() -> Any:
            if body:
                return body.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None: ...

        scope = {"type": "http", "method": "POST", "path": "/flows/Order", "query_string": b"", "headers": []}
        async with anyio.create_task_group() as group:
            group.start_soon(service.app, {**scope, "headers": [(b"content-type", b"application/json")]}, receive, send)
            await anyio.wait_all_tasks_blocked()
            gone.set()
        gates["g"].set()
        await service.ended((await service.order("?wait=30")).headers["location"])

        assert len((await service.http.get("/runs")).json()["runs"]) == 2


async def test_a_service_that_is_ending_takes_no_runs(serve: Serve) -> None:
    async with serve() as service:
        assert (await service.http.get("/readyz")).status_code == 200
        await service.runner.__aexit__(None, None, None)

        assert is_told_to_come_back(await service.order())
        assert is_told_to_come_back(await service.http.get("/readyz"))
        await service.runner.__aenter__()


async def test_a_storage_that_does_not_answer_is_reported(serve: Serve) -> None:
    storage = Broken()
    async with serve(storage, recover_every=None) as service:
        where = (await service.order("?wait=5")).headers["location"]
        storage.how = "busy"

        for answer in (
            await service.order(),
            await service.http.get(where),
            await service.http.get(f"{where}/events"),
            await service.http.post(f"{where}/cancel"),
            await service.http.get("/runs"),
            await service.http.get("/readyz"),
        ):
            assert is_told_to_come_back(answer), answer.text
        storage.how = "foreign"
        assert is_told_to_come_back(await service.http.get("/readyz"))
        storage.how = ""
        assert (await service.http.get("/readyz")).status_code == 200


async def test_a_storage_that_keeps_silent_is_not_waited_for_without_limit(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncflow.integrations.fastapi.router.SOON", 0.01)
    storage = Broken()
    async with serve(storage, recover_every=None) as service:
        storage.how = "silent"
        assert is_told_to_come_back(await service.http.get("/readyz"))
        storage.how = ""


class Slow(MemoryFlowPersistence):
    """A storage that waits for its gate, if it has one."""

    gate: anyio.Event | None = None

    async def append(self, checkpoint: Checkpoint) -> None:
        if self.gate is not None:
            await self.gate.wait()
        await super().append(checkpoint)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        if self.gate is not None:
            await self.gate.wait()
        return await super().load(run_id, seq)


@pytest.mark.found("R12")
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_request_that_is_cancelled_by_its_server_is_answered(
    serve: Serve, key: str | None, is_trio: bool
) -> None:
    """As uvicorn does it: the task, and no scope. Where a scope is cancelled, its requests are."""
    storage = Slow()
    async with serve(storage, recover_every=None) as service:
        where = (await service.order("?wait=60")).headers["location"]
        storage.gate = anyio.Event()
        if is_trio:
            with anyio.move_on_after(0.01) as scope:
                await service.order(key=key)
            assert scope.cancelled_caught
            storage.gate.set()
            return
        requests = [service.order(key=key), service.http.get(where)]
        tasks = [asyncio.create_task(request) for request in requests]
        while storage.gate.statistics().tasks_waiting < 2:  # noqa: ASYNC110 - no event to wait for
            await anyio.sleep(0.001)
        for task in tasks:
            task.cancel()
        answers = [await task for task in tasks]
        storage.gate.set()

    assert all(map(is_told_to_come_back, answers))
    assert answers[0].headers.get("location") == (key and f"/runs/{run_id_for('Order', key)}")


# ---- looking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run_id", ["unknown", "%20", "x" * 200, "a/b", "a/events/cancel", "%00"])
@pytest.mark.parametrize("what", ["", "/events", "/cancel"])
async def test_an_unknown_run_is_not_found(serve: Serve, run_id: str, what: str) -> None:
    async with serve() as service:
        answer = await service.http.request("POST" if what == "/cancel" else "GET", f"/runs/{run_id}{what}")

    assert answer.status_code == 404
    assert answer.json()["detail"]


async def test_a_run_of_a_flow_that_is_not_served_is_not_found(serve: Serve) -> None:
    """404, not 409: to clients of this service it does not exist, and nothing is shown of what else is stored."""
    storage = MemoryFlowPersistence()
    async with serve(storage) as service:
        await service.runner.run(Secret, run_id="other")

        for answer in (
            await service.http.get("/runs/other"),
            await service.http.get("/runs/other/events"),
            await service.http.post("/runs/other/cancel"),
        ):
            assert answer.status_code == 404
            assert "Secret" not in answer.text
        assert (await service.http.get("/runs")).json()["runs"] == []
        assert (await service.http.get("/runs", params={"flow": "Secret"})).status_code == 422


@pytest.mark.parametrize("run_id", ["order-7", "a/b", "a b", "ü", "é?#%", "x/events"])
async def test_a_run_that_the_program_itself_named_is_found(serve: Serve, run_id: str) -> None:
    async with serve() as service:
        await service.runner.run(Order, {"item": "tea"}, run_id=run_id)

        assert (await service.http.get(f"/runs/{quote(run_id, safe='')}/events")).status_code == 200
        if run_id != "x/events":  # which is the events of x
            assert (await service.http.get(f"/runs/{quote(run_id, safe='')}")).json()["run_id"] == run_id


async def test_runs_are_listed_page_by_page_and_by_what_they_are(serve: Serve) -> None:
    async with serve() as service:
        for n in range(5):
            await service.order("?wait=5", fails=n % 2 == 0)
            await service.runner.run(Secret)
            await service.http.post("/flows/Count?wait=5")

        async def listed(**which: Any) -> list[str]:
            seen: list[str] = []
            while True:
                page = (await service.http.get("/runs", params=which)).json()
                assert len(page["runs"]) <= which["limit"]
                seen += [f"{run['flow']} {run['status']}" for run in page["runs"]]
                if page["next"] is None:
                    return seen
                which["cursor"] = page["next"]

        orders = ["Order failed", "Order finished", "Order failed", "Order finished", "Order failed"]
        everything = [line for order in orders for line in ("Count finished", order)]
        for limit in (1, 2, 3, 10, 200):
            assert await listed(limit=limit) == everything
            assert await listed(limit=limit, flow="Order") == orders
            assert await listed(limit=limit, flow="Order", status="failed") == orders[::2]
        assert await listed(limit=5, status="cancelled") == []


async def test_the_children_of_a_run_are_listed(serve: Serve) -> None:
    storage = MemoryFlowPersistence()
    async with FlowRunner(storage) as runner:
        await runner.run(Count, run_id="template")
    first = (await storage.history("template"))[0]
    for run_id, parent in (("parent", ""), ("one", "parent"), ("two", "parent"), ("three", "one")):
        checkpoint = first._replace(run_id=run_id).sealed()
        await (storage.append_child(checkpoint, parent) if parent else storage.append(checkpoint))
    async with serve(storage, recover_every=None) as service:
        for which, ids in (("parent=parent", ["two", "one"]), ("parent=one", ["three"]), ("parent=three", [])):
            runs = (await service.http.get(f"/runs?{which}")).json()["runs"]
            assert [run["run_id"] for run in runs] == ids
            assert {run["parent"] for run in runs} <= {which.partition("=")[2]}


@pytest.mark.parametrize(
    "which",
    ["limit=0", "limit=201", "limit=x", "status=stopped", "flow=Nope", "cursor=x", "cursor=-1", f"cursor={2**63}"],
)
async def test_a_list_that_cannot_be_is_refused(serve: Serve, which: str) -> None:
    async with serve() as service:
        answer = await service.http.get(f"/runs?{which}")

    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", which.partition("=")[0]])


@pytest.mark.found("T10")
async def test_a_run_is_running_while_it_is_driven_and_interrupted_while_it_is_not(serve: Serve) -> None:
    """The same words for one run and in a list; those of one status are listed by them."""
    gate("g")
    storage = MemoryFlowPersistence()
    async with FlowRunner(storage, grace=0, patience=0, recover_every=None) as runner:
        left = (await runner.start(Order, {"item": "tea", "gate": "g"})).run_id
        while "price" not in ran:  # noqa: ASYNC110 - no event to wait for
            await anyio.sleep(0.001)
    async with serve(storage, recover_every=None) as service:
        answers = {
            "interrupted": left,
            "running": (await service.order(gate="g")).json()["run_id"],
            "failed": (await service.order("?wait=60", fails=True)).json()["run_id"],
            "finished": (await service.order("?wait=60")).json()["run_id"],
        }
        answers["cancelled"] = (await service.order(gate="g")).json()["run_id"]
        await service.http.post(f"/runs/{answers['cancelled']}/cancel")
        listed = {run["run_id"]: run["status"] for run in (await service.http.get("/runs")).json()["runs"]}
        for status, run_id in answers.items():
            assert (await service.http.get(f"/runs/{run_id}")).json()["status"] == status
            assert listed[run_id] == status
            page = (await service.http.get("/runs", params={"status": status})).json()["runs"]
            (only,) = page
            assert (only["run_id"], only["status"]) == (run_id, status)
        gates["g"].set()


@pytest.mark.found("B1")
async def test_runs_of_another_class_of_the_same_name_are_not_shown(serve: Serve) -> None:
    other = type("Order", (Secret,), {"__module__": "elsewhere", "__qualname__": "Order"})
    storage = MemoryFlowPersistence()
    async with FlowRunner(storage) as runner:
        await runner.run(other, run_id="theirs")
    async with serve(storage) as service:
        ours = (await service.order("?wait=60")).json()["run_id"]
        for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/resume")):
            assert (await service.http.request(method, f"/runs/theirs{path}")).status_code == 404
        assert [run["run_id"] for run in (await service.http.get("/runs")).json()["runs"]] == [ours]
        assert [run["run_id"] for run in (await service.http.get("/runs?flow=Order")).json()["runs"]] == [ours]


@pytest.mark.found("B1")
async def test_runs_that_were_stored_under_a_former_name_are_shown_under_the_current_name(serve: Serve) -> None:
    class Once(Flow):
        name = "Once"

        @start()
        async def only(self) -> int:
            return 1

    class Now(Once):
        name = "Now"
        formerly = "Once"

    storage = MemoryFlowPersistence()
    async with FlowRunner(storage) as runner:
        await runner.run(Once, run_id="old")
    async with serve(storage) as service:
        service.app.include_router(flow_router(service.runner, [Now, Count], prefix="/now"))
        told = await service.http.get("/now/runs/old")

        assert (told.status_code, told.json()["flow"], told.json()["result"]) == (200, "Now", 1)
        (listed,) = (await service.http.get("/now/runs?flow=Now")).json()["runs"]
        assert (listed["run_id"], listed["flow"]) == ("old", "Now")


@pytest.mark.found("B1")
def test_two_flows_of_one_name_are_refused_by_name_with_the_cure() -> None:
    other = type("Order", (Secret,), {"__module__": "elsewhere", "__qualname__": "Order"})
    with pytest.raises(errors.FlowDefinitionError, match=r"two flows are named Order.*elsewhere.*Declare name = "):
        flow_router(FlowRunner(MemoryFlowPersistence()), [Order, other])

    named = type("Order", (Secret,), {"__module__": "elsewhere", "name": "Other"})
    flow_router(FlowRunner(MemoryFlowPersistence()), [Order, named])


# ---- cancelling ------------------------------------------------------------------------------------------------------


async def test_a_run_is_cancelled_once_and_for_all(serve: Serve) -> None:
    gate("g")
    async with serve() as service:
        answer = await service.order(gate="g")
        where = answer.headers["location"]
        for _ in range(3):
            cancelled = await service.http.post(f"{where}/cancel")
            assert (cancelled.status_code, cancelled.json()) == (
                200,
                {"run_id": answer.json()["run_id"], "status": "cancelled"},
            )

        assert (await service.http.get(where)).json()["status"] == "cancelled"


async def test_a_run_that_has_failed_can_be_cancelled_and_one_that_has_finished_cannot(serve: Serve) -> None:
    async with serve() as service:
        failed, finished = await service.order("?wait=5", fails=True), await service.order("?wait=5")

        assert (await service.http.post(f"{failed.headers['location']}/cancel")).json()["status"] == "cancelled"
        assert (await service.http.post(f"{finished.headers['location']}/cancel")).status_code == 409
        assert (await service.http.get(finished.headers["location"])).json()["status"] == "finished"


class Older(Flow):
    """Orders, as they were before there was an item."""

    __module__, __qualname__ = Order.__module__, Order.__qualname__

    @start()
    async def price(self) -> int:
        await anyio.sleep_forever()
        return 0


async def test_a_run_that_does_not_fit_the_flow_any_more_can_be_watched_and_cancelled(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryFlowPersistence()
    async with FlowRunner(storage, grace=0, patience=0) as runner:
        where = f"/runs/{(await runner.start(Older)).run_id}"
    async with serve(storage, recover_every=None) as service:
        told = await service.http.get(where)
        cancelled = await service.http.post(f"{where}/cancel")
        events = await service.http.get(f"{where}/events")

    assert told.status_code == 200
    assert told.json()["state"] == {"id": told.json()["run_id"]}  # as it is stored
    assert "no longer fit the types of the flow" in told.json()["problem"]
    assert "does not fit the model of Order" in caplog.text
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert events.status_code == 200
    assert '"event":"RunCancelled"' in events.text


# ---- who may ---------------------------------------------------------------------------------------------------------


async def test_every_route_but_readyz_asks_for_leave_first(serve: Serve) -> None:
    async def authorize(token: str = Header(default="")) -> None:
        if token != "good":
            raise HTTPException(401)

    async with serve(authorize=authorize) as service:
        good = {"token": "good"}
        where = (await service.http.post("/flows/Order?wait=5", json={"item": "tea"}, headers=good)).headers["location"]
        asked = 0
        for path, methods in service.app.openapi()["paths"].items():
            for method in methods:
                url = path.replace("/runs/{run_id}", where)
                for params in ({}, {"limit": "bad"}):
                    answer = await service.http.request(method, url, params=params)
                    assert answer.status_code == (200 if path == "/readyz" else 401), url
                    asked += 1
                allowed = await service.http.request(method, url, headers=good, json={"item": "tea"})
                assert allowed.status_code not in (401, 403)
        assert (await service.http.get("/runs/unknown")).status_code == 401

    assert asked == 18


# ---- its life, and its schema ----------------------------------------------------------------------------------------


async def test_the_application_s_own_lifespan_is_around_the_runner_s(serve: Serve) -> None:
    told: list[str] = []

    @asynccontextmanager
    async def inner(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        told.append("opened")
        yield {"pool": 1}
        told.append(f"closed after {ran}")

    async with serve(inner=inner, grace=5) as service:
        assert told == ["opened"]
        await service.order()

    assert told == ["opened", "closed after ['price', 'ship']"]


async def test_the_schema_says_what_each_flow_takes_and_gives(serve: Serve) -> None:
    async with serve() as service:
        schema = (await service.http.get("/openapi.json")).json()
        assert (await service.http.get("/docs")).status_code == 200

    models, start = schema["components"]["schemas"], schema["paths"]["/flows/Order"]["post"]
    assert start["description"] == "Prices an order, and ships it."
    assert set(start["responses"]) == {"200", "202", "409", "422", "500", "503"}
    assert start["requestBody"]["required"]
    inputs = models["OrderInputs"]
    assert inputs["required"] == ["item"]
    assert set(inputs["properties"]) == {"item", "count", "to", "gate", "fails"}
    assert inputs["properties"]["count"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
        "default": 1,
        "title": "Count",
    }
    assert models["OrderRun"]["properties"]["state"] == {"$ref": "#/components/schemas/OrderState"}
    assert models["OrderRun"]["properties"]["result"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert models["CountRun"]["properties"]["result"]["anyOf"] == [{"type": "integer"}, {"type": "null"}]
    assert models["RunPage"]["properties"]["runs"]["items"] == {"$ref": "#/components/schemas/RunLine"}
    answer = schema["paths"]["/runs/{run_id}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["discriminator"]["propertyName"] == "flow"
    assert "text/event-stream" in schema["paths"]["/runs/{run_id}/events"]["get"]["responses"]["200"]["content"]


async def test_two_routers_with_prefixes_live_in_one_application(serve: Serve) -> None:
    async with serve() as service:
        service.app.include_router(flow_router(service.runner, [Order], prefix="/shop"), prefix="/v1")
        answer = await service.http.post("/v1/shop/flows/Order?wait=5", json={"item": "tea"})

        assert answer.headers["location"] == f"/v1/shop/runs/{answer.json()['run_id']}"
        assert (await service.http.get(answer.headers["location"])).json() == answer.json()


def test_a_router_without_flows_or_with_one_twice_is_refused() -> None:
    runner = FlowRunner(MemoryFlowPersistence())
    for flows in ([], [Order, Order]):
        with pytest.raises(ValueError, match="each name only once"):
            flow_router(runner, flows)


def test_a_flow_whose_name_is_no_path_is_refused() -> None:
    class Odd(Secret):
        name = "ship {it}"

    with pytest.raises(ValueError, match="braces"):
        flow_router(FlowRunner(MemoryFlowPersistence()), [Odd])


async def test_a_key_is_its_senders_own(serve: Serve) -> None:
    calls: list[str] = []

    async def authorize(user: str = Header()) -> str:
        calls.append(user)
        return user

    async def order(user: str, **inputs: Any) -> Any:
        headers = {"Idempotency-Key": "1", "user": user}
        return await service.http.post("/flows/Order?wait=5", json={"item": "tea", **inputs}, headers=headers)

    async with serve(authorize=authorize) as service:
        ada, bob = await order("ada"), await order("bob", count=2)

        assert (await order("ada")).json() == ada.json()
        assert ada.json()["run_id"] == run_id_for("Order", "1", "ada")
        assert bob.json()["run_id"] == run_id_for("Order", "1", "bob")
        assert len({ada.json()["run_id"], bob.json()["run_id"], run_id_for("Order", "1")}) == 3
        assert calls == ["ada", "bob", "ada"], "asked once a request"


async def test_authorize_must_return_the_client_as_a_text(serve: Serve) -> None:
    async def authorize() -> object:
        return object()

    async with serve(authorize=authorize) as service:
        assert (await service.order()).status_code == 202
        with pytest.raises(
            TypeError, match="authorize must return the client as a str, int or UUID, or None; not a object"
        ):
            await service.order(key="k")
