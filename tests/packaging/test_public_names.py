"""Both ways: what is public can be imported, is described and typed; and what the pages and examples use is public."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import reference
from sybil.document import Document
from sybil.parsers.markdown import CodeBlockParser

import asyncflow
from asyncflow._definition.triggers import AllOf, AnyOf
from asyncflow._keywords import Unset

ROOT = reference.ROOT
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "examples/operations.md", "examples/README.md")),
    *sorted((ROOT / "examples" / "guide").glob("*.md")),
    ROOT / "asyncflow" / "persistence" / "BACKENDS.md",
]
PROGRAMS = sorted((ROOT / "examples").glob("*.py"))

OPAQUE = (AllOf, AnyOf, Unset)
"""What `and_` and `or_` return, which users only pass on; and the default of a keyword that was not given."""

MODULES = {path: importlib.import_module(path) for path in reference.PUBLIC}


@pytest.mark.parametrize("path", reference.PUBLIC)
def test_every_name_of_a_public_module_exists_once(path: str) -> None:
    names = MODULES[path].__all__

    assert sorted(names) == sorted(set(names))
    assert [name for name in names if not hasattr(MODULES[path], name)] == []
    assert [name for name in names if name.startswith("_") and name != "__version__"] == []
    assert MODULES[path].__doc__


def test_every_public_class_and_function_is_found_where_it_says_that_it_is() -> None:
    for each in reference.public():
        thing = each.thing
        if isinstance(thing, type) or inspect.isfunction(thing):
            found: Any = importlib.import_module(thing.__module__)
            for part in thing.__qualname__.split("."):
                found = getattr(found, part)

            assert found is thing, each.path


def test_every_module_is_public_or_inside_of_the_package_that_is() -> None:
    """No module is public by its place: what is not in an `__all__` of a public module is internal, as the reference says."""
    modules = [found.name for found in pkgutil.walk_packages(asyncflow.__path__, "asyncflow.")]
    documented = reference.PAGE.read_text(encoding="utf-8")

    assert len(modules) > 100
    assert [path for path in reference.PUBLIC if path != "asyncflow" and path not in modules] == []
    assert [path for path in reference.PUBLIC if f"## `{path}`" not in documented] == []
    assert [name for name in modules if not importlib.import_module(name).__doc__] == []


def _functions() -> Iterator[tuple[str, Any]]:
    """Every public function, method, property and class, whose annotations users read."""
    for each in reference.public():
        thing = each.thing
        if inspect.isfunction(thing) or isinstance(thing, type):
            yield each.path, thing
        if isinstance(thing, type):
            if each.name not in reference.RETURNED and inspect.isfunction(vars(thing).get("__init__")):
                yield f"{each.path}.__init__", thing.__init__  # type: ignore[misc]  # of no subclass
            for name, value in reference.members(thing):
                yield f"{each.path}.{name}", getattr(value, "fget", None) or getattr(value, "__func__", value)


def _classes_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type):
        yield hint
    for part in hint if isinstance(hint, list) else typing.get_args(hint):
        yield from _classes_in(part)


def test_the_annotations_of_public_names_resolve_and_name_what_is_public() -> None:
    known = [each.thing for each in reference.public()]
    hidden = set[str]()

    functions = list(_functions())
    for path, thing in functions:
        hints = typing.get_type_hints(thing)  # raises where a name cannot be resolved
        for name, hint in hints.items():
            for cls in _classes_in(hint):
                is_ours = cls.__module__.startswith("asyncflow") and not cls.__name__.startswith("_")
                if is_ours and not name.startswith("_") and cls not in OPAQUE and cls not in known:
                    hidden.add(f"{path}: {cls.__module__}.{cls.__name__}")

    assert len(functions) > 100
    assert hidden == set()


def _programs() -> Iterator[tuple[str, ast.Module]]:
    """The Python of the pages, block by block, and of the examples."""
    for page in PAGES:
        for block in Document.parse(str(page), CodeBlockParser("python", evaluator=lambda _: None)).examples():
            yield f"{page.name}, line {block.line}", ast.parse(block.parsed)
    for program in PROGRAMS:
        yield program.name, ast.parse(program.read_text(encoding="utf-8"))


def _used(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) for what a program takes from asyncflow: by an import, or as an attribute of a module."""
    modules = {"asyncflow": "asyncflow"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "asyncflow":
            for alias in node.names:
                yield node.module or "", alias.name
                whole = f"{node.module}.{alias.name}"
                if whole in MODULES:
                    modules[alias.asname or alias.name] = whole
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("asyncflow."):
                    yield alias.name, ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            path = ast.unparse(node.value)
            first, _, rest = path.partition(".")
            module = modules.get(first, "") + (f".{rest}" if rest else "")
            if module in MODULES:
                yield module, node.attr


def test_what_the_pages_and_examples_use_is_public() -> None:
    used = [(where, module, name) for where, tree in _programs() for module, name in _used(tree)]

    hidden = [
        (where, f"{module}.{name}")
        for where, module, name in used
        if module not in MODULES or (name and not _is_public(MODULES[module], name))
    ]

    assert len(used) > 100
    assert hidden == []


def _is_public(module: ModuleType, name: str) -> bool:
    return name in module.__all__ or f"{module.__name__}.{name}" in MODULES


def test_the_paths_that_the_pages_write_are_public() -> None:
    hidden = list[tuple[str, str]]()
    sources = (ROOT / "asyncflow" / "integrations" / "opentelemetry").glob("*.py")
    exported = {
        name for file in sources for name in re.findall(r'"(asyncflow\.[\w.]+)"', file.read_text())
    }  # attributes
    for page in [*PAGES, ROOT / "asyncflow" / "REFERENCE.md"]:
        for path in re.findall(r"`(asyncflow(?:\.[A-Za-z]\w*)+)[`(]", page.read_text(encoding="utf-8")):
            module, _, name = path.rpartition(".")
            is_public = path in MODULES or (module in MODULES and name in MODULES[module].__all__)
            if not is_public and path not in ("asyncflow.db", "asyncflow.integrations", *exported):
                hidden.append((page.name, path))

    assert hidden == []


def test_the_walk_finds_what_is_not_public() -> None:
    tree = ast.parse(
        "import asyncflow\nfrom asyncflow import merge\nfrom asyncflow.flow import Flow\nmerge.declared_in(Flow)"
    )

    found = list(_used(tree))

    assert ("asyncflow.flow", "Flow") in found
    assert ("asyncflow.merge", "declared_in") in found
    assert not _is_public(MODULES["asyncflow.merge"], "declared_in")


def test_the_examples_are_there() -> None:
    assert len(PROGRAMS) > 5
    assert [page for page in PAGES if not Path(page).exists()] == []


def test_the_code_that_the_design_points_to_exists() -> None:
    page = (ROOT / "asyncflow" / "DESIGN.md").read_text(encoding="utf-8")
    pointers = re.findall(r"`([a-z_/]+\.(?:py|sql))(?:::(\w+))?`", page)

    missing = list[str]()
    for path, name in pointers:
        file = ROOT / path if path.startswith("tests/") else ROOT / "asyncflow" / path
        if not file.exists():
            named = [*(ROOT / "asyncflow").rglob(path), *(ROOT / "tests").rglob(path)]  # the text says in which folder
            file = named[0] if named else file
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        if not re.search(rf"^ *(?:async )?(?:def|class) {name}\b|^{name}\b", text, re.MULTILINE):
            missing.append(f"{path}::{name}")

    assert len(pointers) > 30
    assert missing == []
