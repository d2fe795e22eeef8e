"""The rules of `each`, one by one: what is pending and what starts, in chosen orders, with no event loop."""

import pytest
from driver import AGAIN, BOOM, Simulation, StoredSimulation, defined

from asyncflow import each, listen, start
from asyncflow._scheduling.messages import Continue, Fail, Finish


class Listing:
    """One method runs for each item of a list, two at a time."""

    @start()
    async def fetch(self) -> list[int]: ...

    @listen(each(fetch), limit=2)
    async def work(self, item: int) -> str: ...

    @listen(work)
    async def done(self, results: list[str]) -> None: ...


class Last:
    @start()
    async def fetch(self) -> list[int]: ...

    @listen(each(fetch), limit=2)
    async def work(self, item: int) -> str: ...


class Beside:
    @start()
    async def fetch(self) -> list[int]: ...

    @start()
    async def other(self) -> None: ...

    @listen(each(fetch), limit=2)
    async def work(self, item: int) -> str: ...


class WithOutput:
    @start()
    async def fetch(self) -> list[int]: ...

    @listen(each(fetch), limit=2, output=True)
    async def work(self, item: int) -> str: ...


def with_items(count: int, flow: type = Listing) -> Simulation:
    """A run whose list has so many items."""
    run = StoredSimulation(defined(flow)).start()
    run.items = count
    run.end("fetch:1")
    return run


def item(place: int) -> str:
    return f"work:1[{place}]"


def result(place: int) -> bytes:
    return f"<{item(place)}>".encode()


def results(*places: int) -> tuple[bytes, ...]:
    return tuple(map(result, places))


def ended(run: Simulation, *places: int) -> Simulation:
    for place in places:
        run.end(item(place))
    return run


def is_empty(run: Simulation) -> bool:
    return not any((run.progress.pending, run.progress.groups, run.progress.attempts, run.progress.failed))


@pytest.mark.clauses("N2")
def test_the_next_item_starts_when_one_ends() -> None:
    run = with_items(4)
    assert list(run.running) == [item(0), item(1)]

    ended(run, 1)
    assert list(run.running) == [item(0), item(2)]
    ended(run, 2)
    assert list(run.running) == [item(0), item(3)]
    ended(run, 3)
    assert list(run.running) == [item(0)]


@pytest.mark.clauses("N3")
def test_the_results_are_in_the_order_of_the_items_and_come_with_the_last_of_them() -> None:
    run = ended(with_items(3), 1, 2)
    assert run.count("done") == 0

    ended(run, 0)
    assert run.calls["done:1"] == {"": results(0, 1, 2)}
    assert not run.progress.groups


@pytest.mark.clauses("N3")
def test_an_empty_list_completes_at_once() -> None:
    run = with_items(0)
    run.end("work:1")

    assert run.calls["done:1"] == {"": ()}


@pytest.mark.clauses("N4")
def test_after_a_failure_no_further_item_is_pending_before_a_resume() -> None:
    run = with_items(5)
    run.script = lambda invocation: BOOM if invocation.key == item(0) else None
    ended(run, 0, 1)
    assert run.outcome == Fail()
    assert set(run.progress.pending) == {"work:1", item(0)}

    run.script = lambda invocation: None
    run.resume()
    assert sorted(run.running) == [item(0), item(2)]


@pytest.mark.clauses("N2", "N5")
def test_an_item_that_waits_for_its_next_attempt_counts_for_the_limit() -> None:
    run = with_items(5)
    run.script = lambda invocation: AGAIN
    ended(run, 0)
    run.script = lambda invocation: None

    assert (list(run.running), list(run.paused)) == ([item(1)], [item(0)])
    ended(run, 1)
    assert list(run.running) == [item(2)]


@pytest.mark.clauses("N2", "N5")
def test_an_item_that_another_limit_has_put_back_still_waits_for_its_next_attempt() -> None:
    run = with_items(3)
    run.script = lambda invocation: AGAIN if invocation.key == item(1) else None
    ended(run, 1)
    narrowed(run)
    assert (list(run.running), list(run.paused)) == ([item(0)], [])

    ended(run, 0)
    assert (list(run.running), list(run.paused)) == ([], [item(1)])


@pytest.mark.clauses("N7", "W13")
def test_what_another_limit_has_put_back_goes_with_the_list_when_the_pass_ends() -> None:
    run = with_items(3)
    run.script = lambda invocation: AGAIN if invocation.key == item(1) else None
    ended(run, 1)
    narrowed(run)
    run.end(item(0), "finish")

    assert run.outcome == Finish(item(0))
    assert is_empty(run)


@pytest.mark.clauses("N1", "W13")
def test_an_item_that_an_ending_pass_has_dropped_is_not_pending_again_after_a_crash() -> None:
    run = with_items(4, Beside)
    run.script = lambda invocation: AGAIN if invocation.key == item(0) else None
    ended(run, 0)
    run.end("other:1", "finish")
    run.resume()

    assert list(run.running) == [item(1)]
    assert set(run.progress.pending) == {"work:1", item(1)}


def narrowed(run: Simulation) -> None:
    """Resume it with a class whose limit is one."""

    async def work(self: object, item: int) -> str: ...

    run.definition = defined(type("Narrow", (), {**vars(Listing), "work": listen(each(Listing.fetch), limit=1)(work)}))
    run.resume()


@pytest.mark.clauses("N7")
def test_the_item_that_ends_the_pass_gives_the_output_and_no_further_one_starts() -> None:
    run = with_items(5, Last)
    run.end(item(0), "finish")
    assert list(run.running) == [item(1)]
    ended(run, 1)

    assert run.outcome == Finish(item(0))
    assert run.progress.output == (item(0), result(0))
    assert is_empty(run)


@pytest.mark.clauses("N7")
def test_the_last_item_may_be_the_one_that_ends_the_pass() -> None:
    run = ended(with_items(2, Last), 0)
    run.end(item(1), "finish")

    assert run.outcome == Finish(item(1))
    assert run.progress.output == (item(1), result(1))


@pytest.mark.clauses("N7")
def test_the_output_of_a_named_method_is_the_whole_list() -> None:
    run = ended(with_items(2, WithOutput), 0)
    run.end(item(1), "finish")

    assert run.outcome == Finish("work:1")
    assert run.progress.output == ("work:1", results(0, 1))


@pytest.mark.clauses("N7", "W13")
def test_items_that_an_ending_pass_has_dropped_are_gone() -> None:
    run = with_items(4)
    run.script = lambda invocation: AGAIN
    ended(run, 0)
    run.script = lambda invocation: None
    run.end(item(1), "continue")

    assert run.outcome == Continue()
    assert is_empty(run)
