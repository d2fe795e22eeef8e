"""Every Python block of the README runs as printed. One that begins with `# continued` goes on from the block before it."""

import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from sybil.document import Document
from sybil.example import Example
from sybil.parsers.markdown import CodeBlockParser

README = Path(__file__).parents[1] / "README.md"


def _stories() -> list[list[Example]]:
    """The blocks, each with those that continue it."""
    if not README.exists():
        return []
    blocks = CodeBlockParser("python", evaluator=lambda _: None)
    stories: list[list[Example]] = []
    for example in Document.parse(str(README), blocks).examples():
        if stories and example.parsed.startswith("# continued"):
            stories[-1].append(example)
        else:
            stories.append([example])
    return stories


@pytest.mark.parametrize("story", _stories(), ids=lambda story: f"line-{story[0].line}")
def test_the_readme_runs_as_printed(story: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)  # as a reader runs it; classes look up their module there

    for block in story:
        lines_before = "\n" * (block.line + block.parsed.line_offset)  # so that a traceback names the README's line
        exec(compile(lines_before + block.parsed, README, "exec"), vars(script))


@pytest.mark.found("D8", "P6")
def test_the_readme_warns_of_what_others_do_and_says_what_is_proved() -> None:
    text = " ".join(README.read_text().split())

    assert "Hypercorn (as of 0.18.0) exits with 0" in text
    assert "Windows are provided for, but nothing proves them" in text


@pytest.mark.found("P7")
def test_the_oldest_versions_that_are_allowed_are_those_that_work() -> None:
    project = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]
    allowed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]

    assert "pydantic>=2.11.7,<3" in allowed  # before, a FieldInfo that is given twice has no end
    assert "fastapi>=0.135.1" in allowed  # 0.135.0 breaks streams
    assert "psycopg[binary]>=3.2.1" in allowed  # 3.2.0 cannot be installed
