"""The files of tests: pytest imports them by their base names."""

from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_two_files_of_tests_have_one_name() -> None:
    names = Counter(file.name for file in TESTS.rglob("test_*.py"))

    assert len(names) > 200
    assert {name: count for name, count in names.items() if count > 1} == {}
