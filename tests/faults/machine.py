"""R11: processes that drive runs over one store, on a loop that stops when there is nothing left to do; and what must be.

`Driver`s run flows whose methods wait at gates, so that it is chosen outside which invocation ends next, and how. `Process` is
between a driver and the store: it holds commits back, dies, and loses its runs. `Run` and `Drive` are the model: they keep every
row and every completion without limit, and ask all of history.
"""

import asyncio
import selectors
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import anyio
import anyio.lowlevel
from pydantic import BaseModel

from asyncflow import Flow, MemoryFlowPersistence, SQLiteFlowPersistence, and_, listen, merge, or_, router, start
from asyncflow._waiting import outlast
from asyncflow.errors import CheckpointWithdrawnError, MethodError, RunFencedError, RunLockedError, StorageError
from asyncflow.persistence.checkpoint import Checkpoint

# ---- flows -----------------------------------------------------------------------------------------------------------


class State(BaseModel):
    total: Annotated[int, merge.add] = 0
    trail: list[str] = []
    seen: dict[str, int] = {}
    mark: str = ""
    odd: Any = None


class Boom(Exception):
    pass


@dataclass(frozen=True)
class Outcome:
    """How an invocation ends."""

    kind: Literal["return", "raise", "unstorable"] = "return"
    amount: int = 1
    mark: str = ""
    """Two that run at the same time and set different ones are in conflict."""
    label: str = "done"
    """What a router returns."""


class Driven(Flow[State]):
    def __init__(self, *, driver: "Driver", **init: Any) -> None:
        super().__init__(**init)
        self.driver = driver
        driver.flow = self

    async def act(self, *received: str) -> str:
        key = self.invocation_id.rpartition("/")[2]
        self.driver.starts.append((self.invocation_id, received, self.state.model_dump()))
        self.state.trail.append(f"{key} began")  # which no other invocation may ever see, unless it ends well
        outcome = await self.driver.gate(key)
        self.state.total += outcome.amount
        self.state.trail.append(f"{key} added {outcome.amount}")
        self.state.seen[key] = self.state.seen.get(key, 0) + outcome.amount
        self.state.mark = outcome.mark or self.state.mark
        if outcome.kind == "raise":
            raise Boom(key)
        if outcome.kind == "unstorable":
            self.state.odd = object()
        return outcome.label if self._definition.methods[key.split(":")[0]].is_router else f"{key}={outcome.amount}"


class Chain(Driven):
    @start()
    async def a(self) -> str:
        return await self.act()

    @listen(a)
    async def b(self, a: str) -> str:
        return await self.act(a)

    @listen(b)
    async def c(self, b: str) -> str:
        return await self.act(b)


class Fan(Driven):
    @start()
    async def s(self) -> str:
        return await self.act()

    @listen(s)
    async def x(self, s: str) -> str:
        return await self.act(s)

    @listen(s)
    async def y(self) -> str:
        return await self.act()

    @listen(s)
    async def z(self) -> str:
        return await self.act()

    @listen(and_(x, y, z))
    async def join(self, x: str, z: str) -> str:
        return await self.act(x, z)


class Hasty(Fan):
    on_error = "cancel"


class Loop(Driven):
    @start()
    async def begin(self) -> str:
        return await self.act()

    @listen(or_(begin, "again"))
    async def work(self) -> str:
        return await self.act()

    @router(work)
    async def judge(self) -> Literal["again", "done"]:
        return await self.act()  # type: ignore[return-value]

    @listen("again")
    async def side(self) -> str:
        return await self.act()

    @listen(and_(work, side))
    async def meet(self, work: str, side: str) -> str:
        return await self.act(work, side)

    @listen("done")
    async def end(self) -> str:
        return await self.act()


class Twins(Driven):
    @start()
    async def left(self) -> str:
        return await self.act()

    @start()
    async def right(self) -> str:
        return await self.act()

    @listen(or_(left, right))
    async def first(self, which: str) -> str:
        return await self.act(which)

    @listen(left)
    async def farther(self) -> str:
        return await self.act()

    @listen(and_(farther, right))
    async def both(self, right: str, farther: str) -> str:
        return await self.act(right, farther)


# ---- what must be: flows and states ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    name: str
    how: Literal["start", "one", "any", "all"] = "start"
    on: tuple[str, ...] = ()
    receives: tuple[str, ...] = ()
    """The names whose results it is given; "" is the one that came last."""
    is_router: bool = False


@dataclass(frozen=True)
class Shape:
    flow: type[Driven]
    nodes: tuple[Node, ...]
    """Routers first: they are launched first."""
    is_hasty: bool = False


FAN = (
    Node("s"),
    Node("x", "one", ("s",), ("",)),
    Node("y", "one", ("s",)),
    Node("z", "one", ("s",)),
    Node("join", "all", ("x", "y", "z"), ("x", "z")),
)
SHAPES = (
    Shape(Chain, (Node("a"), Node("b", "one", ("a",), ("",)), Node("c", "one", ("b",), ("",)))),
    Shape(Fan, FAN),
    Shape(Hasty, FAN, is_hasty=True),
    Shape(
        Loop,
        (
            Node("judge", "one", ("work",), is_router=True),
            Node("begin"),
            Node("work", "any", ("begin", "again")),
            Node("side", "one", ("again",)),
            Node("meet", "all", ("work", "side"), ("work", "side")),
            Node("end", "one", ("done",)),
        ),
    ),
    Shape(
        Twins,
        (
            Node("left"),
            Node("right"),
            Node("first", "any", ("left", "right"), ("",)),
            Node("farther", "one", ("left",)),
            Node("both", "all", ("farther", "right"), ("right", "farther")),
        ),
    ),
)


@dataclass(frozen=True)
class Event:
    """A completion."""

    key: str
    result: str
    label: str = ""

    @property
    def names(self) -> tuple[str, str]:
        return self.key.split(":")[0], self.label


@dataclass(frozen=True)
class Launch:
    key: str
    cycle: str = ""
    sources: tuple[str, ...] = ()
    """The invocations whose results it receives."""


def enabled_by(nodes: Sequence[Node], events: Sequence[Event]) -> tuple[list[Launch], list[str]]:
    """All that a pass with these completions has ever enabled, in order; and whom the last completion passed over."""
    launched = [Launch(f"{node.name}:1") for node in nodes if node.how == "start"]
    fired: list[tuple[str, str, int]] = []
    skipped: list[str] = []
    for number, event in enumerate(events, 1):
        skipped = []
        cycle = next(launch.cycle for launch in launched if launch.key == event.key)
        if event.label == "again":
            cycle = event.key
        for node in (node for node in nodes if set(node.on) & set(event.names)):
            if node.how == "any" and any((node.name, cycle) == (name, at) for name, at, _ in fired):
                skipped.append(node.name)
                continue
            since = max((at for name, _, at in fired if name == node.name), default=0)
            came = {name: e.key for e in events[since:number] for name in e.names if name in node.on}
            if node.how != "all" or len(came) == len(node.on):
                fired.append((node.name, cycle, number))
                occurrence = 1 + sum(launch.key.split(":")[0] == node.name for launch in launched)
                sources = tuple(came[name] if name else event.key for name in node.receives)
                launched.append(Launch(f"{node.name}:{occurrence}", cycle, sources))
    return launched, skipped


Values = dict[str, Any]


def drafted(base: Values, key: str, outcome: Outcome) -> Values:
    """The state that an invocation leaves behind."""
    n = outcome.amount
    return {
        **base,
        "total": base["total"] + n,
        "trail": [*base["trail"], f"{key} began", f"{key} added {n}"],
        "seen": {**base["seen"], key: base["seen"].get(key, 0) + n},
        "mark": outcome.mark or base["mark"],
    }


def merged(base: Values, ours: Values, theirs: Values) -> Values | None:
    """The newest state with what an invocation changed, or None where both changed the mark."""
    mark = theirs["mark"] if ours["mark"] == base["mark"] else ours["mark"]
    if theirs["mark"] not in (base["mark"], mark):
        return None
    return {
        **theirs,
        "total": theirs["total"] + ours["total"] - base["total"],
        "trail": theirs["trail"] + ours["trail"][len(base["trail"]) :],
        "seen": {**theirs["seen"], **{k: v for k, v in ours["seen"].items() if base["seen"].get(k) != v}},
        "mark": mark,
    }


# ---- what must be: runs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A checkpoint, with all that it follows from."""

    kind: str
    status: str
    number: int
    epoch: int
    state: Values
    events: tuple[Event, ...] = ()
    """All completions of its pass until then."""
    method: str = ""
    error: str = ""
    """What the text of the error begins with."""
    output: str | None = None
    skipped: tuple[str, ...] = ()
    launches: tuple[Launch, ...] = ()
    """What is started once it is durable."""


@dataclass
class Run:
    id: str
    shape: Shape
    rows: list[Row] = field(default_factory=list)
    """What is stored."""
    epoch: int = 1
    owner: "Process | None" = None
    is_expired: bool = False
    drives: list["Drive"] = field(default_factory=list)
    last: "Driver | None" = None
    """Whose flow may be asked again."""
    faults: Counter[str] = field(default_factory=Counter)

    def pending(self, events: Sequence[Event]) -> list[Launch]:
        done = {event.key for event in events}
        return [launch for launch in enabled_by(self.shape.nodes, events)[0] if launch.key not in done]

    def is_locked_for(self, process: "Process") -> bool:
        if any(drive.process is process for drive in self.drives):
            return True
        owner = self.owner
        return not (owner is None or owner is process or owner.is_dead or self.is_expired)

    def acquire(self, process: "Process") -> None:
        """Another epoch: the process that drives it now is fenced off, and what it runs will be run again."""
        self.epoch += 1
        self.owner, self.is_expired = process, False
        for drive in self.drives:
            drive.faults()

    def give_back(self) -> None:
        self.owner, self.is_expired = None, False

    def store(self, row: Row, process: "Process") -> None:
        self.rows.append(row)
        if row.status in ("finished", "cancelled"):
            self.give_back()
        elif len(self.rows) == 1:
            self.owner, self.is_expired = process, False


@dataclass(eq=False)
class Drive:
    """What one owner of a run does: it may not be the last one."""

    run: Run
    driver: "Driver"
    epoch: int
    rows: list[Row]
    """Those that it began with, and those that it has made since."""
    stored: int
    acknowledged: int
    running: dict[str, Values] = field(default_factory=dict)
    """The bases of what waits at a gate."""
    failed: dict[str, str] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    started: list[tuple[str, tuple[str, ...], Values]] = field(default_factory=list)
    over: Any = None
    """What it ends with: an output, or the type of an error."""
    found: int = field(init=False)
    """How many rows were stored when it began."""

    def __post_init__(self) -> None:
        self.found = self.acknowledged

    @property
    def process(self) -> "Process":
        return self.driver.process

    @property
    def is_zombie(self) -> bool:
        return self.epoch != self.run.epoch or self.rows[: self.stored] != self.run.rows[: self.stored]

    @property
    def has_begun(self) -> bool:
        """Whether its own first row, which starts or resumes the pass, is known to be stored."""
        return self.acknowledged > self.found

    def invocation(self, key: str) -> str:
        return f"{self.run.id}/{self.rows[-1].number}/{key}"

    def faults(self) -> None:
        """Whatever runs, or has ended and is not stored, will run again."""
        for key in (*self.running, *(row.method for row in self.rows[self.stored :] if row.method)):
            self.run.faults[self.invocation(key)] += 1

    def launch(self, launches: Sequence[Launch]) -> None:
        base = self.rows[self.acknowledged - 1]
        results = {event.key: event.result for event in self.rows[-1].events}
        for launch in launches:
            self.running[launch.key] = base.state
            received = tuple(results[source] for source in launch.sources)
            self.started.append((self.invocation(launch.key), received, base.state))
            self.run.faults[self.invocation(launch.key)] += self.is_zombie

    # ---- the end of an invocation ----

    def end(self, key: str, outcome: Outcome) -> None:
        """Make its row: the place of the run in the order of rows, stored or not."""
        newest, base = self.rows[-1], self.running.pop(key)
        state = merged(base, drafted(base, key, outcome), newest.state)
        errors = {"raise": f"{Boom.__module__}.Boom: {key}", "unstorable": "asyncflow.errors.StateNotStorableError"}
        error = errors.get(outcome.kind, "")
        if outcome.kind != "raise" and state is None:
            error = "asyncflow.errors.StateConflictError"
        if error:
            self.failed[key] = error
            self.run.faults[self.invocation(key)] += 1
            self._row("failed", newest.events, newest.state, key, error=error)
            return
        assert state is not None
        node = next(node for node in self.run.shape.nodes if node.name == key.split(":")[0])
        event = Event(key, outcome.label, outcome.label) if node.is_router else Event(key, f"{key}={outcome.amount}")
        self._returned(event, state)

    def _returned(self, event: Event, state: Values) -> None:
        nodes, before = self.run.shape.nodes, self.rows[-1].events
        after = (*before, event)
        launched, skipped = enabled_by(nodes, after)
        new = tuple(launched[len(enabled_by(nodes, before)[0]) :])
        if self.failed:
            self.held |= {launch.key for launch in new}
            new = ()
        kind = "method" if self.run.pending(after) or self.failed else "finished"
        self._row(kind, after, state, event.key, launches=new, skipped=tuple(skipped))

    def _row(self, kind: str, events: tuple[Event, ...], state: Values, key: str, **more: Any) -> None:
        left = {launch.key for launch in self.run.pending(events)} - self.failed.keys() - self.held
        has_failed = self.failed and (not left or self.run.shape.is_hasty)
        status = "finished" if kind == "finished" else "failed" if has_failed else "running"
        output = events[-1].result if kind == "finished" else None
        row = Row(kind, status, self.rows[-1].number, self.epoch, state, events, key, output=output, **more)
        self.rows.append(row)

    # ---- its commit ----

    def commit(self, how: Literal["before", "after"] | None) -> None:
        """See the newest row committed, or held up before it is stored, or before that is known."""
        if how != "before":
            self.store()
        if how is None and self.over is None:
            self.acknowledge()

    def go_on(self) -> None:
        """The oldest row that was held up is stored, and known to be."""
        if self.stored == self.acknowledged:
            self.store()
        if self.over is None:
            self.acknowledge()

    def store(self) -> None:
        if (self.epoch, self.stored) != (self.run.epoch, len(self.run.rows)):
            self.stop(RunLockedError if self.rows[self.stored].kind == "started" else RunFencedError)
            return
        self.run.store(self.rows[self.stored], self.process)
        self.stored += 1

    def acknowledge(self) -> None:
        row = self.rows[self.acknowledged]
        self.acknowledged += 1
        if row.status == "finished":
            self.stop(row.output)
        elif row.status == "failed":
            self.stop(MethodError)
        else:
            self.launch(row.launches)

    def stop(self, how: Any) -> None:
        """Nothing of it is stored any more, nor started."""
        if not self.is_zombie:
            self.faults()
        self.over = how
        self.running.clear()
        del self.rows[self.stored :]

    def close(self) -> None:
        """All its tasks have ended."""
        self.run.drives.remove(self)
        if self.run.owner is self.process and self.run.epoch == self.epoch:
            self.run.give_back()


# ---- processes -------------------------------------------------------------------------------------------------------


class Idle(selectors.DefaultSelector):
    """Stops the loop when all that it could do is wait, unless a thread is running for it."""

    def __init__(self) -> None:
        super().__init__()
        self.stop: Callable[[], None] = lambda: None
        self.at_work = 0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout > 30:
            timeout = None  # until a lease is renewed: nothing here takes so long
        if timeout is None and not self.at_work:
            self.stop()
            timeout = 0
        ready = super().select(30 if timeout is None else timeout)
        assert ready or timeout is not None, "the storage hangs"
        return ready


class Store(Protocol):
    """Where runs are stored, as a new process, and as an attacker who damages it, sees it."""

    def opened(self) -> Any: ...
    def damage(self, run_id: str, seq: int, how: int) -> Callable[[], None]:
        """Damage a row, and return what puts it right again."""
        ...

    def raw(self, run_id: str) -> list[Any]:
        """All that is stored of a run."""
        ...


class InMemory:
    def __init__(self) -> None:
        self.persistence = MemoryFlowPersistence()

    def opened(self) -> MemoryFlowPersistence:
        return self.persistence

    def damage(self, run_id: str, seq: int, how: int) -> Callable[[], None]:
        rows = self.persistence._rows[run_id]
        sound = list(rows)
        if how % 4 == 0 and seq < len(rows) - 1:  # of the last one no other process knows
            del rows[seq]
        else:
            at = how % len(rows[seq])
            rows[seq] = rows[seq][:at] + bytes([rows[seq][at] ^ 1]) + rows[seq][at + 1 :]

        def restore() -> None:
            rows[:] = sound

        return restore

    def raw(self, run_id: str) -> list[Any]:
        return list(self.persistence._rows[run_id])


class InFile:
    COLUMNS = ("state", "progress", "changes", "result", "outcome", "previous", "digest", "status", "method", "at")

    def __init__(self, path: Path) -> None:
        self.path = path

    def opened(self) -> SQLiteFlowPersistence:
        return SQLiteFlowPersistence(self.path, durability="process", lease=86_400)

    def damage(self, run_id: str, seq: int, how: int) -> Callable[[], None]:
        row = next(row for row in self.raw(run_id) if row["seq"] == seq)
        filled = [name for name in self.COLUMNS if row[name] not in (None, "", b"")]
        column = filled[how % len(filled)]
        if how % 4 == 0:
            self._write("DELETE FROM checkpoints WHERE id = ?", row["id"])
        else:
            self._write(f"UPDATE checkpoints SET {column} = ? WHERE id = ?", damaged(row[column], how), row["id"])
        put_back = f"INSERT OR REPLACE INTO checkpoints VALUES ({', '.join('?' * len(row))})"
        return lambda: self._write(put_back, *row.values())

    def raw(self, run_id: str) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            found = connection.execute(
                "SELECT * FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) ORDER BY seq", (run_id,)
            )
            return [dict(row) for row in found]

    def _write(self, sql: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(sql, values)


def damaged(value: Any, how: int) -> Any:
    """One bit of it flipped; of a number, one added."""
    if isinstance(value, str):
        return damaged(value.encode(), how).decode()
    if isinstance(value, bytes):
        at = how % len(value)
        return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
    return value + 1


@dataclass(eq=False)
class Held:
    """A commit that is held up."""

    run_id: str
    how: Literal["before", "after"]
    is_let_go: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None


class World:
    """The loop, the store, who owns which run there, and what is known to be committed."""

    def __init__(self, store: Store) -> None:
        self.idle = Idle()
        self.loop = asyncio.SelectorEventLoop(self.idle)
        self.idle.stop = self.loop.stop
        self.complaints: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(repr(context)))
        self.store = store
        self.owners: dict[str, tuple[Process, int]] = {}
        """And the epoch."""
        self.expired: set[str] = set()
        self.committed: set[str] = set()
        self.starts: Counter[str] = Counter()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        task = self.loop.create_task(work)
        self.settle()
        assert task.done(), "it waits for ever"
        return task.result()

    def settle(self) -> None:
        """Run until every task waits."""
        self.loop.run_forever()

    def begin(self, process: "Process", work: Callable[["Driver"], Coroutine[Any, Any, Any]]) -> "Driver":
        driver = Driver(self, process)
        driver.task = self.loop.create_task(work(driver))
        return driver

    @contextmanager
    def asked(self) -> Iterator[None]:
        self.idle.at_work += 1
        try:
            yield
        finally:
            self.idle.at_work -= 1


class Process:
    """A persistence over the store, in a place of its own: it is not known to be the same process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.inner = world.store.opened()
        self.place = object()
        self.is_dead = False
        self.hold: Literal["before", "after"] | None = None
        self.queue: list[Held] = []

    def holds(self, run_id: str) -> Literal["before", "after"] | None:
        """How the next commit of a run is held up: as those before it that still are, or as all are from now on."""
        return next((held.how for held in self.queue if held.run_id == run_id), self.hold)

    def check_alive(self) -> None:
        if self.is_dead:
            raise StorageError("this process is dead")

    async def append(self, checkpoint: Checkpoint) -> None:
        self.check_alive()
        how = self.holds(checkpoint.run_id)
        if how == "before":
            await self._queued(Held(checkpoint.run_id, how))
        with self.world.asked():
            await self.inner.append(checkpoint)
        self._stored(checkpoint)
        if how == "after":
            self.queue.append(held := Held(checkpoint.run_id, how))
            await outlast(held.is_let_go)
            await (
                anyio.lowlevel.checkpoint_if_cancelled()
            )  # as SQLite's does: a task that was cancelled meanwhile gets the cancellation
            self.check_alive()

    async def _queued(self, held: Held) -> None:
        self.queue.append(held)
        try:
            await held.is_let_go.wait()
        except asyncio.CancelledError:
            if held in self.queue:
                self._withdraw(held)
            raise
        if held.error is not None:
            raise held.error
        self.check_alive()

    def _withdraw(self, held: Held) -> None:
        for later in self.queue[self.queue.index(held) :]:
            if later.run_id == held.run_id:
                self.queue.remove(later)
                later.error = CheckpointWithdrawnError("withdrawn", outcome="not saved", run_id=held.run_id)
                later.is_let_go.set()

    def _stored(self, checkpoint: Checkpoint) -> None:
        c, world = checkpoint, self.world
        if c.kind in ("method", "finished"):
            world.committed.add(f"{c.run_id}/{c.pass_number}/{c.method}")
        if c.status in ("finished", "cancelled"):
            world.owners.pop(c.run_id, None)
        elif c.seq == 0:
            self._own(c.run_id, c.epoch)

    def _own(self, run_id: str, epoch: int) -> None:
        self.world.owners[run_id] = self, epoch
        self.world.expired.discard(run_id)

    async def save(self, checkpoint: Checkpoint) -> None:
        await self.append(checkpoint)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        self.check_alive()
        with self.world.asked():
            loaded: Checkpoint | None = await self.inner.load(run_id, seq)
        return loaded

    async def history(self, run_id: str) -> list[Checkpoint]:
        self.check_alive()
        with self.world.asked():
            rows: list[Checkpoint] = await self.inner.history(run_id)
        return rows

    async def acquire(self, run_id: str) -> int:
        self.check_alive()
        owner, _ = self.world.owners.get(run_id, (self, 0))
        if not (owner is self or owner.is_dead or run_id in self.world.expired):
            raise RunLockedError("another process drives it", run_id=run_id)
        with self.world.asked():
            epoch: int = await self.inner.acquire(run_id)
        if epoch:
            self._own(run_id, epoch)
        return epoch

    async def release(self, run_id: str, epoch: int) -> None:
        if self.is_dead:
            return  # without a word: its users are dead, too
        with self.world.asked():
            await self.inner.release(run_id, epoch)
        if self.world.owners.get(run_id) == (self, epoch):
            del self.world.owners[run_id]

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        self.check_alive()
        if not hasattr(self.inner, "session"):
            yield
            return
        session = self.inner.session()
        with self.world.asked():
            await session.__aenter__()
        try:
            yield
        finally:
            with self.world.asked():
                await session.__aexit__(None, None, None)


@dataclass(eq=False)
class Driver:
    """A call that drives a run: its flow, and the gates at which the flow's methods wait."""

    world: World
    process: Process
    flow: Any = None
    task: Any = None
    gates: dict[str, asyncio.Future[Outcome]] = field(default_factory=dict)
    starts: list[tuple[str, tuple[str, ...], Values]] = field(default_factory=list)

    @property
    def is_owner(self) -> bool:
        """A process that is not may learn of its commit so late that the next owner has continued, and cannot know that."""
        owner, _ = self.world.owners.get(self.starts[-1][0].split("/")[0], (None, 0))
        return owner is self.process

    async def gate(self, key: str) -> Outcome:
        invocation = self.starts[-1][0]
        self.world.starts[invocation] += 1
        if invocation in self.world.committed and self.is_owner:
            self.world.complaints.append(f"{invocation} is committed, and was started again")
        self.gates[key] = gate = self.world.loop.create_future()
        try:
            return await gate
        finally:
            del self.gates[key]
