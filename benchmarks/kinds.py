"""What a step costs that changes one record of 1 MB, for each kind of state: `python -m benchmarks.kinds`.

It prints the median CPU per step, its ratio to a plain state in the same round, and how long the event loop was blocked.
"""

from __future__ import annotations

import gc
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import anyio
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_serializer, field_validator

from asyncflow import Flow, FlowState, SQLiteFlowPersistence, or_, router, start

from .__main__ import machine

STEPS, RECORDS = 30, 9_000


class Record(BaseModel):
    number: int
    name: str
    tags: list[str]
    score: float


class Checked(Record):
    @field_validator("name")
    @classmethod
    def checked(cls, name: str) -> str:
        return name


class Plain(FlowState):
    records: list[Record] = Field(default_factory=list)
    count: int = 0


class Optional(FlowState):
    records: list[Record] | None = None
    count: int = 0


class WithSettings(Plain):
    model_config = ConfigDict(use_attribute_docstrings=True, populate_by_name=True, validate_default=True)


class WithPrivate(Plain):
    _seen: dict[str, int] = PrivateAttr(default_factory=dict)


class WithValidator(Plain):
    @field_validator("count")
    @classmethod
    def checked(cls, count: int) -> int:
        return count


class OfChecked(FlowState):
    records: list[Checked] = Field(default_factory=list)
    count: int = 0


class WithSerializer(Plain):
    @field_serializer("count")
    def written(self, count: int) -> int:
        return count


KINDS: dict[str, type[BaseModel]] = {
    "plain": Plain,
    "an optional list": Optional,
    "settings that change nothing": WithSettings,
    "a private attribute": WithPrivate,
    "a validator": WithValidator,
    "validators in the records": OfChecked,
    "a serializer": WithSerializer,
}


def flow_of(model: Any, samples: list[float]) -> Any:
    record: Any = Checked if model is OfChecked else Record

    class Turning(Flow[model]):
        @start()
        async def filled(self) -> None:
            self.state.records = [
                record(number=n, name=f"record {n} " * 4, tags=["new", "red"], score=n / 3) for n in range(RECORDS)
            ]

        @router(or_(filled, "more"), emit=["more", "done"])
        async def turn(self) -> str:
            samples.append(time.process_time())
            self.state.records[RECORDS // 2].score += 1
            self.state.count += 1
            return "more" if self.state.count < STEPS else "done"

    return Turning


async def measured(model: Any, folder: Path) -> tuple[float, float]:
    """Return the median CPU per step and the median of the longest blocking of the loop per step, in milliseconds."""

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await anyio.sleep(0.001)
            now = time.perf_counter()
            blocked.append(now - last - 0.001)
            last = now

    samples: list[float] = []
    blocked: list[float] = []
    async with (
        SQLiteFlowPersistence(folder / f"{model.__name__}.db") as persistence,
        anyio.create_task_group() as group,
    ):
        gc.collect()
        gc.freeze()
        group.start_soon(tick)
        await flow_of(model, samples)(persistence=persistence).kickoff()
        group.cancel_scope.cancel()
    gc.unfreeze()
    steps = [b - a for a, b in pairwise(samples[1:])]
    return median(steps) * 1e3, sorted(blocked)[-STEPS // 2] * 1e3


def main() -> None:
    print(f"{STEPS} steps with 1 MB of {RECORDS} records, on {machine()}\n")
    print("| state | CPU a step, ms | of a plain one | the loop blocked, ms |\n| --- | --- | --- | --- |")
    first = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for kind, model in KINDS.items():
            cpu, blocked = anyio.run(measured, model, Path(folder))
            first = first or cpu
            print(f"| {kind} | {cpu:.1f} | {cpu / first:.1f} | {blocked:.1f} |")


if __name__ == "__main__":
    main()
