"""Each log line begins with constant words up to a colon, and the page on operations says what they mean."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPERATIONS = ROOT / "examples" / "operations.md"
LEVELS = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR", "exception": "ERROR"}


def logged() -> Iterator[tuple[str, str]]:
    """The level and the text of each log line of the package."""
    for file in sorted((ROOT / "asyncflow").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.startswith("logger.") and isinstance(node, ast.Call) and called != "logger.isEnabledFor":
                yield LEVELS[called.removeprefix("logger.")], ast.literal_eval(node.args[0])


def described() -> set[tuple[str, str]]:
    """The level and the first words of each log line that the page describes."""
    rows = re.findall(r"^\| (ERROR|WARNING|INFO|DEBUG) \| ([^|]*) \|", OPERATIONS.read_text(), re.MULTILINE)
    return {(level, words) for level, cell in rows for words in re.findall(r"`([^`]+)`", cell)}


def test_each_log_line_begins_with_constant_words_that_the_page_on_operations_describes() -> None:
    lines = set(logged())
    first_words = {(level, text.partition(":")[0]) for level, text in lines}

    assert len(lines) > 10
    assert [text for _, text in lines if not re.match(r"[A-Za-z ]+: ", text)] == []
    assert first_words == described()
