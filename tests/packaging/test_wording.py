"""The English of the package: the texts of all errors are reviewed as a whole, and rationed words stay out."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import error_texts

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "examples").rglob("*.md"), *(ROOT / "asyncflow").rglob("*.md")]

RATIONED = re.compile(
    r"\b(whoever|somebody|nobody|everybody|told|tells|anew|beside|goes on|go on|going on|taken up|take up|takes up|comes to|"
    r"for good|given back|of ours|his|he|at work|in a while|mend|mends|mended)\b",
    re.IGNORECASE,
)
"""Words of a dialect: the field's own word says it better, such as resume, recover, own, report, permanently, again."""


def _prose(file: Path) -> Iterator[tuple[int, str]]:
    """The comments and texts of a module, docstrings included, with their lines."""
    source = file.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_the_texts_of_errors_are_the_ones_that_were_reviewed() -> None:
    assert len(list(error_texts.texts())) > 150
    assert error_texts.PAGE.read_text(encoding="utf-8") == error_texts.page(), f"write it again: {error_texts.COMMAND}"


def test_rationed_words_stay_out_of_package_examples_and_benchmarks() -> None:
    files = sorted(file for folder in ("asyncflow", "examples", "benchmarks") for file in (ROOT / folder).rglob("*.py"))
    found = [
        f"{file.relative_to(ROOT)}:{line}: {match[0]}"
        for file in files
        for line, text in _prose(file)
        for match in RATIONED.finditer(text)
    ]

    assert len(files) > 100
    assert found == []


def test_rationed_words_stay_out_of_the_pages() -> None:
    found = [
        f"{page.relative_to(ROOT)}: {match[0]}"
        for page in PAGES
        for match in RATIONED.finditer(
            re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        )
    ]

    assert len(PAGES) > 15
    assert found == []
