"""Mistakes in a class: one error lists each of them once, with its cure."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
from driver import defined
from verdicts import problems

from asyncflow import Flow, Signal, after, and_, errors, listen, or_, persist, router, start
from asyncflow._definition.build import define
from asyncflow._definition.definition import Receives
from asyncflow.errors import FlowDefinitionError


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


def lone_signal() -> type:
    class F:
        approved = Signal("approved")

        @start()
        async def a(self): ...

        @listen(approved)
        async def b(self): ...

    return F


def two_lone_signals() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(and_(Signal("approved"), Signal("signed")))
        async def b(self): ...

    return F


def keep_open_of_a_join() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(and_(a, Signal("approved")), keep_open=True)
        async def b(self): ...

    return F


def keep_open_without_a_signal() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(a, keep_open=False)
        async def b(self): ...

    return F


def signal_of_two_types() -> type:
    class F:
        approved = Signal("approved", bool)

        @start()
        async def a(self): ...

        @listen(and_(a, Signal("approved", int)))
        async def b(self): ...

    return F


def signal_named_like_a_method() -> type:
    class F:
        again = Signal("a")

        @start()
        async def a(self): ...

    return F


def signal_named_like_a_label() -> type:
    class F:
        done = Signal("done")

        @start()
        async def a(self): ...

        @router(a, emit=["done"])
        async def b(self): ...

    return F


def timer_of_a_signal() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(after(Signal("approved"), 5))
        async def b(self): ...

    return F


def with_attributes(**attributes: Any) -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(a)
        async def b(self): ...

    for name, value in attributes.items():
        setattr(F, name, value)
    return F


def class_retry_that_is_a_number() -> type:
    return with_attributes(retry=3)


def class_retry_that_is_a_text() -> type:
    return with_attributes(retry="always")


def class_timeout_that_is_a_text() -> type:
    return with_attributes(timeout="5 s")


def class_timeout_that_is_no_number() -> type:
    return with_attributes(timeout=float("nan"))


def class_timeout_that_is_true() -> type:
    return with_attributes(timeout=True)


def class_timeout_of_zero() -> type:
    return with_attributes(timeout=0)


def output_that_is_a_text() -> type:
    class F:
        @start()
        async def a(self): ...

        @listen(a, output="yes")  # type: ignore[arg-type]
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
    (start_with_required, "a is a start and takes 'x'", "give the parameter a default"),
    (conditional_start_with_required_begins, "a runs at the start", "give its parameter a default"),
    (start_and_listen, "b is decorated with @start, @listen", "use one of them"),
    (router_with_a_condition_below, "b is decorated with @listen, @router", "use one of them"),
    (router_without_a_condition, "b is decorated with @router", "@router() below one"),
    (async_generator, "b is a generator", "return a list"),
    (generator, "b is a generator", "return a list"),
    (undecorated_function, "b has an invalid condition", "'helper' is not a flow method"),
    (undecorated_function_in_a_tree, "b listens to 'helper'", "which is neither a method"),
    (empty_or, "b has an invalid condition", "an empty or_() can never fire"),
    (empty_and_inside, "b has an invalid condition", "an empty and_() can never fire"),
    (no_condition_at_all, "b has an invalid condition", "a method, a label, a signal, after(), or_() or and_(), not 3"),
    (static_method, "b is a flow method", "must be a plain function"),
    (lone_signal, "approved alone can start b", "keep_open=True"),
    (two_lone_signals, "approved and signed alone can start b", "keep_open=False"),
    (keep_open_of_a_join, "b has keep_open", "remove it"),
    (keep_open_without_a_signal, "b has keep_open", "remove it"),
    (
        signal_of_two_types,
        "the signal 'approved' is declared twice, differently, as Signal('approved', ",
        "declare it once",
    ),
    (class_retry_that_is_a_number, "retry must be a policy", "Retry(attempts=3)"),
    (class_retry_that_is_a_text, "retry must be a policy", "not 'always'"),
    (class_timeout_that_is_a_text, "timeout must be a number of seconds above 0", "not '5 s'"),
    (class_timeout_that_is_no_number, "timeout must be a number of seconds above 0", "not nan"),
    (class_timeout_that_is_true, "timeout must be a number of seconds above 0", "not True"),
    (class_timeout_of_zero, "timeout must be a number of seconds above 0", "not 0"),
    (output_that_is_a_text, "b has output='yes'", "pass True or False"),
    (signal_named_like_a_method, "the signal 'a' has the name of a method", "rename one of them"),
    (signal_named_like_a_label, "the signal 'done' has the name of a label", "rename one of them"),
    (timer_of_a_signal, "b has an invalid condition", "after() takes a method or a label"),
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
def test_a_mistake_is_reported_once(make: Callable[[], type]) -> None:
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
    (a_start_by_what_nothing_emits, "b is started by 'nothing', which is neither a method nor a label of a router"),
    (a_bare_start_that_others_follow, "a is decorated with a bare @start; write @start() with parentheses"),
    (a_bare_listener_that_others_follow, "b is decorated with a bare @listen; write @listen(...) with parentheses"),
    (a_bare_router_whose_label_is_waited_for, "b is decorated with a bare @router"),
    (a_generator_that_others_follow, "a is a generator, but a flow method returns one result"),
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
        "empty has an",
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


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_a_static_method_above_a_decorator_is_a_mistake(kind: Any) -> None:
    with pytest.raises(errors.FlowDefinitionError, match="plain function"):

        class Static(Flow):
            @start()
            def first(self) -> None: ...

            @kind
            @listen(first)
            def second(self) -> None: ...


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
