"""A picture shows every method and everything that a method waits for, and no more."""

from collections.abc import Iterator
from typing import Any

import pytest
from drawings import Linear, Publish, drawn
from graphs import definition_of, graphs
from hypothesis import given
from shapes import Node as Shape

from asyncflow import Flow, and_, listen, or_, router, start
from asyncflow._definition.definition import FlowDefinition
from asyncflow._definition.triggers import AllOf, AnyOf, Condition
from asyncflow._pictures.deriving import picture_of
from asyncflow._pictures.picture import Edge, Node, Picture


def into(picture: Picture, node: str) -> list[Edge]:
    return [edge for edge in picture.edges if edge.target == node]


def leaf(picture: Picture, edge: Edge) -> Condition:
    """What the source of an edge is in a condition, and all that leads to it."""
    node = next(node for node in picture.nodes if node.id == edge.source)
    match node.kind:
        case "and" | "or":
            return condition_of(picture, node)
        case "timer":
            (source,) = set(parts(picture, node))
            return f"after({source})"
        case "signal" | "label":
            return node.text
    return edge.label or node.id


def parts(picture: Picture, node: Node) -> Iterator[Condition]:
    """A label that several routers may return has several edges, and is one part."""
    yield from dict.fromkeys(leaf(picture, edge) for edge in into(picture, node.id))


def condition_of(picture: Picture, node: Node) -> Any:
    found = tuple(parts(picture, node))
    if node.kind in ("and", "or"):
        return (AllOf if node.kind == "and" else AnyOf)(found)
    assert len(found) < 2
    return found[0] if found else None


def routers_of(definition: FlowDefinition, label: str) -> set[str]:
    methods = definition.methods.values()
    return {m.name for m in methods if m.is_router and (m.labels is None or label in m.labels)}


@given(graphs())
def test_the_edges_of_a_picture_are_the_conditions_of_its_methods(graph: list[Shape]) -> None:
    definition = definition_of(graph)
    picture = picture_of(definition)

    methods = {node.id: node for node in picture.nodes if node.is_method}
    assert list(methods) == list(definition.methods)
    for method in definition.methods.values():
        assert condition_of(picture, methods[method.name]) == method.condition
        assert [edge.each for edge in into(picture, method.name)] == [method.each] * len(into(picture, method.name))
    for edge in picture.edges:
        if edge.label:
            sources = {
                other.source for other in picture.edges if (other.target, other.label) == (edge.target, edge.label)
            }
            assert sources == routers_of(definition, edge.label)
            assert edge.maybe
    assert len({node.id for node in picture.nodes}) == len(picture.nodes)
    assert {node.id for node in picture.nodes} >= {end for edge in picture.edges for end in (edge.source, edge.target)}


def reachable(picture: Picture, node: str, *, loops: bool) -> set[str]:
    seen, left = set[str](), [node]
    while left:
        here = left.pop()
        following = [e.target for e in picture.edges if e.source == here and (loops or not e.loop)]
        left += [target for target in following if target not in seen]
        seen.update(following)
    return seen


@given(graphs())
def test_without_the_edges_marked_as_loops_a_picture_has_no_cycle(graph: list[Shape]) -> None:
    picture = picture_of(definition_of(graph))

    assert [node.id for node in picture.nodes if node.id in reachable(picture, node.id, loops=False)] == []
    assert [
        e for e in picture.edges if e.loop and e.source not in reachable(picture, e.target, loops=True) | {e.target}
    ] == []


def test_each_kind_of_node_is_shown() -> None:
    picture = drawn(Publish)

    assert {(node.kind, node.text) for node in picture.nodes} == {
        *(("start", name) for name in ("plan", "load_rules")),
        *(("listen", name) for name in ("research", "write", "publish", "withdraw")),
        *(("router", name) for name in ("review", "decide")),
        *{
            ("and", "and"),
            ("or", "or"),
            ("end", "end"),
            ("signal", "approved"),
            ("signal", "withdrawn"),
            ("timer", "after 2 d"),
        },
    }
    assert [(edge.source, edge.target, edge.label) for edge in picture.edges if edge.loop] == [
        ("review", "or:write", "revise")
    ]


def test_a_label_that_nothing_listens_to_leads_to_an_end() -> None:
    assert [(e.source, e.label) for e in drawn(Publish).edges if e.target.startswith("end:")] == [
        ("review", "give up"),
        ("decide", "drop"),
    ]


def test_a_node_says_what_the_decorator_and_the_code_of_its_method_say() -> None:
    nodes = {node.id: node for node in drawn(Publish).nodes}

    assert nodes["research"].notes == ("each item, 10 at a time", "3 attempts")
    assert nodes["research"].each
    assert nodes["write"].notes == ("1 min 30 s limit", "sleeps")
    assert nodes["write"].condition == 'or_(and_(research, load_rules), "revise")'
    assert set(nodes["publish"].notes) == {"runs Linear", "sub-steps"}
    assert nodes["publish"].is_output
    assert nodes["review"].labels == ("give up", "good", "revise")
    assert nodes["signal:approved"].about == "str"
    assert nodes["timer:decide:good"].about == "2 d after good"
    assert next(node for node in drawn(Linear).nodes if node.id == "parse").about == "Split the text into words."


def test_a_router_that_does_not_declare_its_labels_may_return_any() -> None:
    class Loose(Flow):
        @start()
        async def begin(self) -> None: ...

        @router(begin)
        async def choose(self):  # type: ignore[no-untyped-def]
            return "a"

        @router(begin, emit=["b"])
        async def know(self) -> str:
            return "b"

        @listen(or_("a", "b"))
        async def follow(self) -> None: ...

    edges = {(e.source, e.label): e.maybe for e in drawn(Loose).edges if e.label}

    assert edges == {("choose", "a"): True, ("choose", "b"): True, ("know", "b"): False}


def test_a_conditional_start_begins_a_pass_only_if_no_other_start_does() -> None:
    class Second(Flow):
        @start()
        async def one(self) -> None: ...

        @start(one)
        async def two(self) -> None: ...

    class Both(Flow):
        @start("b")
        async def one(self) -> None: ...

        @router(one, emit=["b"])
        async def two(self) -> str:
            return "b"

    assert [(n.id, n.kind, n.begins) for n in drawn(Second).nodes] == [("one", "start", True), ("two", "listen", False)]
    assert next(n for n in drawn(Both).nodes if n.id == "one").kind == "start"


def test_the_picture_of_a_long_chain_is_drawn() -> None:
    methods: dict[str, Any] = {}

    async def nothing(self: Any) -> None: ...

    for n in range(3_000):

        async def method(self: Any) -> None: ...

        method.__name__ = f"m{n}"
        methods[f"m{n}"] = start()(method) if not n else listen(methods[f"m{n - 1}"])(method)
    picture = drawn(type("Long", (Flow,), methods))

    assert (len(picture.nodes), len(picture.edges)) == (3_000, 2_999)


@pytest.mark.parametrize("kind", [and_, or_])
def test_a_condition_of_one_part_is_no_join(kind: Any) -> None:
    class Single(Flow):
        @start()
        async def one(self) -> None: ...

        @listen(kind(one))
        async def two(self) -> None: ...

    assert [node.id for node in drawn(Single).nodes] == ["one", "two"]
