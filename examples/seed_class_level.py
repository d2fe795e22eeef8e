"""CrewAI's page on flow persistence, its first flow as printed there: `@persist` on the class.

The bare `@persist` stores the run in `./asyncflow.db`, or where `$ASYNCFLOW_DB` points.
"""

import anyio
from pydantic import BaseModel

from asyncflow import Flow, listen, persist, start


class MyState(BaseModel):
    counter: int = 0


@persist  # Using SQLiteFlowPersistence by default
class MyFlow(Flow[MyState]):
    @start()
    def initialize_flow(self):
        # This method will automatically have its state persisted
        self.state.counter = 1
        print("Initialized flow. State ID:", self.state.id)

    @listen(initialize_flow)
    def next_step(self):
        # The state (including self.state.id) is automatically reloaded
        self.state.counter += 1
        print("Flow state is persisted. Counter:", self.state.counter)


async def main() -> None:
    flow = MyFlow()
    await flow.kickoff()

    again = await MyFlow.load(flow.state.id)  # any process can do this, at any time
    print("Loaded by its id. Counter:", again.state.counter)


if __name__ == "__main__":
    anyio.run(main)
