"""R09: random graphs under random schedules, cancelled and crashed at any moment, against the model of the scheduling.

Everything is drawn from a seed: graph, order of tasks, latencies (in virtual time), outcomes, faults. What was committed is
reported to the model (`scheduling/model.py`), in the order of the commits: it says what each commit enables, and how the pass
ends. The bodies' own log says what was really started, and when. A failing seed is replayed by `trial(SEED, LOOP)`.
"""

import asyncio
import inspect
import random
import types
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

import anyio
import pytest
from figures import FACTOR, SEED, tell
from large import treat_as_large
from model import Launch, Model, Node

from asyncflow import Flow, FlowState, MethodError, each, listen, merge, or_, router, start
from asyncflow._definition.triggers import AllOf, Trigger, normalised, required_names
from asyncflow.errors import FlowDefinitionError, RunNotFoundError
from asyncflow.persistence import Checkpoint
from asyncflow.persistence.checkpoint import decode_progress
from asyncflow.testing.loops import Loop, pause, simulated
from asyncflow.testing.simulation import Crash, Crashed, SimulatedStorage

SCHEDULES = {"asyncio": int(2_000 * FACTOR), "trio": int(1_000 * FACTOR)}
PARTS = 4
"""Of each loop's schedules, so that several processes share them."""
PER_GRAPH = 10
LABELS = ("A", "B", "C")
RUN, LIVES, MOST = "run", 4, 40
"""Faults are over after so many lives; a run that has started so many bodies is left, as most of these graphs never end."""


class Work(FlowState):
    done: Annotated[list[str], merge.append] = []  # noqa: RUF012 - pydantic copies it
    total: Annotated[int, merge.add] = 0


# ---- graphs ----------------------------------------------------------------------------------------------------------


@cache
def graph_of(number: int) -> tuple[tuple[Node, ...], type[Flow[Work]]]:
    """The first graph drawn from this number that is a valid class."""
    chance = random.Random(f"{SEED} graph {number}")
    while True:
        names = [f"m{n}" for n in range(chance.randint(2, 6))]
        nodes: list[Node] = []
        for n in range(len(names)):
            lists = [node.name for node in nodes if not node.is_router] if number % 2 else []
            nodes.append(drawn(chance, names, n, lists))
        try:
            return tuple(nodes), flow_of(nodes)
        except FlowDefinitionError:
            continue  # such as a method that nothing can reach


def drawn(chance: random.Random, names: Sequence[str], position: int, lists: Sequence[str]) -> Node:
    """A method in this place. `lists`: those before it whose result may be a list."""
    name, is_router = names[position], chance.random() < 0.4
    is_start = position == 0 or chance.random() < 0.25
    if is_start and chance.random() < 0.8:
        return Node(name, None, True, is_router)
    if lists and not is_start and chance.random() < 0.6:
        return Node(name, chance.choice(lists), takes=chance.choice(("nothing", "last")), limit=chance.randint(0, 3))
    condition = normalised(tree(chance, [other for other in names if other != name] + list(LABELS), 2))
    takes: str | tuple[str, ...] = "nothing" if is_start else chance.choice(("nothing", "last", "named"))
    if takes == "named":
        surely = sorted(set(required_names(condition))) if isinstance(condition, AllOf) else []
        takes = tuple(chance.sample(surely, chance.randint(1, len(surely)))) if surely else "last"
    return Node(name, condition, is_start, is_router, takes)


def tree(chance: random.Random, leaves: Sequence[str], depth: int) -> Trigger:
    if not depth or chance.random() < 0.4:
        return chance.choice(leaves)
    kind: Any = chance.choice((or_, and_of))
    return kind(*(tree(chance, leaves, depth - 1) for _ in range(chance.randint(1, 3))))


def and_of(*parts: Trigger) -> Trigger:
    return AllOf(parts)


def flow_of(nodes: Sequence[Node]) -> type[Flow[Work]]:
    methods: dict[str, Any] = {}
    for node in nodes:
        methods[node.name] = method_of(node, is_list(nodes, node.name), methods)
    return types.new_class("Drawn", (Flow[Work],), exec_body=lambda body: body.update(methods, max_method_calls=None))


def is_list(nodes: Sequence[Node], name: str) -> bool:
    """Whether a method returns a list, on whose items others work."""
    return any(node.limit is not None and node.condition == name for node in nodes)


def method_of(node: Node, returns_list: bool, methods: dict[str, Any]) -> Any:
    async def method(self: Any, *args: Any, **named: Any) -> Any:
        return await self.life.body(self, args, named)

    def plain(self: Any, *args: Any, **named: Any) -> Any:
        return self.life.plain_body(self, args, named)

    function: Any = plain if node.name == "m1" else method
    taken = ("value",) if node.takes == "last" else () if node.takes == "nothing" else node.takes
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *taken)]
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {"return": list[str]} if returns_list and node.limit is None else {}
    if node.limit is not None:
        return listen(each(methods[str(node.condition)]), limit=node.limit or None)(function)
    if node.is_router:
        function = router(emit=LABELS)(function)
    if node.is_start:
        return (start() if node.condition is None else start(node.condition))(function)
    return listen(node.condition)(function)


# ---- lives -----------------------------------------------------------------------------------------------------------


class Storage(SimulatedStorage):
    """Writes to the log what is acknowledged, and what the next life finds."""

    def __init__(self, log: list[tuple[str, Any]]) -> None:
        super().__init__()
        self.log = log

    async def append(self, checkpoint: Checkpoint) -> None:
        await super().append(checkpoint)
        self.log.append(("known", checkpoint.seq))

    async def rows(self) -> list[Checkpoint]:
        return await self.history(RUN)


class Boom(Exception):
    """What a method raises."""


@dataclass
class Trial:
    """One run, through some lives."""

    seed: int
    loop: Loop
    log: list[tuple[str, Any]] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    lives: list[str] = field(default_factory=list)
    """How each ended: finished, failed, crashed, cancelled, left."""
    result: Any = None

    def __post_init__(self) -> None:
        self.nodes, self.flow = graph_of(self.seed // PER_GRAPH)
        self.routers = {node.name for node in self.nodes if node.is_router}
        self.mapped = {node.name for node in self.nodes if node.limit is not None}
        self.chance = random.Random(f"{SEED} trial {self.seed} {self.loop}")
        self.storage = Storage(self.log)

    def outcome(self, key: str) -> str | None:
        """The label that an invocation returns, the same whenever it is run."""
        return random.Random(f"{self.seed} {key}").choice((*LABELS, None))

    def result_of(self, key: str, items: int = 0) -> Any:
        """What an invocation or an item returns, the same whenever it is run. `items`: of one that runs for each item of a list."""
        name = key.rpartition(":")[0]
        if name in self.routers:
            return self.outcome(key)
        if name in self.mapped and key[-1] != "]":
            return [f"{key}[{place}]" for place in range(items)]
        if name in self.mapped or not is_list(self.nodes, name):
            return key
        return [f"{key}.{n}" for n in range(random.Random(f"{self.seed} {key} items").randint(0, 5))]

    # ---- what the methods do ---------------------------------------------------------------------------------

    async def body(self, flow: Any, args: Any, named: Any) -> Any:
        key = self._begins(flow, args, named)
        await pause()
        return self._ends(flow, key)

    def plain_body(self, flow: Any, args: Any, named: Any) -> Any:
        return self._ends(flow, self._begins(flow, args, named))

    def _begins(self, flow: Any, args: Any, named: Any) -> str:
        key: str = flow.invocation_id.rpartition("/")[2]
        if len(self.log) > 3 * MOST:
            raise Crashed
        self.log.append(("start", key))
        self.log.append(("received", (key, args, named)))
        self.attempts[key] += 1
        return key

    def _ends(self, flow: Any, key: str) -> Any:
        flow.state.done.append(key)
        flow.state.total += 1
        if random.Random(f"{self.seed} {key} {self.attempts[key]}").random() < 0.08:
            raise Boom(key)
        return self.result_of(key)

    # ---- its lives -------------------------------------------------------------------------------------------

    def run(self) -> None:
        for number in range(LIVES):
            fault = self.chance.choice(("crash", "crash", "scope", "task")) if number < LIVES - 1 else None
            self.storage.restarted()
            commits = self.storage.commits
            self.storage.crash = None
            if fault == "crash":
                self.storage.crash = Crash(commits + self.chance.randint(1, 4), self.chance.random() < 0.5)
            self.lives.append(simulated(lambda fault=fault: self._live(fault), seed=self.seed + number, loop=self.loop))
            if self.lives[-1] in ("finished", "left"):
                return

    async def _live(self, fault: str | None) -> str:
        self.log += [("known", row.seq) for row in await self.storage.rows()]
        flow: Any = self.flow(persistence=self.storage)
        flow.life = self
        try:
            return await self._cancelled(flow, fault, self.chance.uniform(0, 0.05))
        except MethodError:
            return "failed"
        except Crashed:
            return "crashed" if self.storage.died_at is not None else "left"

    async def _cancelled(self, flow: Any, fault: str | None, moment: float) -> str:
        if fault == "scope":
            with anyio.move_on_after(moment) as scope:
                await self._go_on(flow)
            return "cancelled" if scope.cancelled_caught else "finished"
        if fault == "task" and self.loop == "asyncio":
            task = asyncio.ensure_future(self._go_on(flow))
            asyncio.get_running_loop().call_later(moment, task.cancel)
            await asyncio.wait([task])
            if task.cancelled():
                return "cancelled"
            task.result()
            return "finished"
        await self._go_on(flow)
        return "finished"

    async def _go_on(self, flow: Any) -> None:
        try:
            self.result = await flow._instance.resume(RUN)
        except RunNotFoundError:
            self.result = await flow.kickoff({"id": RUN})


# ---- the oracle ------------------------------------------------------------------------------------------------------


def complaints(trial: Trial, rows: Sequence[Checkpoint], newest: Checkpoint | None) -> list[str]:
    """What is wrong with a trial, by the model's judgement and the bodies' log."""
    if not rows or newest is None:
        started = [what for kind, what in trial.log if kind == "start"]
        return [f"{started} started before anything was stored"] if started else []
    model = Model(trial.nodes)
    told = model.start()
    enabled = {launch.key: (launch, 0) for launch in told.launched}
    stored: dict[str, int] = {}
    found: list[str] = []
    for row in rows[1:]:
        if row.kind == "resumed":
            told = model.resumed()
            enabled |= {launch.key: (launch, row.seq) for launch in pending(model) if launch.key not in enabled}
            continue
        if row.method.rpartition(":")[0] not in {node.name for node in trial.nodes}:
            found.append(f"checkpoint {row.seq} is about {row.method!r}")
        if model.raised and row.method not in model.running():
            found.append(f"{row.method} ended in a run that had failed and was not resumed, by what is stored")
        if row.kind == "failed":
            told = model.raises(row.method)
            continue
        if row.method in stored:
            found.append(f"{row.method} has two checkpoints: {stored[row.method]} and {row.seq}")
        if row.method not in enabled:
            return [*found, f"{row.method} was never enabled, by the model"]
        stored[row.method] = row.seq
        result, is_label = trial.result_of(row.method), row.method.rpartition(":")[0] in trial.routers
        items = len(result) if isinstance(result, list) else 0
        told = model.returned(row.method, result if is_label else None, items=items)
        enabled |= {launch.key: (launch, row.seq) for launch in pending(model) if launch.key not in enabled}
    return [*found, *of_progress(trial, model, newest, told.outcome), *of_the_log(trial, model, enabled, stored)]


def pending(model: Model) -> list[Launch]:
    """The invocations and the items that are pending."""
    return [launch for launch in (*model.enabled, *model.begun) if launch.key not in model.completed]


def of_progress(trial: Trial, model: Model, newest: Checkpoint, outcome: tuple[str, ...]) -> list[str]:
    """What is stored as pending, and how the pass ended, and what is in the state."""
    found = []
    expected = [launch.key for launch in pending(model)]
    progress = decode_progress(newest.progress or b"")
    if sorted(progress.pending) != sorted(expected) or {Launch(*each) for each in progress.pending.values()} != {
        *pending(model)
    }:
        found.append(f"pending are {list(progress.pending)}, by the model {expected}")
    state = Work.model_validate_json(newest.state or b"")
    done = model.completed - model.lists.keys()
    if Counter(state.done) != Counter(done) or state.total != len(done):
        found.append(f"the state says {sorted(state.done)}, {state.total}; completed are {sorted(done)}")
    ended = trial.lives[-1]
    if ended == "finished" and (newest.status != "finished" or outcome[:1] != ("finish",) or expected):
        found.append(f"finished, with status {newest.status}; by the model {outcome or expected}")
    if ended == "finished" and trial.result != output_of(trial, model, outcome):
        found.append(f"the output is {trial.result!r}, by the model {outcome}")
    return found


def output_of(trial: Trial, model: Model, outcome: tuple[str, ...]) -> Any:
    return trial.result_of(outcome[-1], model.lists.get(outcome[-1], 0))


def of_the_log(trial: Trial, model: Model, enabled: dict[str, tuple[Launch, int]], stored: dict[str, int]) -> list[str]:
    """D1: started when its cause is known to be committed. E2: not again when it is committed itself."""
    found: list[str] = []
    known: set[int] = set()
    for kind, what in trial.log:
        if kind == "known":
            known.add(what)
        elif kind == "start" and what not in enabled:
            found.append(f"{what} was started, and nothing that is stored enables it")
        elif kind == "start" and enabled[what][1] not in known:
            found.append(f"{what} was started before checkpoint {enabled[what][1]} was known to be committed")
        elif kind == "start" and stored.get(what) in known:
            found.append(f"{what} was started again after its checkpoint {stored[what]} was known")
        elif kind == "received" and what[0] in enabled:
            found += of_arguments(trial, model, *what, enabled[what[0]][0])
    most = len(trial.lives)
    found += [f"{key} was started {n} times in {most} lives" for key, n in trial.attempts.items() if n > most]
    if trial.lives[-1] == "finished":
        found += [f"{key} was never started" for key in enabled if not (trial.attempts[key] or key in model.lists)]
    return found


def of_arguments(trial: Trial, model: Model, key: str, args: Any, named: Any, launch: Launch) -> list[str]:
    expected = {name: trial.result_of(source, model.lists.get(source, 0)) for name, source in launch.arguments}
    if launch.place is not None:
        expected = {name: result[launch.place] for name, result in expected.items()}
    found = {**dict.fromkeys([""][: len(args)], args[0] if args else None), **named}
    return [] if found == expected else [f"{key} received {found}, by the model {expected}"]


@dataclass
class Figures:
    trials: int = 0
    finished: int = 0
    crashed: int = 0
    cancelled: int = 0
    failed: int = 0
    acknowledged: int = 0
    started: int = 0
    looped: int = 0
    """Trials in which a method ran more than once."""
    mapped: int = 0
    """Trials in which a method ran for the items of a list."""
    run_again: int = 0
    """Invocations that were started once more, not having been committed."""

    def add(self, trial: Trial) -> None:
        self.trials += 1
        for how in ("finished", "crashed", "cancelled", "failed"):
            setattr(self, how, getattr(self, how) + trial.lives.count(how))
        self.acknowledged += len({what for kind, what in trial.log if kind == "known"})
        self.started += sum(trial.attempts.values())
        self.mapped += any("[" in key for key in trial.attempts)
        self.looped += any(key.endswith(":2") for key in trial.attempts)
        self.run_again += sum(n > 1 for n in trial.attempts.values())


def judged(seed: int, loop: Loop) -> Trial:
    """One trial, and nothing wrong with it."""
    trial = Trial(seed, loop)
    trial.run()

    async def stored() -> tuple[list[Checkpoint], Checkpoint | None]:
        trial.storage.restarted()
        return await trial.storage.rows(), await trial.storage.load(RUN)

    rows, newest = simulated(stored, seed=0)
    broken = complaints(trial, rows, newest)
    if broken:
        told = [f"{row.seq} {row.kind} {row.method} {row.status}" for row in rows]
        raise AssertionError(
            "\n".join([f"judged({seed}, {loop!r}), {SEED=}", *broken, f"{trial.lives}", *map(str, trial.nodes), *told])
        )
    return trial


@pytest.mark.clauses("D1", "D2", "E1", "E2", "E3", "E4", "C1", "C4", "X1", "X3")
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("loop", SCHEDULES)
def test_every_schedule_is_what_the_model_says(loop: Loop, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if part % 2:
        treat_as_large(monkeypatch)
    figures = Figures()
    seeds = range(part, SCHEDULES[loop], PARTS)
    for seed in seeds:
        figures.add(judged(seed, loop))

    print(f"{loop}, part {part}: {figures}")
    faults = figures.crashed + figures.cancelled + figures.failed
    tell("R09", trials=figures.trials, faults=faults, acknowledged=figures.acknowledged)
    n = figures.trials
    assert n == len(seeds) > 0
    assert figures.acknowledged > 4 * n
    assert figures.crashed > 0.2 * n
    assert figures.cancelled > 0.1 * n
    assert figures.failed > 0.1 * n
    assert figures.finished > 0.3 * n
    assert figures.mapped > 0.1 * n
    assert figures.looped > 0.1 * n
    assert figures.run_again > 0.1 * n


def test_the_same_seed_is_the_same_schedule() -> None:
    for loop in SCHEDULES:
        for seed in range(0, 60, 7):
            assert judged(seed, loop).log == judged(seed, loop).log  # type: ignore[arg-type]  # a key of the table


def test_schedules_differ() -> None:
    logs = {str(judged(seed, "asyncio").log) for seed in range(PER_GRAPH)}

    assert len(logs) > PER_GRAPH / 2
