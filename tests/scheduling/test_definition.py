"""A class becomes a definition: its methods, conditions, labels and signatures, inherited ones too."""

import enum
import functools
from collections.abc import Callable
from typing import Any, Literal, Optional

import pytest
from driver import defined
from verdicts import problems

from asyncflow import and_, listen, or_, persist, router, start
from asyncflow._definition.build import persist_marks
from asyncflow._definition.definition import MethodDefinition, Receives, label_of
from asyncflow._definition.triggers import AllOf, AnyOf


class Verdict(enum.Enum):
    APPROVED = "approved"
    REJECTED = 0


class Verdicts(enum.StrEnum):
    YES = "yes"


# ---- conditions and order --------------------------------------------------------------------------------------------


def test_methods_and_conditions_are_kept_as_written() -> None:
    class Kept:
        @start()
        async def a(self): ...

        @listen(or_(a, and_("a", "l"), or_("l", a)))
        def b(self): ...

        @router(or_(and_(a, b)))
        async def c(self): ...

    methods = defined(Kept).methods
    assert list(methods) == ["a", "b", "c"]
    assert [method.condition for method in methods.values()] == [
        None,
        AnyOf(("a", AllOf(("a", "l")), "l")),
        AllOf(("a", "b")),
    ]
    assert [method.once_a_cycle for method in methods.values()] == [False, True, False]
    assert [method.is_async for method in methods.values()] == [True, False, True]


# ---- inheritance -----------------------------------------------------------------------------------------------------


class Base:
    @start()
    async def first(self): ...

    @router(first)
    async def ask(self) -> Literal["yes", "no"]: ...

    @listen("yes")
    async def yes_came(self, value): ...

    @persist
    @listen("no")
    async def no_came(self): ...


def test_methods_of_a_base_belong_to_the_flow_and_come_first() -> None:
    class More(Base):
        @listen(Base.yes_came)
        async def after(self): ...

    assert list(defined(More).methods) == ["first", "ask", "yes_came", "no_came", "after"]
    assert list(defined(Base).methods) == ["first", "ask", "yes_came", "no_came"]


def test_an_override_keeps_its_trigger_and_its_own_body_and_signature() -> None:
    class Over(Base):
        def yes_came(self): ...

        async def no_came(self): ...

    over, base = defined(Over).methods, defined(Base).methods
    assert over["yes_came"].condition == "yes"
    assert over["yes_came"].function is vars(Over)["yes_came"]
    assert (over["yes_came"].receives, base["yes_came"].receives) == (Receives.NOTHING, Receives.LAST)
    assert (over["yes_came"].is_async, base["yes_came"].is_async) == (False, True)
    assert set(persist_marks(Over)) == {"no_came"}
    assert list(over) == list(base)


def test_an_override_that_is_decorated_again_has_its_own_trigger() -> None:
    class Over(Base):
        @listen(or_("yes", "no"))
        async def yes_came(self): ...

        @router("no")
        async def no_came(self) -> Literal["maybe"]: ...

    over = defined(Over).methods
    assert over["yes_came"].condition == AnyOf(("yes", "no"))
    assert over["no_came"].is_router
    assert set(persist_marks(Over)) == {"no_came"}
    assert defined(Base).methods["yes_came"].condition == "yes"


def test_an_override_may_declare_other_labels() -> None:
    class Over(Base):
        async def ask(self) -> Literal["yes"]: ...

    assert problems(Over) == (
        "no_came listens to 'no', which is neither a method nor a label of a router. "
        "Known: ask, first, no_came, yes, yes_came",
    )


def test_a_grandchild_inherits_through_an_undecorated_override() -> None:
    class Child(Base):
        async def yes_came(self): ...

    class Grandchild(Child):
        async def yes_came(self, value): ...

    assert defined(Grandchild).methods["yes_came"].condition == "yes"


# ---- routers and their labels ----------------------------------------------------------------------------------------


def stacked(*decorators: Callable[[Any], Any], returns: Any = None) -> MethodDefinition:
    """The definition of `ask`, decorated as written from top to bottom, next to a router that may emit anything."""

    class Stacked:
        @start()
        @router()
        async def first(self): ...

    async def ask(self: object) -> object: ...

    if returns is not None:
        ask.__annotations__["return"] = returns
    Stacked.ask = functools.reduce(lambda below, decorator: decorator(below), reversed(decorators), ask)  # type: ignore[attr-defined]
    return defined(Stacked).methods["ask"]


@pytest.mark.parametrize(
    ("decorators", "condition", "is_start"),
    [
        ((start(), router()), None, True),
        ((start("first"), router()), "first", True),
        ((listen("first"), router()), "first", False),
        ((listen(and_("first", "x")), router(emit=["x"])), AllOf(("first", "x")), False),
        ((router("first"),), "first", False),
        ((persist, listen("first"), router()), "first", False),
        ((listen("first"), persist, router()), "first", False),
        ((listen("first"), router(), persist()), "first", False),
    ],
)
def test_a_router_is_used_alone_or_below_start_and_listen(
    decorators: tuple[Any, ...], condition: object, is_start: bool
) -> None:
    method = stacked(*decorators)

    assert method.is_router
    assert (method.condition, method.is_start) == (condition, is_start)


@pytest.mark.parametrize(
    ("emit", "returns", "labels"),
    [
        (None, Literal["a", "b"], {"a", "b"}),
        (None, Literal["a", 0, None], {"a", "0"}),
        (None, Literal["a"] | None, {"a"}),
        (None, Optional[Literal["a"]], {"a"}),  # noqa: UP045
        (None, Literal["a"] | Verdicts, {"a", "yes"}),
        (None, Literal[Verdict.APPROVED], {"approved"}),
        (None, Verdict, {"approved", "0"}),
        (None, Verdicts | None, {"yes"}),
        (None, "Literal['late', 'bound']", {"late", "bound"}),
        (None, type(None), set()),
        (None, str, None),
        (None, Literal["a"] | str, None),
        (None, "Unheard", None),
        (["a", 0, None], None, {"a", "0"}),
        ([Verdict.APPROVED, Verdict.REJECTED, Verdicts.YES], None, {"approved", "0", "yes"}),
        (["a"], Literal["b"], {"a"}),
        ([], str, set()),
    ],
)
def test_labels_are_those_of_the_annotation_or_of_emit(emit: Any, returns: Any, labels: set[str] | None) -> None:
    assert stacked(router("first", emit=emit), returns=returns).labels == labels


def test_only_a_router_declares_labels() -> None:
    assert stacked(listen("first"), returns=Literal["a"]).labels is None


def test_an_annotation_may_name_what_is_local() -> None:
    class Local:
        @start()
        @router()
        async def a(self) -> "Mood": ...  # type: ignore[name-defined]  # noqa: F821

        @listen("merry")
        async def b(self): ...

    assert defined(Local, Mood=Literal["merry"]).methods["a"].labels == {"merry"}


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("go", "go"),
        (0, "0"),
        (False, "False"),
        ("", ""),
        (None, None),
        (Verdict.APPROVED, "approved"),
        (Verdict.REJECTED, "0"),
        (Verdicts.YES, "yes"),
    ],
)
def test_a_routers_value_becomes_a_label(value: object, label: str | None) -> None:
    assert label_of(value) == label


# ---- what a method receives ------------------------------------------------------------------------------------------


waits = listen(and_("a", or_("b", "c")))
"""When it fires, only `a` has surely come."""


class Signatures:
    @start()
    async def a(self): ...

    @start()
    async def b(self): ...

    @start()
    async def c(self): ...

    @waits
    async def nothing(self): ...

    @waits
    async def keywords(self, *, x=1, **rest): ...

    @waits
    async def one(self, value): ...

    @waits
    async def default(self, value=None): ...

    @waits
    async def star(self, *values): ...

    @waits
    async def by_name(self, a): ...

    @waits
    async def unsure(self, b): ...

    @waits
    async def one_and_default(self, value, more=None): ...

    @waits
    async def positional_only(self, a, /): ...


@pytest.mark.parametrize(
    ("name", "receives", "parameters"),
    [
        ("nothing", Receives.NOTHING, ()),
        ("keywords", Receives.NOTHING, ()),
        ("one", Receives.LAST, ()),
        ("default", Receives.LAST, ()),
        ("star", Receives.LAST, ()),
        ("by_name", Receives.NAMED, ("a",)),
        ("unsure", Receives.LAST, ()),
        ("one_and_default", Receives.LAST, ()),
        ("positional_only", Receives.LAST, ()),
    ],
)
def test_a_signature_says_what_is_received(name: str, receives: Receives, parameters: tuple[str, ...]) -> None:
    method = defined(Signatures).methods[name]

    assert (method.receives, method.parameters) == (receives, parameters)
