"""What the inspector does with runs, and what it says when it cannot."""

from typing import Any

import anyio
import pytest
from press import CANARY, Count, Publish, gates, reached, running, started, text_of, visited
from pydantic import BaseModel, Field

from asyncflow import MemoryFlowPersistence, SQLiteFlowPersistence
from asyncflow.integrations.inspector.forms import fields_of, payload_of

DECIDED = {"name": "decided", "field.approved": "true", "field.remark": "", "field.stars": "4"}


async def test_a_failed_run_is_retried_once_its_cause_is_gone(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "failed", fails=True)
        async with visited(storage, runner=runner, actions=True) as at:
            edited = await at.follow(await at.post("run/edit", id=run_id, field="fails", value="false"))
            retried = await at.follow(await at.post("run/retry", id=run_id))
            await reached(runner, run_id, "waiting")

    assert "The state is changed." in text_of(edited)
    assert "what failed is tried again" in text_of(retried)


async def test_an_interrupted_run_is_resumed(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        copy = await Publish.fork(run_id, seq=1, persistence=storage)
        async with visited(storage, runner=runner, actions=True) as at:
            page = await at.run(copy.run_id)
            await at.follow(await at.post("run/resume", id=copy.run_id))
            await reached(runner, copy.run_id, "waiting")

    assert "Resume" in page
    assert "interrupted" in page


async def test_a_run_is_cancelled_permanently(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(storage, runner=runner, actions=True) as at:
            page = await at.follow(await at.post("run/cancel", id=run_id))
            again = await at.post("run/retry", id=run_id)

    assert "The run is cancelled." in text_of(page)
    assert "run/cancel" not in page
    assert again.status_code == 409
    assert "cancelled" in text_of(again.text)


async def test_a_run_is_forked_at_a_step(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "failed", fails=True)
        async with visited(storage, runner=runner, actions=True) as at:
            page = await at.follow(await at.post("run/fork", id=run_id, seq="1"))

    text = text_of(page)
    assert "This is the copy." in text
    assert f"Copy of {run_id} step 1" in text


async def test_a_signal_is_sent_once_for_each_form(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(storage, runner=runner, actions=True, authorize=lambda request, action: "ada") as at:
            page = await at.run(run_id)
            key = page.partition('name="key" value="')[2].partition('"')[0]
            sent = await at.follow(await at.post("run/signal", id=run_id, key=key, **DECIDED))
            again = await at.follow(await at.post("run/signal", id=run_id, key=key, **DECIDED))
            await reached(runner, run_id, "finished")
            result = text_of(await at.run(run_id))
            state = (await at.get("run/state", id=run_id)).json()

    assert "The signal is stored." in text_of(sent)
    assert "had received this signal already" in text_of(again)
    assert 'Result "About tea."' in result
    assert state["remarks"] == [""]


async def test_a_signal_without_a_payload_needs_a_button_only(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(storage, runner=runner, actions=True, authorize=lambda request, action: "ada") as at:
            page = await at.follow(await at.post("run/signal", id=run_id, name="noted"))

    assert "Inbox noted now , from ada" in text_of(page)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"field.approved": ""}, "A value is needed."),
        ({"field.approved": "perhaps"}, "This is no choice."),
        ({"field.approved": "2"}, "should be"),
        ({"field.stars": "many"}, "This is not a number."),
        ({"field.stars": "7"}, "less than or equal to 5"),
        ({"field.mood": '"ugly"'}, "'good' or 'bad'"),
    ],
)
async def test_a_form_that_does_not_fit_is_shown_again_with_its_mistakes(given: dict[str, str], said: str) -> None:
    storage = MemoryFlowPersistence()
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(storage, runner=runner, actions=True) as at:
            answer = await at.post("run/signal", id=run_id, **{**DECIDED, "field.remark": "kept", **given})

    text = text_of(answer.text)
    assert answer.status_code == 422
    assert "The signal decided was not sent" in text
    assert said in text
    assert ">\nkept</textarea>" in answer.text
    assert 'aria-invalid="true"' in answer.text


@pytest.mark.parametrize(
    ("action", "data", "status", "said"),
    [
        ("resume", {}, 409, "has no open FlowRunner that could continue the run"),
        ("retry", {}, 409, "has no open FlowRunner that could continue the run"),
        ("fork", {"seq": "99"}, 404, "no checkpoint 99"),
        ("fork", {"seq": "x"}, 400, "seq must be the number of a step"),
        ("edit", {"field": "title", "value": "{"}, 422, "The new value of title is not JSON"),
        ("edit", {"field": "title", "value": "7"}, 409, "title"),
        ("edit", {"field": "nothing", "value": "7"}, 409, "nothing"),
        ("edit", {"field": "id", "value": '"other"'}, 409, "the id of a run cannot be changed"),
        ("signal", {"name": "unknown"}, 409, "declares no such signal"),
        ("signal", {"name": CANARY}, 409, "declares no such signal"),
        ("nothing", {}, 404, "no such page"),
    ],
)
async def test_an_action_that_fails_says_why(
    action: str, data: dict[str, str], status: int, said: str, storage: Any
) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "failed", fails=True)
    async with visited(storage, actions=True) as at:
        answer = await at.post(f"run/{action}", id=run_id, **data)

    assert said in text_of(answer.text)
    assert answer.status_code == status


async def test_without_the_class_an_action_says_so_and_cancel_works(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
    async with visited(storage, Count, actions=True) as at:
        answers = [
            await at.post(f"run/{word}", id=run_id, name="noted") for word in ("resume", "fork", "edit", "signal")
        ]
        cancelled = await at.follow(await at.post("run/cancel", id=run_id))

    assert {answer.status_code for answer in answers} == {409, 422}
    assert "does not know the class of Publish" in text_of(answers[0].text)
    assert "does not know the class of Publish" in text_of(answers[1].text)
    assert "does not know the class of Publish" in text_of(answers[3].text)
    assert "The run is cancelled." in text_of(cancelled)


async def test_a_run_whose_class_only_the_runner_knows_gets_signals_as_json(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        async with visited(storage, Count, runner=runner, actions=True) as at:
            page = await at.run(run_id)
            wrong = await at.post("run/signal", id=run_id, name="decided", **{"field.": '{"approved": 3}'})
            await at.follow(await at.post("run/signal", id=run_id, name="decided", **{"field.": '{"approved": true}'}))
            await reached(runner, run_id, "finished")

    assert "Name of the signal" in text_of(page)
    assert wrong.status_code == 422


async def test_a_running_run_is_not_edited(storage: Any) -> None:
    gates["g"] = anyio.Event()
    async with running(storage) as runner:
        handle = await runner.start(Publish, {"title": "tea", "gate": "g"})
        async with visited(storage, runner=runner, actions=True) as at:
            answer = await at.post("run/edit", id=handle.run_id, field="title", value='"coffee"')
            page = await at.run(handle.run_id)
        gates["g"].set()

    assert answer.status_code == 409
    assert "Nothing was done" in text_of(answer.text)
    assert "run/edit" not in page


async def test_the_failed_runs_of_a_page_are_retried_together(storage: Any) -> None:
    async with running(storage) as runner:
        ids = [await started(runner, "failed", fails=True) for _ in range(3)]
        for run_id in ids:
            flow = await Publish.load(run_id, persistence=storage)
            await flow.update_state({"fails": False})
        async with visited(storage, runner=runner, actions=True) as at:
            page = (await at.get(status="failed")).text
            answer = await at.http.post(
                "/retry",
                content="&".join(f"id={i}" for i in ids),
                headers={"Origin": "http://127.0.0.1", "Content-Type": "application/x-www-form-urlencoded"},
            )
            done = await at.follow(answer)
            for run_id in ids:
                await reached(runner, run_id, "waiting")

    assert "Retry 3 failed runs…" in text_of(page)
    assert "3 runs continue." in text_of(done)


async def test_a_double_retry_continues_the_run_once(tmp_path: Any) -> None:
    storage = SQLiteFlowPersistence(tmp_path / "runs.db")
    async with running(storage) as runner:
        run_id = await started(runner, "failed", fails=True)
        async with visited(storage, runner=runner, actions=True) as at:
            for _ in range(2):
                await at.follow(await at.post("run/retry", id=run_id))
            await reached(runner, run_id, "failed")


class Address(BaseModel):
    street: str


class Everything(BaseModel):
    text: str
    short: str = Field("x", max_length=10)
    count: int = 1
    weight: float | None = None
    sure: bool = True
    to: Address | None = None
    names: list[str] = []


def test_a_form_has_an_input_for_each_field() -> None:
    fields = {each.name: each for each in fields_of(Everything)}

    assert {name: each.kind for name, each in fields.items()} == {
        "text": "lines",
        "short": "text",
        "count": "integer",
        "weight": "number",
        "sure": "choice",
        "to": "json",
        "names": "json",
    }
    assert [name for name, each in fields.items() if each.is_required] == ["text"]
    assert (fields["sure"].value, fields["count"].value, fields["names"].value) == ("true", "1", "[]")


@pytest.mark.parametrize(
    ("payload", "kinds"),
    [
        (None, []),
        (bool, ["choice"]),
        (int, ["integer"]),
        (str, ["lines"]),
        (list[int], ["json"]),
        (dict[str, int], ["json"]),
        (Any, ["json"]),
        (object, ["json"]),
        (type, ["json"]),
    ],
)
def test_a_form_for_any_type(payload: Any, kinds: list[str]) -> None:
    assert [each.kind for each in fields_of(payload)] == kinds


def test_a_filled_form_is_json() -> None:
    given = {
        "text": "two\r\nlines",
        "count": "7",
        "weight": "",
        "sure": "false",
        "to": '{"street": "x"}',
        "names": "[]",
    }
    data, wrong = payload_of(fields_of(Everything), {f"field.{name}": value for name, value in given.items()})

    assert wrong == {}
    assert data == b'{"text":"two\\nlines","count":7,"sure":false,"to":{"street":"x"},"names":[]}'


def test_what_is_no_number_or_json_is_reported() -> None:
    given = {"count": "seven", "weight": "NaN", "to": "{", "sure": "maybe"}
    _, wrong = payload_of(fields_of(Everything), {f"field.{name}": value for name, value in given.items()})

    assert wrong == {
        "count": "This is not a number.",
        "weight": "This is not a number.",
        "to": "This is not JSON.",
        "sure": "This is no choice.",
    }


def test_a_whole_payload_is_one_input() -> None:
    assert payload_of(fields_of(bool), {"field.": "true"}) == (b"true", {})
    assert payload_of(fields_of(int), {"field.": ""}) == (b"", {"": "A value is needed."})
    assert payload_of((), {}) == (b"", {})
