"""Mermaid and DOT: the text of each kind of element, and names that are markup."""

import re
from html import unescape

import pytest
from drawings import MARKUP, Awkward, Linear, Publish, drawn
from graphs import definition_of, graphs
from hypothesis import given
from shapes import Node as Shape

from asyncflow._pictures.deriving import picture_of
from asyncflow._pictures.dot import to_dot
from asyncflow._pictures.mermaid import to_mermaid
from asyncflow._pictures.words import duration, shown

GOLDEN_MERMAID = """\
flowchart TD
    m_plan(["plan"])
    m_load_rules(["load_rules"])
    m_research[["research<br><small>each item, 10 at a time · 3 attempts</small>"]]
    m_write["write<br><small>1 min 30 s limit · sleeps</small>"]
    n4(("or"))
    n5(("and"))
    m_review{{"review"}}
    n7(("■"))
    m_decide{{"decide"}}
    n9(("and"))
    n10(("or"))
    n11>"✉ approved"]
    n12[/"after 2 d"\\]
    n13(("■"))
    m_publish["publish<br><small>runs Linear · sub-steps</small><br><small>output</small>"]
    m_withdraw["withdraw"]
    n16>"✉ withdrawn"]
    m_plan ==>|"each"| m_research
    n4 --> m_write
    n5 --> n4
    m_research --> n5
    m_load_rules --> n5
    m_review -.->|"revise ↺"| n4
    m_write --> m_review
    m_review -->|"give up"| n7
    n9 --> m_decide
    m_review -->|"good"| n9
    n10 --> n9
    n11 --> n10
    n12 --> n10
    m_review -->|"good"| n12
    m_decide -->|"drop"| n13
    m_decide -->|"out"| m_publish
    n16 --> m_withdraw
"""

GOLDEN_DOT = {
    "plan": 'label="plan", shape=box, style="rounded,filled,bold"',
    "research": 'label="research\\neach item, 10 at a time · 3 attempts", shape=box3d',
    "review": 'label="review", shape=hexagon',
    "and:decide": 'label="and", shape=circle',
    "signal:approved": 'label="approved", shape=cds',
    "timer:decide:good": 'label="after 2 d", shape=trapezium',
    "end:decide": 'label="", shape=doublecircle',
    "publish": 'label="publish\\nruns Linear · sub-steps", shape=box, style="rounded,filled"',
}

GOLDEN_DOT_EDGES = (
    '"plan" -> "research" [label="each", penwidth=3, color="#1c7f8c"]',
    '"review" -> "or:write" [label="revise", style=dashed, constraint=false]',
    '"decide" -> "publish" [label="out"]',
    '"write" -> "review"\n',
)


def test_a_mermaid_flowchart_has_a_shape_and_an_arrow_for_each_kind() -> None:
    assert to_mermaid(drawn(Publish)).startswith(GOLDEN_MERMAID)


def test_a_mermaid_flowchart_colors_each_kind() -> None:
    classes = dict(re.findall(r"    class (\S+) (\w+)_\n", to_mermaid(drawn(Publish))))

    assert classes["m_plan,m_load_rules"] == "start"
    assert classes["m_review,m_decide"] == "router"
    assert classes["n11,n16"] == "signal"
    assert classes["m_publish"] == "output"


def test_a_dot_graph_has_a_shape_and_an_arrow_for_each_kind() -> None:
    text = to_dot(drawn(Publish))

    for node, attributes in GOLDEN_DOT.items():
        assert f'    "{node}" [{attributes}' in text
    for edge in GOLDEN_DOT_EDGES:
        assert f"    {edge}" in text
    assert "peripheries=2" in next(line for line in text.splitlines() if line.startswith('    "publish" ['))


def test_a_run_is_distinguished_by_signs_and_by_colors() -> None:
    happened = {"fetch": ("completed", 1, 0.25), "parse": ("failed", 0)}
    picture = drawn(Linear).with_run(happened, run_id="r", status="failed")

    mermaid, dot = to_mermaid(picture), to_dot(picture)

    assert 'm_fetch(["✓ fetch · 250 ms"])' in mermaid
    assert 'm_parse["✗ parse"]' in mermaid
    assert "    class m_report not_reached_" in mermaid
    assert "    linkStyle 1 " in mermaid
    assert 'label="✗ parse"' in dot
    assert '"parse" -> "report" [style=dotted]' in dot


def decoded(text: str) -> str:
    """The text that Mermaid shows for one of its sources: a code is a character."""
    return re.sub(r"#(\d+);", lambda code: chr(int(code[1])), text)


def test_mermaid_shows_names_that_are_markup_as_they_are() -> None:
    text = to_mermaid(drawn(Awkward))
    labels = re.findall(r'-->\|"([^"]*)"\| ', text)

    assert {decoded(label) for label in labels} == {shown(label) for label in MARKUP}
    for label in labels:
        assert not re.search(r'[<>&"`\[\]{}|*~%\\/]|^\d+[.)]|^[-+]|--', label), label
    assert {line.split()[0] for line in text.splitlines()} & {"end", "graph", "subgraph", "node"} == set()


def strings_of(text: str) -> list[str]:
    """The strings of a source in DOT, as Graphviz reads them. Fails for a word outside of them that is no word of DOT."""
    strings = re.findall(r'"((?:[^"\\]|\\.)*)"', text, re.DOTALL)
    words = set(re.findall(r"[^\W\d]\w*", re.sub(r'"(?:[^"\\]|\\.)*"', "", text, flags=re.DOTALL)))
    assert words <= {
        *(
            "digraph",
            "graph",
            "node",
            "edge",
            "rankdir",
            "TB",
            "nodesep",
            "ranksep",
            "fontsize",
            "arrowsize",
            "label",
            "shape",
        ),
        *(
            "style",
            "fillcolor",
            "color",
            "fontcolor",
            "bgcolor",
            "fontname",
            "margin",
            "fixedsize",
            "true",
            "false",
            "width",
        ),
        *("box", "hexagon", "circle", "doublecircle", "box3d", "cds", "trapezium", "penwidth", "peripheries", "dashed"),
        *("dotted", "constraint"),
    }
    return [re.sub(r"\\(.)", lambda c: "\n" if c[1] == "n" else c[1], unescape(s)) for s in strings]


def test_dot_shows_names_that_are_markup_as_they_are() -> None:
    strings = strings_of(to_dot(drawn(Awkward)))

    assert {shown(label) for label in MARKUP} <= set(strings)
    assert Awkward.name in strings


@given(graphs())
def test_both_formats_have_every_node_and_every_edge(graph: list[Shape]) -> None:
    picture = picture_of(definition_of(graph))

    mermaid, dot = to_mermaid(picture), to_dot(picture)

    places = {node.id: f"m_{node.id}" if node.is_method else f"n{n}" for n, node in enumerate(picture.nodes)}
    arrows = re.findall(r"^    (\w+) (?:-->|==>|-\.->)(?:\|\"[^\"]*\"\|)? (\w+)$", mermaid, re.MULTILINE)
    assert arrows == [(places[edge.source], places[edge.target]) for edge in picture.edges]
    assert dict.fromkeys(re.findall(r"^    ([mn]\w+)\W*\"", mermaid, re.MULTILINE)) == dict.fromkeys(places.values())
    assert re.findall(r'^    "([^"]*)" -> "([^"]*)"', dot, re.MULTILINE) == [
        (e.source, e.target) for e in picture.edges
    ]
    assert re.findall(r'^    "([^"]*)" \[', dot, re.MULTILINE) == [node.id for node in picture.nodes]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "0 ms"), (0.0001, "<1 ms"), (0.25, "250 ms"), (1, "1 s"), (59.96, "60 s"), (90, "1 min 30 s")),
        *((3600, "1 h"), (5400, "1 h 30 min"), (172_800, "2 d"), (90_061, "1 d 1 h"), (86_430, "1 d")),
    ],
)
def test_durations_are_shown_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_long_text_is_cut_and_control_characters_are_visible() -> None:
    assert len(shown("x" * 300)) == 80
    assert shown("a\x00\u202eb\nc") == "a\\u0000\\u202eb c"
