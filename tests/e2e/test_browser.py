"""The tests in a browser notice what a page must not do."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from noticing import Noticed
from playwright.sync_api import Page, expect

POLICY = "default-src 'self'"


class Served(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_script = self.path.endswith(".js")
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript" if is_script else "text/html")
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(SCRIPT if is_script else PAGE if self.path == "/" else b"<p>none</p>")

    def log_message(self, *args: object) -> None:
        pass


PAGE = b"<!doctype html><title>t</title><p id=p>served</p><script src=/own.js></script><script>inline()</script>"
SCRIPT = b"document.getElementById('p').textContent = 'scripted'; fetch('http://elsewhere.invalid/').catch(() => {});"


@pytest.fixture
def served() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Served)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_scripts_run_and_what_the_policy_forbids_is_noticed(page: Page, noticed: Noticed, served: str) -> None:
    page.goto(f"{served}/")

    expect(page.locator("#p")).to_have_text("scripted")
    noticed.expect("inline script")
    noticed.expect("elsewhere.invalid")


def test_an_exception_of_a_page_is_noticed(page: Page, noticed: Noticed) -> None:
    page.goto("data:text/html,<script>nothing_of_this_name()</script>")

    noticed.expect("nothing_of_this_name")
