"""What the round-trip check costs, which ensures that a state loads back equal: `python -m benchmarks.exactness`.

It prints the time for which pydantic serializes the same state next to it, and, for the small state, the time of a complete step.
"""

from __future__ import annotations

import datetime
import decimal
import timeit
from typing import Any

from pydantic import BaseModel

from asyncflow._codec.codec import TypedCodec

from .__main__ import machine
from .contestants import CONTESTANTS
from .peers.asyncflow import State
from .running import Case, measured


class Item(BaseModel):
    """A row of JSON's own types."""

    number: int
    name: str
    tags: list[str]
    score: float | None = None


class Order(Item):
    """One with others, too."""

    at: datetime.datetime
    price: decimal.Decimal


class Shop(BaseModel):
    """About a megabyte."""

    id: str = "x"
    items: list[Item] = []
    orders: list[Order] = []
    texts: dict[str, str] = {}


def _item(n: int) -> dict[str, Any]:
    return {"number": n, "name": f"item {n}" * 4, "tags": ["new", "red"], "score": n / 3}


def _order(n: int) -> Order:
    at = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    return Order(at=at, price=decimal.Decimal(n) / 100, **_item(n))


STATES: dict[str, BaseModel] = {
    "five fields (W1, W2)": State(id="x"),
    "1 MB of rows": Shop(items=[Item(**_item(n)) for n in range(9_000)]),
    "1 MB of rows with datetimes and decimals": Shop(orders=[_order(n) for n in range(6_500)]),
    "1 MB of texts": Shop(texts={str(n): "text " * 100 for n in range(2_000)}),
}


def _microseconds(what: Any) -> float:
    timer = timeit.Timer(what)
    number, _ = timer.autorange()
    return min(timer.repeat(5, number)) / number * 1e6


def main() -> None:
    print(f"Least of 5 rounds on {machine()}\n")
    print("| state | bytes | writing it, us | making sure, us |\n| --- | --- | --- | --- |")
    for name, state in STATES.items():
        codec = TypedCodec(type(state))
        data, _ = codec.encode(state)
        holds = codec.holds
        assert holds is not None, "each state has a plan"
        checking = _microseconds(lambda state=state, holds=holds: holds(state))
        writing = _microseconds(lambda state=state, codec=codec: codec.write(state))
        print(f"| {name} | {len(data):,} | {writing:,.1f} | {checking:,.1f} |")
    for way, work in (("none", "W1"), ("full", "W2")):
        who = next(each for each in CONTESTANTS if (each.module, each.way) == ("asyncflow", way))
        step = measured(Case(work, who, "asyncio", 300, 3))
        print(f"\nA step of {work} ({way}): {step['cpu_us_a_step']:.0f} us of CPU")


if __name__ == "__main__":
    main()
