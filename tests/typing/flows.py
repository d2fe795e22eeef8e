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
    each,
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


class Items(Flow[Report]):
    @start()
    async def fetch(self) -> list[str]:
        return ["a"]

    @start()
    def sizes(self) -> tuple[int, ...]:
        return (1, 2)

    @listen(each(fetch), limit=10, retry=Retry(attempts=2))
    async def work(self, item: str) -> int:
        return len(item)

    @listen(each(sizes))
    def plain(self, size: int) -> list[bytes]:
        return [b"a"] * size

    @listen(each(fetch))
    async def takes_nothing(self) -> float:
        return 1.0

    @listen(each(fetch), limit=None)
    def plain_takes_nothing(self) -> float:
        return 1.0

    @listen(each(fetch))
    async def takes_a_wider_type(self, item: object) -> None: ...

    @listen(work)
    async def total(self, results: list[int]) -> int:
        return sum(results)

    @listen(plain)
    def joined(self, results: list[list[bytes]]) -> None: ...

    @listen(takes_nothing)
    async def floats(self, results: list[float]) -> None: ...

    @listen(plain_takes_nothing)
    async def more_floats(self, results: list[float]) -> None: ...

    @listen(work)
    async def is_told(self) -> None: ...

    @listen(each(work))
    async def of_results(self, result: int) -> str:
        return str(result)

    @listen(each(plain), limit=3)
    async def of_lists(self, result: list[bytes]) -> None: ...

    @router(work)
    async def route(self, results: list[int]) -> Literal["big", "small"]:
        return "big" if results else "small"

    @listen(after(work, 60))
    async def later(self, results: list[int]) -> None: ...

    @listen(and_(work, of_results))
    async def both(self, work: list[int], of_results: list[str]) -> None: ...


class RefusedItems(Flow[Report]):
    @start()
    async def fetch(self) -> list[str]:
        return ["a"]

    @start()
    def plain_fetch(self) -> list[str]:
        return ["a"]

    @start()
    async def one(self) -> int:
        return 1

    @listen(each(one))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def no_list(self, item: int) -> None: ...

    @listen(each(fetch))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def wrong_item(self, item: int) -> None: ...

    @listen(each(plain_fetch), limit=3)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    def plain_wrong_item(self, item: list[str]) -> None: ...

    @listen(each(fetch))
    async def work(self, item: str) -> int:
        return len(item)

    @listen(each(fetch))
    def plain(self) -> bytes:
        return b"a"

    @listen(work)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def wrong_results(self, results: list[str]) -> None: ...

    @listen(work)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def one_result(self, result: int) -> None: ...

    @listen(plain)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    def plain_wrong_results(self, results: list[str]) -> None: ...

    @listen(each(work))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def wrong_item_of_results(self, result: str) -> None: ...

    @router(work)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def wrong_route(self, result: int) -> str:
        return "a"

    @listen(after(work, 60))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def wrong_later(self, result: int) -> None: ...

    @listen(fetch, limit=3)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportArgumentType]
    async def limit_of_one_call(self, items: list[str]) -> None: ...
