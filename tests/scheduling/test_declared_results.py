"""A declared result, `Flow[State, Result]`: read from the class, and compared with the methods that may return it."""

import ast
import sys
import typing
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NewType, Optional, Protocol, TypedDict, TypeVar, Union

import pytest
import typing_extensions
from pydantic import BaseModel

import asyncflow
from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MemoryFlowPersistence,
    Signal,
    after,
    and_,
    each,
    listen,
    or_,
    router,
    start,
)
from asyncflow._definition import decorators
from asyncflow._definition.results import cannot_be
from asyncflow.errors import FlowDefinitionError
from asyncflow.runner import FlowInfo

S = TypeVar("S")
R = typing_extensions.TypeVar("R", default=Any)
T = TypeVar("T")
D = typing_extensions.TypeVar("D", default=int)


class Report(FlowState):
    total: int = 0


class Short(Report): ...


class Size(Enum):
    BIG = "big"


class Box(BaseModel, Generic[T]):
    value: T


class Sink(Generic[T]): ...


class Loads(Protocol):
    def load(self) -> int: ...


class Row(TypedDict):
    n: int


class OfAny(type):
    def __subclasscheck__(cls, other: type) -> bool:
        raise RuntimeError


class Odd(metaclass=OfAny): ...


UserId = NewType("UserId", int)
Alias = typing_extensions.TypeAliasType("Alias", Optional[Report])  # noqa: UP045
Later = typing_extensions.TypeAliasType("Later", "Undefined")  # type: ignore[misc]  # noqa: F821

FITS: list[tuple[Any, Any]] = [
    (int, int),
    (int, Any),
    (Any, int),
    (object, int),
    (int, object),
    (bool, int),
    (int, float),
    (bool, complex),
    (bytearray, bytes),
    (datetime, date),
    (Short, Report),
    (None, None),
    (None, int | None),
    (int, Optional[int]),  # noqa: UP045
    (int | str, Union[str, int, None]),  # noqa: UP007
    (None, Hashable),
    (Literal["a"], str),
    (Literal["a"], Literal["a", "b"]),
    (Literal[Size.BIG], Size),
    (str, Literal["a"]),
    (Size, Literal[Size.BIG]),
    (T, int),
    (int, T),
    (list[T], list[int]),
    (UserId, int),
    (int, UserId),
    (Annotated[int, "note"], int),
    (Report, Alias),
    (None, Alias),
    (Later, int),
    (int, Later),
    ("Report", int),
    (int, Loads),
    (Loads, int),
    (Row, Row),
    (dict[str, Any], Row),
    (Row, Mapping[str, Any]),
    (list, list[int]),
    (list[int], list),
    (list[bool], list[int]),
    (list[Report], list[Short]),
    (list[int], Sequence[str]),
    (list[int], typing.Iterable[int]),
    (dict[str, int], Mapping[str, int]),
    (tuple[int, str], tuple[int, str]),
    (tuple[int, int], tuple[int, ...]),
    (tuple[int, ...], tuple[int, int]),
    (Box[int], Box[int]),
    (Box[int], Box),
    (Box[Any], Box[int]),
    (Sink[Report], Sink[Short]),
    (Callable[[int], str], Callable[[str], str]),
    (type[Short], type[Report]),
    (typing.NoReturn, int),
    (int, Odd),
]

MISFITS: list[tuple[Any, Any]] = [
    (int, str),
    (str, int),
    (float, int),
    (None, int),
    (int, None),
    (None, Report),
    (int | None, int),
    (Optional[Report], Report),  # noqa: UP045
    (int | str, int | None),
    (Report, Short),
    (Report, Row),
    (Row, list[Any]),
    (Row, int),
    (date, datetime),
    (Literal["c"], Literal["a", "b"]),
    (Literal[1], Literal[True]),
    (Literal["a", 1], str),
    (int, Literal["a"]),
    (UserId, str),
    (Annotated[int, "note"], str),
    (int, Alias),
    (list[int], list[str]),
    (list[int], set[int]),
    (dict[str, int], dict[str, str]),
    (tuple[int, int], tuple[int, int, int]),
    (tuple[int, ...], tuple[str, ...]),
    (tuple[int, str], tuple[str, int]),
    (Box[int], Box[str]),
    (Box[int], int),
    (int, Box[int]),
    (Sink[int], Sink[str]),
    (type[int], type[str]),
    (int, Callable[[], int]),
    (int, typing.Iterable[int]),
]


@pytest.mark.parametrize(("returned", "wanted"), FITS, ids=str)
def test_what_may_be_the_result_is_accepted(returned: Any, wanted: Any) -> None:
    assert not cannot_be(returned, wanted)


@pytest.mark.parametrize(("returned", "wanted"), MISFITS, ids=str)
def test_what_cannot_be_the_result_is_refused(returned: Any, wanted: Any) -> None:
    assert cannot_be(returned, wanted)


# ---- the methods that are compared ---------------------------------------------------------------------------------


def problems_of(make: Callable[[], object]) -> list[str]:
    try:
        make()
    except FlowDefinitionError as error:
        return list(error.problems)
    return []


def last_of_a_chain() -> None:
    class F(Flow[Report, str]):
        @start()
        async def first(self) -> int: ...

        @listen(first)
        async def last(self) -> int: ...


def one_of_two_ends() -> None:
    class F(Flow[Report, str]):
        @start()
        async def first(self) -> int: ...

        @listen(first)
        async def last(self) -> str: ...

        @listen(first)
        def log(self) -> None: ...


def items() -> None:
    class F(Flow[Report, int]):
        @start()
        async def fetch(self) -> list[str]: ...

        @listen(each(fetch))
        async def last(self, item: str) -> int: ...


def named_output() -> None:
    class F(Flow[Report, str]):
        @start(output=True)
        async def first(self) -> int: ...

        @listen(first)
        async def last(self) -> str: ...


def awaited_by_a_plain_method() -> None:
    class F(Flow[Report, str]):
        @start()
        def last(self) -> Awaitable[int]: ...


def inherited() -> None:
    class Base(Flow[S, R]):
        @start()
        async def last(self) -> int: ...

    class F(Base[Report, str]): ...


WRONG: dict[Callable[[], None], list[str]] = {
    last_of_a_chain: [
        "last returns int and can be the last method of a run, but the declared result of the flow is str; change one of the two types, "
        "or give output=True to the method that returns the result"
    ],
    one_of_two_ends: [
        "log returns None and can be the last method of a run, but the declared result of the flow is str; change one of "
    ],
    items: ["last returns list[int] and can be the last method of a run"],
    named_output: ["first returns int, but the declared result of the flow is str; change one of the two types"],
    awaited_by_a_plain_method: ["last returns int and"],
    inherited: ["last returns int and"],
}


@pytest.mark.parametrize("make", WRONG, ids=lambda make: make.__name__)
def test_a_method_that_cannot_return_the_result_is_a_mistake(make: Callable[[], None]) -> None:
    found = problems_of(make)

    assert len(found) == len(WRONG[make])
    assert all(text.startswith(start) for text, start in zip(found, WRONG[make], strict=True))


def followed_or_unknown() -> None:
    class F(Flow[Report, str]):
        @start()
        async def first(self) -> int: ...

        @start()
        async def second(self) -> int: ...

        @listen(and_(first, second))
        async def both(self) -> int: ...

        @listen(or_(both, after(second, 1)))
        @router()
        async def decide(self) -> Literal["again", "end"]: ...

        @listen("again")
        async def untyped(self): ...

        @listen("end")
        async def typed(self) -> "NotDefinedYet": ...  # type: ignore[name-defined]  # noqa: F821

        @router(untyped)
        async def other_labels(self): ...


def named_and_others() -> None:
    class F(Flow[Report, str]):
        @start(output=True)
        async def first(self) -> str: ...

        @listen(first)
        async def last(self) -> int: ...


@pytest.mark.parametrize("make", [followed_or_unknown, named_and_others])
def test_only_what_is_certainly_the_result_is_compared(make: Callable[[], None]) -> None:
    assert problems_of(make) == []


# ---- what a join takes by name -------------------------------------------------------------------------------------


decided = Signal("decided", Short)
ready = Signal("ready")


def join_of(annotations: dict[str, Any]) -> list[str]:
    def make() -> None:
        class F(Flow[Report]):
            @start()
            async def number(self) -> int | None: ...

            @start()
            def awaits(self) -> Awaitable[str]: ...

            @start()
            async def untyped(self): ...

            @start()
            async def items(self) -> list[str]: ...

            @listen(each(items))
            async def work(self, item: str) -> int: ...

            @listen(and_(number, after(awaits, 1), untyped, work, decided, ready))
            async def join(self, number, awaits, untyped, work, decided, ready): ...

            join.__annotations__ = annotations

    return problems_of(make)


JOINS: dict[str, list[Any]] = {
    "number": [
        int,
        None,
        Annotated[int, []],
        float,
        bool,
        int | str,
        Any,
        object,
        T,
        "int",
        "Undefined",
        Later,
        Loads,
        Literal[3],
    ],
    "awaits": [str, Literal["a"], Sequence[str], str | None],
    "untyped": [int, None],
    "work": [list[int], Sequence[int], list[Any]],
    "decided": [Short, Report, Alias],
    "ready": [None, int | None],
}

WRONG_JOINS: dict[str, list[Any]] = {
    "number": [str, list[int], Report, str | bytes, "str"],
    "awaits": [int, None, Report, list[str], Literal[1]],
    "work": [int, list[str], None],
    "decided": [int, Box[int], None],
    "ready": [int, Report],
}


@pytest.mark.parametrize(("name", "taken"), [(name, each) for name, types in JOINS.items() for each in types], ids=str)
def test_a_parameter_that_can_take_the_result_is_accepted(name: str, taken: Any) -> None:
    assert join_of({name: taken}) == []


@pytest.mark.parametrize(
    ("name", "taken"), [(name, each) for name, types in WRONG_JOINS.items() for each in types], ids=str
)
def test_a_parameter_that_can_take_no_result_of_its_trigger_is_a_mistake(name: str, taken: Any) -> None:
    (problem,) = join_of({name: taken})

    assert problem.startswith("join takes ")
    assert problem.endswith("; change one of the two types")


def test_the_mistakes_of_a_join_name_both_types() -> None:
    assert join_of({"number": str, "decided": int, "ready": int}) == [
        "join takes str as number, but number returns int | None; change one of the two types",
        "join takes int as decided, but its payload is Short; change one of the two types",
        "join takes int as ready, but its payload is None; change one of the two types",
    ]


# ---- reading the two arguments -------------------------------------------------------------------------------------


class OneArgument(Flow[S]): ...


class TwoArguments(Flow[S, R]): ...


class ResultOnly(Flow[Report, T]): ...


class Swapped(Flow[S, T], Generic[T, S]): ...


class Nested(Flow[Report, list[T]]): ...


class WithDefault(Flow[Report, D]): ...


class Deeper(TwoArguments[S, list[T]]): ...


class Other(Generic[T]): ...


DECLARED: dict[str, tuple[Any, Any]] = {
    "plain": (Flow, Any),
    "state": (Flow[Report], Any),
    "both": (Flow[Report, int], int),
    "None": (Flow[Report, None], type(None)),
    "a union": (Flow[Report, int | None], int | None),
    "text": (Flow["Report", "int"], int),
    "text within": (Flow[Report, list["Report"]], list[Report]),
    "a base of one": (OneArgument[Report], Any),
    "a base of two": (TwoArguments[Report, int], int),
    "a base of two, of which one is given": (TwoArguments[Report], Any),
    "a base of two, not subscripted": (TwoArguments, Any),
    "a base of the result": (ResultOnly[int], int),
    "swapped": (Swapped[int, Report], int),
    "nested": (Nested[int], list[int]),
    "a default": (WithDefault, int),
    "not the default": (WithDefault[str], str),
    "deeper": (Deeper[Report, int], list[int]),
}


@pytest.mark.parametrize(("base", "result"), DECLARED.values(), ids=DECLARED)
def test_state_and_result_are_read_from_the_bases(base: Any, result: Any) -> None:
    class F(Other[bytes], base):
        @start()
        async def go(self): ...

    class Sub(F): ...

    for cls in (F, Sub):
        assert cls._definition.result == result
        assert cls._state_type.declaration == (dict[str, Any] if base in (Flow, TwoArguments) else Report)
        assert cls().result is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is that of Python 3.12")
def test_the_type_parameters_of_python_3_12() -> None:
    text = "class Base[X, Y](Flow[X, Y]): ...\nclass F(Base[Report, int]):\n  @start()\n  async def go(self): ..."
    names = {"Flow": Flow, "Report": Report, "start": start, "__name__": __name__}
    exec(text, names)

    assert names["F"]._definition.result is int  # type: ignore[attr-defined]


def test_a_result_that_is_defined_later_is_compared_when_the_flow_is_used() -> None:
    class F(Flow[Report, "Below"]):
        @start()
        async def go(self) -> int: ...

    F()
    Below = str

    with pytest.raises(FlowDefinitionError, match=r"go returns int and .* is str"):
        F()
    del Below


async def test_a_return_type_that_is_defined_later_is_compared_when_the_flow_is_used() -> None:
    class F(Flow[Report, str]):
        @start()
        async def go(self) -> "Below": ...

    class Below: ...

    with pytest.raises(FlowDefinitionError, match=r"go returns Below and .* is str"):
        F()


async def test_a_stored_result_has_the_type_of_its_method() -> None:
    class F(Flow[Report, Sequence[int]]):
        @start()
        async def go(self) -> tuple[int, ...]:
            return 1, 2

    store = MemoryFlowPersistence()
    flow = F(persistence=store)

    assert await flow.kickoff() == (1, 2)
    assert (await F.load(flow.run_id, persistence=store)).result == (1, 2)


def test_a_runner_describes_the_declared_result() -> None:
    class Declared(Flow[Report, int | None]):
        @start()
        async def go(self): ...

    class Undeclared(Flow[Report]):
        @start()
        async def go(self) -> int: ...

    def described(flow: type[Flow[Any, Any]]) -> FlowInfo:
        return FlowRunner(MemoryFlowPersistence()).add(flow)

    assert described(Declared).results == (int | None,)
    assert described(Undeclared).results == (int,)
    assert asyncflow.run(Undeclared()) is None


@pytest.mark.parametrize(
    ("name", "takes"), [("ListenerOfOne", "R"), ("ListenerOfItem", "R"), ("ListenerOfBoth", "A, B")]
)
def test_the_messages_of_type_checkers_show_what_a_listener_may_take(name: str, takes: str) -> None:
    """mypy reports the first overload, and pyright the last one."""
    module = ast.parse(Path(decorators.__file__).read_text(encoding="utf-8"))
    (listener,) = (each for each in module.body if isinstance(each, ast.ClassDef) and each.name == name)
    overloads = [ast.unparse(each.args) for each in listener.body if isinstance(each, ast.FunctionDef)]

    assert len(overloads) > 2
    assert overloads[0].startswith(f"self, function: Callable[[AnyFlow, {takes}], ")
    assert overloads[-1].startswith(f"self, function: Callable[[AnyFlow, {takes}], ")
