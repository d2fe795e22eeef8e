"""The page of the document service shows the progress that methods report, over one listener."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from noticing import Noticed
from playwright.sync_api import Page, expect

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "ASYNCFLOW_DB": str(tmp_path / "runs.db"), "API_SEED": "", "API_SECONDS": "2"}
    app = ("examples.document_service:app", "--port", str(port), "--log-level", "error")
    process = subprocess.Popen([sys.executable, "-m", "uvicorn", *app], env={**env, "PYTHONPATH": str(ROOT)})
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        with suppress(OSError), urllib.request.urlopen(f"{url}/readyz"):
            break
        time.sleep(0.1)
    yield url
    process.kill()
    process.wait()


def test_the_page_shows_what_each_document_does_and_the_report(page: Page, noticed: Noticed, url: str) -> None:
    page.goto(url)
    page.locator("textarea").fill("a\nb")
    page.get_by_role("button", name="Summarize").click()

    lines = page.locator("#items li")
    expect(lines.first).to_have_text("a: 1 of 2: title")
    expect(lines).to_have_text(["a: done", "b: done"])
    expect(page.locator("#status")).to_have_text("finished: 2 of 2 done")
    expect(page.locator("#report")).to_have_text(re.compile("The title of a"))
