"""What is stored can always be shown: every answer is JSON that browsers read, whatever a run's values are."""

import base64
import dataclasses
import json
import logging
import math
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    SecretStr,
    TypeAdapter,
    computed_field,
    field_serializer,
    model_serializer,
)

from asyncflow import Flow, FlowRunner, FlowState, MemoryFlowPersistence, listen, start
from asyncflow.integrations.fastapi import flow_router, lifespan
from asyncflow.integrations.fastapi.as_json import json_of

PNG = b"\x89PNG"
BASE64 = base64.b64encode(PNG).decode()
INF = float("inf")

held: list[Any] = [None]
"""What the next run puts into its state, and returns."""


class Holds(Flow[dict]):
    @start()
    async def put(self) -> None:
        self.state["held"] = held[0]

    @listen(put)
    async def give(self):  # no annotation: JSON's types, and tagged ones
        return held[0]


class Paired(Enum):
    PAIR = (1, 2)
    RAW = PNG
    NOTHING = math.nan


class Point(NamedTuple):
    x: float
    y: float


@dataclasses.dataclass
class Scan:
    name: str
    data: bytes = PNG


class Limits(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    low: float = -INF
    high: float = INF
    none: float = math.nan


class Broken(BaseModel):
    n: int = 1

    @computed_field
    @property
    def half(self) -> int:
        raise AttributeError("not today")


class Masked(BaseModel):
    """Its serializers hide things, and fail at bytes."""

    pin: bytes = b"\xff1234"
    pins: list[Annotated[bytes, PlainSerializer(lambda pin: pin[:1], return_type=bytes)]] = [b"\xff1234"]
    word: SecretStr = SecretStr("word-1234")
    kept: bytes = Field(b"\xff1234", exclude=True)
    shown: bytes = Field(PNG, serialization_alias="isShown")

    @field_serializer("pin")
    def hide(self, pin: bytes) -> bytes:
        return pin[:1]


class Whole(BaseModel):
    pin: bytes = b"\xff1234"

    @model_serializer(mode="wrap")
    def without_pin(self, write: Any) -> Any:
        return {key: value for key, value in write(self).items() if key != "pin"}


class Pictures(RootModel[list[bytes]]): ...


class Page(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants", extra="allow")
    title: str = ""
    data: bytes = b""
    ratio: float = 1.0
    counts: dict[bytes, int] = {}
    where: tuple[Point, ...] = ()
    pages: list["Page"] = []


class State(FlowState):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    page: Page = Page()
    limits: Limits | None = None


class Models(Flow[State]):
    @start()
    async def put(self) -> None:
        self.state = self.state.model_copy(update={"page": held[0]})

    @listen(put)
    async def give(self) -> list[Page]:
        return [held[0]]


def no_json(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


def read(text: str) -> Any:
    """What a browser reads; its own text has no lone surrogates."""
    text.encode()
    return json.loads(text, parse_constant=no_json)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    runner = FlowRunner(MemoryFlowPersistence())
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, [Holds, Models]))
    with TestClient(app) as client:
        yield client


def told_of(client: TestClient, flow: str) -> Any:
    """A run of a flow, by each route that shows it."""
    answer = client.post(f"/flows/{flow}?wait=60")
    assert answer.status_code == 200, answer.text
    told = read(answer.text)
    again = client.get(answer.headers["location"])
    assert (again.status_code, read(again.text)) == (200, told)
    listed = client.get("/runs", params={"limit": 1})
    assert (listed.status_code, read(listed.text)["runs"][0]["run_id"]) == (200, told["run_id"])
    events = client.get(f"{answer.headers['location']}/events")
    assert events.status_code == 200
    for line in events.text.splitlines():
        if line.startswith("data:"):
            read(line.removeprefix("data:"))
    return told


words = st.text(st.characters(), max_size=8)  # any character there is, surrogates too
atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    words,
    st.binary(max_size=8),
    st.decimals(),
    st.uuids(),
    st.datetimes(timezones=st.just(UTC)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.just(Path("a/b")),
)
keys = st.one_of(words, st.integers(), st.floats(), st.binary(max_size=4), st.none(), st.booleans(), st.dates())
keys |= st.tuples(st.integers(), st.binary(max_size=2)) | st.frozensets(st.integers(), max_size=2)
# Two sets with a NaN in them may have two orders: the hash of a NaN is that of the object.
hashed = st.one_of(st.integers(), st.floats(allow_nan=False), words, st.binary(max_size=4), st.dates())
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=3)
        | st.frozensets(hashed, max_size=3)
    ),
    max_leaves=8,
)
pages: st.SearchStrategy[Page] = st.deferred(
    lambda: st.builds(
        Page,
        title=st.text(max_size=8),
        data=st.binary(max_size=8),
        ratio=st.floats(),
        counts=st.dictionaries(st.binary(max_size=3), st.integers(), max_size=3),
        where=st.lists(st.builds(Point, st.floats(), st.floats()), max_size=2).map(tuple),
        pages=st.lists(pages, max_size=2),
        more=values,
    )
)


@pytest.mark.found("B5")
@given(value=values)
def test_a_run_with_any_value_is_shown(client: TestClient, value: Any) -> None:
    held[0] = value

    told = told_of(client, "Holds")

    assert told["status"] in ("finished", "failed")  # failed: the value cannot be stored, and the error says so
    assert told["status"] == "finished" or "NotStorable" in told["error"]["type"] or "Limit" in told["error"]["type"]


@pytest.mark.found("B5")
@given(page=pages)
def test_a_run_with_any_model_is_shown(client: TestClient, page: Page) -> None:
    held[0] = page

    assert told_of(client, "Models")["status"] in ("finished", "failed")


@pytest.mark.found("B5")
@given(
    value=st.one_of(values, pages, st.lists(pages, max_size=2), st.builds(Limits), st.builds(Broken), st.builds(Scan))
)
def test_any_value_has_json(value: Any) -> None:
    read(json_of(value).decode())


@pytest.mark.found("B5")
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"text", "text"),
        (PNG, BASE64),
        ({PNG: PNG, 1: PNG, (1, 2): PNG}, {BASE64: BASE64, "1": BASE64, "1,2": BASE64}),
        ([math.nan, INF, -INF, 0.5], [None, None, None, 0.5]),
        (2**70, 2**70),
        ({frozenset({1}): 2}, {"frozenset({1})": 2}),
        ((1, {2}, frozenset({3})), [1, [2], [3]]),
        ([Decimal("1.10"), Decimal("NaN")], ["1.10", "NaN"]),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        ([date(2026, 1, 2), time(3, 4), timedelta(hours=1)], ["2026-01-02", "03:04:00", "PT1H"]),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        ("control \x00\x1f\x7f", "control \x00\x1f\x7f"),
        ("lone \ud800", "lone ?"),
        (Paired.PAIR, [1, 2]),
        (Paired.RAW, BASE64),
        (Paired.NOTHING, None),
        ({Paired.RAW: 1}, {BASE64: 1}),
        (Limits(), {"low": None, "high": None, "none": None}),
        ([Limits(low=1), PNG], [{"low": 1.0, "high": None, "none": None}, BASE64]),
        (Broken(), {"n": 1, "half": None}),
        (Scan("one"), {"name": "one", "data": BASE64}),
        (Pictures([PNG, b"a"]), [BASE64, "a"]),
        (Point(INF, 1), [None, 1]),
        (["NaN", "Infinity"], ["NaN", "Infinity"]),
    ],
)
def test_what_json_lacks_is_base64_null_or_text(value: Any, shown: Any) -> None:
    told = read(json_of({"in": value}).decode())

    assert told == {"in": shown}
    assert read(json_of(value).decode()) == shown


@pytest.mark.found("B5")
def test_what_code_was_to_write_and_did_not_is_null_and_never_the_raw_value(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "asyncflow"):
        data = json_of({"of": [Masked(), Whole()]})

    assert read(data.decode()) == {"of": [{"pin": None, "pins": None, "word": "**********", "isShown": BASE64}, None]}
    assert "value shown as null: Masked.pin" in caplog.text
    assert "1234" not in caplog.text


def shown_by(flow: type[Flow[Any]], inputs: Any = None) -> Any:
    """A run of a flow, as its route shows it."""
    runner = FlowRunner(MemoryFlowPersistence())
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, [flow]))
    with TestClient(app) as client:
        answer = client.post(f"/flows/{flow.__name__}?wait=60", json=inputs)
        assert answer.status_code == 200, answer.text
        assert client.get(answer.headers["location"]).text == answer.text
        return read(answer.text)


@pytest.mark.found("B5")
def test_bytes_in_a_state_are_shown() -> None:
    class Draw(Flow[dict]):
        @start()
        async def draw(self):  # no annotation: as what it is
            self.state["png"] = PNG
            self.state["by"] = {PNG: 1}
            return PNG

    told = shown_by(Draw)

    assert (told["status"], told["result"]) == ("finished", BASE64)
    assert told["state"] == {"id": told["run_id"], "png": BASE64, "by": {BASE64: 1}}


@pytest.mark.found("B5")
def test_a_state_that_keeps_infinity_and_a_property_that_raises_are_shown() -> None:
    class Reach(FlowState):
        model_config = ConfigDict(ser_json_inf_nan="constants")
        far: float = INF

        @computed_field
        @property
        def half(self) -> float:
            raise KeyError("half")

    class Go(Flow[Reach]):
        @start()
        async def go(self) -> Limits:
            return Limits(low=2)

    told = shown_by(Go)

    assert told["state"] == {"id": told["run_id"], "far": None, "half": None}
    assert told["result"] == {"low": 2.0, "high": None, "none": None}


@pytest.mark.found("B5")
def test_an_error_is_shown_whatever_its_message_is() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            return "\x00\x1b[31m \ud800 \u2028 \n\r data: x"

    Odd.__module__ = "odd\ud800"

    class Fail(Flow):
        @start()
        async def fail(self) -> None:
            raise Odd

    told = shown_by(Fail)

    assert told["error"]["type"].startswith("odd?.")
    assert told["error"]["message"] == "\x00\x1b[31m ? \u2028 \n\r data: x"


@pytest.mark.found("B5")
async def test_inputs_nested_deeper_than_is_stored_are_shown() -> None:
    deep: Any = 1
    for _ in range(220):
        deep = [deep]

    class Depth(FlowState):
        depth: Annotated[
            int, BeforeValidator(lambda value: value if isinstance(value, int) else str(value).count("["))
        ] = 0

    class Measure(Flow[Depth]):
        @start()
        async def measure(self) -> int:
            return self.state.depth

    async with FlowRunner(MemoryFlowPersistence()) as runner:
        handle = await runner.start(Measure, {"depth": deep})

        assert await handle.result() == 220
        assert (await handle.snapshot()).inputs == {"depth": deep}


@pytest.mark.found("B5")
@pytest.mark.parametrize("changed", ["state", "result"])
def test_what_does_not_fit_the_flow_any_more_is_shown_as_it_is_stored(
    changed: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Now(FlowState):
        n: date = date(2026, 1, 2)

    def flow_of(state: Any, returns: Any) -> type[Flow[Any]]:
        class Counts(Flow[state]):
            @start()
            async def count(self) -> returns:
                return 7

        return Counts

    class Before(FlowState):
        n: int = 1

    storage = MemoryFlowPersistence()
    before = flow_of(Before, int)
    now = flow_of(Before if changed == "result" else Now, date if changed == "result" else int)

    def served(flow: type[Flow[Any]], ask: Callable[[TestClient], Any]) -> Any:
        runner = FlowRunner(storage, recover_every=None)
        app = FastAPI(lifespan=lifespan(runner))
        app.include_router(flow_router(runner, [flow]))
        with TestClient(app) as client:
            return ask(client)

    where = served(before, lambda client: client.post("/flows/Counts?wait=60")).headers["location"]
    answer = served(now, lambda client: client.get(where))

    told = read(answer.text)
    assert answer.status_code == 200
    assert (told["status"], told["state"]["n"], told["result"]) == ("finished", 1, 7)
    assert "as they are stored" in told["problem"]
    assert "does not fit" in caplog.text


def test_a_value_that_has_a_type_is_written_by_it() -> None:
    """Nothing is lost by looking at parts: what they are made of is what the whole would be."""
    page = Page(title="t", pages=[Page(ratio=2, where=(Point(1, 2),))], more={"a": [1, None]})

    whole = TypeAdapter(Page).dump_python(page, mode="json", by_alias=True)

    assert read(json_of(page).decode()) == whole
    assert read(json_of({"page": page, "raw": PNG}).decode()) == {"page": whole, "raw": BASE64}


@pytest.mark.found("B5")
async def test_a_runner_that_does_not_know_a_flow_sees_its_values_as_what_they_are() -> None:
    class Draw(Flow[dict]):
        @start()
        async def draw(self):  # no annotation: as what it is
            self.state["png"] = PNG
            return {PNG: date(2026, 1, 2)}

    storage = MemoryFlowPersistence()
    async with FlowRunner(storage) as runner:
        await runner.run(Draw, run_id="7")
    async with FlowRunner(storage) as runner:
        handle = await runner.get("7")
        seen = await handle.snapshot()

        assert (seen.state, seen.result) == ({"id": "7", "png": PNG}, {PNG: date(2026, 1, 2)})
        assert await handle.result() == seen.result
