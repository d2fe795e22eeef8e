"""The log lines of runs: their first words, their fields, and that no value is in them."""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, Retry, Signal, SQLiteFlowPersistence, listen, start, step
from asyncflow.errors import MethodError, RunCancelledError
from asyncflow.persistence._database import commit_logs

CANARY = "canary-4711"

Lines = list[logging.LogRecord]


class Keeper(logging.Handler):
    """Keeps what is logged, apart from what the event loop says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Lines = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "asyncio":
            self.lines.append(record)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Lines]:
    keeper, root = Keeper(), logging.getLogger()
    with caplog.at_level(logging.DEBUG):
        root.addHandler(keeper)
        yield keeper.lines
        root.removeHandler(keeper)


def first_words(lines: Lines, level: int = logging.INFO) -> list[str]:
    return [str(line.msg).partition(":")[0] for line in lines if line.name == "asyncflow" and line.levelno >= level]


class Report(Flow[dict[str, Any]]):
    @start()
    async def fetch(self) -> int:
        return 1


class Hangs(Flow):
    @start()
    async def hang(self) -> None:
        await anyio.sleep_forever()


class Fails(Flow):
    @start(retry=Retry(attempts=2, initial=0))
    async def fetch(self) -> None:
        raise ConnectionError(CANARY)


class Asks(Flow[dict[str, Any]]):
    answered = Signal("answered", str)

    @start(retry=Retry(attempts=2, initial=0))
    async def ask(self) -> str:
        if "tried" not in self.state:
            self.state["kept"] = CANARY
        return str(await step(echo, CANARY))

    @listen(answered, keep_open=True)
    async def go(self, answered: str) -> str:
        self.state["answer"] = answered
        return answered


async def echo(value: str) -> str:
    return value


async def test_a_run_logs_its_start_and_its_end_with_its_id_and_its_flow(lines: Lines) -> None:
    flow = Report(persistence=MemoryFlowPersistence())
    await flow.kickoff()

    assert first_words(lines) == ["run started", "run finished"]
    assert {(line.run_id, line.flow) for line in lines} == {(flow.run_id, "Report")}


async def test_a_failure_that_its_caller_gets_is_no_error_and_its_attempts_are_warnings(lines: Lines) -> None:
    with pytest.raises(MethodError):
        await Fails().kickoff()

    assert first_words(lines) == ["run started", "attempt failed", "run failed"]
    assert [line.levelname for line in lines] == ["INFO", "WARNING", "INFO"]
    attempt: Any = lines[1]
    assert (attempt.flow, attempt.method, attempt.attempt) == ("Fails", "fetch", 1)
    assert CANARY not in attempt.getMessage()  # the message of an exception may hold values


async def test_the_lines_of_attempts_have_the_id_of_the_run_and_the_name_of_its_flow(lines: Lines) -> None:
    def broken(error: Exception) -> bool:
        raise RuntimeError

    async def away() -> None:
        raise ConnectionError(CANARY)

    class Tries(Flow, name="shown"):
        @start()
        async def first(self) -> None:
            with contextlib.suppress(ConnectionError):
                await step(away, retry=Retry(attempts=2, initial=0))
            with contextlib.suppress(ConnectionError):
                await step(away, retry=Retry(attempts=2, on=broken))

        @listen(first, timeout=0.02)
        def second(self) -> None:
            time.sleep(0.1)

        @listen(first, retry=Retry(attempts=2, on=broken))
        async def third(self) -> None:
            raise ConnectionError

    flow = Tries(persistence=MemoryFlowPersistence())
    with pytest.raises(MethodError):
        await flow.kickoff()

    found = [line for line in lines if line.levelno >= logging.WARNING]
    words = sorted(first_words(found, logging.WARNING))
    assert words == ["attempt failed", "plain method timed out", "retry policy failed", "retry policy failed"]
    assert {(line.run_id, line.flow) for line in found} == {(flow.run_id, "shown")}  # type: ignore[attr-defined]
    assert {line.method for line in found} == {"first", "second", "third"}  # type: ignore[attr-defined]


async def failed_alone(cls: type[Flow[Any]], lines: Lines) -> tuple[str, Any]:
    """Let a run fail that nothing awaits. Return its id, and the one line about an error, which has a traceback."""
    async with FlowRunner(MemoryFlowPersistence()) as runner:
        handle = await runner.start(cls)
        with anyio.fail_after(5):
            while (await handle.status()) != "failed":  # noqa: ASYNC110 - no call may await the run
                await anyio.sleep(0.001)

    (error,) = [line for line in lines if line.levelno == logging.ERROR]
    assert str(error.msg).startswith("run failed: ")
    assert error.exc_info is not None
    return handle.run_id, error


async def test_a_failed_run_that_nothing_awaits_is_an_error_with_a_traceback_and_fields(lines: Lines) -> None:
    run_id, error = await failed_alone(Fails, lines)

    assert (error.run_id, error.flow, error.method) == (run_id, "Fails", "fetch")
    assert first_words(lines).count("run failed") == 1


async def test_a_run_whose_time_is_over_and_that_nothing_awaits_is_an_error_too(lines: Lines) -> None:
    class Late(Flow):
        run_timeout = 0.02

        @start()
        async def go(self) -> None:
            await anyio.sleep_forever()

    _, error = await failed_alone(Late, lines)

    assert not hasattr(error, "method")


async def test_cancelled_and_interrupted_runs_say_so(lines: Lines) -> None:
    with anyio.move_on_after(0.05):
        await Hangs(persistence=MemoryFlowPersistence()).kickoff()
    flow = Hangs(persistence=MemoryFlowPersistence())
    async with anyio.create_task_group() as group:

        async def cancelled() -> None:
            with pytest.raises(RunCancelledError):
                await flow.kickoff()

        group.start_soon(cancelled)
        await anyio.wait_all_tasks_blocked()
        await flow.cancel()

    assert first_words(lines) == ["run started", "run interrupted", "run started", "run cancelled"]


async def test_a_parked_run_says_so_and_its_cancellation_from_the_storage_too(lines: Lines) -> None:
    storage = MemoryFlowPersistence()
    flow = Asks(persistence=storage)
    await flow.kickoff(until="waiting")
    async with FlowRunner(storage) as runner:
        await runner.cancel(flow.run_id)
        await runner.cancel(flow.run_id)  # it is over: nothing happens

    assert first_words(lines) == ["run started", "run parked", "run cancelled"]


async def test_a_recovered_run_says_so(lines: Lines) -> None:
    storage = MemoryFlowPersistence()
    with anyio.move_on_after(0.05):
        await Hangs(persistence=storage).kickoff()
    async with FlowRunner(storage, flows=[Hangs], grace=0, patience=0):
        with anyio.fail_after(5):
            while "run resumed" not in first_words(lines):  # noqa: ASYNC110 - a log line sets no event
                await anyio.sleep(0.01)

    assert "run recovered" in first_words(lines)


async def test_without_the_level_a_run_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await Report(persistence=MemoryFlowPersistence()).kickoff()

    assert caplog.records == []


async def test_commits_show_their_time_and_size_and_slow_ones_are_warnings(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    async with SQLiteFlowPersistence(tmp_path / "runs.db") as storage:
        await Report(persistence=storage).kickoff()
        done = [line for line in lines if str(line.msg).startswith("commit done: ")]
        monkeypatch.setattr(commit_logs, "SLOW", 0.0)
        await Report(persistence=storage).kickoff()

    about: Any = done[0]
    assert done[0].levelno == logging.DEBUG
    assert about.jobs == 1
    assert about.bytes > 300
    assert 0 < about.seconds < 5
    assert (about.run_id, about.seq) == (lines[1].run_id, 0)  # type: ignore[attr-defined]  # a field of ours
    assert "commit slow" in first_words(lines, logging.WARNING)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_no_value_of_a_state_inputs_results_or_signals_is_in_any_line(
    lines: Lines, kind: str, tmp_path: Any
) -> None:
    storage: Any = MemoryFlowPersistence() if kind == "memory" else SQLiteFlowPersistence(tmp_path / "runs.db")
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Asks, {"secret": CANARY})
        await handle.signal("answered", CANARY)
        assert await handle.result() == CANARY
        failed = await runner.start(Fails)
        with pytest.raises(MethodError):
            await failed.result()

    ours = [line for line in lines if line.name == "asyncflow" and line.exc_info is None]
    assert len(ours) >= 5
    assert [line for line in ours if CANARY in f"{line.getMessage()} {line.args} {vars(line)}"] == []
    drivers = [line for line in lines if line.name != "asyncflow" and CANARY in line.getMessage()]
    assert drivers == []  # aiosqlite's logger is quiet unless it is set
