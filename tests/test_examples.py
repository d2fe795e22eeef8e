"""Every example runs, on every event loop, and does what it says; the two flows of CrewAI's page keep its promises."""

import importlib.util
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from pydantic import BaseModel

from asyncflow import MethodError
from asyncflow.errors import StaleCheckpoint, StateError
from asyncflow.persistence import FlowPersistence

EXAMPLES = Path(__file__).parents[1] / "examples"

Example = Callable[[str], Any]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Example:
    """Import an example by its name, again for each test."""

    def imported(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return imported


def as_a_process(name: str, timeout: float = 30) -> str:
    """Run an example as its reader would, in the folder of the test; what it printed."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    return ended.stdout


# ---- the page's class-level flow ---------------------------------------------------------------------------------


async def test_the_class_level_flow_says_what_the_page_says(
    example: Example, capsys: pytest.CaptureFixture[str]
) -> None:
    await example("seed_class_level").main()

    first, second, third = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Initialized flow\. State ID: [0-9a-f-]{36}", first)
    assert second == "Flow state is persisted. Counter: 2"
    assert third == "Loaded by its id. Counter: 2"


async def test_a_state_gets_a_uuid_of_its_own_and_keeps_it_across_methods(
    example: Example, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = example("seed_class_level")
    flow, other = seed.MyFlow(), seed.MyFlow()
    await flow.kickoff()

    assert "id" not in seed.MyState.model_fields  # it is added
    assert str(uuid.UUID(flow.state.id)) == flow.state.id == flow.run_id
    assert flow.state.id in capsys.readouterr().out  # as the first method saw it
    assert flow.state.id != other.state.id
    assert isinstance(flow.state, seed.MyState)


async def test_a_class_level_persist_saves_the_state_after_every_method(example: Example, tmp_path: Path) -> None:
    flow = example("seed_class_level").MyFlow()
    await flow.kickoff()

    history = await flow.history()
    assert [(e.method, e.changed.get("counter")) for e in history] == [
        ("", 0),
        ("initialize_flow:1", 1),
        ("next_step:1", 2),
    ]
    assert "asyncflow.db" in os.listdir(tmp_path)  # the default storage is a local SQLite file


def test_a_restarted_class_level_flow_reloads_its_state(example: Example) -> None:
    seed = example("seed_class_level")
    run_id = re.findall(r"State ID: (\S+)", as_a_process("seed_class_level"))[0]

    async def in_this_process() -> None:
        loaded = await seed.MyFlow.load(run_id)
        assert (loaded.state.counter, loaded.state.id, loaded.status) == (2, run_id, "finished")
        again = seed.MyFlow()
        await again.kickoff(inputs={"id": run_id})
        assert (again.state.counter, again.state.id) == (2, run_id)  # set to 1, then added to

    trio.run(in_this_process)  # on another loop than the process that is gone


async def test_a_failed_class_level_flow_resumes_with_the_state_it_had(example: Example) -> None:
    seed = example("seed_class_level")
    is_broken = True

    class Breaks(seed.MyFlow):  # type: ignore[misc,name-defined]  # the examples are imported as files
        name = "MyFlow"

        def next_step(self) -> None:
            if is_broken:
                raise OSError("broken")
            super().next_step()

    flow = Breaks()
    with pytest.raises(MethodError):
        await flow.kickoff()
    is_broken = False
    await Breaks.resume(flow.run_id)

    loaded = await Breaks.load(flow.run_id)
    assert loaded.state.counter == 2
    assert [e.method for e in await loaded.history()].count("initialize_flow:1") == 1


async def test_the_state_of_a_class_level_flow_is_validated(example: Example) -> None:
    flow = example("seed_class_level").MyFlow()

    class Another(BaseModel):
        counter: int = 0

    with pytest.raises(StateError):
        flow.state = Another()
    with pytest.raises(ValueError, match="counter"):
        await flow.kickoff(inputs={"counter": "many"})

    await flow.kickoff()  # nothing was lost
    assert flow.state.counter == 2


# ---- the page's method-level flow --------------------------------------------------------------------------------


async def test_the_method_level_flow_counts_its_runs(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    await example("seed_method_level").main()

    assert capsys.readouterr().out.splitlines() == [f"Method-level persisted runs: {n}" for n in (1, 2, 3)]


async def test_the_method_level_flow_counts_up_under_one_id_and_starts_over_under_another(example: Example) -> None:
    seed = example("seed_method_level")
    first, again, other = seed.AnotherFlow(), seed.AnotherFlow(), seed.AnotherFlow()
    await first.kickoff()
    await again.kickoff(inputs={"id": first.state["id"]})
    await other.kickoff()

    assert str(uuid.UUID(first.state["id"])) == first.state["id"]
    assert again.state == {"id": first.state["id"], "runs": 2}
    assert other.state == {"id": other.run_id, "runs": 1}


def test_a_restarted_method_level_flow_continues_to_count(example: Example) -> None:
    seed = example("seed_method_level")
    first = "import runpy, asyncflow, sys; flow = runpy.run_path(sys.argv[1])['AnotherFlow']()"
    script = f"{first}; asyncflow.run(flow, {{'id': 'our-counter'}})"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script, str(EXAMPLES / "seed_method_level.py")], check=True, timeout=120)

    async def in_this_process() -> None:
        flow = seed.AnotherFlow()
        await flow.kickoff(inputs={"id": "our-counter"})
        assert flow.state == {"id": "our-counter", "runs": 3}

    trio.run(in_this_process)


# ---- the other examples ------------------------------------------------------------------------------------------


def test_a_flow_runs_in_a_nursery_of_a_trio_program(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    trio.run(example("trio_program").main)

    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines[:3]) == [
        "Ada ordered 2 items",
        "Grace ordered 2 items",
        "the clock ticked while the flows ran: True",
    ]
    assert lines[3:] == ["cancelled at its deadline: True - interrupted", "Emmy ordered 2 items"]


async def test_many_instances_run_on_one_storage(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    await example("many_instances").main()

    runs, checkpoints, again = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"1000 runs, 100 at a time: \d+ runs a second", runs)
    assert re.fullmatch(r"3000 durable checkpoints: \d+ a second", checkpoints)
    assert re.fullmatch(r"started again: \d+ stored results a second, and no method ran again", again)


async def test_many_runs_live_at_once_under_a_runner(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    module = example("ten_thousand")
    await module.main(200)

    told, memory = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"200 runs in \d+\.\d seconds, 200 alive at once", told)
    assert re.fullmatch(r"\d+ MB more than before", memory)


async def test_a_custom_backend_only_saves_and_loads(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    await example("custom_backend").main()

    assert capsys.readouterr().out.splitlines() == [
        "thinking",
        "publish failed: the printer does not respond",
        "resumed: to be",
    ]


async def test_the_custom_backend_refuses_a_checkpoint_out_of_order(example: Example, tmp_path: Path) -> None:
    module = example("custom_backend")
    flow, backend = module.Write(str(tmp_path)), module.FolderPersistence(tmp_path)
    await flow.kickoff()
    newest = await backend.load(flow.run_id)

    assert isinstance(backend, FlowPersistence)
    assert newest is not None
    with pytest.raises(StaleCheckpoint):
        await backend.save(newest)
    assert await backend.load(flow.run_id, newest.seq) == newest
    assert await backend.load(flow.run_id, newest.seq - 1) is None  # it keeps the newest alone
    assert await backend.load("unknown") is None


async def test_a_crewai_backend_serves_as_persistence(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    await example("crewai_backend").main()

    assert capsys.readouterr().out.splitlines() == [
        "choosing",
        "no room is free",
        "readable as before: {'city': 'Lisbon', 'days': 3}",
        "resumed: 3 days in Lisbon",
        "rows: started choose book resumed book",
    ]


async def test_a_state_that_crewai_itself_saved_is_no_run(example: Example, tmp_path: Path) -> None:
    module = example("crewai_backend")
    backend = module.StatesInSQLite(tmp_path / "crewai.db")
    backend.save_state("abc", "begin", {"city": "Rome"})

    assert await module.FromCrewAI(backend).load("abc") is None


async def test_the_page_for_approvals_sends_no_cancelled_answer_and_shows_a_refused_one(example: Example) -> None:
    page = await example("approval_service").page()

    for button in page.split("button.onclick")[1:]:
        assert button.index("if (remark === null) return;") < button.index("await send(")
    assert "if (!answer.ok) alert(" in page


@pytest.mark.parametrize(
    "name", ["seed_class_level", "seed_method_level", "trio_program", "custom_backend", "crewai_backend"]
)
def test_an_example_ends_by_itself(name: str) -> None:
    assert as_a_process(name)


# ---- the main job ------------------------------------------------------------------------------------------------


def test_the_demo_is_killed_and_resumes_by_its_uuid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    out = as_a_process("demo", timeout=180)

    killed = re.search(r"^Killed \(exit code (-?\d+)\): (\d+) methods had completed\. Running: (.+)\.$", out, re.M)
    skipped = re.search(r"^Skipped, because they had completed: (.+)\.$", out, re.M)
    repeated = re.search(r"^Run again, because they were running: (.+)\.$", out, re.M)
    database = re.search(r"^The database is kept at (.+)$", out, re.M)
    assert killed is not None
    assert skipped is not None
    assert repeated is not None
    assert database is not None
    assert os.name == "nt" or killed[1] == "-9"
    assert len(skipped[1].split(", ")) == int(killed[2])
    assert repeated[1] == killed[3]
    assert "find_packages:1" in skipped[1]
    assert "lane_" in repeated[1]
    assert "All as promised" in out
    assert Path(database[1]).exists()


def test_the_demo_counts_what_is_in_a_file(example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = example("demo")
    monkeypatch.setattr(demo, "STDLIB", tmp_path)
    (tmp_path / "good.py").write_text("class A:\n    def f(self): ...\nasync def g(): ...\n")
    (tmp_path / "bad.py").write_text("def (:\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "inner.py").write_text("x = y\n")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "other.py").write_text("")

    assert list(demo.found_packages()) == ["bad.py", "good.py", "package"]
    counts = demo.survey([tmp_path / "bad.py", tmp_path / "good.py", *demo.files_of(tmp_path / "package")])
    assert counts == demo.Counts(
        files=3,
        lines=5,
        functions=2,
        classes=1,
        names=2,
        failures=["bad.py"],
        largest={"good.py": 3, "bad.py": 1, "package/inner.py": 1},
    )


@pytest.mark.parametrize("count", [0, 1, 30])
def test_the_demo_shares_out_every_package_once(example: Example, count: int) -> None:
    demo = example("demo")
    packages = {f"p{n}": 10 * n for n in range(count)}

    turns = demo.shared_out(packages)

    assert [len(lanes) for lanes in turns] == [demo.LANES] * demo.TURNS
    assert sorted(package for lanes in turns for lane in lanes for package in lane) == sorted(packages)
