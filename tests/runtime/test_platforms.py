"""Other interpreters and systems: nothing is promised that cannot be known there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import asyncflow
from asyncflow import Flow, errors, start
from asyncflow.persistence import SQLiteFlowPersistence
from asyncflow.persistence._database.ownership_rules import Liveness, locked
from asyncflow.persistence.sqlite import owners

ENV = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}

WITHOUT_COUNTS = {
    "no counts, as on PyPy": "del sys.getrefcount",
    "another implementation": "sys.implementation.name = 'pypy'",
    "a free-threaded build": "sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1",
}

LARGE = """
import sys, sysconfig
{change}
import asyncflow
from asyncflow import Flow, FlowState, listen, start
from asyncflow._runtime.uniqueness import is_held_once, is_exclusively_owned

class Many(FlowState):
    items: list[list[int]] = []

class Grows(Flow[Many]):
    kept = None

    @start()
    def first(self):
        self.state.items = [[n] for n in range(5_000)]
        Grows.kept = self.state.items

    @listen(first)
    def second(self):
        Grows.kept[0].append(7)  # what one method has kept is no longer the state's
        return len(self.state.items), self.state.items[0]

assert not is_exclusively_owned([[[1]]]) and not is_held_once([[1]])
assert asyncflow.run(Grows()) == (5_000, [0])
print("well")
"""


@pytest.mark.found("P5")
@pytest.mark.parametrize("change", WITHOUT_COUNTS.values(), ids=list(WITHOUT_COUNTS))
def test_where_references_are_not_counted_a_state_is_copied(change: str) -> None:
    command = [sys.executable, "-c", LARGE.format(change=change)]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=120, check=False)

    assert (done.stdout, done.stderr) == ("well\n", "")


@pytest.mark.found("P6")
async def test_where_a_dead_owner_cannot_be_distinguished_from_a_living_one_the_message_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Held(Flow):
        @start()
        async def only(self) -> str:
            async with SQLiteFlowPersistence("runs.db") as other:
                monkeypatch.setattr(owners, "_LIVING", {})  # as for another process
                with pytest.raises(errors.RunLockedError) as caught:
                    await other.acquire(self.run_id)
            return str(caught.value)

    monkeypatch.setattr(owners, "fcntl", None)
    said = await Held(persistence=SQLiteFlowPersistence("runs.db")).kickoff()

    assert "may have died since" in said
    assert "its lease expires in" in said
    assert "which is alive" not in said


def test_where_liveness_is_known_the_message_says_that_the_owner_lives() -> None:
    assert "which is alive" in str(locked("run", "owner", Liveness.ALIVE, 3.0))
