"""A state is lent where it surely can be made again from its bytes: where no class's own code is asked, by whatever name it goes."""

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import pathlib
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, TypeVar

import annotated_types
import pytest
from pydantic import (
    AfterValidator,
    Base64Bytes,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FutureDate,
    HttpUrl,
    InstanceOf,
    Json,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    PositiveInt,
    SecretStr,
    StrictInt,
    StringConstraints,
    WrapValidator,
    conlist,
    create_model,
    field_validator,
    model_validator,
)
from typing_extensions import TypeAliasType, TypedDict

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, listen, merge, start
from asyncflow._codec.plain_models import is_plain

pytestmark = pytest.mark.found("P1")

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"


class Row(BaseModel):
    number: int = 0


class Tree(BaseModel):
    branches: list["Tree"] = Field(default_factory=list)
    parent: Optional["Tree"] = None


class Named(TypedDict):
    number: int
    text: NotRequired[str]


UserId = NewType("UserId", int)
Rows = TypeAliasType("Rows", list[Row])
ListOf = TypeAliasType("ListOf", list[T], type_params=(T,))

PLAIN: list[Any] = [
    *(int, str, float, bool, bytes, decimal.Decimal, uuid.UUID, pathlib.Path, Color, Any, JsonValue),
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta),
    *(list, dict, list[int], dict[str, list[Row]], set[str], frozenset[int], tuple[int, ...], tuple[int, str]),
    *(collections.abc.Sequence[int], collections.abc.Mapping[str, int]),
    *(Row, Row | None, None | Row, list[dict[str, Any]], int | str, Row | int, Tree, list[Tree]),
    *(Literal["a", "b"], Literal["a"] | None, datetime.datetime | None),
    *(PositiveInt, StrictInt, conlist(int, max_length=3), Annotated[int, merge.add], Annotated[str, "a note"]),
    *(
        Annotated[str, StringConstraints(pattern="a")],
        Annotated[int, Field(gt=0)],
        Annotated[float, Field(allow_inf_nan=False)],
    ),
    *(Annotated[decimal.Decimal, Field(max_digits=3)], Annotated[int, annotated_types.Interval(ge=1)]),
    *(Named, list[Named], UserId, dict[str, UserId], Rows, ListOf[int], ListOf[UserId] | None, UserId | str),
]


@pytest.mark.parametrize("annotation", PLAIN)
def test_an_annotation_whose_values_no_own_code_reads_is_plain(annotation: Any) -> None:
    assert is_plain(create_model("Model", value=(annotation, ...)))


def checked(value: Any) -> Any:
    if not Book.is_open:
        raise ValueError("not now")
    return value


class Book:
    is_open = True


Checked = Annotated[int, AfterValidator(checked)]
CheckedId = NewType("CheckedId", Checked)  # type: ignore[valid-newtype]
CheckedAlias = TypeAliasType("CheckedAlias", Checked)
CheckedList = TypeAliasType("CheckedList", list[Annotated[T, AfterValidator(checked)]], type_params=(T,))


class CheckedDict(TypedDict):
    number: Checked


class Inner(TypedDict):
    inner: CheckedDict


class CheckedRow(BaseModel):
    number: int = 0

    @field_validator("number")
    @classmethod
    def checked(cls, number: int) -> int:
        return int(checked(number))


class Around(BaseModel):
    number: int = 0

    @model_validator(mode="before")
    @classmethod
    def checked(cls, value: Any) -> Any:
        return checked(value)


@dataclasses.dataclass
class CheckedData:
    number: Checked = 0


class Own:
    """A type that says itself how it is read."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(int)


CODE: list[Any] = [
    *(Checked, CheckedId, CheckedAlias, CheckedList[int], ListOf[CheckedId], CheckedDict, Inner, list[CheckedDict]),
    *(
        dict[CheckedId, int],
        tuple[CheckedId, ...],
        CheckedAlias | None,
        list[CheckedId | str],
        NewType("Two", CheckedId),
    ),
    *(Annotated[int, annotated_types.Predicate(checked)], Annotated[str, annotated_types.LowerCase]),
    *(Annotated[int, BeforeValidator(checked)], Annotated[int, PlainValidator(checked)]),
    *(Annotated[int, WrapValidator(lambda value, handler: handler(value))], Annotated[int, PlainSerializer(int)]),
    *(Row | CheckedRow, Around | Row, int | Around, list[CheckedRow | int], Row | CheckedData, CheckedDict | Row),
    *(FutureDate, HttpUrl, SecretStr, Json[int], Base64Bytes, InstanceOf[Row], Own, Callable, T),
]


@pytest.mark.parametrize("annotation", CODE)
def test_what_is_read_by_code_is_not_plain_by_whatever_name_it_goes(annotation: Any) -> None:
    model = create_model("Model", value=(annotation, ...), __config__=ConfigDict(arbitrary_types_allowed=True))

    assert not is_plain(model)


def test_settings_and_hooks_that_run_code_are_not_plain() -> None:
    class Hooked(BaseModel):
        def model_post_init(self, context: Any) -> None:
            checked(self)

    class Making(BaseModel):
        def __init__(self, **values: Any) -> None:
            super().__init__(**checked(values))

    class Schema(BaseModel):
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
            return handler(source)

    assert not any(map(is_plain, (Hooked, Making, Schema)))


# ---- what comes of it ----------------------------------------------------------------------------------------------

VALUES: dict[str, tuple[Any, Any]] = {
    "NewType": (CheckedId, 1),
    "alias": (CheckedAlias, 1),
    "generic alias": (CheckedList[int], [1]),
    "TypedDict": (CheckedDict, {"number": 1}),
    "TypedDict in a TypedDict": (Inner, {"inner": {"number": 1}}),
    "predicate": (Annotated[int, annotated_types.Predicate(lambda value: Book.is_open)], 1),
    "key of a dict": (dict[CheckedId, int], {1: 1}),
    "member of a union": (CheckedId | str, 1),
    "model": (CheckedRow, CheckedRow(number=1)),
    "dataclass": (CheckedData, CheckedData(number=1)),
}


@pytest.mark.clauses("E4")
@pytest.mark.parametrize("stored", [False, True], ids=["unstored", "stored"])
@pytest.mark.parametrize(("annotation", "value"), VALUES.values(), ids=VALUES)
async def test_a_validator_that_later_refuses_hurts_no_state(
    annotation: Any, value: Any, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = create_model("Record", value=(annotation, ...), number=(int, 0))
    state = create_model("State", __base__=FlowState, records=(list[record], []), turn=(int, 0))  # type: ignore[valid-type]

    class Failing(Flow[state]):  # type: ignore[valid-type]
        persistence = MemoryFlowPersistence() if stored else None

        @start()
        async def grown(self) -> None:
            self.state.records = [record(value=value, number=n) for n in range(400)]

        @listen(grown)
        async def turned(self) -> None:
            self.state.turn = 1

        @listen(turned)
        async def fails(self) -> None:
            self.state.records.clear()
            monkeypatch.setattr(Book, "is_open", False)
            raise KeyError("mine")

    flow = Failing()
    with pytest.raises(MethodError, match="fails raised KeyError"):
        await flow.kickoff()

    assert flow.state.turn == 1
    assert [each.number for each in flow.state.records] == list(range(400))
    assert flow.state.records[399].value == value


@pytest.mark.clauses("E4")
@pytest.mark.parametrize("stored", [False, True], ids=["unstored", "stored"])
@pytest.mark.parametrize(("annotation", "value"), VALUES.values(), ids=VALUES)
async def test_nor_does_one_of_the_values_of_a_dict_state(
    annotation: Any, value: Any, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Flow[dict[str, annotation]]):
        persistence = MemoryFlowPersistence() if stored else None

        @start()
        async def grown(self) -> None:
            self.state.update({f"key{n}": value for n in range(1_000)})

        @listen(grown)
        async def turned(self) -> None:
            self.state["last"] = value

        @listen(turned)
        async def fails(self) -> None:
            self.state.clear()
            monkeypatch.setattr(Book, "is_open", False)
            raise KeyError("mine")

    flow = Failing()
    with pytest.raises(MethodError, match="fails raised KeyError"):
        await flow.kickoff()

    assert len(flow.state) == 1_002
    assert flow.state["last"] == value


@pytest.mark.clauses("E4")
async def test_a_dict_state_of_plain_values_is_lent() -> None:
    held: list[int] = []

    class Lent(Flow[dict[str, UserId]]):
        persistence = MemoryFlowPersistence()

        @start()
        async def grown(self) -> None:
            self.state.update({f"key{n}": UserId(n) for n in range(1_000)})
            held.append(id(self.state))

        @listen(grown)
        async def turned(self) -> None:
            self.state["last"] = UserId(1)
            held.append(id(self.state))

        @listen(turned)
        async def again(self) -> None:
            held.append(id(self.state))

    await Lent().kickoff()

    assert held[1] == held[2]
