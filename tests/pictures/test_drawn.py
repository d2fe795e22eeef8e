"""What a flow class and its objects draw: the class, the run that an object has, stored runs as of any checkpoint."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from drawings import Linear, Publish
from graphs import choices, graphs
from hypothesis import given
from moments import until
from pair import Pair
from shapes import Node as Shape

from asyncflow import (
    Flow,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    Signal,
    after,
    and_,
    each,
    listen,
    or_,
    router,
    sleep,
    start,
    wait_for,
)
from asyncflow._definition.definition import FlowDefinition
from asyncflow._pictures.deriving import picture_of
from asyncflow._pictures.drawn import _picture
from asyncflow._pictures.happening import happened_in
from asyncflow._pictures.picture import STATUSES
from asyncflow.errors import FlowDefinitionError
from asyncflow.inspection.pictured import run_picture


def statuses(flow: Flow[Any, Any]) -> dict[str, tuple[str, int]]:
    return {node.id: (node.status, node.count) for node in _picture(flow).nodes if node.status}


def live(flow: Flow[Any, Any]) -> set[tuple[str, str, str]]:
    """The edges along which something has passed."""
    return {(edge.source, edge.target, edge.label) for edge in _picture(flow).edges if not edge.idle}


approved = Signal("approved")


class Loop(Flow):
    rounds = 0

    @start()
    async def write(self) -> None: ...

    @router(or_(write, "again"))
    async def review(self) -> Literal["again", "good", "bad"]:
        self.rounds += 1
        return "again" if self.rounds < 3 else "good"

    @listen("good")
    async def publish(self) -> None: ...

    @listen("bad")
    async def drop(self) -> None: ...


async def test_a_finished_run_shows_how_often_each_method_completed_and_which_way_it_took() -> None:
    flow = Loop()
    await flow.kickoff()

    assert statuses(flow) == {
        "write": ("completed", 1),
        "review": ("completed", 3),
        "publish": ("completed", 1),
        "drop": ("skipped", 0),
    }
    assert ("review", "publish", "good") in live(flow)
    assert ("review", "or:review", "again") in live(flow)
    assert ("review", "drop", "bad") not in live(flow)
    assert 'm_review{{"✓ review ×3"}}' in flow.to_mermaid()


def test_a_class_and_an_object_without_a_run_draw_the_class() -> None:
    assert Linear().to_mermaid() == Linear.to_mermaid()
    assert Linear().to_dot() == Linear.to_dot()
    assert Linear().to_html() == Linear.to_html()
    assert "✓" not in Linear.to_mermaid()


class Failing(Flow):
    @start()
    async def fetch(self) -> None: ...

    @listen(fetch)
    async def parse(self) -> None:
        raise ValueError

    @listen(parse)
    async def report(self) -> None: ...


@pytest.mark.parametrize("persistence", [None, MemoryFlowPersistence()])
async def test_a_failed_run_shows_where(persistence: Any) -> None:
    flow = Failing(persistence=persistence)
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert statuses(flow) == {"fetch": ("completed", 1), "parse": ("failed", 0), "report": ("not reached", 0)}


async def test_a_loaded_run_is_drawn_also_as_of_an_older_checkpoint() -> None:
    storage = MemoryFlowPersistence()
    flow = Linear(persistence=storage)
    await flow.kickoff()

    loaded = await Linear.load(flow.run_id, persistence=storage)
    older = await Linear.load(flow.run_id, seq=1, persistence=storage)

    assert loaded.to_mermaid() == flow.to_mermaid()
    assert statuses(loaded) == dict.fromkeys(("fetch", "parse", "report"), ("completed", 1))
    assert statuses(older) == {"fetch": ("completed", 1), "parse": ("interrupted", 0), "report": ("not reached", 0)}
    assert f"run {flow.run_id}: finished" in flow.to_html()


class Waits(Flow):
    @start()
    async def ask(self) -> None: ...

    @listen(or_(and_(ask, approved), after(ask, 3600)))
    async def answer(self) -> None: ...


async def test_a_run_that_waits_shows_for_what() -> None:
    storage = MemoryFlowPersistence()
    flow = Waits(persistence=storage)
    await flow.kickoff(until="waiting")

    waiting = statuses(flow)
    await Waits.signal(flow.run_id, approved, persistence=storage)
    await flow.kickoff()

    assert waiting == {
        "ask": ("completed", 1),
        "answer": ("not reached", 0),
        "signal:approved": ("waiting", 0),
        "timer:answer:ask": ("waiting", 0),
    }
    assert statuses(flow)["signal:approved"] == ("completed", 1)
    assert ("signal:approved", "and:answer.0", "") in live(flow)


async def test_a_run_is_drawn_while_it_runs() -> None:
    seen: list[dict[str, tuple[str, int]]] = []

    class Busy(Flow):
        attempts = 0

        @start()
        async def begin(self) -> list[int]:
            return [1, 2, 3]

        @listen(each(begin), limit=1)
        async def work(self, item: int) -> None:
            if item == 2:
                seen.append(statuses(self))

        @start()
        async def rest(self) -> None:
            await sleep(0.2)

        @start(retry=Retry(initial=0.2, jitter=0))
        async def shaky(self) -> None:
            self.attempts += 1
            if self.attempts == 1:
                raise ValueError

    flow = Busy()
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        await anyio.sleep(0.1)
        seen.append(statuses(flow))

    assert seen[0]["work"] == ("running", 0)
    assert seen[1] == {
        "begin": ("completed", 1),
        "work": ("completed", 1),
        "rest": ("waiting", 0),
        "shaky": ("retrying", 0),
    }
    assert set(statuses(flow).values()) == {("completed", 1)}


async def test_a_method_that_waits_for_a_signal_is_shown_as_waiting() -> None:
    class Asks(Flow):
        asked = Signal("asked", str)

        @start()
        async def ask(self) -> str:
            return await wait_for(self.asked)

        @start()
        async def work(self) -> None:
            await until_ask_is("waiting", 0)
            await Asks.signal(flow.run_id, Asks.asked, "yes")
            await until_ask_is("completed", 1)

    async def until_ask_is(*known: object) -> None:
        async def holds() -> bool:
            return statuses(flow)["ask"] == known

        await until(holds)

    flow = Asks()
    await flow.kickoff()


async def test_the_picture_of_a_stored_run_has_the_durations_that_its_checkpoints_show() -> None:
    class Slow(Flow):
        @start()
        async def one(self) -> None:
            await anyio.sleep(0.1)

        @listen(one)
        async def two(self) -> None:
            raise ValueError

    storage = MemoryFlowPersistence()
    flow = Slow(persistence=storage)
    with pytest.raises(MethodError):
        await flow.kickoff()

    run = await run_picture(storage, flow.run_id, Slow)
    older = await run_picture(storage, flow.run_id, Slow, seq=0)

    assert [(n.status, n.count) for n in run.nodes] == [("completed", 1), ("failed", 0)]
    assert 0.09 < (run.nodes[0].seconds or 0) < 5
    assert (run.run_id, run.status) == (flow.run_id, "failed")
    assert [(n.status, n.seconds) for n in older.nodes] == [("interrupted", None), ("not reached", None)]


async def test_a_cancelled_run_shows_what_it_cut_short() -> None:
    class Endless(Flow):
        @start()
        async def wait(self) -> None:
            await anyio.sleep_forever()

        @listen(wait)
        async def after_it(self) -> None: ...

    flow = Endless()
    with anyio.move_on_after(0.05):
        await flow.kickoff()

    assert statuses(flow)["wait"] == ("interrupted", 0)


def test_a_class_whose_labels_are_declared_later_is_drawn_with_them() -> None:
    class Later(Flow):
        @start()
        async def begin(self) -> None: ...

        @router(begin)
        async def choose(self) -> "Labels":
            return "a"

        @listen("a")
        async def follow(self) -> None: ...

    Labels = Literal["a", "b"]

    assert '-->|"b"|' in Later.to_mermaid()


@pytest.mark.parametrize("draw", [Flow.to_mermaid, Flow.to_dot, Flow.to_html, Flow.plot])
def test_flow_itself_has_no_picture(draw: Callable[[], str]) -> None:
    with pytest.raises(FlowDefinitionError, match="Flow has no methods"):
        draw()


@pytest.mark.parametrize(
    ("given_name", "file", "begins"),
    [
        ("", "Linear.html", "<!doctype html>"),
        ("my_plot", "my_plot.html", "<!doctype html>"),
        ("my.plot", "my.plot.html", "<!doctype html>"),
        ("page.html", "page.html", "<!doctype html>"),
        (Path("flow.mmd"), "flow.mmd", "flowchart TD"),
        ("flow.dot", "flow.dot", 'digraph "Linear"'),
        ("flow.gv", "flow.gv", 'digraph "Linear"'),
    ],
)
def test_plot_writes_a_file_and_returns_its_path(given_name: Any, file: str, begins: str) -> None:
    path = Linear.plot(given_name)

    assert path == str(Path.cwd() / file)
    assert Path(path).read_text(encoding="utf-8").startswith(begins)


def test_plot_opens_the_browser_only_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    Linear().plot("a")
    path = Linear().plot("b", show=True)

    assert opened == [Path(path).as_uri()]


def test_plot_into_a_folder_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        Linear.plot("nowhere/flow")


async def test_a_notebook_gets_a_frame_a_flowchart_and_a_text() -> None:
    flow = Linear()
    await flow.kickoff()
    bundle = flow._repr_mimebundle_()

    assert set(bundle) == {"text/html", "text/plain", "text/vnd.mermaid"}
    assert bundle["text/vnd.mermaid"] == flow.to_mermaid()
    assert bundle["text/plain"] == repr(flow)
    assert bundle["text/html"] == flow._repr_html_()
    assert bundle["text/html"].startswith('<iframe title="Linear"')


def test_to_draw_imports_nothing_until_it_is_asked_for() -> None:
    code = "import asyncflow, sys; print([m for m in sys.modules if m.startswith('asyncflow._pictures')], 'webbrowser' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['asyncflow._pictures', 'asyncflow._pictures.drawn'] False"


URGENT = ("failed", "retrying", "running", "waiting", "interrupted")


def check(definition: FlowDefinition, run: Any) -> None:
    """Compare what a picture says of a run with what the simulation has seen of it."""
    progress = run.progress
    happened = happened_in(definition, progress, "running")
    ends = Counter(key.split(":")[0] for key in progress.pending if not key.endswith("]"))
    for name in definition.methods:
        status, count, *_ = happened.get(name, ("", 0))
        assert count == progress.counts.get(name, 0) - ends[name]
        assert (status in URGENT) == bool(ends[name])
        assert (status == "failed") == any(key.split(":")[0] == name for key in progress.failed)
    assert {key.partition(":")[0] for key in happened if ":" in key} <= {"timer", "signal"}
    timers = {f"timer:{timer.listener}:{timer.name[6:-1]}" for timer in progress.timers.values()}
    assert {key for key in happened if key.startswith("timer:")} == timers
    picture = picture_of(definition).with_run(happened)
    assert {node.id for node in picture.nodes} >= happened.keys()
    assert {node.status for node in picture.nodes} <= {"", *STATUSES}
    done = {node.id for node in picture.nodes if node.count}
    assert {edge.source for edge in picture.edges if not edge.idle and edge.source in definition.methods} <= done


@given(graphs(), choices)
def test_at_every_step_of_a_run_the_picture_agrees_with_the_progress(
    graph: list[Shape], chosen: list[tuple[int, object]]
) -> None:
    pair = Pair(graph)
    happen = pair.run.happen

    def watched(happening: Any) -> Any:
        transition = happen(happening)
        check(pair.run.definition, pair.run)
        return transition

    pair.run.happen = watched  # type: ignore[method-assign]
    pair.play(chosen)


def test_an_arrow_is_pale_if_nothing_has_passed_along_it() -> None:
    picture = picture_of(Publish._definition)
    happened: dict[str, Any] = dict.fromkeys(("plan", "load_rules", "research", "write"), ("completed", 1))
    gave_up = picture.with_run({**happened, "review": ("completed", 1)}, status="finished")
    waits = {"review": ("completed", 1), "signal:approved": ("waiting", 0), "timer:decide:good": ("waiting", 0)}
    waiting = picture.with_run(happened | waits, status="waiting")
    timed_out = picture.with_run({**happened, "review": ("completed", 1), "decide": ("running", 0)}, status="running")

    def passed(run: Any) -> set[tuple[str, str]]:
        before = {"plan", "load_rules", "research", "write", "or:write", "and:write.0"}
        return {(edge.source, edge.target) for edge in run.edges if not edge.idle and edge.source not in before}

    assert passed(gave_up) == {("review", "end:review")}
    assert passed(waiting) == {("review", "timer:decide:good"), ("review", "and:decide")}
    assert passed(timed_out) == {
        ("review", "and:decide"),
        ("review", "timer:decide:good"),
        ("timer:decide:good", "or:decide.1"),
        ("or:decide.1", "and:decide"),
        ("and:decide", "decide"),
    }


def test_an_arrow_to_a_join_that_holds_its_label_is_not_pale_and_one_from_a_timer_that_runs_is() -> None:
    class Joined(Flow):
        @start()
        async def begin(self) -> None: ...

        @router(begin)
        async def choose(self) -> Literal["now", "later"]:
            return "now"

        @listen(and_("now", approved))
        async def soon(self) -> None: ...

        @listen(or_(begin, after("later", 60)))
        async def late(self) -> None: ...

    def labels(**happened: tuple[str, int]) -> dict[str, bool]:
        known = {"begin": ("completed", 1), "choose": ("completed", 1)}
        known |= {name.replace("_", ":", 1).replace("__", ":"): each for name, each in happened.items()}
        run = picture_of(Joined._definition).with_run(known, status="waiting")
        return {edge.label or edge.source: not edge.idle for edge in run.edges if edge.source in ("choose", timer)}

    timer = "timer:late:later"

    assert labels() == {"now": False, "later": False, timer: False}
    assert labels(signal_approved=("waiting", 0)) == {"now": True, "later": False, timer: False}
    assert labels(timer_late__later=("waiting", 0)) == {"now": False, "later": True, timer: False}
    assert labels(late=("completed", 1), timer_late__later=("waiting", 0)) == {
        "now": False,
        "later": True,
        timer: False,
    }
    assert labels(late=("completed", 2)) == {"now": False, "later": True, timer: True}


async def test_a_run_that_could_not_be_stored_is_not_drawn_as_the_one_before_it() -> None:
    class Full(MemoryFlowPersistence):
        is_full = False

        async def append(self, checkpoint: Any) -> None:
            if self.is_full:
                raise OSError("full")
            await super().append(checkpoint)

    flow = Linear(persistence=(storage := Full()))
    await flow.kickoff()
    storage.is_full = True
    with pytest.raises(Exception, match="full"):
        await flow.kickoff({"id": "another"})

    assert flow.to_mermaid() == Linear.to_mermaid()


def test_the_picture_of_a_run_knows_how_long_methods_took() -> None:
    happened = {"plan": ("completed", 1, 0.5), "research": ("retrying", 0, None)}
    picture = picture_of(Publish._definition).with_run(happened, run_id="r", status="running")

    assert [(n.id, n.seconds) for n in picture.nodes if n.seconds] == [("plan", 0.5)]
