"""The page of a picture: complete in itself, and strict about what runs in it."""

import base64
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from drawings import Awkward, Linear, Publish, drawn

import asyncflow
from asyncflow._pictures.html import DRAWING, in_notebook, to_html

FOLDER = Path(asyncflow.__file__).parent / "_pictures"


class Parsed(HTMLParser):
    """The elements of a page, and the texts of its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag in ("script", "style") and self.lasttag == tag and data.strip():
            self.raw.append((attributes.get("type") or tag, data))

    def texts(self, kind: str) -> list[str]:
        return [text for each, text in self.raw if each == kind]


def policy_of(page: Parsed) -> dict[str, list[str]]:
    content = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    assert content is not None
    return {name: values for name, *values in (directive.split() for directive in content.split(";"))}


def test_the_policy_of_a_page_allows_its_own_scripts_and_styles_and_nothing_else() -> None:
    page = Parsed(to_html(drawn(Publish)))
    hashes = {
        kind: [f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in page.texts(kind)]
        for kind in ("script", "style")
    }
    policy = policy_of(page)

    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == hashes["script"]
    assert policy["style-src"] == hashes["style"]
    assert (len(hashes["script"]), len(hashes["style"])) == (3, 1)
    assert set(policy) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}


def test_a_page_names_no_other_file_or_host() -> None:
    text = to_html(drawn(Publish))
    page = Parsed(text)

    links = [(tag, a[name]) for tag, a in page.elements for name in ("src", "href", "action", "srcset") if name in a]
    assert links == [("link", "data:,")]
    assert set(re.findall(r"\w+://[^\s\"'<]*", text)) == {"http://www.w3.org/2000/svg"}  # the name of SVG
    assert "sourceMappingURL" not in text
    assert "@import" not in text
    assert "url(" not in "".join(page.texts("style"))


def test_no_element_of_a_page_has_a_style_or_a_handler_of_its_own() -> None:
    page = Parsed(to_html(drawn(Publish)))

    assert [(t, name) for t, a in page.elements for name in a if name == "style" or name.startswith("on")] == []


def test_the_data_of_a_page_is_the_picture_and_ends_no_script() -> None:
    picture = drawn(Awkward)
    page = Parsed(to_html(picture))

    (data,) = page.texts("application/json")
    found = json.loads(data)

    assert found == json.loads(picture.to_json())
    assert "<" not in data
    assert found["name"] == Awkward.name
    assert "</script>" in {edge["label"] for edge in found["edges"]}
    assert len(found["edges"]) == len(picture.edges)
    assert [tag for tag, _ in page.elements].count("script") == 4


def test_the_json_of_a_picture_has_the_fields_that_are_drawn() -> None:
    found = json.loads(
        drawn(Linear).with_run({"fetch": ("completed", 2, 90.0)}, run_id="r", status="running").to_json()
    )
    script = (FOLDER / "draw.js").read_text(encoding="utf-8")

    node = found["nodes"][0]
    assert (found["status"], node["status"], node["count"], node["took"]) == ("running", "completed", 2, "1 min 30 s")
    assert found["nodes"][1]["took"] == ""
    used = set(re.findall(r"\bnode\.(\w+)", script)) - {"node", "box"}
    assert used <= node.keys()
    assert set(re.findall(r"\bedge\.(\w+)", script)) <= found["edges"][0].keys()


def test_the_title_of_a_page_is_text() -> None:
    text = to_html(drawn(Awkward))

    title = re.search(r"<title>(.*?)</title>", text)
    assert title is not None
    assert unescape(title[1]).startswith(str(Awkward.name))
    assert "<b>" not in text
    assert "<h1>&lt;b&gt;" in text


def test_the_drawing_sets_no_style_and_evaluates_no_text() -> None:
    script = (FOLDER / "draw.js").read_text(encoding="utf-8")

    assert (
        re.findall(r"\.style\b|\"style\"|\beval\b|new Function|innerHTML|insertAdjacentHTML|document\.write", script)
        == []
    )


def test_a_frame_of_a_notebook_holds_the_page() -> None:
    frame = in_notebook(drawn(Publish))
    parsed = Parsed(frame)

    ((tag, attributes),) = parsed.elements
    assert tag == "iframe"
    assert attributes["sandbox"] == "allow-scripts"
    assert attributes["srcdoc"] == to_html(drawn(Publish))
    assert 260 <= int(attributes["height"] or 0) <= 680


def vendored() -> dict[str, str]:
    """File and hash of each row of the table."""
    table = (FOLDER / "vendor" / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|$", table, re.MULTILINE))


def test_the_files_of_other_projects_are_those_of_the_table() -> None:
    files = {path.name: path for path in (FOLDER / "vendor").iterdir() if path.name != "README.md"}

    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == vendored()
    assert "Permission is hereby granted, free of charge" in files["dagre.LICENSE.txt"].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DRAWING)
def test_a_file_of_the_drawing_ends_no_script_and_no_style(name: str) -> None:
    text = DRAWING[name].read_text(encoding="utf-8").lower()

    assert not re.search(r"</(script|style)|<!--", text)


def test_the_flowchart_in_the_guide_is_what_its_code_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (FOLDER.parents[1] / "examples" / "guide" / "pictures.md").read_text(encoding="utf-8")
    code, chart = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)[0] for kind in ("python", "mermaid"))
    exec(code, {"__name__": "guide"})

    assert capsys.readouterr().out.strip() == chart.strip()
