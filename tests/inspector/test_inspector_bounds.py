"""What is too much for a page is cut with a note; what a form sends back is exact; filters that only look wrong."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from press import Count, Publish, reached, running, started, text_of, visited

from asyncflow import Flow, FlowState, MemoryFlowPersistence, each, listen, start
from asyncflow.errors import RunnerOverloadedError
from asyncflow.runner import FlowRunner


class Open(Flow[dict[str, Any]]):
    @start()
    async def one(self) -> None:
        self.state["done"] = True


class Many(Flow[FlowState]):
    @start()
    async def names(self) -> list[int]:
        return list(range(40))

    @listen(each(names))
    async def fail(self, n: int) -> None:
        raise LookupError(f"no {n}" + "x" * 1_000)


def sent_by(page: str, name: str) -> list[str]:
    """The values of the inputs of a name, as a browser reads them."""
    found = re.findall(rf'name="{name}" value="([^"]*)"', page)
    return [unescape(value) for value in found]


async def test_a_state_of_many_fields_is_cut_with_a_note() -> None:
    storage = MemoryFlowPersistence()
    flow = Open(persistence=storage)
    await flow.kickoff({f"field-{n}": n for n in range(5_000)})
    async with visited(storage, Open, actions=True) as at:
        pages = [await at.run(flow.run_id, at=step) for step in (0, 1)]
        state = (await at.get("run/state", id=flow.run_id)).json()

    assert [len(page) < 400_000 for page in pages] == [True, True]
    assert "cut: 4,802 further fields are not shown" in text_of(pages[1])
    assert "and 4,991 more" in text_of(pages[1]), "the names of the fields that the first step has changed"
    assert state["field-4999"] == 4_999


async def test_signals_that_nothing_takes_are_cut_with_a_note() -> None:
    storage = MemoryFlowPersistence()
    async with running(storage) as runner:
        run_id = await started(runner, "failed", fails=True)
        handle = await runner.get(run_id)
        for _ in range(60):
            await handle.signal("noted")
    async with visited(storage) as at:
        page = text_of(await at.run(run_id))

    assert page.count("noted now") + len(re.findall(r"noted \d s ago", page)) == 50
    assert "cut: 10 further signals are not shown" in page


async def test_many_errors_are_cut_with_a_note() -> None:
    storage = MemoryFlowPersistence()
    async with running(storage, flows=[Many]) as runner:
        handle = await runner.start(Many)
        with pytest.raises(Exception, match="fail"):
            await handle.result()
        async with visited(storage, Many) as at:
            page = await at.run(handle.run_id)

    assert page.count('<section class="error"') <= 20


ODD = "a\u200db\U000e0100\u00ad"


async def test_forms_send_odd_characters_as_they_are() -> None:
    storage = MemoryFlowPersistence()
    run_id = "run-\U000e0100"  # printable, although it is shown as an escape
    flow = Open(persistence=storage)
    await flow.kickoff({"id": run_id, ODD: 1})
    async with visited(storage, Open, actions=True) as at:
        page = await at.run(run_id)
        fields, ids = sent_by(page, "field"), sent_by(page, "id")
        await at.follow(await at.post("run/edit", id=run_id, field=ODD, value="2"))
        copy = await at.post("run/fork", id=ids[-1])
        state = (await at.get("run/state", id=run_id)).json()
        listed = (await at.get(flow=ODD)).text

    assert ODD in fields
    assert set(ids) == {run_id, ""} or set(ids) == {run_id}
    assert copy.status_code == 303
    assert state == {"id": run_id, ODD: 2, "done": True}
    assert sent_by(listed, "flow") == [] or ODD in unescape(listed)
    assert ODD not in text_of(page), "shown, they are escaped"


async def test_a_text_that_was_filled_in_is_kept_exactly() -> None:
    remark = "\n\n first \u200d line"
    storage = MemoryFlowPersistence()
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(storage, runner=runner, actions=True) as at:
            answer = await at.post("run/signal", id=run_id, name="decided", **{"field.remark": remark})

    filled = re.search(r'name="field.remark"[^>]*>(.*?)</textarea>', answer.text, re.DOTALL)
    assert filled is not None
    assert unescape(filled[1]).removeprefix("\n") == remark, "a browser leaves the first line feed out"


async def test_the_answer_to_a_form_has_the_address_of_its_run() -> None:
    storage = MemoryFlowPersistence()
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(storage, runner=runner, actions=True) as at:
            refused = await at.post("run/edit", id=run_id, field="title", value="{")
            page = await at.run(run_id)

    assert f'data-page="/run?id={run_id}"' in refused.text
    assert "data-page" not in page


async def test_runs_that_are_older_than_their_last_change_are_found() -> None:
    storage = MemoryFlowPersistence()
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        now = datetime.now(UTC)
        past, future = [(now + timedelta(days=days)).isoformat() for days in (-1, 1)]
        async with visited(storage) as at:
            found = [
                run_id in (await at.get(**asked)).text
                for asked in (
                    {"since": past, "until": future},
                    {"since": future, "until": now.isoformat()},
                    {"within": "15m", "since": past},
                    {"within": "15m", "since": future},
                )
            ]
            later = await at.get(since=future, until=past)

    assert found == [True, False, True, False]
    assert later.status_code == 200, "a run may be created before one time, and be changed after a later one"


async def test_each_mistake_in_a_payload_is_said() -> None:
    storage = MemoryFlowPersistence()
    given = {"field.": '{"approved": [], "stars": 9}'}
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(storage, Count, runner=runner, actions=True) as at:
            answer = await at.post("run/signal", id=run_id, name="decided", **given)

    text = text_of(answer.text)
    assert answer.status_code == 422
    assert "approved: Input should be a valid boolean" in text
    assert "stars: Input should be less than or equal to 5" in text
    assert '{"approved": [], "stars": 9}</textarea>' in unescape(answer.text)


async def test_no_form_is_offered_for_a_signal_that_cannot_be_sent() -> None:
    storage = MemoryFlowPersistence()
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
    async with visited(storage, Count, actions=True) as at:
        page = await at.run(run_id)

    assert "run/signal" not in page


async def test_several_retries_are_all_allowed_or_none_is_tried(storage: Any) -> None:
    async with running(storage) as runner:
        ids = [await started(runner, "failed", fails=True) for _ in range(2)]

        async def authorize(request: Any, action: Any) -> bool:
            return action.run_id != ids[1]

        async with visited(storage, runner=runner, actions=True, authorize=authorize) as at:
            answer = await at.http.post(
                "/retry",
                content=f"id={ids[0].upper()}&id={ids[1].upper()}",
                headers={"Origin": "http://127.0.0.1", "Content-Type": "application/x-www-form-urlencoded"},
            )
        takeovers = [(await storage.load(run_id)).seq for run_id in ids]

    assert answer.status_code == 403
    assert takeovers == [2, 2]


async def test_retries_end_when_the_runner_is_at_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, tried = MemoryFlowPersistence(), list[str]()
    async with running(storage) as runner:
        ids = [await started(runner, "failed", fails=True) for _ in range(3)]

        async def resume(self: FlowRunner, run_id: str, **_: Any) -> Any:
            tried.append(run_id)
            raise RunnerOverloadedError("it is at capacity")

        monkeypatch.setattr(FlowRunner, "resume", resume)
        async with visited(storage, runner=runner, actions=True) as at:
            answer = await at.http.post(
                "/retry",
                content="&".join(f"id={run_id}" for run_id in ids),
                headers={"Origin": "http://127.0.0.1", "Content-Type": "application/x-www-form-urlencoded"},
            )

    assert tried == ids[:1]
    assert "0 of 3 runs continue" in text_of(answer.text)


async def test_authorize_gets_the_id_that_is_acted_on() -> None:
    storage, asked = MemoryFlowPersistence(), list[Any]()
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(
            storage, runner=runner, actions=True, authorize=lambda _, action: asked.append(action)
        ) as at:
            await at.post("run/cancel", id=run_id.upper())
            await at.get("run", id=run_id.upper())
            await at.get("run/events", id=run_id.upper())
            await at.get("run/state", id=run_id.upper())

    assert [action.run_id for action in asked] == [run_id] * 4
    assert {answer.status_code for answer in at.seen} == {403}


class Sends(Publish, name="Publish"):
    """It needs an argument."""

    def __init__(self, client: str, **given: Any) -> None:
        super().__init__(**given)
        self.client = client


async def test_a_flow_that_a_function_makes_is_forked_and_edited() -> None:
    def make() -> Sends:
        return Sends("a client")

    storage = MemoryFlowPersistence()
    async with FlowRunner(storage, flows=[make], park_after=0.0) as runner:
        run_id = (await runner.start(make, {"title": "tea"})).run_id
        async with visited(storage, make, runner=runner, actions=True) as at:
            await reached(runner, run_id, "waiting")
            edited = text_of(await at.follow(await at.post("run/edit", id=run_id, field="title", value='"coffee"')))
            forked = text_of(await at.follow(await at.post("run/fork", id=run_id)))

    assert "The state is changed." in edited
    assert "This is the copy." in forked


async def test_a_search_for_what_waits_says_that_it_can_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncflow.integrations.inspector.waiting_page.PAGE", 1)
    monkeypatch.setattr("asyncflow.integrations.inspector.waiting_page.LOOKS", 1)
    monkeypatch.setattr("asyncflow.integrations.inspector.waiting_page._waiting", _none)
    storage = MemoryFlowPersistence()
    async with running(storage) as runner:
        for _ in range(2):
            await started(runner, "waiting")
    async with visited(storage) as at:
        first = await at.get("waiting")
        link = next(unescape(link) for link in re.findall(r'href="([^"]*before=[^"]*)"', first.text))
        last = await at.http.get(link)

    assert "Continue with older runs" in text_of(first.text)
    assert "the search can continue" in text_of(first.text)
    assert "No run waits for a signal." in text_of(last.text)


async def _none(*_: Any) -> None:
    return None
