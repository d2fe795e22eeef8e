"""A class becomes a definition, or one error that lists every mistake with its cure."""

import enum
import functools
from collections.abc import Callable
from typing import Any, Literal, Optional

import pytest
from driver import Api, defined

from asyncflow import Flow, and_, listen, or_, persist, router, start
from asyncflow._definition.build import define, persist_marks
from asyncflow._definition.definition import MethodDefinition, Receives, label_of
from asyncflow._definition.triggers import AllOf, AnyOf
from asyncflow.errors import FlowDefinitionError


class Verdict(enum.Enum):
    APPROVED = "approved"
    REJECTED = 0


class Verdicts(enum.StrEnum):
    YES = "yes"


def problems(cls: type, api: type = Api, **local: Any) -> tuple[str, ...]:
    with pytest.raises(FlowDefinitionError) as caught:
        define(cls, api, local)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    assert cls.__name__ in str(caught.value)
    return caught.value.problems


def helper(self: object) -> None: ...


# ---- one mistake each ------------------------------------------------------------------------------------------------


def typo_in_a_label() -> type:
    class F:
        @start()
        @router()
        async def a(self) -> Literal["approved", "rejected"]: ...

        @listen("aproved")
        async def b(self): ...

    return F


def typo_in_a_method() -> type:
    class F:
        @start()
        async def fetch(self): ...

        @listen(or_("fetsh", fetch))
        async def b(self): ...

    return F


def label_like_a_method() -> type:
    class F:
        @start()
        @router(emit=["b", "c"])
        async def a(self): ...

        @listen("c")
        async def b(self): ...

    return F


def bare_start() -> type:
    class F:
        @start
        async def a(self): ...

        @start()
        async def b(self): ...

    return F


def bare_listen() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen
        async def b(self): ...

    return F


def bare_router() -> type:
    class F:
        @start()
        async def a(self): ...

        @router
        async def b(self): ...

    return F


def bare_start_persisted() -> type:
    class F:
        @start()
        async def a(self): ...

        @persist
        @start
        async def b(self): ...

    return F


def unreachable() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen("c")
        async def b(self): ...

        @listen(b)
        async def c(self): ...

    return F


def half_unreachable() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(and_(a, "c"))
        async def b(self): ...

        @listen(b)
        async def c(self): ...

    return F


def listens_to_itself() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(and_(a, or_("b", "a")))
        async def b(self): ...

    return F


def no_start() -> type:
    class F:
        @listen("b")
        async def a(self): ...

        @listen(a)
        async def b(self): ...

    return F


def two_required() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(a)
        async def b(self, x, y): ...

    return F


def two_required_not_named_like_the_triggers() -> type:
    class F:
        @start()
        async def a(self): ...

        @start()
        async def c(self): ...

        @listen(and_(a, c))
        async def b(self, a, d): ...

    return F


def named_like_what_may_not_have_come() -> type:
    class F:
        @start()
        async def a(self): ...

        @start()
        async def c(self): ...

        @listen(or_(a, c))
        async def b(self, a, c): ...

    return F


def keyword_only() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(a)
        async def b(self, *, x): ...

    return F


def start_with_required() -> type:
    class F:
        @start()
        async def a(self, x): ...

    return F


def conditional_start_with_required_begins() -> type:
    class F:
        @start("again")
        @router()
        async def a(self, x): ...

    return F


def start_and_listen() -> type:
    class F:
        @start()
        async def a(self): ...

        @start()
        @listen(a)
        async def b(self): ...

    return F


def router_with_a_condition_below() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(a)
        @router(a)
        async def b(self): ...

    return F


def router_without_a_condition() -> type:
    class F:
        @start()
        async def a(self): ...

        @router()
        async def b(self): ...

    return F


def async_generator() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(a)
        async def b(self):
            yield

    return F


def generator() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(a)
        def b(self):
            yield

    return F


def undecorated_function() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(helper)
        async def b(self): ...

    return F


def undecorated_function_in_a_tree() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(or_(a, helper))
        async def b(self): ...

    return F


def empty_or() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(or_())
        async def b(self): ...

    return F


def empty_and_inside() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(or_(a, and_()))
        async def b(self): ...

    return F


def no_condition_at_all() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(or_(a, 3))
        async def b(self): ...

    return F


def static_method() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(a)
        @staticmethod
        async def b(): ...

    return F


def only_persisted() -> type:
    class F:
        @start()
        async def a(self): ...

        @persist()
        async def b(self): ...

    return F


MISTAKES: list[tuple[Callable[[], type], str, str]] = [
    (typo_in_a_label, "b listens to 'aproved'", "Did you mean 'approved'? Known: a, approved, b, rejected"),
    (typo_in_a_method, "b listens to 'fetsh'", "Did you mean 'fetch'?"),
    (label_like_a_method, "a returns the label 'b', which is also a method's name", "rename the label"),
    (bare_start, "a is decorated with a bare @start", "write @start() with parentheses"),
    (bare_listen, "b is decorated with a bare @listen", "write @listen(...) with parentheses"),
    (bare_router, "b is decorated with a bare @router", "write @router(...) with parentheses"),
    (bare_start_persisted, "b is decorated with a bare @start", "write @start() with parentheses"),
    (half_unreachable, "c can never run", "check its condition"),
    (listens_to_itself, "b listens to itself", "let a router return a label"),
    (no_start, "there is no start", "decorate the first method with @start()"),
    (two_required, "b takes 2 values (x, y)", "it can take one"),
    (two_required_not_named_like_the_triggers, "b takes 2 values (a, d)", "named like its triggers"),
    (named_like_what_may_not_have_come, "b takes 2 values (a, c)", "it can take one"),
    (keyword_only, "b has the keyword-only parameter 'x'", "without a default"),
    (start_with_required, "a is a start and takes 'x'", "give it a default"),
    (conditional_start_with_required_begins, "a is run at the start", "give its parameter a default"),
    (start_and_listen, "b is decorated with @start, @listen", "use one of them"),
    (router_with_a_condition_below, "b is decorated with @listen, @router", "use one of them"),
    (router_without_a_condition, "b is decorated with @router", "@router() below one"),
    (async_generator, "b is a generator", "collect into a list"),
    (generator, "b is a generator", "collect into a list"),
    (undecorated_function, "b has a condition", "'helper', which is no flow method"),
    (undecorated_function_in_a_tree, "b listens to 'helper'", "which is no method"),
    (empty_or, "b has a condition", "an empty or_() can never fire"),
    (empty_and_inside, "b has a condition", "an empty and_() can never fire"),
    (no_condition_at_all, "b has a condition", "a method, a label, or_() or and_(), not 3"),
    (static_method, "b is a flow method", "must be a plain function"),
    (only_persisted, "b has @persist but no", "add one, or remove @persist"),
]


@pytest.mark.parametrize(("make", "what", "cure"), [pytest.param(*row, id=row[0].__name__) for row in MISTAKES])
def test_a_mistake_is_named_with_its_cure(make: Callable[[], type], what: str, cure: str) -> None:
    found = [problem for problem in problems(make()) if problem.startswith(what)]

    assert len(found) == 1
    assert cure in found[0]


@pytest.mark.parametrize(
    "make", [pytest.param(make, id=make.__name__) for make, _, _ in MISTAKES if make is not half_unreachable]
)
def test_a_mistake_is_told_once(make: Callable[[], type]) -> None:
    assert len(problems(make())) == 1


def a_start_by_what_nothing_emits() -> type:
    class Wrong:
        @start()
        async def a(self): ...

        @start("nothing")
        async def b(self): ...

    return Wrong


def a_bare_start_that_others_follow() -> type:
    class Wrong:
        @start
        async def a(self): ...

        @listen(a)
        async def b(self): ...

        @listen(and_("a", b))
        async def c(self): ...

    return Wrong


def a_bare_listener_that_others_follow() -> type:
    class Wrong:
        @start()
        async def a(self): ...

        @listen
        async def b(self): ...

        @listen(or_(b, and_(a, b)))
        async def c(self): ...

    return Wrong


def a_bare_router_whose_label_is_waited_for() -> type:
    class Wrong:
        @start()
        async def a(self): ...

        @router
        async def b(self) -> Literal["yes"]: ...

        @listen("yes")
        async def c(self): ...

    return Wrong


def a_generator_that_others_follow() -> type:
    class Wrong:
        @start()
        async def a(self):
            yield 1

        @listen(a)
        async def b(self): ...

        @listen("b")
        async def c(self): ...

    return Wrong


def a_router_without_a_condition_whose_label_is_waited_for() -> type:
    class Wrong:
        @start()
        async def a(self): ...

        @router()
        async def b(self) -> Literal["yes"]: ...

        @listen("yes")
        async def c(self): ...

    return Wrong


def a_label_that_its_listener_is_named_like() -> type:
    class Wrong:
        @start()
        @router()
        async def a(self) -> Literal["b"]: ...

        @listen("b")
        async def b(self): ...

        @listen(b)
        async def c(self): ...

    return Wrong


def a_listener_named_like_an_undeclared_label() -> type:
    class Wrong:
        @start()
        @router()
        async def a(self): ...

        @listen("b")
        async def b(self): ...

    return Wrong


ALONE = [
    (a_start_by_what_nothing_emits, "b is started by 'nothing', which is no method and which no router emits"),
    (a_bare_start_that_others_follow, "a is decorated with a bare @start; write @start() with parentheses"),
    (a_bare_listener_that_others_follow, "b is decorated with a bare @listen; write @listen(...) with parentheses"),
    (a_bare_router_whose_label_is_waited_for, "b is decorated with a bare @router"),
    (a_generator_that_others_follow, "a is a generator; a flow method returns one result"),
    (a_router_without_a_condition_whose_label_is_waited_for, "b is decorated with @router"),
    (a_label_that_its_listener_is_named_like, "a returns the label 'b', which is also a method's name"),
    (
        a_listener_named_like_an_undeclared_label,
        "b listens to itself: 'b' is its own name. If a label is meant, rename",
    ),
]


@pytest.mark.found("C5", "T9")
@pytest.mark.parametrize(("make", "told"), ALONE, ids=[make.__name__ for make, _ in ALONE])
def test_what_follows_from_a_mistake_is_no_mistake_of_its_own(make: Callable[[], type], told: str) -> None:
    found = problems(make())

    assert len(found) == 1
    assert found[0].startswith(told)


def test_methods_that_wait_for_each_other_only_are_unreachable() -> None:
    assert [problem.split(":")[0] for problem in problems(unreachable())] == ["b can never run", "c can never run"]


def test_all_mistakes_are_found_at_once() -> None:
    class Api:
        state = None

        def resume(self) -> None: ...

    class Wrong:
        @start
        async def bare(self): ...

        @start()
        async def needs(self, x): ...

        @listen(needs)
        async def state(self): ...

        @listen(needs)
        async def resume(self): ...

        @listen(or_())
        async def empty(self): ...

        @listen("itself")
        async def itself(self): ...

        @router(needs)
        async def asks(self) -> Literal["needs", "yes"]: ...

        @listen("yess")
        async def typo(self, x, y): ...

    found = problems(Wrong, Api)

    assert [" ".join(problem.split()[:3]) for problem in found] == [
        "bare is decorated",
        "needs is a",
        "state shadows a",
        "resume shadows a",
        "empty has a",
        "typo takes 2",
        "itself listens to",
        "asks returns the",
        "typo listens to",
    ]


@pytest.mark.parametrize("name", ["state", "resume", "cancel", "kickoff", "run_id"])
def test_a_method_may_not_shadow_the_api(name: str) -> None:
    async def method(self: object) -> None: ...

    with pytest.raises(FlowDefinitionError) as caught:
        type("Shadow", (Flow,), {name: start()(method)})

    assert caught.value.problems == (f"{name} shadows a name of Flow; rename the method",)


def test_an_undecorated_method_may_override_the_api() -> None:
    class Own:
        async def resume(self): ...

        @start()
        async def a(self): ...

    class Api:
        async def resume(self): ...

    assert list(define(Own, Api, {}).methods) == ["a"]


# ---- what is no mistake ----------------------------------------------------------------------------------------------


def test_labels_that_are_not_all_known_are_not_judged() -> None:
    class Open:
        @start()
        @router()
        async def a(self): ...

        @router(a)
        async def b(self) -> Literal["known"]: ...

        @listen("perhaps")
        async def c(self): ...

    assert list(defined(Open).methods) == ["a", "b", "c"]


def test_a_conditional_start_may_take_its_triggers_result_where_another_begins() -> None:
    class Conditional:
        @start()
        async def a(self): ...

        @start(a)
        async def b(self, value): ...

    assert defined(Conditional).methods["b"].receives is Receives.LAST
    assert [method.name for method in defined(Conditional).starts] == ["a"]


def test_a_start_may_have_parameters_with_defaults() -> None:
    class Default:
        @start()
        async def a(self, x=1, *more, y=2, **rest): ...

    assert defined(Default).methods["a"].receives is Receives.NOTHING


def test_a_class_without_flow_methods_is_a_base_for_others() -> None:
    class Base:
        def helper(self): ...

    assert defined(Base).methods == {}


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


def test_an_override_that_is_decorated_anew_has_its_own_trigger() -> None:
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
        "no_came listens to 'no', which is no method and which no router emits. "
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
    """The definition of `ask`, decorated as written from top to bottom, beside a router that may emit anything."""

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
def test_a_router_stands_alone_or_below_start_and_listen(
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
