"""Who is answered by the inspector, and what every answer forbids the browser."""

import logging
from typing import Any

import httpx2
import pytest
from press import Publish, running, started, text_of, visited
from starlette.exceptions import HTTPException
from starlette.requests import Request

from asyncflow import MemoryFlowPersistence
from asyncflow.integrations.inspector import Action, inspector
from asyncflow.integrations.inspector.acting import ACTIONS

PAGES = ("", "waiting", "run", "run/events", "run/state")


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:80"])
async def test_a_client_on_this_machine_needs_no_authorize(client: str, host: str) -> None:
    async with visited(MemoryFlowPersistence(), client=(client, 1)) as at:
        answer = await at.get(headers={"Host": host})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        ("10.0.0.7", {}),
        ("::ffff:10.0.0.7", {}),
        ("testclient", {}),
        ("127.0.0.1", {"Host": "evil.example"}),
        ("127.0.0.1", {"Host": "127.0.0.1.evil.example"}),
        ("127.0.0.1", {"Host": "localhost.evil.example"}),
        ("127.0.0.1", {"Host": "0.0.0.0"}),
        ("127.0.0.1", {"Host": "[::1"}),
        ("127.0.0.1", {"Host": ""}),
        ("127.0.0.1", {"X-Forwarded-For": "10.0.0.7"}),
        ("127.0.0.1", {"Forwarded": "for=10.0.0.7"}),
        ("127.0.0.1", {"Via": "1.1 proxy"}),
    ],
)
async def test_any_other_client_is_refused_without_authorize(client: str, headers: dict[str, str]) -> None:
    async with visited(MemoryFlowPersistence(), client=(client, 1), actions=True) as at:
        answers = [await at.get(page, headers=headers, id="x") for page in PAGES]
        origin = f"http://{headers.get('Host', '127.0.0.1')}"
        answers.append(await at.post("run/cancel", headers={"Origin": origin, **headers}, id="x"))

    assert {answer.status_code for answer in answers} == {403}
    assert "To open it to others, pass authorize= to inspector()" in text_of(answers[0].text)


async def test_a_request_without_a_client_address_is_refused() -> None:
    app, sent = inspector(MemoryFlowPersistence(), [Publish]), list[dict[str, Any]]()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"host", b"localhost")]}
    await app({**scope, "client": None, "root_path": "", "scheme": "http", "server": None}, None, send)  # type: ignore[arg-type]

    assert sent[0]["status"] == 403


async def test_authorize_gets_the_request_and_the_action(storage: Any) -> None:
    asked: list[Action] = []

    async def authorize(request: Request, action: Action) -> bool:
        asked.append(action)
        return request.headers.get("x-user") == "ada"

    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        ada = {"X-User": "ada", "Origin": "http://flows.example", "Host": "flows.example"}
        async with visited(storage, actions=True, authorize=authorize, client=("10.0.0.7", 1)) as at:
            answers = [
                await at.get(headers=ada),
                await at.get("waiting", headers=ada),
                await at.get("run", headers=ada, id=run_id),
                await at.get("run/state", headers=ada, id=run_id),
                await at.post("run/signal", headers={**ada}, id=run_id, name="noted"),
                await at.post("run/cancel", headers={**ada, "X-User": "eve"}, id=run_id),
                await at.get(headers={"X-User": "eve"}),
            ]

        assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 303, 403, 403]
        assert asked == [
            Action("list"),
            Action("list"),
            Action("read", run_id),
            Action("read", run_id),
            Action("signal", run_id, "noted"),
            Action("cancel", run_id),
            Action("list"),
        ]
        assert await (await runner.get(run_id)).status() != "cancelled"


async def test_every_route_asks_authorize(storage: Any) -> None:
    app: Any = inspector(storage, [Publish])
    routes = {(route.path, *sorted(route.methods - {"HEAD"})) for route in app._app.routes}
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(storage, runner=runner, actions=True, authorize=lambda request, action: False) as at:
            gets = [await at.get(page, id=run_id) for page in PAGES]
            posts = [await at.post(f"run/{word}", id=run_id, name="noted") for word in ACTIONS]
            posts.append(await at.post("retry", id=run_id))

        assert await (await runner.get(run_id)).status() == "waiting"
    assert routes == {
        *(
            (f"/{page}", "GET") for page in (*PAGES, "static/{name}")
        ),  # the files are those of the package, the same for all
        ("/retry", "POST"),
        ("/run/{action}", "POST"),
    }
    assert {answer.status_code for answer in gets + posts} == {403}
    assert not [answer for answer in gets + posts if "Publish" in answer.text]


@pytest.mark.parametrize(
    ("answer", "status"), [(True, 200), ("ada", 200), (False, 403), (None, 403), ("", 403), (1, 403)]
)
async def test_only_true_or_a_name_allows(answer: Any, status: int) -> None:
    async with visited(MemoryFlowPersistence(), authorize=lambda request, action: answer) as at:
        assert (await at.get()).status_code == status


async def test_authorize_may_answer_by_itself() -> None:
    def authorize(request: Request, action: Action) -> bool:
        raise HTTPException(401, "Log in first.", {"WWW-Authenticate": "Basic"})

    async with visited(MemoryFlowPersistence(), authorize=authorize) as at:
        answer = await at.get()

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Basic")
    assert "Log in first." in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_what_does_not_come_from_its_own_page_changes_nothing(
    headers: dict[str, str | None], storage: Any
) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(storage, actions=True) as at:
            refused = await at.post("run/cancel", headers=headers, id=run_id)
            many = await at.post("retry", headers=headers, id=run_id)

        assert (refused.status_code, many.status_code) == (403, 403)
        assert "does not come from a page of this inspector" in text_of(refused.text)
        assert await (await runner.get(run_id)).status() == "waiting"


async def test_a_browser_without_sec_fetch_site_is_answered(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(storage, actions=True) as at:
            answer = await at.post("run/cancel", headers={"Sec-Fetch-Site": None}, id=run_id)

    assert answer.status_code == 303


async def test_without_actions_no_run_can_be_changed(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(storage) as at:
            words = ("resume", "retry", "cancel", "fork", "edit", "signal")
            answers = [await at.post(f"run/{word}", id=run_id, name="noted") for word in words]
            answers.append(await at.post("retry", id=run_id))
            page = await at.run(run_id)

        assert {answer.status_code for answer in answers} == {403}
        assert 'method="post"' not in page
        assert await (await runner.get(run_id)).status() == "waiting"


async def test_every_answer_has_the_headers(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "failed", fails=True)
        async with visited(storage, actions=True) as at:
            for page in ("", "waiting", "nowhere", "static/inspector.js", "static/nothing", "static/dagre.min.js"):
                await at.get(page)
            for page in ("run", "run/state", "run/events"):
                await at.get(page, id=run_id)
            await at.get(status="none")
            await at.post("run/cancel", headers={"Origin": "null"}, id=run_id)
            await at.post("run/cancel", id=run_id)
        async with visited(Broken(), actions=True) as broken:
            await broken.get()

    answers = at.seen + broken.seen
    assert {200, 303, 400, 403, 404, 500} <= {answer.status_code for answer in answers}
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers.get("cache-control") in ("no-store", "no-cache") or "static" in str(answer.url)


class Broken(MemoryFlowPersistence):
    async def runs(self, **asked: Any) -> Any:
        raise RuntimeError("a secret of the backend")


async def test_a_bug_of_a_backend_is_a_page_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async with visited(Broken()) as at:
        answer = await at.get()

    assert answer.status_code == 500
    assert "The inspector failed" in answer.text
    assert "a secret" not in answer.text


async def test_assets_are_kept_by_their_digest() -> None:
    async with visited(MemoryFlowPersistence()) as at:
        page = (await at.get()).text
        link = page.partition('rel="stylesheet" href="')[2].partition('"')[0]
        exact, other = await at.http.get(link), await at.get("static/inspector.css", v="old")
        again = await at.get("static/inspector.css", headers={"If-None-Match": exact.headers["etag"]})

    assert exact.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert exact.headers["content-type"].startswith("text/css")
    assert other.headers["cache-control"] == "no-cache"
    assert again.status_code == 304


@pytest.mark.filterwarnings("ignore:Async generator 'httpx2:ResourceWarning")  # the client's own, which trio reports
async def test_a_form_that_is_none_is_refused(storage: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    own = {"Origin": "http://127.0.0.1"}
    kind = "application/x-www-form-urlencoded"
    async with visited(storage, actions=True) as at:
        send = at.http.post
        answers: list[httpx2.Response] = [
            await send("/run/cancel", json={"id": "x"}, headers=own),
            await send("/run/cancel", content=b"x" * 300_000, headers={**own, "Content-Type": kind}),
            await send("/run/cancel", content=b"id=%ff", headers={**own, "Content-Type": kind}),
            await send("/run/cancel", content="id=ä".encode(), headers={**own, "Content-Type": kind}),
            await send("/run/fork", content=b"id=x&seq=-1", headers={**own, "Content-Type": kind}),
        ]

    assert [answer.status_code for answer in answers] == [415, 413, 400, 400, 404]
