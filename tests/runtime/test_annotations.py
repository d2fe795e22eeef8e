"""Annotations behind names: aliases of labels and of states, and names that are defined below the flow."""

import enum
import sys
import textwrap
from collections.abc import Awaitable
from types import ModuleType
from typing import Annotated, Any, Literal, NewType, Optional, TypeVar, Union

import pytest
from pydantic import BaseModel
from typing_extensions import TypeAliasType

import asyncflow
from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, listen, router, start
from asyncflow._definition.aliases import unaliased
from asyncflow._definition.signatures import declared_labels
from asyncflow.errors import FlowDefinitionError, UnknownLabelError

T = TypeVar("T")
U = TypeVar("U")


class Verdict(enum.Enum):
    GOOD = "good"
    BAD = "bad"


Plain = TypeAliasType("Plain", Literal["good", "bad"])
Nested = TypeAliasType("Nested", Plain)
Maybe = TypeAliasType("Maybe", Optional[T], type_params=(T,))  # noqa: UP045 - `|` takes no alias on 3.11
Either = TypeAliasType("Either", Union[U, T], type_params=(T, U))  # noqa: UP007
Same = TypeAliasType("Same", T, type_params=(T,))
New = NewType("New", Literal["good", "bad"])  # type: ignore[valid-newtype]  # what users write all the same
Endless = TypeAliasType("Endless", "Endless")  # type: ignore[misc]

# ---- labels --------------------------------------------------------------------------------------------------------

LABELS = {
    "an alias": Plain,
    "an alias of an alias": Nested,
    "a generic alias": Maybe[Plain],
    "a generic alias of two parameters": Either[Literal["bad"], Literal["good"]],
    "a generic alias that is its parameter": Same[Literal["good", "bad"]],
    "a NewType": New,
    "Annotated": Annotated[Literal["good", "bad"], "a note"],
    "Annotated of an alias": Annotated[Maybe[New], "a note"],
    "an Optional of an alias": Optional[Plain],  # noqa: UP045
    "a union of aliases": Union[TypeAliasType("Good", Literal["good"]), Literal["bad"], None],  # noqa: UP007
    "an alias of an Enum": TypeAliasType("Verdicts", Verdict),
    "a NewType over an Enum": NewType("ByEnum", Verdict),
    "what is awaited": Awaitable[Plain],
}


@pytest.mark.found("P3")
@pytest.mark.parametrize("annotation", LABELS.values(), ids=LABELS)
def test_labels_behind_a_name_are_known(annotation: Any) -> None:
    assert declared_labels(annotation) == {"good", "bad"}


def flow_with(annotation: Any, label: str = "good") -> type[Flow[Any]]:
    class Judge(Flow[dict]):
        @start()
        @router()
        async def judge(self) -> annotation:  # type: ignore[valid-type]  # made of the one that is tried
            return self.state["says"]

        @listen(label)
        async def after(self) -> str:
            return "done"

    return Judge


@pytest.mark.found("P3")
@pytest.mark.parametrize("annotation", LABELS.values(), ids=LABELS)
def test_a_listener_of_a_label_that_no_alias_declares_is_an_error_at_the_class(annotation: Any) -> None:
    with pytest.raises(FlowDefinitionError, match=r"after listens to 'god'.*Did you mean 'good'"):
        flow_with(annotation, "god")


@pytest.mark.found("P3")
async def test_a_label_that_no_alias_declares_fails_the_router() -> None:
    Judge = flow_with(Plain)
    assert await Judge().kickoff({"says": "good"}) == "done"
    with pytest.raises(MethodError) as failed:
        await Judge().kickoff({"says": "god"})

    assert isinstance(failed.value.__cause__, UnknownLabelError)


EMITTED: dict[str, Any] = {
    "a list": ["good", "bad"],
    "a generator": (label for label in ("good", "bad")),
    "an Enum": Verdict,
    "a Literal": Literal["good", "bad"],
    "an alias": Maybe[Plain],
    "members": [Verdict.GOOD, Verdict.BAD],
}


@pytest.mark.found("P3")
@pytest.mark.parametrize("emit", EMITTED.values(), ids=EMITTED)
def test_labels_may_be_emitted_by_whatever_declares_them(emit: Any) -> None:
    class Judge(Flow[dict]):
        @start()
        @router(emit=emit)
        async def judge(self) -> Any: ...

    assert Judge._definition.methods["judge"].labels == {"good", "bad"}


@pytest.mark.found("C4")
@pytest.mark.parametrize("emit", ["good", 3, Any])
def test_what_is_no_list_of_labels_is_refused(emit: Any) -> None:
    with pytest.raises(asyncflow.errors.ArgumentsError, match="emit= takes a list of labels, an Enum or a Literal"):
        router(emit=emit)


@pytest.mark.found("P3")
def test_an_alias_without_an_end_is_left_alone() -> None:
    assert declared_labels(Endless) is None


@pytest.mark.found("P3")
def test_parameters_of_a_generic_alias_are_filled_in_by_name_and_not_by_place() -> None:
    assert unaliased(Either[int, str]) == Union[str, int]  # noqa: UP007


# ---- states --------------------------------------------------------------------------------------------------------


class Counter(FlowState):
    n: int = 1


STATES = {
    "an alias": TypeAliasType("Count", Counter),
    "a NewType": NewType("Counted", Counter),
    "Annotated": Annotated[Counter, "a note"],
    "a generic alias": Same[Counter],
    "a text": "Counter",
}


@pytest.mark.found("P3")
@pytest.mark.parametrize("annotation", STATES.values(), ids=STATES)
async def test_a_state_behind_a_name_is_that_state(annotation: Any) -> None:
    class Counting(Flow[annotation]):  # type: ignore[valid-type]
        @start()
        async def count(self) -> int:
            self.state.n += 1
            return self.state.n

    flow = Counting(persistence=MemoryFlowPersistence())
    assert await flow.kickoff() == 2
    assert type(flow.state) is Counter


@pytest.mark.found("P3")
async def test_a_dict_behind_a_name_is_a_dict_of_its_values() -> None:
    class Counting(Flow[TypeAliasType("Counts", dict[str, int])]):  # type: ignore[misc]
        @start()
        async def count(self) -> None: ...

    with pytest.raises(asyncflow.errors.RunInputsError):
        await Counting().kickoff({"n": "many"})


@pytest.mark.found("P2")
def test_a_state_that_is_defined_below_the_flow_is_named() -> None:
    with pytest.raises(FlowDefinitionError, match="uses the name Nowhere, which is not defined above the flow"):

        class Lost(Flow["Nowhere"]):  # type: ignore[name-defined]
            @start()
            async def begin(self) -> None: ...


# ---- names that are defined below the flow -------------------------------------------------------------------------


@pytest.mark.found("P2")
async def test_a_result_whose_class_is_defined_below_the_flow_is_stored_as_that_class() -> None:
    class Above(Flow[dict]):
        @start()
        async def make(self) -> "Below":
            return Below(n=3)

        @listen(make)
        async def use(self, made: "Below") -> int:
            assert type(made) is Below
            return made.n

    class Below(BaseModel):
        n: int

    storage = MemoryFlowPersistence()
    flow = Above(persistence=storage)
    assert await flow.kickoff() == 3


@pytest.mark.found("P2")
def test_labels_that_are_defined_below_the_flow_are_known_when_it_is_made() -> None:
    class Above(Flow[dict]):
        @start()
        @router()
        async def judge(self) -> "Label": ...

        @listen("god")
        async def after(self) -> None: ...

    Label = Literal["good", "bad"]
    with pytest.raises(FlowDefinitionError, match=r"after listens to 'god'.*Did you mean 'good'"):
        Above()


@pytest.mark.found("P2")
async def test_a_label_in_the_class_itself_is_known() -> None:
    class Judge(Flow[dict]):
        Label = Literal["good", "bad"]

        @start()
        @router()
        async def judge(self) -> "Label": ...

    assert Judge._definition.methods["judge"].labels == {"good", "bad"}


@pytest.mark.found("P2")
def test_a_class_that_inherits_from_a_flow_of_another_place_knows_its_names() -> None:
    def made() -> type[Flow[Any]]:
        Label = Literal["good", "bad"]

        class Base(Flow[dict]):
            @start()
            @router()
            async def judge(self) -> "Label": ...

        return Base

    class Sub(made()):  # type: ignore[misc]
        pass

    assert Sub._definition.methods["judge"].labels == {"good", "bad"}


@pytest.mark.found("P2")
async def test_a_name_that_is_never_defined_is_no_annotation_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Vague(Flow[dict]):
        @start()
        @router()
        async def judge(self) -> "OnlyForTypeCheckers":  # type: ignore[name-defined]  # noqa: F821
            return "good"

        @listen("good")
        async def after(self) -> str:
            return "done"

    assert await Vague(persistence=MemoryFlowPersistence()).kickoff() == "done"
    assert await Vague(persistence=MemoryFlowPersistence()).kickoff() == "done"
    assert [record.getMessage().partition(" uses")[0] for record in caplog.records] == [
        "labels not checked: the return annotation of Vague.judge"
    ]


@pytest.mark.found("P2")
async def test_a_result_that_needs_a_name_which_is_never_defined_says_so() -> None:
    class Vague(Flow[dict]):
        @start()
        async def make(self) -> "OnlyForTypeCheckers":  # type: ignore[name-defined]  # noqa: F821
            return Counter()

    with pytest.raises(MethodError) as failed:
        await Vague(persistence=MemoryFlowPersistence()).kickoff()
    assert "import what the return annotation of make names outside of `if TYPE_CHECKING`" in str(
        failed.value.__cause__
    )


def module(source: str) -> ModuleType:
    """A module of its own, as `import` would make it."""
    made = ModuleType("made_for_a_test")
    sys.modules[made.__name__] = made
    try:
        exec(compile(textwrap.dedent(source), "made_for_a_test.py", "exec", dont_inherit=True), made.__dict__)
    finally:
        del sys.modules[made.__name__]
    return made


@pytest.mark.found("P2")
async def test_a_dataclass_defined_below_the_flow_in_a_module_is_known() -> None:
    made = module("""
        from __future__ import annotations
        from dataclasses import dataclass
        from asyncflow import Flow, listen, start

        class Above(Flow[dict]):
            @start()
            async def make(self) -> list[Below]:
                return [Below(3)]

            @listen(make)
            async def use(self, made: list[Below]) -> Below:
                return made[0]

        @dataclass
        class Below:
            n: int
    """)
    assert await made.Above(persistence=MemoryFlowPersistence()).kickoff() == made.Below(3)


STATEMENTS = """
    from typing import Literal
    from asyncflow import Flow, FlowState, listen, router, start

    class State(FlowState):
        n: int = 1

    type Alias = State
    type Label = Literal["good", "bad"]
    type Or[T] = T | None
    type Late = Later

    class Judge(Flow[Alias]):
        @start()
        @router()
        async def plain(self) -> Label:
            return "good"

        @start()
        @router()
        async def generic(self) -> Or[Label]:
            return None

        @start()
        @router()
        async def late(self) -> Late:
            return "later"

        @listen("good")
        async def after(self) -> int:
            return self.state.n

    Later = Literal["later"]
"""


@pytest.mark.found("P3")
@pytest.mark.skipif(sys.version_info < (3, 12), reason="the `type` statement came with 3.12")
async def test_type_statements_are_followed() -> None:
    made = module(STATEMENTS)
    flow = made.Judge(persistence=MemoryFlowPersistence())
    await flow.kickoff()

    methods = made.Judge._definition.methods
    assert [methods[name].labels for name in ("plain", "generic", "late")] == [{"good", "bad"}] * 2 + [{"later"}]
    assert flow.method_outputs["after"] == 1
    with pytest.raises(FlowDefinitionError, match=r"after listens to 'god'.*Did you mean 'good'"):
        module(STATEMENTS.replace('@listen("good")', '@listen("god")')).Judge()


@pytest.mark.found("P2")
@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated when asked for since 3.14")
async def test_unquoted_names_that_are_defined_below_the_flow_are_known() -> None:
    made = module("""
        from asyncflow import Flow, listen, start

        class Above(Flow[dict]):
            @start()
            async def make(self) -> list[Below]:
                return [Below()]

            @listen(make)
            async def use(self, made: list[Below]) -> Below:
                return made[0]

        from pydantic import BaseModel
        class Below(BaseModel):
            n: int = 3
    """)
    assert await made.Above(persistence=MemoryFlowPersistence()).kickoff() == made.Below()
