"""Writes `asyncflow/REFERENCE.md` from the signatures and docstrings of the public names: `python tests/packaging/reference.py`.

Parameters are described in a docstring as items of a list, "- `name`: text"; what else it says is the description of the call. The
text of a signature is taken from the source, so that it is the same on each version of Python.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "asyncflow" / "REFERENCE.md"
COMMAND = "python tests/packaging/reference.py"

PUBLIC = (
    "asyncflow",
    "asyncflow.runner",
    "asyncflow.inspection",
    "asyncflow.persistence",
    "asyncflow.persistence.postgres",
    "asyncflow.persistence.transfer",
    "asyncflow.merge",
    "asyncflow.events",
    "asyncflow.errors",
    "asyncflow.integrations.fastapi",
    "asyncflow.integrations.opentelemetry",
    "asyncflow.integrations.inspector",
    "asyncflow.testing",
    "asyncflow.testing.conformance",
)
"""The public modules: what is in their `__all__` is public, and nothing else."""

EVENTS, ERRORS, STATUSES = "asyncflow.events", "asyncflow.errors", "asyncflow.persistence.status"
BACKENDS = (
    "asyncflow.persistence.MemoryFlowPersistence",
    "asyncflow.persistence.SQLiteFlowPersistence",
    "asyncflow.persistence.postgres.PostgresFlowPersistence",
)
RETURNED = ("RunHandle", "Failure")
"""Public classes of which asyncflow makes the instances."""
HIDDEN = ("misplaced", "more", "unknown")
"""Parameters that exist to refuse an argument with a helpful error."""
PLAIN = {
    "Trigger": "Condition",
    "AnyOf": "Condition",
    "AllOf": "Condition",
    "FlowLike": "Flow",
    "Resulting": "Flow",
    "Ts": "Ts",
}
"""For internal types, the words that the introduction explains."""

INTRODUCTION = f"""# Reference

The public names of asyncflow, with their parameters, errors and events. This page is generated from the code: to change it,
change a docstring or a signature, and run `{COMMAND}`.

**What is public.** A name is public if it is listed here, that is, if it is in the `__all__` of one of these modules; import it
from there. Everything else is internal and may change in any version, even where its name has no underscore.

Times are seconds. A parameter that has no default must be given; a default of `...` is described in the text. Types are written
without their modules. A `Condition` is a method, a label, `or_(...)` or `and_(...)`; `S` is the type of a flow's state,
`R` that of its result, and `Ts` are those of a function's arguments. A call with `until` returns a
`Waiting` only if that is not "end", and a `Stopped` only if that is a method or a number.

The errors are in `asyncflow.errors`, except those below another module. Besides the errors that a call lists, any call that reads
or writes runs may raise a `StorageError`.
"""


# ---- reading the source ------------------------------------------------------------------------------------------


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(Path(inspect.getfile(importlib.import_module(module))).read_text(encoding="utf-8"))


def _node(thing: Any) -> ast.AST | None:
    """The definition of a class or function in its module; the last one, where there are overloads."""
    body: Any = _tree(thing.__module__).body
    node: Any = None
    for name in thing.__qualname__.split("."):
        found = [n for n in body if getattr(n, "name", None) == name and not _is_setter(n)]
        if not found:
            return None
        node = found[-1]
        body = node.body
    return node


def _is_setter(node: Any) -> bool:
    return any(isinstance(each, ast.Attribute) and each.attr == "setter" for each in node.decorator_list)


@dataclass
class Doc:
    """A docstring: what it says, and what it says of each parameter."""

    text: str = ""
    items: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, thing: Any) -> Doc:
        return cls.parsed(inspect.getdoc(thing) or "")

    @classmethod
    def parsed(cls, text: str) -> Doc:
        doc, name, kept = cls(), "", list[str]()
        for line in text.splitlines():
            item = re.match(r"- `(?:\*{0,2})(\w+)`: (.*)", line)
            if item:
                name = item[1]
                doc.items[name] = item[2]
            elif name and line.startswith("  "):
                doc.items[name] += " " + line.strip()
            else:
                name = ""
                kept.append(line)
        doc.text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
        doc.text = re.sub(r":$", ".", doc.text, flags=re.MULTILINE) if doc.items else doc.text  # it led to the list
        return doc

    @property
    def first(self) -> str:
        """The first paragraph, in one line."""
        return " ".join(self.text.split("\n\n")[0].split())


@dataclass
class Parameter:
    """A parameter of a call, or a field of a class."""

    name: str
    type: str = ""
    default: str | None = None
    about: str = ""


def _type(node: ast.AST | None, module: str) -> str:
    """An annotation as text: its internal aliases as their meaning, without modules and the marks for "not given"."""
    if node is None:
        return ""
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)
    text = re.sub(r" \| Unset\b|\bUnset \| ", "", re.sub(r"^ClassVar\[(.*)\]$", r"\1", text))
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)
    text = re.sub(r"\bLiteral\[([^]]*)\]", lambda found: found[1].replace(", ", " | "), text)
    return _quoted(re.sub(r"\b[A-Z]\w+\b", lambda found: _meaning(found[0], module), text))


def _meaning(name: str, module: str) -> str:
    """What a name in an annotation is printed as: a public name and a class as they are, an internal alias as what it is assigned."""
    if name in PLAIN:
        return PLAIN[name]
    if name in {each.name for each in public()}:
        return name
    return next((_type(node.value, owner) for owner, node, _ in _assigned(module, name)), name)


def _quoted(text: str) -> str:
    """A text of Python with each string in double quotes."""
    return re.sub(r"'([^'\"\\]*)'", r'"\1"', text)


def _default(node: ast.AST | None, module: str) -> str | None:
    """A default as text: constants as their values; None if there is none, "..." if a word cannot say it."""
    found = _default_as_written(node, module)
    return None if found is None else _quoted(found)


def _default_as_written(node: ast.AST | None, module: str) -> str | None:
    if node is None:
        return None
    if isinstance(node, ast.Name):
        names = vars(importlib.import_module(module))
        value = names[node.id] if node.id in names else getattr(builtins, node.id)
        if isinstance(value, type):
            return value.__name__
        return repr(value) if isinstance(value, int | float | str | bytes | tuple) else "..."
    if isinstance(node, ast.Call):
        made = [k.value.id for k in node.keywords if k.arg == "default_factory" and isinstance(k.value, ast.Name)]
        plain = [ast.unparse(k.value) for k in node.keywords if k.arg == "default"]
        return {"dict": "{}", "list": "[]"}.get(made[0], "...") if made else (plain[0] if plain else "...")
    return "..." if isinstance(node, ast.Lambda) else ast.unparse(node)


def parameters(node: Any, module: str, doc: Doc) -> list[Parameter]:
    """The parameters of a function, without `self` and `cls`, as a caller writes them."""
    args, found = node.args, list[Parameter]()
    places = [*args.posonlyargs, *args.args]
    defaults: list[Any] = [None] * (len(places) - len(args.defaults)) + args.defaults
    is_method = bool(places) and places[0].arg in ("self", "cls")
    pairs = [*zip(places, defaults, strict=True)][is_method:]
    keywords = [*zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    for some, rest, stars in ((pairs, args.vararg, "*"), (keywords, args.kwarg, "**")):
        found += [Parameter(arg.arg, _type(arg.annotation, module), _default(default, module)) for arg, default in some]
        if rest is not None and rest.arg not in HIDDEN:
            found.append(Parameter(stars + rest.arg, _type(rest.annotation, module)))
    of_module = Doc.of(importlib.import_module(module)).items
    for each in found:
        name = each.name.lstrip("*")
        each.about = doc.items.get(name) or of_module.get(name, "")
    return found


def signature(name: str, node: Any, given: Iterable[Parameter], returns: str) -> str:
    """A call as it is written, with its defaults."""
    keywords = {a.arg for a in node.args.kwonlyargs}
    told = list[str]()
    for each in given:
        if each.name in keywords and not any(word.startswith("*") for word in told):
            told.append("*")
        told.append(each.name if each.default is None else f"{each.name}={each.default}")
    is_awaited = isinstance(node, ast.AsyncFunctionDef) and not _yields(node)
    result = f" -> {returns}" if returns else ""
    return f"{'await ' if is_awaited else ''}{name}({', '.join(told)}){result}"


def _yields(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Yield) for each in ast.walk(node))


def fields(cls: type) -> list[Parameter]:
    """The fields of a data class, a named tuple or a model, its own and inherited ones, with the texts below them."""
    found: dict[str, Parameter] = {}
    for base in reversed(cls.__mro__):
        node: Any = _node(base) if base.__module__.startswith("asyncflow") else None
        body = [] if node is None else node.body
        for n, each in enumerate(body):
            if not isinstance(each, ast.AnnAssign) or not isinstance(each.target, ast.Name) or each.target.id[0] == "_":
                continue
            after = body[n + 1] if n + 1 < len(body) else None
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            default, module = _default(each.value, base.__module__), base.__module__
            type_ = _type(each.annotation, module)
            found[each.target.id] = Parameter(each.target.id, type_, default, inspect.cleandoc(str(text)))
    doc = Doc.of(cls)
    for each in found.values():
        each.about = each.about or doc.items.get(each.name, "")
    return [*found.values()] or [Parameter(name, _given_as(cls, name), None, text) for name, text in doc.items.items()]


def _given_as(cls: type, name: str) -> str:
    """The type of an attribute that the constructor takes under its name."""
    node: Any = _node(cls.__init__)
    args = [] if node is None else [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return next((_type(arg.annotation, cls.__module__) for arg in args if arg.arg == name), "")


# ---- the public names --------------------------------------------------------------------------------------------


@dataclass
class Public:
    """A public name: where it is imported from, and what it is."""

    module: str
    name: str
    thing: Any

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"


@functools.cache
def public() -> list[Public]:
    """Every public name once, under the first of its modules."""
    found, seen = list[Public](), set[int]()
    for path in PUBLIC:
        module = importlib.import_module(path)
        for name in module.__all__:
            thing = getattr(module, name)
            if not isinstance(thing, ModuleType) and id(thing) not in seen:
                seen.add(id(thing))
                found.append(Public(path, name, thing))
    return found


@dataclass
class Call:
    """A call that a user may write: a function, a constructor, or a method of a public class."""

    path: str
    shown: str
    given: list[Parameter]
    doc: Doc
    more: list[Parameter] = field(default_factory=list)
    """What its docstring describes besides: attributes of the class."""

    @property
    def is_alias(self) -> bool:
        """Whether another call has its parameters."""
        return self.doc.text.startswith("Alias of")


def _call(path: str, name: str, thing: Any, doc: Doc, attributes: Iterable[Parameter] = ()) -> Call:
    node: Any = _node(thing)
    given = parameters(node, thing.__module__, doc)
    returns = _type(node.returns, thing.__module__)
    known = {each.name.lstrip("*") for each in given}
    more = [each for each in attributes if each.name in doc.items and each.name not in known]
    known |= {each.name for each in more}
    more += [Parameter(n, "", None, about) for n, about in doc.items.items() if n not in known]
    shown = signature(name, node, given, "" if returns in ("None", "Never", "Any") else returns)
    return Call(path, shown, given, doc, more)


def is_protocol(thing: Any) -> bool:
    """Whether a class is a protocol, which backends implement and nothing calls to make one."""
    return bool(getattr(thing, "_is_protocol", False))


@functools.cache
def protocols() -> dict[str, Any]:
    """The protocols of backends, by name."""
    persistence = importlib.import_module("asyncflow.persistence")
    return {n: getattr(persistence, n) for n in persistence.__all__ if is_protocol(getattr(persistence, n))}


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class, without those of a protocol, a test, or a public class that it inherits."""
    is_backend = not is_protocol(cls) and {"save", "load"} <= {*dir(cls)}
    seen = {name for protocol in protocols().values() for name in vars(protocol)} if is_backend else {"derive"}
    things = [each.thing for each in public()]
    for base in cls.__mro__:
        is_other = base is not cls and (is_protocol(base) or any(thing is base for thing in things))
        if not base.__module__.startswith("asyncflow") or is_other:
            continue
        for name, value in vars(base).items():
            if name.startswith(("_", "test_")) or name in seen:
                continue
            if isinstance(value, property | staticmethod | classmethod) or inspect.isfunction(value):
                seen.add(name)
                yield name, value


def calls(each: Public) -> Iterator[Call]:
    """The calls of a public name: its constructor first, if users call that, and its methods."""
    thing, name = each.thing, each.name
    if inspect.isfunction(thing):
        yield _call(each.path, name, thing, Doc.of(thing))
        return
    if not isinstance(thing, type):
        return
    made = None if name in RETURNED else vars(thing).get("__init__")
    if (
        inspect.isfunction(made)
        and _node(made) is not None
        and not is_protocol(thing)
        and not issubclass(thing, Exception)
    ):
        yield _call(each.path, name, made, Doc.of(thing), fields(thing))
    for member, value in members(thing):
        function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        if inspect.isfunction(function) and _node(function) is not None:  # NamedTuple makes some of its own
            owner = name if isinstance(value, classmethod | staticmethod) else _variable(name)
            yield _call(f"{each.path}.{member}", f"{owner}.{member}", function, Doc.of(function))


def _variable(name: str) -> str:
    """The name of an instance in a signature, such as `runner` for FlowRunner."""
    return {"FlowRunner": "runner", "RunHandle": "handle", "Flow": "flow"}.get(name, name)


# ---- the page ----------------------------------------------------------------------------------------------------


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    told = ["| " + " | ".join(row) + " |" for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *told, ""] if told else []


def _parameters(given: list[Parameter], what: str) -> list[str]:
    rows = [
        (_code(p.name), _code(p.type), "" if p.default is None else _code(p.default), _cell(p.about)) for p in given
    ]
    return _table((what, "type", "default", ""), rows)


def _shown(call: Call, level: str) -> list[str]:
    rows = [] if call.is_alias else _parameters([*call.given, *call.more], "parameter")
    return [f"{level} `{call.shown}`", "", call.doc.text, "", *rows]


def properties(cls: type) -> list[Parameter]:
    """The properties of a class."""
    found = list[Parameter]()
    for name, value in members(cls):
        if isinstance(value, property):
            node: Any = _node(value.fget)
            type_ = _type(node.returns, cls.__module__)
            found.append(Parameter(name, type_, None, Doc.of(value).text))
    return found


def _properties(cls: type) -> list[str]:
    rows = [(_code(p.name), _code(p.type), _cell(p.about)) for p in properties(cls)]
    return _table(("property", "type", ""), rows)


def _section(each: Public) -> list[str]:
    """What the page says of one public name."""
    found = list(calls(each))
    if inspect.isfunction(each.thing):
        return _shown(found[0], "###")
    if not isinstance(each.thing, type):
        return [f"### `{each.name}`", "", _listed(_of_value(each)), ""]
    lines: list[str]
    if found and found[0].path == each.path:
        lines = _shown(found[0], "###")
        found = found[1:]
    else:
        doc = Doc.of(each.thing)
        lines = [f"### `{each.name}`", "", doc.text, "", *_parameters(_fields_shown(each.thing), "field")]
    lines += _properties(each.thing)
    for call in found:
        lines += _shown(call, "####")
    return lines


def _fields_shown(cls: type) -> list[Parameter]:
    return [] if is_protocol(cls) else fields(cls)


def _of_value(each: Public) -> str:
    """What is said of a public value that is no class and no function: the text below it in its module."""
    for module in (each.module, getattr(each.thing, "__module__", each.module)):
        for _, _, after in _assigned(module, each.name):
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return inspect.cleandoc(str(after.value.value))
    return ""


def _assigned(module: str, name: str) -> Iterator[tuple[str, Any, ast.stmt]]:
    """The assignments to a global name, wherever the module imports it from: module, assignment and next statement."""
    tree = _tree(module)
    for node, after in zip(tree.body, tree.body[1:], strict=False):
        target = getattr(node, "target", None) or next(iter(getattr(node, "targets", ())), None)
        if isinstance(target, ast.Name) and target.id == name:
            yield module, node, after
        if isinstance(node, ast.ImportFrom) and node.level and any(a.name == name for a in node.names):
            source = importlib.import_module(module)
            package = source.__name__ if hasattr(source, "__path__") else source.__name__.rpartition(".")[0]
            yield from _assigned(importlib.util.resolve_name("." * node.level + (node.module or ""), package), name)


def _listed(text: str) -> str:
    """A text whose lines "word   description" are items of a list."""
    return re.sub(r"^(\w+) {2,}(.+)$", r'- `"\1"`: \2', text, flags=re.MULTILINE)


def _errors() -> list[str]:
    """All errors, by the base class that groups them."""
    module = importlib.import_module(ERRORS)
    base = module.AsyncflowError
    lines = ["### Errors", "", Doc.of(module).text, ""]
    rows = [(_error(base))]
    lines += _table(("error", "also a", "attributes", ""), rows)
    for group in base.__subclasses__():
        under = [group, *_below_in_tree(group)]
        if len(under) > 1:
            lines += [
                f"#### `{group.__name__}`",
                "",
                *_table(("error", "also a", "attributes", ""), map(_error, under)),
            ]
    alone = [group for group in base.__subclasses__() if not group.__subclasses__()]
    lines += ["#### Errors of a flow class", "", *_table(("error", "also a", "attributes", ""), map(_error, alone))]
    for each in public():
        if each.module == ERRORS and not issubclass(each.thing, Exception):
            lines += _section(each)
    return lines


def _below_in_tree(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        if sub.__module__ == ERRORS:
            yield sub
            yield from _below_in_tree(sub)


def _error(cls: type) -> tuple[str, ...]:
    others = [base.__name__ for base in cls.__bases__ if base is not Exception and base.__name__ != "AsyncflowError"]
    names = attributes(cls)
    return _code(cls.__name__), ", ".join(map(_code, others)), ", ".join(map(_code, names)), _cell(Doc.of(cls).text)


def attributes(cls: type) -> list[str]:
    """The attributes that an error has besides those of its base class."""
    made: Any = vars(cls).get("__init__")
    node: Any = None if made is None else _node(made)
    return [] if node is None else [a.arg for a in node.args.kwonlyargs]


def _events() -> list[str]:
    module = importlib.import_module(EVENTS)
    base = module.Event
    names = {p.name for p in fields(base)}
    lines = ["### Events", "", Doc.of(module).text, "", "Every event has these fields:", ""]
    lines += [*_parameters(fields(base), "field"), *_properties(base)]
    rows = list[tuple[str, ...]]()
    for name in module.__all__:
        thing = getattr(module, name)
        if isinstance(thing, type) and issubclass(thing, base) and thing is not base:
            own = [f"`{p.name}`: {_code(p.type)}. {p.about}".strip() for p in fields(thing) if p.name not in names]
            rows.append((_code(name), _cell("<br>".join(own)), _cell(Doc.of(thing).text)))
    return [*lines, *_table(("event", "fields of its own", "it says"), rows)]


def _statuses() -> list[str]:
    module = importlib.import_module(STATUSES)
    about = dict(re.findall(r"^\s*(\w+) {2,}(.+)$", _of_value(Public(STATUSES, "Status", None)), re.MULTILINE))
    rows = [
        (_code(word), about.get(word, ""), "yes" if word in module.STORED else "no") for word in get_args(module.Status)
    ]
    text = "A run has the same status in Python, in storage and over HTTP. The `status` of a flow that has not run is `new`."
    return ["## Statuses", "", text, "", *_table(("status", "of a run", "stored"), rows)]


def _capabilities() -> list[str]:
    classes = [_resolved(path) for path in BACKENDS]
    rows = list[tuple[str, ...]]()
    for name, protocol in protocols().items():
        verbs = [verb for verb in vars(protocol) if not verb.startswith("_")]
        has = ["yes" if all(hasattr(cls, verb) for verb in verbs) else "no" for cls in classes]
        if "yes" in has:
            rows.append((_code(name), ", ".join(map(_code, verbs)), _cell(Doc.of(protocol).first), *has))
    told = (
        "[BACKENDS.md](persistence/BACKENDS.md) says how to write a backend, and what is missing without a capability."
    )
    lines = [
        "## Capabilities",
        "",
        "A backend has the two methods of `FlowPersistence`, and any of the other capabilities.",
        told,
    ]
    return [*lines, "", *_table(("capability", "members", "", "memory", "SQLite", "PostgreSQL"), rows)]


def _resolved(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    special = {EVENTS: _events, ERRORS: _errors}
    found = public()
    rows = list[tuple[str, ...]]()
    for path in PUBLIC:
        names = [each.name for each in found if each.module == path and each.name != "__version__"]
        rows.append((f"[`{path}`](#{_anchor(path)})", ", ".join(map(_code, names))))
    lines += _table(("module", "public names"), rows)
    lines += [*_statuses(), *_capabilities()]
    for path in PUBLIC:
        lines += [f"## `{path}`", ""]
        if path in special:
            lines += special[path]()
            continue
        for each in found:
            if each.module == path and each.name != "__version__":
                lines += _section(each)
    text = "\n".join(lines)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def undocumented() -> list[str]:
    """The public names, parameters, fields and attributes of which no docstring says anything."""
    missing = [f"status {word}" for word in _statuses() if word.endswith(("|  | yes |", "|  | no |"))]
    for each in public():
        if each.name == "__version__":
            continue
        about = (
            Doc.of(each.thing).text
            if isinstance(each.thing, type) or inspect.isfunction(each.thing)
            else _of_value(each)
        )
        missing += [] if about else [each.path]
        for call in calls(each):
            missing += [] if call.doc.text else [call.path]
            missing += [f"{call.path}({p.name})" for p in call.given if not p.about and not call.is_alias]
        if isinstance(each.thing, type):
            is_made = any(call.path == each.path for call in calls(each))
            told = properties(each.thing) + ([] if is_made or is_protocol(each.thing) else fields(each.thing))
            missing += [f"{each.path}.{p.name}" for p in told if not p.about]
            if issubclass(each.thing, Exception):
                missing += [f"{each.path}.{n}" for n in attributes(each.thing) if f"`{n}`" not in about]
    return missing


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(page().splitlines())} lines")


if __name__ == "__main__":
    main()
