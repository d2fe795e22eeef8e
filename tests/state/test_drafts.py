"""Drafts are isolated: nothing of one is seen before it is committed, and committed versions never change."""

import contextvars
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest
from racing import Wide

from asyncflow import Flow, MethodError, errors, listen, start

pytestmark = pytest.mark.usefixtures("size")


@pytest.mark.clauses("E4")
async def test_a_draft_is_seen_by_no_other_method_before_it_is_committed() -> None:
    written, looked = anyio.Event(), anyio.Event()

    class Two(Flow[Wide]):
        @start()
        async def writer(self) -> None:
            self.state.number = 1
            written.set()
            await looked.wait()

        @start()
        async def reader(self) -> tuple[int, int]:
            await written.wait()
            seen = self.state.number, self.committed_state().number
            looked.set()
            return seen

    flow = Two()
    with anyio.fail_after(120):
        await flow.kickoff()

    assert flow.method_outputs["reader"] == (0, 0)
    assert flow.state.number == 1


@pytest.mark.clauses("E4")
@pytest.mark.parametrize("looks_first", [True, False])
async def test_a_method_sees_the_state_of_its_launch_and_committed_state_the_newest(looks_first: bool) -> None:
    committed = anyio.Event()

    class Two(Flow[Wide]):
        @start()
        async def writer(self) -> None:
            self.state.number = 1

        @start()
        async def reader(self) -> tuple[int, int]:
            if looks_first:
                assert self.state.number == 0
            await committed.wait()
            return self.state.number, self.committed_state().number

        @listen(writer)
        async def after(self) -> None:
            committed.set()

    flow = Two()
    with anyio.fail_after(120):
        await flow.kickoff()

    assert flow.method_outputs["reader"] == (0, 1)


async def test_a_listener_sees_what_its_trigger_committed() -> None:
    class Chain(Flow[Wide]):
        @start()
        async def first(self) -> None:
            self.state.items.append(1)

        @listen(first)
        async def second(self) -> list[int]:
            return self.state.items

    assert await Chain().kickoff() == [1]


async def test_what_committed_state_gives_is_a_copy() -> None:
    class One(Flow[Wide]):
        @start()
        async def first(self) -> None:
            self.committed_state().items.append(1)
            self.state.number = 1

    flow = One()
    await flow.kickoff()

    assert flow.state.items == []


async def test_child_tasks_and_threads_of_a_method_share_its_draft() -> None:
    class Shared(Flow[Wide]):
        @start()
        async def first(self) -> int:
            async with anyio.create_task_group() as group:
                group.start_soon(self.add)
                group.start_soon(self.add)
            await anyio.to_thread.run_sync(self.add_plainly)
            return self.state.number

        async def add(self) -> None:
            self.state.number += 1

        def add_plainly(self) -> None:
            self.state.number += 10

    flow = Shared()

    assert await flow.kickoff() == 12
    assert flow.state.number == 12


@pytest.mark.clauses("X1")
async def test_the_draft_of_a_failed_method_vanishes() -> None:
    class Failing(Flow[Wide]):
        @start()
        async def first(self) -> None:
            self.state.items.append(1)

        @listen(first)
        async def second(self) -> None:
            self.state.items.append(2)
            raise ValueError

    flow = Failing()
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert flow.state.items == [1]


@pytest.mark.clauses("C1")
async def test_the_draft_of_a_cancelled_method_vanishes() -> None:
    class Cancelled(Flow[Wide]):
        @start()
        async def first(self) -> None:
            self.state.items.append(1)

        @listen(first)
        async def second(self) -> None:
            self.state.items.append(2)
            scope.cancel()
            await anyio.sleep_forever()

    flow = Cancelled()
    with anyio.CancelScope() as scope:
        await flow.kickoff()

    assert flow.state.items == [1]


async def test_a_stray_reference_to_a_draft_cannot_change_a_committed_version() -> None:
    strays: list[Any] = []

    class Stray(Flow[Wide]):
        @start()
        async def first(self) -> None:
            strays.extend((self.state, self.state.items, self.state.address))
            self.state.items.append(1)

        @listen(first)
        async def second(self) -> tuple[list[int], str, int]:
            state, items, address = strays
            items.append(99)
            address.town = "Nowhere"
            state.number = 99
            return self.state.items, self.state.address.town, self.committed_state().number

    flow = Stray()
    output = await flow.kickoff()

    assert output == ([1], "", 0)
    assert (flow.state.items, flow.state.address.town, flow.state.number) == ([1], "", 0)


@pytest.mark.clauses("V1")
async def test_a_payload_is_never_an_alias_of_the_state() -> None:
    class Alias(Flow[Wide]):
        @start()
        async def first(self) -> list[int]:
            self.state.items = [1]
            return self.state.items

        @listen(first)
        async def second(self, items: list[int]) -> None:
            items.append(2)

    flow = Alias()
    await flow.kickoff()
    flow.method_outputs["first"].append(3)

    assert flow.state.items == [1]


async def test_a_task_that_outlives_its_method_is_refused_the_state() -> None:
    ended, told = anyio.Event(), anyio.Event()
    caught: list[Exception] = []

    async with anyio.create_task_group() as outer:

        class Leaky(Flow[Wide]):
            @start()
            async def first(self) -> None:
                self.state.number = 1
                outer.start_soon(self.linger)

            async def linger(self) -> None:
                await ended.wait()
                for use in (lambda: self.state.number, lambda: setattr(self, "state", Wide())):
                    try:
                        use()
                    except errors.DraftClosedError as error:
                        caught.append(error)
                told.set()

            @listen(first)
            async def second(self) -> None:
                ended.set()
                await told.wait()

        flow = Leaky()
        with anyio.fail_after(120):
            await flow.kickoff()

    assert len(caught) == 2
    assert flow.state.number == 1


async def test_a_thread_that_outlives_its_method_is_refused_the_state() -> None:
    ended, threads, caught = threading.Event(), [], []

    class Leaky(Flow[Wide]):
        @start()
        async def first(self) -> None:
            context = contextvars.copy_context()
            threads.append(threading.Thread(target=lambda: context.run(self.linger)))
            threads[0].start()

        def linger(self) -> None:
            ended.wait(5)
            try:
                self.state.number = 99
            except errors.DraftClosedError as error:
                caught.append(error)

    flow = Leaky()
    await flow.kickoff()
    ended.set()
    await anyio.to_thread.run_sync(threads[0].join)

    assert [error.method for error in caught] == ["first"]
    assert flow.state.number == 0
