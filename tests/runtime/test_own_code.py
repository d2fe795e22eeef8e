"""Whatever the code of a class raises about a stored or a new value, it is reported as that: with the field, and never as corruption."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from typing_extensions import TypedDict

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, errors, listen, start

pytestmark = pytest.mark.clauses("V2", "S5")

KINDS = [TypeError, KeyError, AttributeError, IndexError, ZeroDivisionError, RuntimeError, OSError, RecursionError]


class Mood:
    """What the code of the models raises; None for nothing."""

    raises: ClassVar[type[Exception] | None] = None


def asked(value: Any) -> Any:
    if Mood.raises is not None and value:
        raise Mood.raises("a value of the user's")
    return value


class Field_(FlowState):
    number: int = 0

    @field_validator("number")
    @classmethod
    def checked(cls, number: int) -> int:
        return int(asked(number))


class Inside(FlowState):
    number: Annotated[int, AfterValidator(asked)] = 0


class Before(FlowState):
    number: Annotated[int, BeforeValidator(asked)] = 0


class Whole(FlowState):
    number: int = 0

    @model_validator(mode="after")
    def checked(self) -> "Whole":
        asked(self.number)
        return self


class Hooked(FlowState):
    number: int = 0

    def model_post_init(self, context: Any) -> None:
        asked(self.number)


class Row(BaseModel):
    number: int = 0

    @field_validator("number")
    @classmethod
    def checked(cls, number: int) -> int:
        return int(asked(number))


class Nested(FlowState):
    number: int = 0
    rows: dict[str, list[Row]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def with_a_row(cls, values: Any) -> Any:
        return values


class Typed(TypedDict, total=False):
    number: Annotated[int, AfterValidator(asked)]


STATES: dict[str, tuple[Any, Callable[[Any], None], str]] = {
    "of a field": (Field_, lambda state: setattr(state, "number", 1), "number"),
    "in an annotation": (Inside, lambda state: setattr(state, "number", 1), "number"),
    "before it is read": (Before, lambda state: setattr(state, "number", 1), "number"),
    "of the whole": (Whole, lambda state: setattr(state, "number", 1), ""),
    "after it was made": (Hooked, lambda state: setattr(state, "number", 1), ""),
    "of a nested model": (
        Nested,
        lambda state: state.rows.update(a=[Row.model_construct(number=1)]),
        "rows.number",
    ),
    "of a dict's values": (
        dict[str, Annotated[int, AfterValidator(asked)]],
        lambda state: state.update(number=1),
        "",
    ),
}


def flow_of(state: Any, change: Callable[[Any], None]) -> type[Flow[Any]]:
    class Changes(Flow[state]):
        @start()
        async def change(self) -> None:
            change(self.state)

    return Changes


@pytest.mark.found("D11")
@pytest.mark.parametrize("raises", KINDS)
@pytest.mark.parametrize(("state", "change", "field"), STATES.values(), ids=STATES)
async def test_a_stored_state_that_its_class_refuses_is_no_corruption(
    state: Any, change: Any, field: str, raises: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    persistence = MemoryFlowPersistence()
    flow = flow_of(state, change)(persistence=persistence)
    await flow.kickoff()
    monkeypatch.setattr(Mood, "raises", raises)

    with pytest.raises(errors.StateSchemaError) as caught:
        await type(flow).load(flow.run_id, persistence=persistence)

    assert caught.value.paths == ((field,) if field else ())
    assert f"{field or 'the value'}: its own code raised {raises.__name__}" in str(caught.value)
    assert "of the user's" not in str(caught.value)
    assert isinstance(caught.value.__cause__, raises)


@pytest.mark.found("D11")
@pytest.mark.parametrize("raises", KINDS)
@pytest.mark.parametrize(("state", "change", "field"), STATES.values(), ids=STATES)
async def test_a_new_state_that_its_class_refuses_to_load_is_not_storable(
    state: Any, change: Any, field: str, raises: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = flow_of(state, change)(persistence=MemoryFlowPersistence())
    monkeypatch.setattr(Mood, "raises", raises)

    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    refused = caught.value.__cause__
    assert isinstance(refused, errors.StateNotStorableError)
    assert refused.path == field
    assert f"such as a validator or a serializer, raises {raises.__name__}" in str(refused)
    assert "of the user's" not in str(refused)


@pytest.mark.found("D11")
@pytest.mark.parametrize("raises", KINDS)
@pytest.mark.parametrize("annotation", [Row, list[Row], Row | None, dict[str, Row]], ids=str)
async def test_a_stored_result_that_its_class_refuses_is_no_corruption(
    annotation: Any, raises: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {Row: Row(number=1), list[Row]: [Row(number=1)], dict[str, Row]: {"a": Row(number=1)}}
    persistence = MemoryFlowPersistence()

    class Returns(Flow[dict]):
        @start()
        async def first(self) -> annotation:
            return made.get(annotation, Row(number=1))

        @listen(first)
        async def second(self, given: Any) -> None:
            raise ValueError

    flow = Returns(persistence=persistence)
    with pytest.raises(MethodError):
        await flow.kickoff()
    monkeypatch.setattr(Mood, "raises", raises)

    with pytest.raises((MethodError, errors.StateSchemaError)) as caught:
        await Returns.resume(flow.run_id, persistence=persistence)

    told = caught.value.__cause__ if isinstance(caught.value, MethodError) else caught.value
    assert isinstance(told, errors.StateSchemaError)
    assert told.paths == ("number",)


class Serialized(FlowState):
    number: int = 0

    @field_serializer("number")
    def written(self, number: int) -> int:
        return int(asked(number))


class SerializedInside(FlowState):
    number: Annotated[int, PlainSerializer(asked)] = 0


class SerializedWhole(FlowState):
    number: int = 0

    @model_serializer(mode="wrap")
    def written(self, handler: Any) -> Any:
        asked(self.number)
        return handler(self)


@pytest.mark.found("D11")
@pytest.mark.parametrize(
    ("state", "path"), [(Serialized, "number"), (SerializedInside, "number"), (SerializedWhole, "")]
)
async def test_a_serializer_that_raises_is_reported_with_its_field(
    state: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = flow_of(state, lambda state: setattr(state, "number", 1))(persistence=MemoryFlowPersistence())
    monkeypatch.setattr(Mood, "raises", KeyError)

    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    refused = caught.value.__cause__
    assert isinstance(refused, errors.StateNotStorableError)
    assert (refused.path, "such as a validator or a serializer, raises KeyError" in str(refused)) == (path, True)


class Lax(FlowState):
    row: Row = None  # type: ignore[assignment]
    count: int = None  # type: ignore[assignment]


@pytest.mark.found("C5")
@pytest.mark.parametrize(
    ("inputs", "cure"), [({"count": 1}, "`row: Row | None`"), ({"row": Row()}, "`count: int | None`")]
)
async def test_the_error_for_a_default_of_none_shows_how_to_declare_it(inputs: Any, cure: str) -> None:
    flow = flow_of(Lax, lambda state: None)(persistence=MemoryFlowPersistence())

    with pytest.raises(errors.StateNotStorableError) as caught:
        await flow.kickoff(inputs)

    assert cure in str(caught.value)


@pytest.mark.found("A1")
async def test_a_result_that_does_not_fit_any_more_is_not_called_the_state() -> None:
    persistence = MemoryFlowPersistence()

    def flow(annotation: Any) -> Any:
        class Returns(Flow[dict]):
            name = "Returns"

            @start()
            async def first(self) -> annotation:
                return "text"

            @listen(first)
            async def second(self, given: Any) -> None:
                raise ValueError

        return Returns

    before = flow(str)(persistence=persistence)
    with pytest.raises(MethodError):
        await before.kickoff()

    with pytest.raises((MethodError, errors.StateSchemaError)) as caught:
        await flow(int).resume(before.run_id, persistence=persistence)

    told = caught.value.__cause__ if isinstance(caught.value, MethodError) else caught.value
    assert "its return annotation: the value: Input should be a valid integer" in str(told)
