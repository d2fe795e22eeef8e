"""A real Chromium. Each test gets a page of its own, and fails if the page logs an error or asks another host for anything."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from noticing import Noticed
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

FLAGS = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    *(("--no-sandbox",) if os.name == "posix" and os.geteuid() == 0 else ()),  # Chromium's sandbox refuses root
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser of all tests. Playwright starts it in a new user data folder."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["ASYNCFLOW_BROWSER"], args=[*FLAGS])
        yield browser
        browser.close()


@pytest.fixture
def looks() -> dict[str, object]:
    """Options of a test's page, such as `viewport` and `color_scheme`: a test's own fixture of this name overrides it."""
    return {}


@pytest.fixture
def context(browser: Browser, looks: dict[str, object]) -> Iterator[BrowserContext]:
    context = browser.new_context(**looks)
    context.set_default_timeout(10_000)
    yield context
    context.close()


@pytest.fixture
def noticed(context: BrowserContext) -> Iterator[Noticed]:
    noticed = Noticed(context)
    yield noticed
    assert noticed.found == []


@pytest.fixture
def page(context: BrowserContext, noticed: Noticed) -> Page:
    """A page of this test alone."""
    return context.new_page()
