"""What the stored runs of older versions must result in."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from stored_flows import FLOWS, Decision
from write import SENT

from asyncflow import errors
from asyncflow.persistence.inbox import NewSignal

HERE = Path(__file__).parent
VERSIONS = sorted(folder.name for folder in HERE.iterdir() if (folder / "runs.json").exists())
"""The versions of which there is test data; each that changed the format has its own."""

APPROVED = "text, approved by Ann on 2026-01-02"
ENDS = {
    "Linear": "4.10 for 2",
    "Joining": "2026 7",
    "Cycle": 6,
    "Patched": 41,
    "Partly": 42,
    "Trying": "attempt 2",
    "Timing": "answer 7",
    "Sleeping": "rested",
    "Approving": APPROVED,
    "Asking": "Ann",
    "Expiring": "nobody",
    "Limited": "nobody",
    "Ending": "asked",
    "Endless": "4 turns",
}
"""What the runs of each flow result in."""
OTHER_ENDS = {
    "untyped-midway": [2026, 1, 2],
    "untyped-or-midway": "slow",
    "trying-failed": "attempt 3",
    "trying-resumed": "attempt 4",
    "expiring-answered": "Ann",
}
NOTES = {
    "timing-waits": {"answer": "7", "soon": "7", "remind": "7"},
    "approving-noted": {"note": "noted", "by": "Ann"},
    "asking-waits": {"note": "none"},
}
"""What is in the state of some runs at their end."""
UNANSWERED = ("approving-waits", "approving-noted", "approving-set-aside", "asking-waits")
"""The runs that wait for a signal which was not sent when they were stored."""


def runs_of(version: str) -> dict[str, Any]:
    return json.loads((HERE / version / "runs.json").read_text())


async def assert_comes_to_its_end(run_id: str, told: dict[str, Any], storage: Any) -> None:
    """What a run of this status must do when it is resumed."""
    cls = FLOWS[told["flow"]]
    if told["status"] == "cancelled":
        with pytest.raises(errors.RunCancelledError):
            await cls.resume(run_id, persistence=storage)
        return

    if run_id in UNANSWERED:
        decision = Decision(approved=True, by="Ann", on=date(2026, 1, 2))
        assert await cls.signal(run_id, "approved", decision, key="late", persistence=storage)
    end = OTHER_ENDS.get(run_id) or ENDS[told["flow"]]
    assert await cls.resume(run_id, persistence=storage) == end
    loaded = await cls.load(run_id, persistence=storage)
    assert (loaded.status, loaded.result) == ("finished", end)
    if run_id in NOTES:
        assert loaded.state.notes == NOTES[run_id]
    for key, (name, payload) in SENT.get(run_id, {}).items():
        if key:  # whatever became of the signal, its key stands for it
            assert not await storage.send(run_id, NewSignal(name, payload, key, "ann", 0))
    if run_id == "linear-killed":
        assert loaded.state.seen == ["fetch", "add", "close"]
    if run_id == "linear-edited":
        assert loaded.state.seen == ["edited", "add", "close"]
    if told["flow"] == "Trying":
        assert loaded.state.turns == 1
    if told["flow"] == "Ending":
        assert (loaded.state.turns, loaded.state.log) == (1, ["slow"])
    if told["flow"] == "Endless":
        assert loaded.state.log == ["turn 1", "turn 2", "turn 3"]
    if run_id == "cycle-midway":
        assert loaded.state.log == [f"turn {n}" for n in range(1, 7)]
