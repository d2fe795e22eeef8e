"""What a peer offers, and what all peers share: each does the same works by its own means.

Each module here is imported in the environment of its own library, so this one imports nothing but pydantic and anyio.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

import anyio
from pydantic import BaseModel, Field

STEPS = 10
"""Methods of the chain."""


class Record(BaseModel):
    """One of the many that make a state large."""

    number: int
    name: str
    tags: list[str]
    score: float


def record(number: int) -> Record:
    return Record(number=number, name=f"record {number} " * 4, tags=["new", "red"], score=number / 3)


class State(BaseModel):
    """Five fields. asyncflow has its own base for it, and Burr a mapping."""

    id: str = Field(default_factory=lambda: str(uuid.uuid4()))
    count: int = 0
    pause: float = 0.0
    name: str = "chain"
    done: bool = False


class Large(State):
    """With records besides."""

    records: list[Record] = Field(default_factory=list)


Change = tuple[int, float]
"""Which record, and its new score; or the one to append, where the place is just behind the last."""


def put(records: list[Record], change: Change) -> None:
    """Make the change in place."""
    place, score = change
    if place == len(records):
        records.append(record(place))
    records[place].score = score


def with_put(records: list[Record], change: Change) -> list[Record]:
    """Return a changed copy of a list, for libraries whose states are immutable."""
    place, score = change
    changed = record(place) if place == len(records) else records[place].model_copy()
    changed.score = score
    return [*records[:place], changed, *records[place + 1 :]]


class Turns:
    """The turns of a cycle: notes each turn and says what it changes; `done` after enough turns, or when the time is up.

    `place`: which record of so many a turn changes; None changes none.
    """

    def __init__(
        self, most: int, *, every: int, sample: Callable[[], Any], seconds: float, place: Callable[[int], int] | None
    ) -> None:
        self._most = most
        self._every = every
        self._sample = sample
        self._until = time.perf_counter() + seconds
        self._place = place
        self.taken = 0
        self.samples: list[Any] = []

    def turn(self) -> Change | None:
        """Called once in each step."""
        if self.taken % self._every == 0:
            self.samples.append(self._sample())
        self.taken += 1
        return None if self._place is None else (self._place(self.taken - 1), float(self.taken))

    @property
    def done(self) -> bool:
        """The clock is read once per sample, and not before there are three samples to compare."""
        if self.taken >= self._most:
            return True
        return self.taken % self._every == 0 and len(self.samples) > 2 and time.perf_counter() > self._until


class Resting:
    """How many steps sleep now."""

    now = 0


async def rest(seconds: float) -> None:
    """What a step does if it is to sleep."""
    Resting.now += 1
    try:
        await anyio.sleep(seconds)
    finally:
        Resting.now -= 1


class Peer:
    """One way to do the works: it has those of the methods below that it can do; `contestants` says why it lacks the others.

    Each state has five fields: an id, `count`, `pause`, `name` and `done`; that of the cycle has `records` besides.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None


class Chains(Protocol):
    """Has a chain of methods."""

    async def chain(self, pause: float = 0.0) -> str:
        """A run of `STEPS` methods, each of which adds one to `count`, and sleeps if there is a pause; its id."""
        ...


class Stores(Chains, Protocol):
    """Stores its runs in a folder."""

    folder: Path

    async def load(self, run_id: str) -> int:
        """The `count` of a stored run."""
        ...


class FansOut(Protocol):
    """Has a fan-out."""

    async def fan_out(self, width: int) -> int:
        """A method, then so many listeners at once, then a join that counts what it got."""
        ...


class WorksOnItems(Protocol):
    """Works on lists whose length is known at run time only."""

    async def items(self, count: int, limit: int | None) -> int:
        """A method that returns a list, one that works on each item, at most `limit` at a time, and one that counts the results."""
        ...


class Cycles(Protocol):
    """Has a cycle."""

    async def cycle(self, records: list[Record], turns: Turns) -> int:
        """One run that turns until `turns.done`; each turn makes the change that `turns.turn()` says. How many records at its end."""
        ...
