"""`crash_everywhere`, as a user calls it in a test of a flow: what it lets pass, and what it finds."""

import itertools
import random
import threading
from typing import Annotated, Any, ClassVar

import anyio
import pytest

from asyncflow import Flow, FlowState, and_, each, listen, merge, persist, router, start
from asyncflow.testing import CrashReport, End, crash_everywhere


class Work(FlowState):
    count: int = 0
    seen: Annotated[list[str], merge.append] = []  # noqa: RUF012 - pydantic copies it


class Sound(Flow[Work]):
    """A fan-out, a join, and a loop; it sleeps for hours, and a method of it is a plain one."""

    @start()
    async def begin(self) -> int:
        await anyio.sleep(3_600)
        self.state.seen.append("begin")
        return 1

    @listen(begin)
    async def left(self, n: int) -> int:
        await anyio.sleep(random.random())
        self.state.seen.append("left")
        return n + 1

    @listen(begin)
    def right(self, n: int) -> int:
        self.state.seen.append("right")
        return n + 2

    @router(and_(left, right))
    async def meet(self, left: int, right: int) -> str:
        self.state.count += left + right
        return "again"

    @router("again")
    async def turn(self) -> str | None:
        self.state.count += 1
        return "over" if self.state.count > 8 else "more"

    @router("more")
    async def back(self) -> str:
        return "again"

    @listen("over")
    async def end(self) -> int:
        return self.state.count


async def test_a_sound_flow_passes_and_the_report_says_how_much_was_tried() -> None:
    report = await crash_everywhere(Sound, schedules=4)

    assert report == CrashReport(schedules=4, commits=4 * 13, crashes=4 * 13 * 2)


async def test_inputs_are_given_and_a_function_may_make_the_flow() -> None:
    made: list[Flow[Any]] = []

    def make() -> Sound:
        made.append(Sound(on_error="cancel"))
        return made[-1]  # type: ignore[return-value]

    report = await crash_everywhere(make, {"count": 3, "id": "an own one"}, schedules=1)

    assert report.crashes == 2 * report.commits > 0
    assert {flow.run_id for flow in made} == {"an own one"}


async def test_what_a_flow_keeps_in_itself_is_found() -> None:
    class Forgetful(Flow[Work]):
        kept = 0

        @start()
        async def first(self) -> None:
            self.kept = 5

        @listen(first)
        async def second(self) -> None:
            self.state.count = self.kept

    with pytest.raises(
        AssertionError, match=r"after commit 2 \(first:1\) was stored.* state\.count is 0, not 5; .*`self`"
    ):
        await crash_everywhere(Forgetful)


class Mapped(Flow[Work]):
    """Works on the items of a list; some of its subclasses keep what they must not."""

    @start()
    async def fetch(self) -> list[int]:
        return [1, 2, 3]

    @listen(each(fetch), limit=2)
    async def work(self, n: int) -> int:
        await anyio.sleep(random.random())
        self.state.seen.append(f"item {n}")
        return n * 10

    @listen(work)
    async def add(self, results: list[int]) -> list[int]:
        return results


@pytest.mark.clauses("N1", "N3")
async def test_a_flow_that_works_on_lists_is_crashed_at_every_item() -> None:
    report = await crash_everywhere(Mapped, schedules=3)

    assert report == CrashReport(schedules=3, commits=3 * 6, crashes=3 * 6 * 2)


async def test_what_an_item_keeps_in_its_flow_is_found() -> None:
    class Keeping(Mapped):
        last = 0

        @listen(each(Mapped.fetch), limit=1)
        async def work(self, n: int) -> int:
            self.last += n
            return self.last

    with pytest.raises(AssertionError, match=r"\(work:1\[0\]\) was stored.*`self`"):
        await crash_everywhere(Keeping)


async def test_the_order_that_one_item_after_the_other_leaves_is_compared() -> None:
    class Ordered(Mapped):
        turned = False

        @listen(each(Mapped.fetch), limit=1)
        async def work(self, n: int) -> int:
            self.state.seen.append(f"item {n}")
            if n == 3 and self.turned:
                self.state.seen[:] = sorted(self.state.seen, reverse=True)
            self.turned = n == 2
            return n

    with pytest.raises(AssertionError, match=r"state\.seen.*`self`"):
        await crash_everywhere(Ordered)


async def test_what_a_flow_keeps_in_its_class_is_found() -> None:
    class InAValue(Flow[Work]):
        kept = 0

        @start()
        async def first(self) -> None:
            type(self).kept = 5

        @listen(first)
        async def second(self) -> None:
            self.state.count = self.kept

    class InAList(InAValue):
        many: ClassVar[list[int]] = []

        @start()
        async def first(self) -> None:
            self.many.append(5)

        @listen(first)
        async def second(self) -> None:
            self.state.count = len(self.many) + sum(self.many)

    class InANewName(InAValue):
        @start()
        async def first(self) -> None:
            InAValue.other = 5  # type: ignore[attr-defined]

        @listen(first)
        async def second(self) -> None:
            self.state.count = getattr(self, "other", 0)

    for flow, was in ((InAValue, 5), (InAList, 6), (InANewName, 5)):
        with pytest.raises(AssertionError, match=rf"after commit 2 \(first:1\) .* state\.count is 0, not {was}; "):
            await crash_everywhere(flow)


async def test_what_a_class_keeps_may_be_beyond_copying_and_changed_by_a_constructor() -> None:
    class Counted(Flow[Work]):
        locks: ClassVar[list[Any]] = [threading.Lock()]
        made = 0

        def __init__(self) -> None:
            super().__init__()
            type(self).made += 1

        @start()
        async def first(self) -> None:
            self.state.count = self.made

    assert await crash_everywhere(Counted) == CrashReport(3, 6, 12)


class Bank:
    """What is outside. It pays a key once, if it is given one."""

    def __init__(self) -> None:
        self.paid: list[str] = []

    def pay(self, key: str | None = None) -> None:
        if key is None or key not in self.paid:
            self.paid.append(str(key))


class Pay(Flow[Work]):
    def __init__(self, bank: Bank, **options: Any) -> None:
        super().__init__(**options)
        self.bank = bank

    @start()
    async def first(self) -> None: ...

    @listen(first)
    async def second(self) -> None:
        self.bank.pay()


class PayOnce(Pay):
    @listen("first")
    async def second(self) -> None:
        self.bank.pay(self.invocation_id)


async def test_what_is_outside_outlives_a_crash_and_can_be_compared() -> None:
    def paid(end: End) -> tuple[str, int]:
        return end.status, len(end.outside.paid)

    report = await crash_everywhere(PayOnce, outside=Bank, compare=paid)
    assert report.crashes == 2 * report.commits == 18
    assert (await crash_everywhere(Pay, outside=Bank)).crashes  # once more for a crash: nothing is wrong with the state

    with pytest.raises(AssertionError, match=r"before commit 3 \(second:1\) .* it is \('finished', 2\), not "):
        await crash_everywhere(Pay, outside=Bank, compare=paid)


async def test_a_flow_that_is_made_already_is_refused() -> None:
    with pytest.raises(TypeError, match="pass the class Sound"):
        await crash_everywhere(Sound())  # type: ignore[arg-type]


async def test_a_difference_through_a_shared_fake_is_reported_with_that_cause() -> None:
    bank = Bank()

    class Counted(Pay):
        @listen("first")
        async def second(self) -> None:
            self.bank.pay()
            self.state.count = len(self.bank.paid)

    with pytest.raises(AssertionError, match="such as a shared fake"):
        await crash_everywhere(lambda: Counted(bank))


async def test_what_happens_twice_outside_the_state_is_found_where_it_comes_back() -> None:
    numbers = itertools.count()

    class Counting(Flow[Work]):
        @start()
        async def first(self) -> None: ...

        @listen(first)
        async def second(self) -> None:
            self.state.count = next(numbers) - self.state.count

    with pytest.raises(
        AssertionError, match=r"the run ends differently under schedules 0 and 1: state\.count is 1, not 0"
    ):
        await crash_everywhere(Counting)


async def test_an_end_that_depends_on_chance_passes_where_it_is_not_compared() -> None:
    class Lucky(Flow[Work]):
        @start()
        async def first(self) -> None:
            self.state.count = random.randrange(10**9)

    with pytest.raises(AssertionError, match="select with `compare` what must be equal"):
        await crash_everywhere(Lucky)

    assert (await crash_everywhere(Lucky, compare=lambda end: end.status)).crashes


async def test_an_order_that_depends_on_time_passes_and_another_content_does_not() -> None:
    class Racing(Flow[Work]):
        kept = "begin"

        @start()
        async def a(self) -> None:
            await anyio.sleep(random.random())
            self.state.seen.append("a")

        @start()
        async def b(self) -> None:
            await anyio.sleep(random.random())
            self.state.seen.append("b")

    class Losing(Racing):
        @listen(and_("a", "b"))
        async def forget(self) -> None:
            self.kept = "kept"

        @listen(forget)
        async def last(self) -> None:
            self.state.seen.append(self.kept)

    await crash_everywhere(Racing, schedules=10)

    with pytest.raises(AssertionError, match="ends differently"):
        await crash_everywhere(Losing, schedules=10)


async def test_a_flow_that_fails_fails_again() -> None:
    class Failing(Flow[Work]):
        @start()
        async def first(self) -> None: ...

        @listen(first)
        async def second(self) -> None:
            raise LookupError("always")

    report = await crash_everywhere(Failing, schedules=1)

    assert report == CrashReport(schedules=1, commits=3, crashes=6)


async def test_a_failure_that_only_a_resumed_run_has_is_found() -> None:
    class Missing(Flow[Work]):
        @start()
        async def first(self) -> None:
            self.client = object()

        @listen(first)
        async def second(self) -> None:
            self.client.__class__  # noqa: B018 - an AttributeError where `first` was run in another process

    with pytest.raises(AssertionError, match="status is 'failed', not 'finished'"):
        await crash_everywhere(Missing, schedules=1)


async def test_a_flow_that_waits_without_limit_is_reported() -> None:
    class Waiting(Flow[Work]):
        @start()
        async def first(self) -> None:
            await anyio.Event().wait()

    with pytest.raises(AssertionError, match=r"did not end within 2592000 virtual seconds"):
        await crash_everywhere(Waiting)


async def test_a_flow_is_never_stored_where_its_class_says(tmp_path: Any) -> None:
    @persist
    class Stored(Flow[Work]):
        @start()
        async def first(self) -> int:
            return 1

    await crash_everywhere(Stored, schedules=1)

    assert list(tmp_path.iterdir()) == []


async def test_schedules_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await crash_everywhere(Sound, schedules=0)
