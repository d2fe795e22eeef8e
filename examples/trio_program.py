"""A flow in a trio program: it is awaited in a nursery, next to the program's own tasks.

No configuration is needed: a flow runs on the event loop that awaits it.
"""

import tempfile
from pathlib import Path

import trio
from pydantic import Field

from asyncflow import Flow, FlowState, SQLiteFlowPersistence, listen, start


class Orders(FlowState):
    customer: str = "unknown"
    lines: list[str] = Field(default_factory=list)


class TakeOrder(Flow[Orders]):
    @start()
    async def fetch(self) -> int:
        await trio.sleep(0.05)  # trio's own calls work in a method
        self.state.lines += ["tea", "cake"]
        return len(self.state.lines)

    @listen(fetch)
    def write(self, count: int) -> str:  # a plain method: it runs in a worker thread
        return f"{self.state.customer} ordered {count} items"


async def clock(until: trio.Event) -> None:
    """Another task of the program."""
    ticks = 0
    while not until.is_set():
        ticks += 1
        await trio.sleep(0.01)
    print("the clock ticked while the flows ran:", ticks > 1)


async def order(customer: str, storage: SQLiteFlowPersistence) -> None:
    print(await TakeOrder(persistence=storage).kickoff({"customer": customer}))


async def main() -> None:
    ended = trio.Event()
    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteFlowPersistence(Path(folder, "orders.db")) as storage:
            async with trio.open_nursery() as program:
                program.start_soon(clock, ended)
                async with trio.open_nursery() as flows:
                    for customer in ("Ada", "Grace"):
                        flows.start_soon(order, customer, storage)
                ended.set()

            late = TakeOrder(persistence=storage)
            with trio.move_on_after(0.01) as deadline:  # a deadline is a cancellation; the run can be resumed
                await late.kickoff({"customer": "Emmy"})
            print("cancelled at its deadline:", deadline.cancelled_caught, "-", late.status)
            print(await TakeOrder.resume(late.run_id, persistence=storage))


if __name__ == "__main__":
    trio.run(main)
