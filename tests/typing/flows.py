"""What type checkers must accept, and what they must refuse: each refused line says so with its error code.

mypy's `warn_unused_ignores` and pyright's `reportUnnecessaryTypeIgnoreComment` make a refusal that stops an error here.
"""

from datetime import timedelta
from typing import Annotated, Any, Literal, assert_type

from typing_extensions import TypeVar

from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MemoryFlowPersistence,
    Retry,
    RetryAfter,
    RunHandle,
    Waiting,
    after,
    and_,
    each,
    listen,
    merge,
    or_,
    persist,
    router,
    run,
    run_child,
    start,
    step,
    step_sync,
    this_invocation,
)
from asyncflow.runner import JsonInputs


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

    @listen(and_(fetch, count))
    async def in_another_order(self, count: int, fetch: list[str]) -> None: ...

    @listen(and_(fetch, count))
    async def one_of_both(self, count: int) -> None: ...

    @router(and_(fetch, count), emit=["x"])
    def the_last(self, value: list[str] | int) -> str:
        return "x"

    @listen(and_(fetch, "small"))
    async def with_a_label(self, fetch: list[str], small: str) -> None: ...

    @listen(and_(fetch, count, takes_nothing))
    async def all_three(self, fetch: list[str], takes_nothing: None) -> None: ...

    @listen(and_(*[fetch, fetch]))
    async def unpacked(self) -> None: ...

    @start()
    async def any_result(self) -> Any: ...

    @listen(and_(fetch, any_result))
    async def with_any(self, fetch: list[str], any_result: int) -> None: ...

    @listen(each(fetch), limit=3)
    async def work(self, item: str) -> int:
        return len(item)

    @listen(and_(count, work))
    async def with_items(self, count: int, work: list[int]) -> None: ...

    @listen(or_(and_(fetch, count), "small"))
    async def nested(self) -> None: ...


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

    @listen(and_(fetch, count))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def both(self, fetch: list[str], count: str) -> None: ...

    @listen(and_(fetch, count))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def one(self, fetch: str) -> None: ...

    @router(and_(fetch, count))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    def three(self, fetch: list[str], count: int, other: int) -> str:
        return "x"

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
    await Accepted().kickoff(total=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


# ---- results and inputs --------------------------------------------------------------------------------------------


class Counts(Flow[Report, int]):
    @start()
    async def fetch(self) -> int:
        return 1


S = TypeVar("S")
R = TypeVar("R", default=Any)


class OfOne(Flow[S]): ...


class OfTwo(Flow[S, R]): ...


class Derived(OfTwo[Report, str]): ...


class Untyped(Flow): ...  # type: ignore[type-arg]


def make_counts() -> Counts:
    return Counts()


async def results() -> None:
    assert_type(await Counts().kickoff(), int)
    assert_type(await Counts().kickoff_async({"total": 1}, wait=1.0, until="end"), int)
    assert_type(await Counts().kickoff(once=True, until="waiting"), int | Waiting)
    assert_type(await Counts.resume("x"), int)
    assert_type((await Counts.load("x")).result, int)
    assert_type(run(Counts()), int)
    assert_type(run(Counts(), Report(total=1), until="waiting"), int | Waiting)
    assert_type(await Derived().kickoff(), str)
    assert_type(await Accepted().kickoff(), Any)
    assert_type(await OfOne[Report]().kickoff(), Any)
    assert_type(OfTwo[Report]().state, Report)
    count: int = await Untyped().kickoff()
    text: str = await Counts().kickoff()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    assert_type((count, text), tuple[int, str])


async def results_of_a_runner(runner: FlowRunner) -> None:
    assert_type(await runner.start(Counts), RunHandle[int])
    assert_type(await (await runner.start(make_counts, run_id="x", patience=1.0)).result(), int)
    assert_type(await runner.run(lambda: Counts(), {"total": 1}), int)
    assert_type(await runner.run(Accepted), Any)
    assert_type(await runner.get("x"), RunHandle[Any])
    assert_type(await (await runner.resume("x")).result(), Any)
    handle: RunHandle[object] = await runner.start(Counts)
    wrong: RunHandle[str] = await runner.start(Counts)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    assert handle is not wrong
    await runner.start(Report)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await runner.start(Counts())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Other(FlowState): ...


async def inputs(runner: FlowRunner) -> None:
    given = Report(total=1)
    await Counts().kickoff(given)
    await Counts().update_state(given)
    await runner.start(Counts, given)
    await runner.run(make_counts, given)
    await runner.run(Accepted, JsonInputs(total=1))
    await Untyped().kickoff(given)
    await Counts().kickoff(Other())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await Counts().kickoff(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await Counts().kickoff(until=1.5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await Counts().update_state(Other())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await runner.start(Counts, Other())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    run(Counts(), Other())  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]


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


# ---- children ------------------------------------------------------------------------------------------------------


class RunsChildren(Flow[Report]):
    @start()
    async def go(self) -> None:
        assert_type(await run_child(Counts), int)
        assert_type(await run_child(Counts, {"topic": "a"}, key="k"), int)
        assert_type(await run_child(make_counts, Report()), int)
        await run_child(Counts, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await run_child(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await run_child(int)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Parent(Flow[Report, int]):
    @start()
    async def parent(self) -> int:
        assert_type(await run_child(Accepted), Any)
        await run_child(Counts, Other())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await run_child(Report)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        text: str = await run_child(Counts)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
        assert_type(await run_child(make_counts, Report(total=1), key=text), int)
        return await run_child(Counts, {"total": 1})


async def doubled(x: int, y: int = 2) -> float:
    return x * y


def named(name: str) -> list[str]:
    return [name]


class Calling(Flow[Report]):
    async def own(self, n: int) -> bytes:
        return b""

    @start()
    async def well(self) -> None:
        assert_type(await step(doubled, 1), float)
        assert_type(await step(doubled, 1, 2, key="k", retry=Retry(), timeout=timedelta(seconds=1)), float)
        assert_type(await step(named, "a"), list[str])
        assert_type(await step(self.own, 1, timeout=3), bytes)
        assert_type(await step(lambda: 3, key="k"), int)

    @start()
    def well_plainly(self) -> None:
        assert_type(step_sync(named, "a", key="k"), list[str])

    @start()
    async def wrongly(self) -> None:
        await step(doubled, "1")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
        await step(doubled)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
        await step(named, 1)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
        await step(named, "a", key=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
        step_sync(named, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
