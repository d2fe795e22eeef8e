"""Package, examples, benchmarks and pages use the field's English: no word of the list in docstrings, comments, strings, identifiers.
Of the tests, the names of the test functions do.

SQL files are left out: SQLite stores the comments within a statement, and the schema of each database is compared with them.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "asyncflow/**/*.md",
    "examples/**/*.md",
    "tests/README.md",
    "benchmarks/README.md",
    "noxfile.py",
    "pyproject.toml",
)

RATIONED = {
    r"who(m)?ever": "name the actor: the caller, the client, the owner that ...",
    r"(some|any|no|every)bodys?|someone|anyone|everyone": "name the actor: another process, no owner, every caller",
    r"told|tells?|telling": "report, show, say; tell apart: distinguish",
    r"anew": "again",
    r"beside": "next to, in addition to",
    r"(go|goes|going|went|gone) on": "continue; a run: resume",
    r"(takes?|taken|taking|took) up": "recover, resume",
    r"(come|comes|came|coming) to": "reach, result in",
    r"stands?(?! for)|stood|standing": "is, exists, is stored; the status of a run",
    r"(of|with|in|from|than|into|over|for|by|follow) what (is|was|are|were)": "name it: the stored state, the written bytes",
    r"as such(?=[,.;:])": "nothing: leave it out",
    r"he|his|him": "they, the client's",
    r"for good|for ever|(?<!sleep_)forever": "permanently, without limit",
    r"(gives?|given|gave|giving) back": "release; of a function: return",
    r"of ours": "asyncflow's; of this process",
    r"seldom": "rarely, with back-off",
    r"mends?|mended|mending": "fix, repair",
    r"but for|save for": "except for",
    r"at work": "running",
    r"in a while": "later, with a time",
}
"""For each pattern, what to write instead. A space also stands for the underscore of an identifier, and for the end of a line."""

_SPACE = r"(?:_|\s+(?:#\s*)?)"

ALLOWED: dict[str, str] = {"CHANGELOG.md": "`standing`"}  # the old name of a method
"""For each file, a pattern of what it may contain all the same."""


def dialect(text: str) -> list[tuple[int, str, str]]:
    """The rationed words in a text: line, word, what to write instead."""
    found: list[tuple[int, str, str]] = []
    for pattern, better in RATIONED.items():
        words = pattern.replace(" ", _SPACE)
        for match in re.finditer(rf"(?<![A-Za-z])(?:{words})(?![A-Za-z])", text, re.IGNORECASE):
            found.append((match.start(), " ".join(re.split(_SPACE, match[0])), better))
    return [(text.count("\n", 0, start) + 1, word, better) for start, word, better in sorted(found)]


def files() -> list[Path]:
    pages = [page for pattern in PAGES for page in ROOT.glob(pattern)]
    modules = [file for folder in ("asyncflow", "examples", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    return sorted({*modules, *pages})


@pytest.mark.parametrize("file", files(), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_file_is_written_in_the_fields_english(file: Path) -> None:
    name = file.relative_to(ROOT).as_posix()
    allowed = ALLOWED.get(name)
    text = file.read_text() if allowed is None else re.sub(allowed, "", file.read_text())

    found = [f"{name}:{line}: {word!r}. Write instead: {better}" for line, word, better in dialect(text)]

    assert not found, "\n".join(["", *found])


def names_of_tests(source: str) -> dict[str, int]:
    """The test functions and methods of a module, nested ones too, with their lines."""
    functions = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return {function.name: function.lineno for function in functions if function.name.startswith("test_")}


def test_the_names_of_all_tests_are_written_in_the_fields_english() -> None:
    found: list[str] = []
    for file in sorted((ROOT / "tests").rglob("*.py")):
        for name, line in names_of_tests(file.read_text()).items():
            place = f"{file.relative_to(ROOT).as_posix()}:{line}: {name}"
            found += [f"{place}: {word!r}. Write instead: {better}" for _, word, better in dialect(name)]

    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_a_run_goes_on_once_nobody_holds_it", ["goes on", "nobody"]),
        ("test_an_interrupted_run_is_nobodys", ["nobodys"]),
        ("test_a_run_is_resumed_by_the_owner", []),
    ],
)
@pytest.mark.parametrize("kind", ["def {}(): ...", "async def {}(): ...", "class TestIt:\n    def {}(self): ..."])
def test_the_words_are_found_in_the_names_of_tests(kind: str, name: str, words: list[str]) -> None:
    (collected,) = names_of_tests(kind.format(name))

    assert [word for _, word, _ in dialect(collected)] == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("whoever asked is told", ["whoever", "told"]),
        ("def _taken_up(told): ...", ["taken up", "told"]),
        ("it goes\n# on, and comes\n    to its end", ["goes on", "comes to"]),
        ("the error stands in the log; WAL stands for write-ahead log", ["stands"]),
        ("standby, toldo, hello, anyio.sleep_forever(), what is stored, a class whose fields", []),
        ("it does not follow what is stored", ["follow what is"]),
    ],
)
def test_the_words_are_found_in_sentences_identifiers_and_over_lines(text: str, words: list[str]) -> None:
    assert [word for _, word, _ in dialect(text)] == words
