"""Writes `error_texts.txt`, all texts of the errors that users meet: `python tests/packaging/error_texts.py`.

The texts are part of the API: people search for them and tests match them. In one file their English is reviewed as a whole, and a
change of one is seen in review. They are read from the source, as few of them can be provoked in one process. `{...}` is a value.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import asyncflow.errors

ROOT = Path(__file__).parents[2]
PAGE = Path(__file__).parent / "error_texts.txt"
COMMAND = "python tests/packaging/error_texts.py"

BUILTIN = {"ImportError", "LookupError", "TypeError", "ValueError"}
ERRORS = {*asyncflow.errors.__all__, "JsonInputsError", "ConformanceError"} | BUILTIN
WORDS = 3
"""A text of fewer words is the key of an internal error, or a value."""


def text_of(node: ast.expr, scope: ast.AST) -> Iterator[str]:
    """The texts that an expression may be, with `{...}` for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr():
            yield "".join(v.value if isinstance(v, ast.Constant) else "{...}" for v in node.values)  # type: ignore[misc]  # a text
        case ast.IfExp():
            yield from text_of(node.body, scope)
            yield from text_of(node.orelse, scope)
        case ast.BinOp(op=ast.Add()):
            for left in text_of(node.left, scope):
                yield from (left + right for right in text_of(node.right, scope))
        case ast.Name():
            for each in ast.walk(scope):
                if isinstance(each, ast.Assign) and any(ast.unparse(t) == node.id for t in each.targets):
                    yield from text_of(each.value, scope)


def texts() -> Iterator[tuple[str, str]]:
    """The name of the class and the text of each error that the package makes."""
    for file in sorted((ROOT / "asyncflow").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for scope in functions:
            for node in ast.walk(scope):
                if not isinstance(node, ast.Call) or not node.args:
                    continue
                name = ast.unparse(node.func).rpartition(".")[2]
                if name in ERRORS:
                    found = text_of(node.args[0], scope)
                    yield from ((name, text) for text in found if len(text.split()) >= WORDS)


def page() -> str:
    """The file: the texts by class, in order."""
    by_class: dict[str, set[str]] = {}
    for name, text in texts():
        by_class.setdefault(name, set()).add(" ".join(text.split()))
    parts = [f"{name}\n" + "".join(f"    {text}\n" for text in sorted(by_class[name])) for name in sorted(by_class)]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {page().count(chr(10))} lines")
