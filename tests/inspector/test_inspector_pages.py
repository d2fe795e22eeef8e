"""The inspector's pages: lists of runs and one run, as a browser without scripts sees them."""

import json
from html import unescape
from html.parser import HTMLParser
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from press import CANARY, Count, Decision, Publish, links_of, running, started, text_of, visited

from asyncflow import MemoryFlowPersistence
from asyncflow.integrations.inspector import inspector


async def failed_run(storage: Any) -> str:
    async with running(storage) as runner:
        return await started(runner, "failed", fails=True)


async def test_the_list_has_every_run_with_its_status_and_a_link(storage: Any) -> None:
    async with running(storage) as runner:
        failed = await started(runner, "failed", fails=True)
        waiting = await started(runner, "waiting")
        await runner.run(Count)
        async with visited(storage) as at:
            page = (await at.get()).text

    assert f'href="/run?id={failed}"' in page
    assert page.index(waiting) < page.index(failed), "the newest first"
    assert [f'class="badge {status}"' in page for status in ("failed", "waiting", "finished")] == [True] * 3


async def test_filters_select_runs(storage: Any) -> None:
    async with running(storage) as runner:
        failed = await started(runner, "failed", fails=True)
        counted = (await runner.start(Count)).run_id
        async with visited(storage) as at:
            found = [
                (await at.get(flow="Count")).text,
                (await at.get(status="failed")).text,
                (await at.get(id=failed[3:20])).text,
                (await at.get(until="2001-01-01T00:00")).text,
                (await at.get(within="15m", since="")).text,
            ]

    has = [(failed in page, counted in page) for page in found]
    assert has == [(False, True), (True, False), (True, False), (False, False), (True, True)]
    assert "No run matches" in found[3]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"status": "broken"}, "There is no status 'broken'"),
        ({"within": "1y"}, "There is no time '1y'"),
        ({"since": "yesterday"}, "'Changed from' is no time. Write it as"),
        ({"before": "x"}, "before must be a number"),
        ({"status": CANARY}, "There is no status"),
    ],
)
async def test_a_filter_without_sense_is_answered_with_what_to_do(query: dict[str, str], said: str) -> None:
    async with visited(MemoryFlowPersistence()) as at:
        answer = await at.get(**query)

    assert answer.status_code == 400
    assert said in text_of(answer.text)
    assert "<script>document" not in answer.text


async def test_pages_of_the_list_have_every_run_once(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncflow.integrations.inspector.runs_page.PAGE", 4)
    async with running(storage) as runner:
        ids = {(await runner.start(Count)).run_id for _ in range(10)}
        async with visited(storage, at="/flows") as at:
            page, seen, pages = (await at.get(flow="Count")).text, list[str](), 1
            while True:
                seen += [run_id for run_id in ids if f"id={run_id}" in page]
                older = [link for link in links_of(page) if "before=" in link]
                if not older:
                    break
                assert older[0].startswith("/flows/?before=")
                assert "flow=Count" in older[0]
                page, pages = (await at.http.get(older[0])).text, pages + 1

    assert (sorted(seen), pages) == (sorted(ids), 3)


async def test_a_run_shows_its_error_steps_state_and_inputs(storage: Any) -> None:
    run_id = await failed_run(storage)

    async with visited(storage) as at:
        page = await at.run(run_id)

    text = text_of(page)
    assert "builtins.LookupError in check:1" in text
    assert "no reviewer for tea" in text
    assert "Traceback (most recent call last)" in text
    assert 'raise LookupError(f"no reviewer for' in text
    assert '"About tea."' in text
    assert "draft:1" in text
    assert "Driven by nothing" in text
    assert "<form method" not in page, "without actions there is no form"


async def test_a_step_shows_the_state_at_it_and_what_it_has_changed(storage: Any) -> None:
    async with running(storage) as runner:
        handle = await runner.start(Count)
        await handle.result()
        async with visited(storage) as at:
            first, second = [text_of(await at.run(handle.run_id, at=n)) for n in (1, 2)]
            missing = await at.get("run", id=handle.run_id, at=99)
            file = (await at.get("run/state", id=handle.run_id, at=1)).json()

    assert "State at step 1" in first
    assert "n 1 → 2" in first
    assert "State now, step 2" in second
    assert "n 2 → 12" in second
    assert file["n"] == 2
    assert (missing.status_code, "no step 99" in text_of(missing.text)) == (404, True)


async def test_what_does_not_exist_is_a_404_with_words(storage: Any) -> None:
    async with visited(storage) as at:
        answers = [
            await at.get("run", id="nobody"),
            await at.get("run"),
            await at.get("run", id="a\nb"),
            await at.get("nowhere"),
            await at.get("run/events", id="nobody"),
            await at.get("run/state", id="nobody"),
            await at.get("static/..%2F__init__.py"),
        ]

    assert [answer.status_code for answer in answers] == [404] * 7
    assert "There is no such run" in text_of(answers[0].text)
    assert "There is no such page" in text_of(answers[3].text)


async def test_a_run_of_a_class_that_is_gone_is_shown_and_not_decoded(storage: Any) -> None:
    run_id = await failed_run(storage)

    async with visited(storage, Count, actions=True) as at:
        page = await at.run(run_id)
        listed = (await at.get()).text

    text = text_of(page)
    assert "does not know the class of this flow" in text
    assert "no reviewer for tea" in text
    assert "data-picture" not in page
    assert "run/cancel" in page
    assert "run/fork" not in page
    assert run_id in listed


async def test_every_link_is_below_the_path_of_the_mount(storage: Any) -> None:
    run_id = await failed_run(storage)
    app = FastAPI()
    app.mount("/flows", inspector(storage, [Publish], actions=True))
    transport = httpx2.ASGITransport(app, root_path="/api")

    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1/api") as http:
        paths = ("/flows/", f"/flows/run?id={run_id}", "/flows/waiting", "/flows/run?id=x")
        pages = [(await http.get(path)).text for path in paths]
        links = {link for page in pages for link in links_of(page) if not link.startswith("#")}
        shown = [link for link in links if "run/" not in link]
        answers = [await http.get(f"http://127.0.0.1{link}") for link in shown]

    assert len(shown) > 10
    assert all(link.startswith("/api/flows/") for link in links), links
    assert {answer.status_code for answer in answers} == {200}


async def test_the_graph_has_what_the_run_did(storage: Any) -> None:
    run_id = await failed_run(storage)

    async with visited(storage) as at:
        page = await at.run(run_id)

    picture = json.loads(unescape(page.partition('data-picture="')[2].partition('"')[0]))
    assert {node["id"]: node["status"] for node in picture["nodes"] if node["id"] in ("draft", "check", "publish")} == {
        "draft": "completed",
        "check": "failed",
        "publish": "not reached",
    }


async def test_waiting_runs_are_listed_with_the_signals_that_they_wait_for(storage: Any) -> None:
    async with running(storage) as runner:
        waiting = await started(runner, "waiting")
        failed = await started(runner, "failed", fails=True)
        async with visited(storage) as at:
            page = (await at.get("waiting")).text
            run = text_of(await at.run(waiting))

    assert waiting in page
    assert 'class="signal">decided<' in page
    assert failed not in page
    assert "decided awaited" in run


async def test_long_and_odd_values_are_cut_and_escaped(storage: Any) -> None:
    title = f"left‮right\x00\x07{CANARY}" + "x" * 1_000_000
    async with running(storage) as runner:
        run_id = await started(runner, "failed", title=title, fails=True)
        async with visited(storage, actions=True) as at:
            page = await at.run(run_id)
            file = (await at.get("run/state", id=run_id)).json()

    assert len(page) < 200_000
    assert "of 1,000,0" in page
    assert "‮" not in page
    assert r"\u202e" in page
    assert "\x07" not in page
    assert "<script>document" not in page
    assert file["title"] == title


async def test_a_canary_in_every_field_stays_text(storage: Any) -> None:
    class Named(Count, name=CANARY):
        pass

    async with running(storage, flows=[Publish, Named]) as runner:
        handle = await runner.start(Named, {"n": 1, CANARY: 2}, run_id=CANARY)
        await handle.result()
        failed = await started(runner, "failed", title=CANARY, fails=True)
        waiting = await started(runner, "waiting", title=CANARY)
        await (await runner.get(failed)).signal("decided", Decision(approved=True, remark=CANARY), sender=CANARY)
        async with visited(storage, Publish, Named, actions=True) as at:
            for page in ("", "waiting"):
                await at.get(page)
            for run_id in (handle.run_id, failed, waiting):
                for step in (0, 1, 2):
                    await at.run(run_id, at=step)
            await at.get("run", id=f"{CANARY}?")
            await at.get(flow=CANARY, id=CANARY)
            await at.get(status=CANARY)
            await at.post("run/signal", id=waiting, name=CANARY)
            await at.post("run/edit", id=failed, field=CANARY, value=CANARY)
            sent = {"id": waiting, "name": "decided", "field.remark": CANARY, "field.stars": CANARY}
            await at.post("run/signal", **sent)
            await at.post("run/nothing", id=CANARY)

    assert [answer.status_code for answer in at.seen] == [200] * 11 + [404, 200, 400, 409, 422, 422, 404]
    for answer in at.seen:
        found = Elements()
        found.feed(answer.text)
        assert found.names <= KNOWN, found.names - KNOWN
        assert not [name for name in found.attributes if name.startswith(("on", "style", "srcdoc"))]
        assert all("/static/" in source for source in found.scripts)
        assert found.inline == ""
    assert any("onerror=alert(1)" in text_of(answer.text) for answer in at.seen)


KNOWN = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "link",
        "script",
        "body",
        "header",
        "nav",
        "main",
        "form",
        "input",
        "label",
        "button",
    ),
    *(
        "select",
        "option",
        "datalist",
        "textarea",
        "details",
        "summary",
        "div",
        "span",
        "section",
        "h1",
        "h2",
        "h3",
        "p",
        "a",
    ),
    *("table", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd", "ul", "ol", "li", "pre", "code", "time", "strong"),
    *("svg", "path", "circle", "rect", "noscript", "del", "ins"),
}


class Elements(HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.scripts: list[str] = []
        self.inline = ""
        self._is_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._is_script = tag in ("script", "style")
        if tag == "script":
            self.scripts.append(dict(attrs).get("src") or "")

    def handle_endtag(self, tag: str) -> None:
        self._is_script = False

    def handle_data(self, data: str) -> None:
        self.inline += data if self._is_script else ""
