"""The inspector over PostgreSQL: its pages, its streams, its actions, and what it says of a server that is away."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import press
import pytest
from press import Count, reached, running, started, text_of, visited
from test_inspector_streams import told

from asyncflow.persistence.postgres import PostgresFlowPersistence


@pytest.fixture(autouse=True)
def _gates() -> Any:
    press.gates.clear()


async def test_pages_streams_and_files_show_runs(persistence: Any) -> None:
    async with running(persistence) as runner:
        failed = await started(runner, "failed", title="tea", fails=True)
        waiting = await started(runner, "waiting")
        counted = await runner.start(Count)
        await counted.result()
    async with visited(persistence) as at:
        listed = text_of((await at.get()).text)
        filtered = (
            await at.get(status="failed", flow="Publish", id=failed[:8], within="1h", until="2999-01-01T00:00")
        ).text
        waits = (await at.get("waiting")).text
        pages = [text_of(await at.run(failed, at=step)) for step in (0, 1, 2)]
        state = (await at.get("run/state", id=failed, at=1)).json()
        events = told((await at.get("run/events", id=counted.run_id, after="0.0")).text)

    assert [listed.count(run_id) for run_id in (failed, waiting, counted.run_id)] == [1, 1, 1]
    assert (failed in filtered, waiting in filtered) == (True, False)
    assert (waiting in waits, failed in waits) == (True, False)
    assert "no reviewer for tea" in pages[2]
    assert 'text "" → About tea.' in pages[1]
    assert state["text"] == "About tea."
    assert [(place, event["event"]) for place, event in events] == [
        ("1.0", "MethodFinished"),
        ("2.0", "MethodFinished"),
        ("2.1", "RunFinished"),
    ]


async def test_every_action_works(persistence: Any) -> None:
    decided = {"name": "decided", "field.approved": "true", "field.remark": "fine", "field.stars": "4"}
    async with running(persistence) as runner:
        run_id = await started(runner, "failed", fails=True)
        async with visited(persistence, runner=runner, actions=True, authorize=lambda request, action: "ada") as at:
            await at.follow(await at.post("run/edit", id=run_id, field="fails", value="false"))
            await at.follow(await at.post("run/retry", id=run_id))
            await reached(runner, run_id, "waiting")
            forked = await at.post("run/fork", id=run_id)
            copied = parse_qs(urlsplit(forked.headers["location"]).query)["id"][0]
            copy = text_of(await at.follow(forked))
            await at.follow(await at.post("run/resume", id=copied))
            await reached(runner, copied, "waiting")
            await at.follow(await at.post("run/signal", id=run_id, **decided))
            await reached(runner, run_id, "finished")
            await at.follow(await at.post("run/cancel", id=copied))
            listed = text_of((await at.get()).text)
            done = text_of(await at.run(run_id))

    assert f"Copy of {run_id} step" in copy
    assert f"cancelled Publish {copied}" in listed
    assert 'Result "About tea."' in done
    assert "fine" in done


async def test_pages_of_the_list_have_every_run_once(persistence: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncflow.integrations.inspector.runs_page.PAGE", 4)
    async with running(persistence) as runner:
        ids = [(await runner.start(Count)).run_id for _ in range(10)]
        async with visited(persistence) as at:
            pages = [(await at.get(flow="Count")).text]
            while 'rel="next"' in pages[-1]:
                link = next(link for link in press.links_of(pages[-1]) if "before=" in link)
                pages.append((await at.http.get(link)).text)

    seen = [run_id for page in pages for run_id in reversed(ids) if f"id={run_id}" in page]
    assert seen == ids[::-1]
    assert len(pages) == 3


@pytest.mark.parametrize(
    "query",
    [
        {"flow": "a\x00b"},
        {"id": "a\x00b"},
        {"parent": "a\x00b"},
        {"id": "50%_\\"},
        {"before": "9" * 15},
        {"since": "0001-01-01T00:00", "until": "9999-12-31T23:59"},
    ],
)
async def test_a_filter_that_no_run_can_fit_finds_none(persistence: Any, query: dict[str, str]) -> None:
    async with running(persistence) as runner:
        await started(runner, "waiting")
    async with visited(persistence, actions=True) as at:
        answer = await at.get(**query)
        actions = [await at.post(f"run/{word}", id="a\x00b", name="noted") for word in ("cancel", "signal", "fork")]

    assert answer.status_code == 200
    assert {action.status_code for action in actions} == {404}


async def test_a_server_that_is_away_is_a_page_without_its_password() -> None:
    away = PostgresFlowPersistence("postgresql://ada:4711-secret@127.0.0.1:1/runs?connect_timeout=2")
    async with visited(away) as at:
        answer = await at.get()

    assert answer.status_code == 503
    assert "The storage cannot be reached" in text_of(answer.text)
    assert "4711-secret" not in answer.text
