"""Every sentence that the package shows to its users, as one file, so that the English is reviewed as a whole and at each change.

`error_texts.txt` has the texts of errors and log lines, and all other sentences in the code: parts of messages, mistakes of a flow
class, descriptions for OpenAPI, failures of the conformance suite. Placeholders are shown as {expression}. To accept a change:

    ASYNCFLOW_UPDATE=1 python -m pytest tests/packaging/test_error_texts.py
"""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "asyncflow"
STORED = Path(__file__).with_name("error_texts.txt")
UPDATE = "ASYNCFLOW_UPDATE=1 python -m pytest tests/packaging/test_error_texts.py"

LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
_ERROR = re.compile(r"[A-Z]\w*(Error|ErrorGroup|Exception|Checkpoint)|Refused|Misfit")
_STATEMENT = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|PRAGMA|BEGIN|CREATE|ALTER|CASE|WITH|FROM|WHERE|AND|ORDER|LIMIT|NULLIF)\b"
)


def rendered(node: ast.expr) -> str | None:
    """A text as it is written, with its placeholders; None for an expression that is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_part(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            texts = rendered(left), rendered(right)
            if texts == (None, None):
                return None
            return "".join(
                f"{{{ast.unparse(side)}}}" if text is None else text
                for side, text in zip((left, right), texts, strict=True)
            )
    return None


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue):
        spec = "" if part.format_spec is None else f":{rendered(part.format_spec)}"
        shown = "" if part.conversion < 0 else f"!{chr(part.conversion)}"
        return f"{{{ast.unparse(part.value)}{shown}{spec}}}"
    return str(ast.literal_eval(part))


def _placeholders(node: ast.expr) -> Iterator[ast.expr]:
    """The parts of a text that are no text themselves."""
    match node:
        case ast.JoinedStr(values=parts):
            yield from (part.value for part in parts if isinstance(part, ast.FormattedValue))
        case ast.BinOp(left=left, right=right) if rendered(node) is not None:
            for side in (left, right):
                yield from _placeholders(side)
        case ast.Constant(value=str()):
            pass
        case _:
            yield node


def _is_sentence(text: str) -> bool:
    """Whether a text has two words or more, or is a part of a sentence, and is not SQL."""
    words = re.sub(r"\{[^{}]*\}", "", text)
    return re.search(r"[A-Za-z]{2}.* |[,.;:] \w", words) is not None and not _STATEMENT.match(text)


class Texts(ast.NodeVisitor):
    """The sentences of a module, each with what it becomes: an error class, a log line, or the function that has it."""

    def __init__(self, *, asserts: bool) -> None:
        self.found: list[tuple[str, str]] = []
        self._asserts = asserts
        self._owner = ["the module"]
        self._kind = ""

    def _within(self, node: ast.AST, kind: str) -> None:
        before, self._kind = self._kind, kind
        self.generic_visit(node)
        self._kind = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self._owner.append(node.name)
        self._within(node, "")
        self._owner.pop()

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # else a docstring
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        name = called.rpartition(".")[2]
        if called.rpartition(".")[0].endswith("logger") and name in LEVELS:
            self._within(node, f"log {'error' if name == 'exception' else name}")
        elif _ERROR.fullmatch(name):
            self._within(node, name)
        else:
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._within(node, self._kind or "raised")

    def visit_Assert(self, node: ast.Assert) -> None:
        if self._asserts:  # else it says why the assertion holds, and no user sees it
            self._within(node, "assertion")

    def _text(self, node: ast.expr) -> None:
        text = rendered(node)
        if text is None:
            self.generic_visit(node)
            return
        if _is_sentence(text):
            self.found.append((self._kind or f"in {self._owner[-1]}", text.replace("\n", "\\n")))
        for part in _placeholders(node):
            self.visit(part)

    visit_Constant = visit_JoinedStr = visit_BinOp = _text


def texts_of(source: str, *, asserts: bool = False) -> list[tuple[str, str]]:
    """The sentences in a source, sorted by what they become. `asserts`: also those of assertions, which are meant for users."""
    texts = Texts(asserts=asserts)
    texts.visit(ast.parse(source))
    return sorted(set(texts.found))


def lines(package: Path) -> Iterator[str]:
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        before, texts = "", texts_of(file.read_text(), asserts=name.startswith("testing/"))
        if texts:
            yield f"== {name}"
        for kind, text in texts:
            if kind != before:
                yield f"-- {kind}"
            yield f"   {text}"
            before = kind


def test_the_texts_of_errors_and_log_lines_are_those_that_were_reviewed() -> None:
    now = "\n".join([*lines(PACKAGE), ""])
    if os.environ.get("ASYNCFLOW_UPDATE"):
        STORED.write_text(now)
    stored = STORED.read_text() if STORED.exists() else ""

    changed = list(difflib.unified_diff(stored.splitlines(), now.splitlines(), "reviewed", "now", lineterm="", n=2))

    if changed:
        pytest.fail(
            "\n".join(["texts have changed. If their English is right, run", UPDATE, "", *changed]), pytrace=False
        )


SOURCE = '''
"""A docstring, which is no text of an error."""
CONSTANT = "a sentence of the module"
"""What the constant says."""

def refused(run_id):
    """Another docstring."""
    until = f" Its lease ends in {left:.1f} seconds."
    assert run_id, "asked for a run only"
    logger.warning("run %s was refused: %s", run_id, why)
    connection.execute("SELECT a FROM b")
    return RunLockedError(f"run {run_id!r} is driven" + until, cure="wait for it", run_id="word")

def driven(kind):
    raise kind("some run is driven")
'''


def test_the_sentences_of_a_source_are_found_with_what_they_become() -> None:
    assert texts_of(SOURCE) == [
        ("RunLockedError", "run {run_id!r} is driven{until}"),
        ("RunLockedError", "wait for it"),
        ("in refused", " Its lease ends in {left:.1f} seconds."),
        ("in the module", "a sentence of the module"),
        ("log warning", "run %s was refused: %s"),
        ("raised", "some run is driven"),
    ]
