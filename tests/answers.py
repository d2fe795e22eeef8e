"""A flow that takes one signal after the other, a run of it with a signal in each condition, and ways to change their rows."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Literal

import anyio
import pytest
from moments import interrupted_once, stored

from asyncflow import Flow, Signal, and_, errors, listen, router, start
from asyncflow.persistence import NewSignal


class Answers(Flow[dict]):  # type: ignore[type-arg]
    """Asks again and again, until the answer is 0."""

    name = "Answers"
    answered = Signal("answered", int)

    @start("again")
    async def ask(self) -> None: ...

    @router(and_(ask, answered))
    async def take(self, answered: int) -> Literal["again", "done"]:
        self.state.setdefault("taken", []).append(answered)
        return "again" if answered else "done"

    @listen("done")
    async def end(self) -> list[int]:
        return list(self.state["taken"])


TAKEN, ASIDE, WAITS = KEYS = ("taken", "aside", "waits")
"""The keys of the three signals, which say what has become of each."""
TAKER = 2
"""The seq of the checkpoint that took the first of them."""
AT_REST = 4
"""The seq of the newest checkpoint."""


def answer(payload: int, key: str) -> NewSignal:
    return NewSignal("answered", b"%d" % payload, key, "ann", 1.5)


async def three_signals(storage: Any, run_id: str) -> None:
    """An interrupted run: it has taken a 1, a 7 was set aside, and a 0 is in its inbox."""
    await interrupted_once(lambda: Answers(persistence=storage).kickoff({"id": run_id}), stored(storage, run_id, 1))
    await storage.send(run_id, answer(1, TAKEN))
    await interrupted_once(lambda: Answers.resume(run_id, persistence=storage), stored(storage, run_id, AT_REST))
    await storage.send(run_id, answer(7, ASIDE))
    (aside,) = await storage.inbox(run_id)
    await storage.set_aside(aside, "why")
    await storage.send(run_id, answer(0, WAITS))


def changes(key: str) -> dict[str, Any]:
    """For each column of the row of one of the signals, another value."""
    return {
        "key": "other",
        "name": "asked",
        "payload": b"5",
        "sender": "eve",
        "at": 2.5,
        "taken": None if key == TAKEN else TAKER,
        "problem": None if key == ASIDE else "why",
        "content": b"x" * 16,
        "digest": b"x" * 16,
    }


CHANGES = [(key, column) for key in KEYS for column in changes(key)]


def is_read(key: str, column: str) -> bool:
    """Whether the changed row of a signal is read when its run is driven: it is in the inbox. Others are read by `verify` alone."""
    hides = column in ("taken", "problem")
    return hides is not (key == WAITS) and (not hides or (key, column) in ((TAKEN, "taken"), (ASIDE, "problem")))


async def assert_it_is_found_and_nothing_is_taken_twice(storage: Any, hurt: str, sound: str, *, is_read: bool) -> None:
    """A row of one run was changed, and the other run is as it was. `is_read`: driving the run reads the row."""
    found = await storage.verify()
    assert [(type(error), error.run_id) for error in found] == [(errors.CheckpointCorruptError, hurt)]
    assert [type(error) for error in await storage.verify(hurt)] == [errors.CheckpointCorruptError]
    assert await storage.verify(sound) == []
    if is_read:
        with suppress(errors.CheckpointCorruptError):
            await storage.send(hurt, answer(1, TAKEN))
        with pytest.raises(errors.CheckpointCorruptError) as caught:
            await storage.inbox(hurt)
        assert caught.value.run_id == hurt
        with anyio.fail_after(60), pytest.raises(errors.CheckpointCorruptError):
            await Answers.resume(hurt, persistence=storage)
        assert (await Answers.load(hurt, persistence=storage)).state["taken"] == [1]
    with anyio.fail_after(60):
        assert await Answers.resume(sound, persistence=storage) == [1, 0]
