"""What type checkers must accept, and what they must refuse: each refused line says so with its error code.

mypy's `warn_unused_ignores` and pyright's `reportUnnecessaryTypeIgnoreComment` make a refusal that stops an error here.
"""

from datetime import timedelta
from typing import Annotated, Literal, assert_type

from asyncflow import (
    Flow,
    FlowState,
    MemoryFlowPersistence,
    Retry,
    RetryAfter,
    after,
    and_,
    listen,
    merge,
    or_,
    persist,
    router,
    start,
    this_invocation,
)


class Report(FlowState):
    total: Annotated[int, merge.add] = 0
    title: str = ""


@persist
class Accepted(Flow[Report]):
    @start()
    async def fetch(self) -> list[str]:
        assert_type(self.state, Report)
        self.state.total += 1
        return ["a"]

    @listen(fetch)
    async def count(self, items: list[str]) -> int:
        return len(items)

    @listen(fetch)
    def takes_a_wider_type(self, items: object) -> None: ...

    @listen(fetch)
    async def takes_nothing(self) -> None: ...

    @persist(MemoryFlowPersistence(), verbose=True)
    @router(count)
    def decide(self, n: int) -> Literal["big", "small"]:
        return "big" if n > 1 else "small"

    @listen("big")
    async def label(self, value: str) -> None: ...

    @listen(or_("small", count))
    async def either(self) -> None: ...

    @listen(after(fetch, 60), retry=Retry(attempts=2), timeout=timedelta(seconds=3))
    async def later(self, items: list[str]) -> None:
        assert_type(this_invocation().attempt, int)

    @router(after(count, lambda state: timedelta(hours=state.total)), output=True)
    async def much_later(self, n: int) -> str:
        return "label" if n else "other"

    @listen(or_("other", after(count, 1.5)), retry=None, timeout=None)
    async def in_time(self) -> None:
        raise RetryAfter(timedelta(minutes=1))

    @listen(and_(count, takes_nothing))
    async def both(self, count: int, takes_nothing: None) -> None: ...


class Refused(Flow[Report]):
    @start()
    async def fetch(self) -> list[str]:
        return ["a"]

    @listen(fetch)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def count(self, items: int) -> int:
        return items

    @router(count)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    def decide(self, n: str) -> str:
        return n

    @listen(after(fetch, 60))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def later(self, items: int) -> None: ...

    @listen(after(fetch, "60"))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def wrong_delay(self) -> None: ...

    @listen(fetch, retry=3)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def wrong_policy(self) -> None: ...


async def uses() -> None:
    flow = Accepted()
    assert_type(flow.state, Report)
    assert_type(await Accepted.load(flow.run_id), Accepted)
    assert_type(await flow.fetch(), list[str])
    flow.state = 3  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]


@persist(persistence=MemoryFlowPersistence(), verbose=True)
class ByName(Flow[Report]):
    @start(condition="again")
    async def fetch(self) -> list[str]:
        return ["a"]

    @router(condition=fetch, emit=["again"])
    async def decide(self, items: list[str]) -> str:
        return items[0]


async def not_taken() -> None:
    Accepted(tracing=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Accepted(MemoryFlowPersistence())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Accepted().kickoff(total=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
