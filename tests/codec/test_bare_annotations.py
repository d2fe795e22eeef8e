"""Annotations without arguments, and fields that only their own annotation judges."""

import collections.abc
import datetime as dt
import typing
from typing import Any

import pydantic
import pytest
from annotated import NOW, T, kept, state_codec
from pydantic_core import from_json

from asyncflow import Flow, FlowState, MemoryFlowPersistence, start
from asyncflow._codec.codec import Codec, Refused, codec_for
from asyncflow._codec.marks import MIXED, SAME, TAGGED, TYPED
from asyncflow._codec.round_trip import plan_for


@pytest.mark.found("C1")
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (typing.List, [1, NOW]),  # noqa: UP006 - the old names are what this is about
        (typing.Dict, {"a": {1}}),  # noqa: UP006
        (typing.Set, {1}),  # noqa: UP006
        (typing.FrozenSet, frozenset({1})),  # noqa: UP006
        (typing.Tuple, (1, "a")),  # noqa: UP006
        (typing.Optional[typing.List], [1]),  # noqa: UP006, UP045
        (list[typing.List], [[1], []]),  # noqa: UP006
        (dict[str, typing.Dict], {"a": {"b": 1}}),  # noqa: UP006
        (typing.Sequence, [1]),
        (typing.Mapping, {"a": 1}),
        (collections.abc.Sequence, [1]),
        (collections.abc.Mapping, {"a": 1}),
        (collections.abc.Iterable, None),
        (typing.Deque, collections.deque([1])),  # noqa: UP006
        (typing.Type, None),  # noqa: UP006
        (list, [1]),
        (set, {1}),
        (tuple, (1, 2)),
        (frozenset, frozenset({1})),
        (tuple[()], ()),
    ],
    ids=str,
)
def test_an_annotation_without_arguments_is_one(annotation: Any, value: Any) -> None:
    plan_for(annotation)
    model = pydantic.create_model("M", __base__=FlowState, a=(annotation | None, None))
    nested = pydantic.create_model("N", __base__=FlowState, m=(model | None, None))

    kept(codec_for(annotation), value) if value is not None else codec_for(annotation)
    kept(state_codec(nested), nested(id="x", m=model(id="y", a=value)))


TEXT = "2026-01-01T00:00:00"


def made_and_loaded(*unions: Any) -> list[list[type]]:
    """The types as which a text loads, where classes were made for these unions, one after the other."""
    found = []
    for union in unions:

        class Dicts(Flow[dict[str, union]]): ...

        class Lists(Flow[dict[str, list[union]]]): ...

        class Narrow(Dicts): ...

        class Base(Flow[T], typing.Generic[T]): ...

        class Derived(Base[dict[str, union]]): ...

        class Model(FlowState):
            a: union
            b: list[union]
            c: typing.Annotated[union, pydantic.Field(title="c")]
            d: dict[str, tuple[union, ...]]

        class Modelled(Flow[Model]): ...

        class Results(Flow):
            @start()
            def one(self) -> union: ...

            @start()
            def many(self) -> list[union]: ...

        whole = [
            cls._codecs.state.decode(b'{"id":"x","a":"%b"}' % TEXT.encode())["a"] for cls in (Dicts, Narrow, Derived)
        ]
        listed = Lists._codecs.state.decode(b'{"id":"x","a":["%b"]}' % TEXT.encode())["a"]
        data = '{"id":"x","a":"T","b":["T"],"c":"T","d":{"k":["T"]}}'.replace("T", TEXT).encode()
        model = Modelled._codecs.state.decode(data)
        one, many = map(Results._codecs.result, ("one", "many"))
        results = [one.decode(b'"%b"' % TEXT.encode()), *many.decode(b'["%b"]' % TEXT.encode())]
        found.append(list(map(type, [*whole, *listed, model.a, *model.b, model.c, *model.d["k"], *results])))
    return found


@pytest.mark.found("D2")
def test_which_type_a_text_loads_as_is_said_by_its_own_annotation_alone() -> None:
    first = made_and_loaded(str | dt.datetime, dt.datetime | str)
    again = made_and_loaded(typing.Union[dt.datetime, str], typing.Union[str, dt.datetime])  # noqa: UP007 - as it is written

    assert [set(kinds) for kinds in first] == [{str}, {dt.datetime}]
    assert [set(kinds) for kinds in again] == [{dt.datetime}, {str}]


@pytest.mark.found("D2")
def test_a_field_is_tried_by_its_own_annotation_alone() -> None:
    def holding(union: Any) -> Codec:
        field = pydantic.Field(min_length=1, max_length=77)
        return codec_for(pydantic.create_model("M", held=(list[union], field)))

    texts, dates = holding(str | dt.datetime), holding(dt.datetime | str)
    held = pydantic.create_model("M", held=(list[Any], ...))

    for codec in (texts, dates):
        model = codec._annotation  # type: ignore[attr-defined]  # of a model
        value = model.model_construct(**held(held=[TEXT]).__dict__)
        if codec is texts:
            kept(codec, value)
        else:
            with pytest.raises(Refused):
                codec.encode(value)


@pytest.mark.found("D2")
def test_a_flow_takes_one_state_and_one_result_and_a_class_that_has_them_takes_no_other() -> None:
    class Made(Flow[dict[str, int]]): ...

    for base, arguments in ((Flow, (int, str, str)), (Made, int)):
        with pytest.raises(TypeError):
            base[arguments]


def test_the_marks_are_white_space_to_json() -> None:
    for mark in (TAGGED, SAME, TYPED, MIXED):
        assert from_json(mark + b'{"a":1}') == {"a": 1}


@pytest.mark.found("C1")
@pytest.mark.parametrize("annotation", [typing.List, typing.Optional[typing.List], list[typing.List]], ids=str)  # noqa: UP006, UP045
async def test_flows_take_annotations_without_arguments(annotation: Any) -> None:
    class State(FlowState):
        held: annotation = []  # noqa: RUF012 - pydantic copies it
        rows: typing.List = []  # noqa: RUF012, UP006

    class Dicts(Flow[typing.Dict]):  # noqa: UP006
        persistence = MemoryFlowPersistence()

        @start()
        async def one(self) -> annotation:
            self.state["held"] = [[1]]
            return [[1]]

    class Models(Flow[State]):
        persistence = MemoryFlowPersistence()

        @start()
        async def one(self) -> typing.Dict:  # noqa: UP006
            self.state.held = [[1]]
            self.state.rows = [{"n": n} for n in range(5_000)]
            return {"a": 1}

    for flow, result in ((Dicts(), [[1]]), (Models(), {"a": 1})):
        output = await flow.kickoff()
        loaded = await type(flow).load(flow.run_id)

        assert output == loaded.result == result
        assert loaded.state == flow.state
