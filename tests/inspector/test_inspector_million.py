"""The inspector over 1,000,000 stored runs: a page of the list takes under 50 ms, wherever it is."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from press import Count, Visitor, links_of, visited

from asyncflow import SQLiteFlowPersistence
from asyncflow.persistence.protocol import session

RUNS = 1_000_000

COPY = """
WITH RECURSIVE numbers (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
INSERT INTO runs (id, run_id, flow, status, pass_number, head, head_digest, base, owner, epoch, created_at, updated_at, entry_digest,
  takeovers, counted_at, identity, format, version, wake_at, first, first_digest, parent, parent_digest)
SELECT n, printf('%08x-0000-4000-8000-%012x', n, n),
  CASE WHEN n % 100 THEN flow ELSE 'Rare' END,
  CASE WHEN n % 500 = 7 THEN 'failed' WHEN n % 500 = 8 THEN 'running' ELSE status END,
  pass_number, head, head_digest, base, NULL, epoch, created_at + n, updated_at + n, entry_digest, takeovers, counted_at, identity,
  format, version, CASE WHEN n % 500 = 8 THEN 9e999 END, first, first_digest, parent, parent_digest
FROM runs, numbers WHERE runs.id = 1
"""


@pytest.fixture
async def filled(tmp_path: Path) -> SQLiteFlowPersistence:
    """A file with so many runs: copies of the catalog entry of one."""
    path = tmp_path / "runs.db"
    await Count(persistence=SQLiteFlowPersistence(path)).kickoff()
    with sqlite3.connect(path) as file:
        file.execute(COPY, (RUNS,))
    file.close()
    return SQLiteFlowPersistence(path)


async def seconds_of(at: Visitor, link: str) -> tuple[float, str]:
    """The shortest CPU time of five in which a page is answered, and the page. Other processes of the tests do not count."""
    found = []
    for _ in range(5):
        begun = time.process_time()
        answer = await at.http.get(link)
        found.append((time.process_time() - begun, answer.text))
        assert answer.status_code == 200
    return min(found)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_page_of_a_million_runs_takes_under_50_ms(filled: Any) -> None:
    pages = {
        "the first": "/",
        "the second": f"/?before={RUNS - 50}",
        "in the middle": f"/?before={RUNS // 2}",
        "the last": "/?before=40",
        "failed ones": "/?status=failed",
        "finished ones": f"/?status=finished&before={RUNS // 2}",
        "waiting ones": "/?status=waiting",
        "of a flow": "/?flow=Rare",
        "by a part of the id": "/?id=4000-8000-0000000f4",
        "changed since": "/?since=2026-01-01T00:00",
    }
    rare = "/?id=4000-8000-00000000042"  # the search for them stops after so many others
    async with session(filled), visited(filled) as at:
        took = {name: await seconds_of(at, link) for name, link in {**pages, "far back": rare}.items()}
        link, searches = rare, 1
        while "run?id=" not in (page := (await at.http.get(link)).text):
            assert "the search can continue with older ones" in page
            link, searches = next(link for link in links_of(page) if "before=" in link), searches + 1

    shown = {name: sum("run?id=" in link for link in links_of(page)) for name, (_, page) in took.items()}
    assert shown == {**dict.fromkeys(pages, 50), "the last": 39, "far back": 0}
    assert searches > 1
    slow = {name: round(seconds, 3) for name, (seconds, _) in took.items() if seconds >= 0.05}
    assert slow == {}
