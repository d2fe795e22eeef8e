"""The page of a picture in Chromium: what it shows, by mouse, by keyboard, on a phone, in a notebook's frame."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from drawings import MARKUP, Awkward, Linear, Publish, drawn
from playwright.sync_api import Locator, Page, expect

from asyncflow._pictures.html import DRAWING, in_notebook, to_html
from asyncflow._pictures.picture import Edge, Node, Picture
from asyncflow._pictures.words import shown

RUN = {
    "plan": ("completed", 1, 0.5),
    "load_rules": ("completed", 1),
    "research": ("failed", 0),
    "write": ("retrying", 2),
    "review": ("running", 2),
    "decide": ("waiting", 0),
    "publish": ("interrupted", 0),
}


def open_page(page: Page, folder: Path, picture: Picture) -> None:
    file = folder / "picture.html"
    file.write_text(to_html(picture), encoding="utf-8")
    page.goto(file.as_uri())


def node(page: Page, name: str) -> Locator:
    return page.locator(f'[data-node="{name}"]')


def test_every_node_and_every_edge_is_drawn(page: Page, tmp_path: Path) -> None:
    picture = drawn(Publish)
    open_page(page, tmp_path, picture)

    expect(page.locator("[data-node]")).to_have_count(len(picture.nodes))
    expect(page.locator(".af-edge")).to_have_count(len(picture.edges))
    expect(page.locator(".af-edge-loop")).to_have_count(1)
    expect(page.locator(".af-edge-each")).to_have_count(1)
    expect(page.locator(".af-legend li")).to_have_text(
        ["start", "listener", "for each item", "router", "waits for all", "waits for any", "signal", "timer", "end"]
    )
    assert set(page.locator(".af-tag").all_text_contents()) == {"each", "revise", "good", "give up", "out", "drop"}


def test_names_that_are_markup_are_shown_as_they_are(page: Page, tmp_path: Path) -> None:
    open_page(page, tmp_path, drawn(Awkward))

    expect(page.locator("h1")).to_have_text(str(Awkward.name))
    labels = {" ".join(text.split()) for text in page.locator(".af-tag text").all_text_contents()}
    assert labels == {" ".join(shown(label).split()) for label in MARKUP}
    expect(page.locator("script")).to_have_count(4)


def test_nothing_overlaps(page: Page, tmp_path: Path) -> None:
    open_page(page, tmp_path, drawn(Publish))

    boxes = [box for each in page.locator(".af-node[data-node] > .af-shape").all() if (box := each.bounding_box())]
    for n, a in enumerate(boxes):
        for b in boxes[n + 1 :]:
            is_beside = a["x"] + a["width"] <= b["x"] or b["x"] + b["width"] <= a["x"]
            assert is_beside or a["y"] + a["height"] <= b["y"] or b["y"] + b["height"] <= a["y"], (a, b)


def test_the_texts_fit_into_their_nodes(page: Page, tmp_path: Path) -> None:
    open_page(page, tmp_path, drawn(Publish))

    for each in page.locator(".af-node[tabindex]").all():
        outer = each.locator("> .af-shape").bounding_box()
        for text in each.locator("> text").all():
            inner = text.bounding_box()
            assert outer is not None
            assert inner is not None
            assert outer["x"] < inner["x"]
            assert inner["x"] + inner["width"] < outer["x"] + outer["width"]


def test_a_node_that_is_clicked_shows_its_details(page: Page, tmp_path: Path) -> None:
    open_page(page, tmp_path, drawn(Publish))
    details = page.locator(".af-details")

    expect(details).to_be_hidden()
    node(page, "write").click()
    expect(details.locator("h2")).to_have_text("write")
    expect(details).to_contain_text('or_(and_(research, load_rules), "revise")')
    expect(page.locator(".af-lit.af-edge")).to_have_count(2)
    page.locator("svg[role=group]").click(position={"x": 3, "y": 3})
    expect(details).to_be_hidden()


def test_the_keyboard_reaches_every_node_and_follows_the_edges(page: Page, tmp_path: Path) -> None:
    open_page(page, tmp_path, drawn(Publish))
    for _ in range(4):  # three buttons, and the first node
        page.keyboard.press("Tab")

    reached = []
    for _ in range(page.locator("[data-node][tabindex]").count()):
        reached.append(page.locator("[data-node]:focus").get_attribute("data-node"))
        page.keyboard.press("Tab")
    assert sorted(map(str, reached)) == sorted(n.id for n in drawn(Publish).nodes if n.kind not in ("and", "or", "end"))

    node(page, "plan").focus()
    for key, name in (
        ("ArrowDown", "research"),
        ("ArrowDown", "write"),
        ("ArrowUp", "research"),
        ("ArrowLeft", "load_rules"),
    ):
        page.keyboard.press(key)
        expect(node(page, name)).to_be_focused()
    expect(page.locator(".af-details h2")).to_have_text("load_rules")
    page.keyboard.press("Escape")
    expect(page.locator(".af-details")).to_be_hidden()


def test_a_node_says_to_a_screen_reader_what_it_is(page: Page, tmp_path: Path) -> None:
    open_page(page, tmp_path, drawn(Publish).with_run(RUN, run_id="r", status="running"))

    button = page.get_by_role("button", name="plan, kind start", exact=False)
    expect(button).to_have_accessible_name("plan, kind start, status completed, completed once, last duration 500 ms")
    expect(page.get_by_role("group", name="flow Publish, run r: running")).to_be_visible()


def test_zooming_by_buttons_keys_and_wheel(page: Page, tmp_path: Path) -> None:
    open_page(page, tmp_path, drawn(Publish))
    svg = page.locator("svg[role=group]")

    def width() -> float:
        return float(svg.get_attribute("width") or 0)

    first = width()
    page.get_by_role("button", name="zoom in").click()
    assert width() == pytest.approx(first * 1.2)
    node(page, "plan").focus()
    page.keyboard.press("-")
    assert width() == pytest.approx(first)
    svg.hover()
    page.mouse.wheel(0, 100)
    assert width() == pytest.approx(first)  # it scrolls
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    expect(svg).not_to_have_attribute("width", str(first))
    page.get_by_role("button", name="show all").click()
    box, frame = svg.bounding_box(), page.locator(".af-scroll").bounding_box()
    assert box is not None
    assert frame is not None
    assert box["height"] <= frame["height"]


def test_a_run_is_colored_and_signed_by_what_happened(page: Page, tmp_path: Path) -> None:
    open_page(page, tmp_path, drawn(Publish).with_run(RUN, run_id="r", status="running"))

    for name, (status, *_) in RUN.items():
        expect(node(page, name)).to_have_class(
            f"af-node af-{'each' if name == 'research' else kind(name)} af-is-{status}"
        )
    expect(node(page, "withdraw")).to_have_class("af-node af-listen af-is-not-reached")
    expect(node(page, "write").locator(".af-badge")).to_have_text("↻ 2")
    fills = {
        name: node(page, name).locator("> .af-shape").evaluate("shape => getComputedStyle(shape).fill") for name in RUN
    }
    assert len(set(fills.values())) == 6  # one color for each status
    expect(page.locator("header")).to_contain_text("run r: running")


def kind(name: str) -> str:
    return next(n.kind for n in drawn(Publish).nodes if n.id == name)


@pytest.mark.parametrize("looks", [{"color_scheme": scheme} for scheme in ("light", "dark")], ids=str)
def test_the_texts_have_a_contrast_that_can_be_read(page: Page, tmp_path: Path, looks: dict[str, object]) -> None:
    for picture in (drawn(Publish), drawn(Publish).with_run(RUN, run_id="r", status="running")):
        open_page(page, tmp_path, picture)
        for each in page.locator(".af-node[tabindex]").all():
            ink = each.locator("> text").first.evaluate("text => getComputedStyle(text).fill")
            fill = each.locator("> .af-shape").evaluate("shape => getComputedStyle(shape).fill")
            assert contrast(ink, fill) >= 4.5, (each.get_attribute("data-node"), ink, fill)


def contrast(one: str, other: str) -> float:
    """The contrast of two colors, as WCAG defines it."""

    def luminance(color: str) -> float:
        parts = [int(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    "looks", [{"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}], ids=["phone"]
)
def test_a_phone_scrolls_the_picture_and_not_the_page(page: Page, tmp_path: Path, looks: dict[str, object]) -> None:
    open_page(page, tmp_path, drawn(Publish))

    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    node(page, "plan").tap()
    details = page.locator(".af-details")
    expect(details.locator("h2")).to_have_text("plan")
    box = details.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    button = page.get_by_role("button", name="zoom in").bounding_box()
    assert button is not None
    assert button["width"] >= 44


@pytest.mark.parametrize("looks", [{"viewport": {"width": 360, "height": 640}}], ids=["narrow"])
def test_a_picture_that_is_too_wide_is_scrolled_to_its_start(
    page: Page, tmp_path: Path, looks: dict[str, object]
) -> None:
    names = [f"a_method_with_a_long_name_{n}" for n in range(8)]
    methods = tuple(Node(id=name, kind="listen", text=name) for name in names)
    nodes = (Node(id="begin", kind="start", text="begin", begins=True), *methods)
    open_page(
        page, tmp_path, Picture(name="Wide", nodes=nodes, edges=tuple(Edge(source="begin", target=n) for n in names))
    )

    expect(node(page, "begin")).to_be_in_viewport()
    expect(node(page, names[0])).not_to_be_in_viewport()


def test_without_scripts_the_page_shows_the_flowchart_as_text(context: Any, tmp_path: Path) -> None:
    quiet = context.browser.new_context(java_script_enabled=False)
    page = quiet.new_page()
    open_page(page, tmp_path, drawn(Linear))

    expect(page.locator("noscript pre")).to_contain_text("m_fetch --> m_parse")
    quiet.close()


def test_a_frame_in_a_notebook_draws(page: Page) -> None:
    page.set_content(f"<!doctype html><title>notebook</title>{in_notebook(drawn(Linear))}")

    expect(page.frame_locator("iframe").locator("[data-node]")).to_have_count(3)


# ---- the drawing in another page, under the policy of the inspector ---------------------------------------------------

POLICY = "default-src 'self'"
HOST = """<!doctype html><title>host</title><link rel="stylesheet" href="draw.css"><div id="here"></div>
<script src="dagre.min.js"></script><script src="draw.js"></script><script src="own.js"></script>"""
OWN = """
const here = document.getElementById("here"), pictures = PICTURES;
let next = 0;
const draw = () => asyncflow.draw(here, pictures[next++]);
here.addEventListener("picture:select", (event) => { document.title = event.detail; });
document.addEventListener("keydown", (event) => { if (event.key === "n") draw(); });
draw();
"""


class Served(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.strip("/")
        kind = {"js": "text/javascript", "css": "text/css"}.get(name.rpartition(".")[2], "text/html")
        linear = drawn(Linear)
        pictures = [linear.with_run({"fetch": (s, 1)}, run_id="r", status="running") for s in ("running", "completed")]
        own = OWN.replace("PICTURES", json.dumps([json.loads(picture.to_json()) for picture in pictures]))
        text = {"": HOST, "own.js": own}.get(name) or (DRAWING[name].read_text() if name in DRAWING else "")
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Served)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_page_under_a_strict_policy_draws_and_draws_again(page: Page, host: str) -> None:
    page.goto(host)
    expect(node(page, "fetch")).to_have_class("af-node af-start af-is-running")
    node(page, "fetch").focus()
    expect(page).to_have_title("fetch")
    page.keyboard.press("+")
    width = page.locator("svg[role=group]").get_attribute("width")

    page.keyboard.press("n")

    expect(node(page, "fetch")).to_have_class("af-node af-start af-is-completed af-selected")
    expect(node(page, "fetch")).to_be_focused()
    expect(page.locator(".af-details")).to_contain_text("completed once")
    assert page.locator("svg[role=group]").get_attribute("width") == width
