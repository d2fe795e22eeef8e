"""Each clause of the contract has a test and a planted bug; each bug can still be planted, and its test still exists."""

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "asyncflow"

CLAUSES = re.findall(r"^\| ([A-Z]\d+) \|", (PACKAGE / "DESIGN.md").read_text(), re.MULTILINE)


@cache
def functions_of(file: Path) -> dict[str, set[str]]:
    """The functions of a file, and the clauses that each is marked with."""
    tree = ast.parse(file.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name: set(clauses_in(node.decorator_list)) for node in functions}


def clauses_in(decorators: Iterable[ast.expr]) -> list[str]:
    marks = [d for d in decorators if isinstance(d, ast.Call) and ast.unparse(d.func) == "pytest.mark.clauses"]
    return [ast.literal_eval(argument) for mark in marks for argument in mark.args]


def marked() -> set[str]:
    """The clauses that some test is marked with."""
    return {
        clause for file in TESTS.rglob("test_*.py") for clauses in functions_of(file).values() for clause in clauses
    }


def test_the_contract_is_read() -> None:
    assert len(CLAUSES) == len(set(CLAUSES)) == 86


@pytest.mark.parametrize("clause", CLAUSES)
def test_each_clause_has_a_test(clause: str) -> None:
    assert clause in marked()


@pytest.mark.parametrize("clause", CLAUSES)
def test_each_clause_has_a_planted_bug(clause: str) -> None:
    assert any(clause in mutant.clauses for mutant in MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_bug_can_be_planted_and_its_test_exists(mutant: Mutant) -> None:
    source = (PACKAGE / mutant.file).read_text()
    file, _, name = mutant.test.partition("::")

    assert source.count(mutant.find) == 1
    if mutant.file.endswith(".py"):
        compile(source.replace(mutant.find, mutant.plant), mutant.file, "exec")
    assert functions_of(TESTS / file)[name] >= set(mutant.clauses), (
        "its test is not marked with the clauses that it breaks"
    )
