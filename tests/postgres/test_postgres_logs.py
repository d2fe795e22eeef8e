"""What is logged of commits on a server, and that no value is in any line, those of the driver included."""

import logging
from typing import Any

import pytest
from proxy import Proxy
from saved import Saved

from asyncflow import Flow, FlowRunner, Signal, listen, start, step
from asyncflow.persistence.postgres import PostgresFlowPersistence
from asyncflow.testing._checkpoints import Chain

CANARY = "canary-4711"


async def echo(value: str) -> str:
    return value


class Asks(Flow[dict[str, Any]]):
    answered = Signal("answered", str)

    @start()
    async def ask(self) -> str:
        self.state["kept"] = CANARY
        return await step(echo, CANARY)

    @listen(answered, keep_open=True)
    async def go(self, answered: str) -> str:
        return answered


async def test_no_value_is_in_any_line_at_any_level(
    persistence: PostgresFlowPersistence, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with persistence, FlowRunner(persistence) as runner:
            handle = await runner.start(Asks, {"secret": CANARY})
            await handle.signal("answered", CANARY)
            assert await handle.result() == CANARY

    commits = [line for line in caplog.records if line.getMessage().startswith("commit done: ")]
    assert len(commits) >= 3
    assert all(vars(line)["bytes"] >= 0 and vars(line)["seconds"] > 0 for line in commits)
    ours = [line for line in caplog.records if line.name != "asyncio"]
    assert [line for line in ours if CANARY in f"{line.getMessage()} {vars(line)}"] == []


async def test_a_commit_whose_connection_is_cut_is_looked_up(
    proxy: Proxy, cut_off: PostgresFlowPersistence, caplog: pytest.LogCaptureFixture
) -> None:
    chain, saved = Chain("run"), Saved(cut_off)
    async with cut_off:
        await saved.save(chain.add())
        proxy.arm("before the reply")
        await saved.save(chain.add(whole=True, state=f'{{"n":"{CANARY}"}}'.encode()))

    lines = [line for line in caplog.records if line.getMessage().startswith("commit looked up: ")]
    assert [line.levelno for line in lines] == [logging.WARNING]
    assert "1 of 1 jobs were stored" in lines[0].getMessage()
    assert (vars(lines[0])["run_id"], vars(lines[0])["seq"]) == ("run", 1)
    assert CANARY not in str([vars(line) for line in lines])
