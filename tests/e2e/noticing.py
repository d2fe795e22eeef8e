"""What a page of the tests in a browser does that it must not do."""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext

HERE = ("127.0.0.1", "localhost", None)
"""Hosts that a page may ask; None: a file, or data."""


class Noticed:
    """What a page did that it should not: errors and warnings in its console, exceptions, requests to other hosts.

    A refusal by the content security policy is an error in the console. A test removes with `expect` what it provokes.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.found: list[str] = []
        context.on("console", lambda m: self.found.append(m.text) if m.type in ("error", "warning") else None)
        context.on("weberror", lambda e: self.found.append(str(e.error)))
        context.on("request", lambda r: self._asked(r.url))

    def _asked(self, url: str) -> None:
        if urlsplit(url).hostname not in HERE:
            self.found.append(f"asked another host: {url}")

    def expect(self, part: str) -> None:
        """Forget what was found that has this part; fail if there is none."""
        assert any(part in found for found in self.found), self.found
        self.found[:] = [found for found in self.found if part not in found]
