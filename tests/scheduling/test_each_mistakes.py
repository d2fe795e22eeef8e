"""What a class with `each` is refused for, each with its cure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from driver import Api, defined

from asyncflow import Signal, after, and_, each, listen, or_, router, start
from asyncflow._definition.build import define
from asyncflow.errors import FlowDefinitionError


class Pair(NamedTuple):
    a: int
    b: int


def refusal(decorate: Any, returns: Any = list[int], function: Any = None) -> str:
    """Why a class is refused whose method `work` is decorated like this."""

    async def fetch(self: Any) -> Any: ...

    async def work(self: Any, item: int) -> int: ...

    fetch.__annotations__["return"] = returns
    fetch = start()(fetch)
    made = decorate(fetch)(function or work)
    with pytest.raises(FlowDefinitionError) as raised:
        define(type("Wrong", (), {"fetch": fetch, "work": made}), Api, {})
    return str(raised.value)


@pytest.mark.parametrize(
    ("decorate", "says"),
    [
        (lambda fetch: listen(or_(each(fetch), fetch)), "no part of or_(), and_() or after()"),
        (lambda fetch: listen(and_(fetch, each(fetch))), "no part of or_(), and_() or after()"),
        (lambda fetch: listen(after(each(fetch), 1)), "no part of or_(), and_() or after()"),
        (lambda fetch: listen(each("label")), "not a label or another condition"),
        (lambda fetch: listen(each(or_(fetch))), "not a label or another condition"),
        (lambda fetch: listen(each(each(fetch))), "not a label or another condition"),
        (lambda fetch: listen(each(after(fetch, 1))), "not a label or another condition"),
        (lambda fetch: listen(each(Signal("go"))), "not a label or another condition"),
        (lambda fetch: listen(each(None)), "not a label or another condition"),
        (lambda fetch: listen(each(len)), "'len' is not a flow method"),
        (lambda fetch: start(each(fetch)), "each() is for @listen only"),
        (lambda fetch: router(each(fetch)), "each() is for @listen only"),
        (lambda fetch: lambda f: router()(listen(each(fetch))(f)), "each() is for @listen only"),
        (lambda fetch: listen(fetch, limit=3), "only for @listen(each(...))"),
        (lambda fetch: listen(each(fetch), limit=0), "limit=0"),
        (lambda fetch: listen(each(fetch), limit=100_001), "limit=100001"),
        (lambda fetch: listen(each(fetch), limit=True), "limit=True"),
        (lambda fetch: listen(each(fetch), limit=2.0), "limit=2.0"),
    ],
)
def test_each_in_a_wrong_place_is_refused(decorate: Any, says: str) -> None:
    assert says in refusal(decorate)


@pytest.mark.parametrize("returns", [int, dict[str, int], str, Pair, list[int] | None, set[int], Any, None])
def test_a_source_that_is_not_annotated_as_a_list_is_refused(returns: Any) -> None:
    assert "not annotated as a list" in refusal(lambda fetch: listen(each(fetch)), returns)


def test_more_than_one_parameter_is_refused() -> None:
    async def two(self: Any, item: int, other: int = 0) -> int: ...

    async def both(self: Any, item: int, other: int) -> int: ...

    assert "takes one, the item" in refusal(lambda fetch: listen(each(fetch)), function=two)
    assert "takes 2 values" in refusal(lambda fetch: listen(each(fetch)), function=both)


@pytest.mark.parametrize("returns", [list, list[int], tuple, tuple[int, ...], tuple[int, str], Sequence[int]])
def test_lists_tuples_and_sequences_are_accepted(returns: Any) -> None:
    async def fetch(self: Any) -> Any: ...

    fetch.__annotations__["return"] = returns
    fetch = start()(fetch)

    async def work(self: Any, item: int) -> int: ...

    made = listen(each(fetch), limit=7)(work)
    definition = defined(type("Right", (), {"fetch": fetch, "work": made}))

    assert definition.methods["work"].each
    assert definition.methods["work"].limit == 7


def test_a_method_that_runs_for_each_item_is_a_source_itself() -> None:
    class Chained:
        @start()
        async def fetch(self) -> list[int]: ...

        @listen(each(fetch))
        async def work(self, item: int) -> str: ...

        @listen(each(work))
        async def more(self, item: str) -> None: ...

    assert defined(Chained).methods["more"].each


def test_the_annotation_of_a_source_may_be_defined_later() -> None:
    class Later:
        @start()
        async def fetch(self) -> "Pages": ...  # type: ignore[name-defined]  # noqa: F821 - that is the test

        @listen(each(fetch))
        async def work(self, item: Any) -> str: ...

    assert defined(Later).methods["work"].each
    with pytest.raises(FlowDefinitionError, match="not annotated as a list"):
        define(Later, Api, {"Pages": int})
