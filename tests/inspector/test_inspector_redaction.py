"""What `redact` hides, wherever the inspector would show it."""

import json
from typing import Any

import pytest
from press import Count, Decision, Publish, running, started, text_of, visited
from pydantic import BaseModel

from asyncflow import errors
from asyncflow.events import MethodStarted, Streamed
from asyncflow.inspection import diff
from asyncflow.integrations.inspector import streaming

SECRET = "4711-secret"


def hiding(path: tuple[str | int, ...], value: Any) -> Any:
    return "[hidden]" if isinstance(value, str) and SECRET in value else value


@pytest.mark.clauses("O4")
async def test_redact_hides_a_value_on_every_page(storage: Any) -> None:
    async with running(storage) as runner:
        failed = await started(runner, "failed", title=f"x {SECRET}", secret=SECRET, fails=True)
        waiting = await started(runner, "waiting", secret=SECRET)
        await (await runner.get(failed)).signal("decided", Decision(approved=True, remark=SECRET))
        async with visited(storage, runner=runner, actions=True, redact=hiding) as at:
            for page in ("", "waiting"):
                await at.get(page)
            for run_id in (failed, waiting):
                for step in (0, 1, 2):
                    await at.run(run_id, at=step)
                await at.get("run/state", id=run_id)
            await at.get("run/events", id=failed)
            await at.post("run/edit", id=waiting, field="title", value="7")
            await at.post("run/signal", id=waiting, name="unknown")

    assert {answer.status_code for answer in at.seen} == {200, 409}
    assert not [str(answer.url) for answer in at.seen if SECRET in answer.text]
    assert sum("[hidden]" in answer.text for answer in at.seen) >= 8
    page = next(answer.text for answer in at.seen if f"id={failed}&at=2" in str(answer.url))
    assert 'name="field" value="secret"' not in page, "what is hidden cannot be edited"
    assert 'name="field" value="fails"' in page


async def test_a_redact_that_raises_shows_nothing(storage: Any, caplog: pytest.LogCaptureFixture) -> None:
    def broken(path: tuple[str | int, ...], value: Any) -> Any:
        raise RuntimeError(SECRET)

    async with running(storage) as runner:
        run_id = await started(runner, "failed", secret=SECRET, title=SECRET, fails=True)
        caplog.clear()
        async with visited(storage, redact=broken) as at:
            for step in (0, 1, 2):
                await at.run(run_id, at=step)
            await at.get("run/events", id=run_id)
            await at.get("run/state", id=run_id)

    assert not [str(answer.url) for answer in at.seen if SECRET in answer.text]
    assert "redact raised an exception" in at.seen[0].text
    assert "value not shown: redact raised RuntimeError at ('state',)" in caplog.text
    assert SECRET not in caplog.text


class Account(BaseModel):
    user: str
    password: str


def without_passwords(path: tuple[str | int, ...], value: Any) -> Any:
    return "[hidden]" if path[-1:] == ("password",) else value


@pytest.mark.clauses("O4")
@pytest.mark.parametrize(
    "value",
    [
        {"password": SECRET},
        {"accounts": [{"password": SECRET}]},
        ({"password": SECRET},),
        Account(user="ada", password=SECRET),
        {"by": {"ada": Account(user="ada", password=SECRET)}},
    ],
)
def test_redact_gets_the_parts_of_what_a_method_emits(value: Any) -> None:
    emitted = Streamed(run_id="x", flow="F", seq=-1, n=1, at=0.0, invocation="a:1", value=value)

    text = streaming._sent(emitted, without_passwords)

    assert SECRET not in text
    assert "[hidden]" in text
    assert SECRET in streaming._sent(emitted, None)


def test_a_value_that_contains_itself_is_not_shown_if_parts_may_be_hidden() -> None:
    value: dict[str, Any] = {"password": SECRET}
    value["self"] = value
    emitted = Streamed(run_id="x", flow="F", seq=-1, n=1, at=0.0, invocation="a:1", value=value)

    assert '"<dict>"' in streaming._sent(emitted, without_passwords)


def test_redact_gets_each_text_of_an_event() -> None:
    paths: list[Any] = []
    event = MethodStarted(run_id="x", flow="F", seq=-1, n=1, at=0.0, invocation="a:1", triggers=("b", "c"))

    data = json.loads(streaming._sent(event, lambda path, value: paths.append(path) or value).partition("data: ")[2])

    assert data["triggers"] == ["b", "c"]
    assert ("event", "MethodStarted", "triggers", 1) in paths


async def test_redact_may_leave_parts_out(storage: Any) -> None:
    def shortened(path: tuple[str | int, ...], value: Any) -> Any:
        hidden = ("secret", "text")
        return {name: part for name, part in value.items() if name not in hidden} if path == ("state",) else value

    async with running(storage) as runner:
        run_id = await started(runner, "waiting")
        flow = await Publish.load(run_id, persistence=storage)
        await flow.update_state({"secret": SECRET, "title": "coffee"})
    async with visited(storage, redact=shortened) as at:
        for step in range(4):
            await at.run(run_id, at=step)
    changed = await diff(storage, run_id, 2, 3, redact=shortened)

    assert [(each.path, each.before, each.after) for each in changed] == [(("title",), "tea", "coffee")]


async def test_the_difference_of_lists_that_redact_has_shortened(storage: Any) -> None:
    def shortened(path: tuple[str | int, ...], value: Any) -> Any:
        return [each for each in value if each != SECRET] if path == ("state", "remarks") else value

    async with running(storage) as runner:
        run_id = await started(runner, "waiting", remarks=[SECRET, "b"])
        flow = await Publish.load(run_id, persistence=storage)
        await flow.update_state({"remarks": [SECRET, "b", "c"]})

    changed = await diff(storage, run_id, 2, 3, redact=shortened)

    assert [(each.path, each.before, each.after) for each in changed] == [(("remarks",), ["b"], ["b", "c"])]


@pytest.mark.parametrize("instead", [None, 0, 42, "", [], {"a": 1}, b"x", object(), float("nan")])
async def test_redact_may_return_anything(storage: Any, instead: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "failed", secret=SECRET, fails=True)
        async with visited(storage, runner=runner, actions=True, redact=lambda path, value: instead) as at:
            for step in (0, 1, 2):
                await at.run(run_id, at=step)
            for page in ("run/events", "run/state"):
                await at.get(page, id=run_id)

    assert {answer.status_code for answer in at.seen} == {200}
    assert not [answer for answer in at.seen if SECRET in answer.text]


async def test_what_is_hidden_cannot_be_overwritten(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "waiting", secret=SECRET)
        async with visited(storage, runner=runner, actions=True, redact=hiding) as at:
            refused = await at.post("run/edit", id=run_id, field="secret", value='"mine"')
            edited = await at.post("run/edit", id=run_id, field="title", value='"coffee"')
        state = (await Publish.load(run_id, persistence=storage)).state

    assert (refused.status_code, edited.status_code) == (409, 303)
    assert "The value of secret is not shown here" in text_of(refused.text)
    assert (state.secret, state.title) == (SECRET, "coffee")


async def test_an_edit_that_is_refused_shows_no_value(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "waiting", secret=SECRET)
        async with visited(storage, runner=runner, actions=True, redact=hiding) as at:
            answer = await at.post("run/edit", id=run_id, field="fails", value='"perhaps"')

    assert answer.status_code == 409
    assert SECRET not in answer.text


async def test_a_reader_of_a_storage_without_the_class_sees_no_more(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "failed", secret=SECRET, title=SECRET, fails=True)
    async with visited(storage, Count, redact=hiding) as at:
        page = await at.run(run_id)

    assert SECRET not in page
    with pytest.raises(errors.RunNotFoundError):
        await diff(storage, "nobody", 0)
