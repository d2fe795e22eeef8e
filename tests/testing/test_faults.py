"""A persistence with faults: each fault does what it says, and offers what the persistence under it offers."""

import signal
import subprocess
import sys
from functools import partial
from typing import Any

import anyio
import pytest

from asyncflow import Flow, MemoryFlowPersistence, SQLiteFlowPersistence, listen, start
from asyncflow.errors import AsyncflowError, RunNotFoundError, StorageReadOnlyError, StorageWriteError
from asyncflow.persistence import (
    Catalog,
    Checkpoint,
    CheckpointHistory,
    CheckpointLog,
    Ownership,
    Retention,
    Sessions,
)
from asyncflow.testing import Delay, Fail, FaultyPersistence, Hang, LoseReply


class TwoVerbs:
    def __init__(self) -> None:
        self.newest: dict[str, Checkpoint] = {}

    async def save(self, checkpoint: Checkpoint) -> None:
        self.newest[checkpoint.run_id] = checkpoint

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return self.newest.get(run_id)


class Chain(Flow[dict[str, int]]):
    """Three commits: the start, `first`, `second`."""

    name = "Chain"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ran: list[str] = []

    @start()
    async def first(self) -> int:
        self.ran.append("first")
        return 1

    @listen(first)
    async def second(self, n: int) -> int:
        self.ran.append("second")
        return n + 1


BACKENDS = {
    "two verbs": TwoVerbs,
    "memory": MemoryFlowPersistence,
    "sqlite": lambda: SQLiteFlowPersistence("runs.db", durability="process"),
}


@pytest.fixture(params=BACKENDS)
def inner(request: pytest.FixtureRequest) -> Any:
    return BACKENDS[request.param]()


async def interrupted(storage: Any, error: type[BaseException] = StorageWriteError) -> tuple[Chain, BaseException]:
    flow = Chain(persistence=storage)
    with pytest.raises(error) as raised:
        await flow.kickoff({"id": "run"})
    return flow, raised.value


async def resumed(storage: Any) -> Chain:
    flow = Chain(persistence=storage)
    assert await flow._instance.resume("run") == 2
    return flow


async def test_without_faults_nothing_is_different(inner: Any) -> None:
    storage = FaultyPersistence(inner)

    assert await Chain(persistence=storage).kickoff() == 2
    assert storage.hits == 0
    assert sum(asked in ("save", "append") for asked in storage.asked) == 3


@pytest.mark.parametrize(
    "capability", [CheckpointLog, CheckpointHistory, Ownership, Sessions, Catalog, Retention], ids=lambda c: c.__name__
)
def test_it_offers_what_the_other_offers(inner: Any, capability: Any) -> None:
    assert isinstance(FaultyPersistence(inner), capability) == isinstance(inner, capability)


@pytest.mark.parametrize("operation", ["runs", "delete", "prune"])
async def test_listing_and_forgetting_are_operations_too(operation: Any) -> None:
    storage: Any = FaultyPersistence(MemoryFlowPersistence(), Fail(operations=(operation,)))
    await Chain(persistence=storage).kickoff({"id": "run"})
    calls = {
        "runs": storage.runs,
        "delete": partial(storage.delete, "run"),
        "prune": partial(storage.prune, older_than=0),
    }

    with pytest.raises(StorageWriteError):
        await calls[operation]()
    assert [entry.run_id for entry in await storage.runs(flow=Chain.__name__, limit=1)] == ["run"]
    assert await storage.delete("run")
    assert await storage.prune(older_than=0.0) == 0
    assert storage.hits == 1


@pytest.mark.parametrize(
    "wrong",
    [{"at": 0}, {"times": 0}, {"operations": ()}, {"operations": ("apend",)}, {"operations": "append"}],
    ids=str,
)
def test_what_would_never_strike_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"at least 1|must be a tuple of some of save, append"):
        Fail(**wrong)


async def test_an_error_names_the_storage_under_it() -> None:
    with pytest.raises(RunNotFoundError, match=r"FaultyPersistence\(SQLiteFlowPersistence\(.*runs\.db"):
        await Chain.resume("nobody", persistence=FaultyPersistence(SQLiteFlowPersistence("runs.db")))


async def test_what_fails_is_not_done(inner: Any) -> None:
    storage = FaultyPersistence(inner, Fail(at=2))
    flow, error = await interrupted(storage)

    assert flow.ran == ["first"]
    assert getattr(error, "outcome", None) == "not saved"
    assert storage.hits == 1
    assert (await resumed(storage)).ran == ["first", "second"]


async def test_it_fails_with_the_given_error(inner: Any) -> None:
    storage = FaultyPersistence(inner, Fail(at=1, error=lambda: StorageReadOnlyError("told")))

    flow, _ = await interrupted(storage, StorageReadOnlyError)

    assert flow.ran == []


async def test_what_loses_its_reply_is_done(inner: Any) -> None:
    storage = FaultyPersistence(inner, LoseReply(at=2))
    flow, error = await interrupted(storage)

    assert flow.ran == ["first"]
    assert getattr(error, "outcome", None) == "unknown"
    assert (await resumed(storage)).ran == ["second"]


async def test_a_late_reply_is_waited_for(inner: Any) -> None:
    storage = FaultyPersistence(inner, Delay(at=2, seconds=0.03))
    began = anyio.current_time()

    assert await Chain(persistence=storage).kickoff() == 2
    assert anyio.current_time() - began >= 0.025  # clocks tick in milliseconds


async def test_what_hangs_does_so_until_it_is_let_go(inner: Any) -> None:
    storage = FaultyPersistence(inner, Hang(at=2))
    flow = Chain(persistence=storage)
    errors: list[BaseException] = []

    async def kickoff() -> None:
        try:
            await flow.kickoff({"id": "run"})
        except AsyncflowError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(kickoff)
        while not storage.hits:  # noqa: ASYNC110 - no event to wait for
            await anyio.sleep(0.001)
        await anyio.sleep(0.01)
        assert (flow.status, errors) == ("running", [])
        storage.heal()

    assert [type(error) for error in errors] == [StorageWriteError]
    assert (await resumed(storage)).ran == ["first", "second"]


async def test_a_fault_strikes_as_often_as_it_says() -> None:
    storage = FaultyPersistence(MemoryFlowPersistence(), Fail(at=1, times=2))
    for _ in range(2):
        await interrupted(storage)

    assert await Chain(persistence=storage).kickoff({"id": "run"}) == 2


async def test_a_permanent_fault_ends_when_it_is_healed() -> None:
    storage = FaultyPersistence(MemoryFlowPersistence(), Fail(at=2, times=None))
    await interrupted(storage)
    for _ in range(3):
        with pytest.raises(StorageWriteError):
            await Chain.resume("run", persistence=storage)
    storage.heal()

    assert (await resumed(storage)).ran == ["first", "second"]


async def test_a_fault_strikes_the_operations_that_it_names() -> None:
    storage = FaultyPersistence(MemoryFlowPersistence(), Fail(operations=("load",)))

    assert await Chain(persistence=storage).kickoff() == 2
    with pytest.raises(StorageWriteError):
        await Chain.load("run", persistence=storage)


KILLED = """
import anyio, sys
from asyncflow import Flow, SQLiteFlowPersistence, start, listen
from asyncflow.testing import FaultyPersistence, Kill

class Chain(Flow[dict[str, int]]):
    name = "Chain"

    @start()
    async def first(self):
        return 1

    @listen(first)
    async def second(self, n):
        return n + 1

storage = FaultyPersistence(SQLiteFlowPersistence("runs.db"), Kill(at=2, after=sys.argv[1] == "after"))
anyio.run(Chain(persistence=storage).kickoff, {"id": "run"})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(("when", "ran"), [("before", ["first", "second"]), ("after", ["second"])])
def test_a_kill_is_the_death_of_the_process(when: str, ran: list[str]) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, when], capture_output=True, text=True, timeout=60)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert anyio.run(resumed, SQLiteFlowPersistence("runs.db")).ran == ran
