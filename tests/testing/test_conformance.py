"""What ships as the conformance suite: every backend of asyncflow passes it, and every wrong one is caught by a named test."""

import ast
import importlib.util
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from loops import LOOPS
from wrong_backends import ON_ASYNCIO_ALONE, WRONG, Opened

from asyncflow import FlowPersistence, MemoryFlowPersistence, SQLiteFlowPersistence
from asyncflow.persistence import CheckpointLog
from asyncflow.testing.conformance import ConformanceError, PersistenceConformance, check

ROOT = Path(__file__).parents[2]
TESTS = [name for name in dir(PersistenceConformance) if name.startswith("test_")]
OF_TWO_VERBS = 14
"""Tests of the suite that a backend of two verbs cannot skip."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: backends are many, and their own syncs prove nothing."""
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else tmp_path) as name:
        yield Path(name)


# ---- ours pass -----------------------------------------------------------------------------------------------------


class TestMemory(PersistenceConformance):
    @pytest.fixture
    def persistence(self) -> FlowPersistence:
        return MemoryFlowPersistence()

    def another(self, persistence: FlowPersistence) -> FlowPersistence:
        return persistence


class TestMemoryWithSessions(PersistenceConformance):
    @pytest.fixture
    def persistence(self) -> FlowPersistence:
        return Opened()


@pytest.mark.clauses("V1", "D4", "E2", "C2", "C3", "L1", "L4")
class TestSQLite(PersistenceConformance):
    @pytest.fixture
    def persistence(self, folder: Path) -> FlowPersistence:
        return SQLiteFlowPersistence(folder / "runs.db", durability="process")

    def another(self, persistence: FlowPersistence) -> FlowPersistence:
        assert isinstance(persistence, SQLiteFlowPersistence)
        return SQLiteFlowPersistence(persistence.path.parent / "there" / ".." / "runs.db")


class TestThePagesFolder(PersistenceConformance):
    @pytest.fixture
    def persistence(self, folder: Path) -> FlowPersistence:
        return class_of_the_page("FolderPersistence")(folder)


class TestTheExamplesFolder(PersistenceConformance):
    @pytest.fixture
    def persistence(self, folder: Path) -> FlowPersistence:
        return example("custom_backend").FolderPersistence(folder)


class TestCrewAIsBackend(PersistenceConformance):
    @pytest.fixture
    def persistence(self, folder: Path) -> FlowPersistence:
        module = example("crewai_backend")
        return module.FromCrewAI(module.StatesInSQLite(folder / "crewai.db"))


def class_of_the_page(name: str) -> Any:
    """Return a class of BACKENDS.md, with the imports of its block, and nothing else of the block."""
    page = ROOT / "asyncflow" / "persistence" / "BACKENDS.md"
    block = next(code for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.S) if f"class {name}" in code)
    kept = [
        node
        for node in ast.parse(block).body
        if isinstance(node, ast.Import | ast.ImportFrom) or (isinstance(node, ast.ClassDef) and node.name == name)
    ]
    module = ModuleType("page")
    exec(compile(ast.Module(kept, []), page, "exec"), vars(module))
    return getattr(module, name)


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"conforming_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # classes look up their module there
    spec.loader.exec_module(module)
    return module


# ---- without pytest ------------------------------------------------------------------------------------------------


async def test_a_check_reports_the_outcome_of_each_test() -> None:
    report = await check(MemoryFlowPersistence)

    skipped = {name for name, outcome in report.outcomes.items() if outcome == "skipped"}
    assert sorted(report.outcomes) == TESTS
    assert skipped == {
        name
        for name in TESTS
        if ("session" in name and "without" not in name) or "another_view" in name or "_fence_" in name
    }
    assert "skipped test_sessions_are_nested_and_used_again MemoryFlowPersistence does not offer Sessions" in str(
        report
    )


async def test_a_backend_of_two_verbs_is_asked_for_nothing_else() -> None:
    class TwoVerbs:
        def __init__(self) -> None:
            memory = MemoryFlowPersistence()
            self.save, self.load = memory.save, memory.load

    report = await check(TwoVerbs)

    assert not isinstance(TwoVerbs(), CheckpointLog)
    assert list(report.outcomes.values()).count("passed") == OF_TWO_VERBS
    assert list(report.outcomes.values()).count("skipped") == len(TESTS) - OF_TWO_VERBS


async def test_a_check_raises_when_all_tests_have_run() -> None:
    class Broken:
        async def save(self, checkpoint: object) -> None:
            raise OSError("no disk")

        async def load(self, run_id: str, seq: int | None = None) -> None: ...

    with pytest.raises(ConformanceError) as caught:
        await check(Broken)

    failed = {name for name, outcome in caught.value.report.outcomes.items() if outcome == "failed"}
    assert len(failed) == len(caught.value.exceptions) == OF_TWO_VERBS
    assert {note for error in caught.value.exceptions for note in error.__notes__} >= failed
    assert caught.value.split(OSError)[0].report is caught.value.report


# ---- wrong ones are caught -----------------------------------------------------------------------------------------


class Impatient(PersistenceConformance):
    patience = 0.3

    def another(self, persistence: FlowPersistence) -> FlowPersistence | None:
        return persistence.view() if hasattr(persistence, "view") else None


CASES = [
    pytest.param(loop, wrong, test, id=f"{wrong.__name__}-{name}")
    for name, loop in LOOPS.items()
    for wrong, test in WRONG
    if name != "trio" or wrong not in ON_ASYNCIO_ALONE
]


@pytest.mark.parametrize(("anyio_backend", "wrong", "test"), CASES, indirect=["anyio_backend"])
async def test_a_wrong_backend_is_caught(wrong: Any, test: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        await check(wrong, suite=Impatient, only=[test])

    (error,) = caught.value.exceptions
    assert isinstance(error, AssertionError), error  # which says in words what the backend did
    assert len(str(error)) > 40


def test_every_test_of_the_suite_has_caught_something() -> None:
    assert {test for _, test in WRONG} == set(TESTS)
    assert len({wrong for wrong, _ in WRONG}) >= 15
