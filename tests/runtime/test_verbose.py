"""`verbose=True`: what is logged of a run, and that no log handler can hurt it."""

import logging
from typing import Any

import pytest
from small import Counting

from asyncflow import Flow, MemoryFlowPersistence, MethodError, errors, persist, start


@pytest.mark.parametrize("fails_at", ["RunStarted", "MethodFinished"])
async def test_an_observer_that_raises_cannot_hurt_a_run(fails_at: str) -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if fails_at in record.getMessage():
                raise ValueError

    @persist(MemoryFlowPersistence(), verbose=True)
    class Watched(Counting): ...

    logger, handler = logging.getLogger("asyncflow"), Raising()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        flow = Watched()
        assert await flow.kickoff() == 1
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)

    assert flow.status == "finished"


async def test_nothing_is_logged_that_is_not_stored(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryFlowPersistence):
        async def append(self, checkpoint: Any) -> None:
            if checkpoint.seq:
                raise errors.StorageWriteError("no")
            await super().append(checkpoint)

    @persist(Failing(), verbose=True)
    class Watched(Counting): ...

    with caplog.at_level(logging.INFO, "asyncflow"), pytest.raises(errors.StorageWriteError):
        await Watched().kickoff()

    assert [record.getMessage().count("RunStarted") for record in caplog.records if "run event" in record.msg] == [1]


async def test_a_failure_is_logged_with_its_type(caplog: pytest.LogCaptureFixture) -> None:
    @persist(MemoryFlowPersistence(), verbose=True)
    class Failing(Flow):
        name = "Failing"

        @start()
        async def bad(self) -> None:
            raise ZeroDivisionError

    with caplog.at_level(logging.INFO, "asyncflow"), pytest.raises(MethodError):
        await Failing().kickoff()

    assert any("MethodFailed" in r.getMessage() and "ZeroDivisionError" in r.getMessage() for r in caplog.records)
