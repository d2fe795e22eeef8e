"""Each fault that users found in 0.1 has a test that keeps it from coming back."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
GROUPS = {"A": 1, "B": 19, "C": 6, "D": 12, "P": 7, "R": 13, "T": 18}
"""How many faults there are of each group."""
FOUND = [f"{group}{n}" for group, last in GROUPS.items() for n in range(1, last + 1)]


def marked() -> set[str]:
    """The faults that some test is marked with."""
    calls = (
        node
        for file in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
    )
    return {
        arg.value
        for call in calls
        if ast.unparse(call.func) == "pytest.mark.found"
        for arg in call.args
        if isinstance(arg, ast.Constant)
    }


MARKED = marked()


@pytest.mark.parametrize("fault", FOUND)
def test_each_fault_that_users_found_has_a_test(fault: str) -> None:
    assert fault in MARKED


def test_no_test_is_marked_with_a_fault_that_there_is_not() -> None:
    assert set(FOUND) >= MARKED
