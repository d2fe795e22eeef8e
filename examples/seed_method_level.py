"""CrewAI's page on flow persistence, its second flow as printed there: `@persist` on one method, over a dict.

The bare `@persist` stores the run in `./asyncflow.db`, or where `$ASYNCFLOW_DB` points.
"""

import anyio

from asyncflow import Flow, persist, start


class AnotherFlow(Flow[dict]):
    @persist  # Persists only this method's state
    @start()
    def begin(self):
        if "runs" not in self.state:
            self.state["runs"] = 0
        self.state["runs"] += 1
        print("Method-level persisted runs:", self.state["runs"])


async def main() -> None:
    flow = AnotherFlow()
    await flow.kickoff()

    for _ in range(2):  # new instances: each begins with what the one before has saved under this id
        await AnotherFlow().kickoff(inputs={"id": flow.state["id"]})


if __name__ == "__main__":
    anyio.run(main)
