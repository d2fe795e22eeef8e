"""Each clause of the contract has a test and a planted bug; each bug can still be planted, and its test still exists."""

import ast
import re
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "asyncflow"

CLAUSES = re.findall(r"^\| ([A-Z]\d) \|", (PACKAGE / "DESIGN.md").read_text(), re.MULTILINE)


def marked() -> set[str]:
    """The clauses that some test is marked with."""
    found: set[str] = set()
    for file in TESTS.rglob("test_*.py"):
        for marks in re.findall(r"@pytest\.mark\.clauses\(([^)]*)\)", file.read_text()):
            found.update(re.findall(r'"([A-Z]\d)"', marks))
    return found


def test_the_contract_is_read() -> None:
    assert len(CLAUSES) == len(set(CLAUSES)) == 25


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
    tests = {node.name for node in ast.walk(ast.parse((TESTS / file).read_text())) if hasattr(node, "name")}

    assert source.count(mutant.find) == 1
    if mutant.file.endswith(".py"):
        compile(source.replace(mutant.find, mutant.plant), mutant.file, "exec")
    assert name in tests
