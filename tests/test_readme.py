"""Every Python block of the README runs as printed. One that begins with `# continued` goes on from the block before it."""

import sys
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
