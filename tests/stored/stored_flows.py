"""The flows whose runs are kept as test data: they must import under every version of asyncflow that has written some."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import anyio
from pydantic import BaseModel

import asyncflow
from asyncflow import Flow, FlowState, and_, errors, listen, or_, persist, router, start

STOPS: set[str] = set()
"""Where methods wait until they are cancelled: empty when the stored runs are resumed."""

FAILS: set[str] = set()
"""Which methods raise: empty when the stored runs are resumed."""


async def reached(place: str) -> None:
    """Where a run may stop or fail."""
    if place in STOPS:
        await anyio.sleep_forever()
    if place in FAILS:
        raise ValueError(f"it fails at {place}")


class Item(BaseModel):
    name: str
    price: Decimal
    due: date | None = None


class Order(FlowState):
    items: list[Item] = []  # noqa: RUF012 - pydantic copies it
    seen: list[str] = []  # noqa: RUF012
    total: Decimal = Decimal(0)


@persist
class Linear(Flow[Order]):
    """A chain over a model."""

    @start()
    async def fetch(self) -> list[Item]:
        self.state.seen.append("fetch")
        return [Item(name="tea", price=Decimal("1.10"), due=date(2026, 1, 2)), Item(name="cup", price=Decimal("3.00"))]

    @listen(fetch)
    async def add(self, items: list[Item]) -> Decimal:
        await reached("add")
        self.state.seen.append("add")
        self.state.items = items
        self.state.total = sum((item.price for item in items), Decimal(0))
        return self.state.total

    @listen(add)
    def close(self, total: Decimal) -> str:
        self.state.seen.append("close")
        return f"{total} for {len(self.state.items)}"


@persist
class Joining(Flow[dict]):
    """A join that is half full, over a dict of tagged values."""

    @start()
    async def left(self) -> datetime:
        self.state["left"] = datetime(2026, 1, 1, 12, tzinfo=UTC)
        return self.state["left"]

    @start()
    async def right(self) -> UUID:
        await reached("right")
        self.state["right"] = UUID(int=7)
        return self.state["right"]

    @listen(and_(left, right))
    async def both(self) -> str:
        self.state["both"] = (self.state["left"] + timedelta(days=1), {b"bytes", 2})
        return f"{self.state['left']:%Y} {self.state['right'].int}"


class Counting(FlowState):
    turns: int = 0
    log: list[str] = []  # noqa: RUF012


@persist
class Cycle(Flow[Counting]):
    """A loop."""

    @start("again")
    async def turn(self) -> int:
        await reached(f"turn {self.state.turns}")
        self.state.turns += 1
        self.state.log.append(f"turn {self.state.turns}")
        return self.state.turns

    @router(turn)
    async def decide(self, turns: int) -> str:
        return "again" if turns < 6 else "done"

    @listen("done")
    async def end(self) -> int:
        return self.state.turns


class Text(FlowState):
    chapters: list[str] = []  # noqa: RUF012
    notes: dict[str, str] = {}  # noqa: RUF012


@persist
class Patched(Flow[Text]):
    """A state large enough to be stored as patches."""

    @start()
    async def first(self) -> None:
        self.state.chapters = [f"chapter {n}: " + "words " * 20 for n in range(40)]

    @listen(first)
    async def second(self) -> None:
        self.state.chapters[7] = "rewritten"

    @listen(second)
    async def third(self) -> None:
        self.state.notes["a"] = "b"

    @listen(third)
    async def fourth(self) -> int:
        await reached("fourth")
        self.state.chapters.append("the end")
        return len(self.state.chapters)


class Partly(Flow[dict]):
    """Only one method has a checkpoint."""

    @persist
    @start()
    async def kept(self) -> int:
        self.state["kept"] = 1
        return 41

    @listen(kept)
    async def after(self, n: int) -> int:
        await reached("after")
        return n + 1


@persist
class Untyped(Flow[dict]):
    """Results without an annotation, one of them waited for."""

    @start()
    async def first(self):
        return {"when": datetime(2026, 5, 4), 3: (1, 2)}

    @start()
    async def slow(self):
        await reached("slow")
        return "slow"

    @listen(first)
    async def second(self, value):
        await reached("second")
        return [value["when"].year, *value[3]]

    @listen(or_(second, slow))
    async def last(self, value):
        self.state.setdefault("got", []).append(value)
        return len(self.state["got"])


LONG = timedelta(minutes=10)
"""A wait that is interrupted when the runs are stored, and that is over when they are resumed."""


class Decision(BaseModel):
    approved: bool
    by: str
    on: date | None = None


NEED_AN_INBOX: set[str] = set()
"""The flows that have signals."""

FLOWS = {cls.__name__: cls for cls in (Linear, Joining, Cycle, Patched, Partly, Untyped)}

if hasattr(asyncflow, "Retry"):  # since 0.4

    @persist
    class Trying(Flow[Counting]):
        """Attempts, a pause, and a time limit."""

        run_timeout = timedelta(days=365_000)

        @start(retry=asyncflow.Retry(attempts=2, initial=2, jitter=0))
        async def ask(self) -> str:
            self.state.turns += 1
            await reached("ask")
            return f"attempt {asyncflow.this_invocation().attempt}"

    APPROVED = asyncflow.Signal("approved", Decision)
    NOTE = asyncflow.Signal("note", str)

    @persist
    class Timing(Flow[Text]):
        """A timer that has fired, one that waits, and an output that is kept meanwhile."""

        @start()
        async def ask(self) -> int:
            return 7

        @listen(ask, output=True)
        async def answer(self, n: int) -> str:
            self.state.notes["answer"] = f"{n}"
            return f"answer {n}"

        @listen(asyncflow.after(ask, 0.01))
        async def soon(self, n: int) -> None:
            self.state.notes["soon"] = f"{n}"

        @listen(asyncflow.after(ask, LONG))
        async def remind(self, n: int) -> int:
            self.state.notes["remind"] = f"{n}"
            return n

    @persist
    class Sleeping(Flow[Counting]):
        """A sleep that is over, and one that is not."""

        @start()
        async def rest(self) -> str:
            await asyncflow.sleep(0.01)
            await asyncflow.sleep(LONG)
            self.state.turns += 1
            return "rested"

    @persist
    class Approving(Flow[Text]):
        """A join of a method and a signal, one signal that fires a listener alone, and one that nothing takes."""

        unheard = asyncflow.Signal("unheard", int)

        @start()
        async def draft(self) -> str:
            return "text"

        @listen(NOTE, keep_open=False)
        async def jot(self, text: str) -> None:
            self.state.notes["note"] = text

        @listen(and_(draft, APPROVED), output=True)
        async def publish(self, draft: str, approved: Decision) -> str:
            await reached("publish")
            self.state.notes["by"] = approved.by
            return f"{draft}, approved by {approved.by} on {approved.on}"

    @persist
    class Expiring(Flow[Text]):
        """A signal or a timer, whichever comes first."""

        @start()
        async def draft(self) -> None:
            self.state.notes["draft"] = "text"

        @listen(or_(APPROVED, asyncflow.after(draft, LONG)))
        async def decide(self, decision: Decision | None) -> str:
            await reached("decide")
            return "nobody" if decision is None else decision.by

    @persist
    class Asking(Flow[Text]):
        """A wait for a signal that has timed out, and one without a limit."""

        approved, note = APPROVED, NOTE

        @start()
        async def ask(self) -> str:
            try:
                self.state.notes["note"] = await asyncflow.wait_for(self.note, timeout=0.01)
            except errors.SignalTimeoutError:
                self.state.notes["note"] = "none"
            decision = await asyncflow.wait_for(self.approved)
            await reached("answered")
            return decision.by

    @persist
    class Limited(Flow[Text]):
        """A wait for a signal with a limit."""

        approved = APPROVED

        @start()
        async def ask(self) -> str:
            try:
                return (await asyncflow.wait_for(self.approved, timeout=LONG)).by
            except errors.SignalTimeoutError:
                return "nobody"

    INBOX = (Approving, Expiring, Asking, Limited)
    FLOWS |= {cls.__name__: cls for cls in (Trying, Timing, Sleeping, *INBOX)}
    NEED_AN_INBOX = {cls.__name__ for cls in INBOX}

if hasattr(asyncflow, "continue_as"):  # since 0.5

    @persist
    class Ending(Flow[Counting]):
        """A pass that is ending while one of its methods still runs, and another never will."""

        @start()
        async def ask(self) -> str:
            self.state.turns += 1
            asyncflow.finish()
            return "asked"

        @start()
        async def slow(self) -> str:
            await reached("slow")
            self.state.log.append("slow")
            return "slow"

        @listen(slow)
        async def never(self) -> None:
            self.state.log.append("never")

    @persist
    class Endless(Flow[Counting]):
        """Passes that each begin in the commit that ends the one before."""

        @start()
        async def turn(self) -> int:
            self.state.turns += 1
            await reached(f"turn {self.state.turns}")
            return self.state.turns

        @listen(turn)
        async def judge(self, turns: int) -> str:
            if turns < 4:
                asyncflow.continue_as({"log": [*self.state.log, f"turn {turns}"]})
            return f"{turns} turns"

    FLOWS |= {cls.__name__: cls for cls in (Ending, Endless)}
