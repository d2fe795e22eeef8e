"""Every Python block of README.md and of the pages of the guide runs as printed, and every link in them leads somewhere.

A block that begins with `# continued` continues the block before it.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from sybil.document import Document
from sybil.example import Example
from sybil.parsers.markdown import CodeBlockParser

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = sorted((ROOT / "examples" / "guide").glob("*.md"))
PAGES = [README, *GUIDE, ROOT / "examples" / "operations.md", ROOT / "asyncflow" / "persistence" / "BACKENDS.md"]
LINKED = [
    *PAGES,
    *(ROOT / name / "README.md" for name in ("examples", "tests", "benchmarks")),
    *(ROOT / "CHANGELOG.md", ROOT / "asyncflow" / "DESIGN.md", ROOT / "asyncflow" / "REFERENCE.md"),
]


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _blocks(page: Path) -> list[Example]:
    return list(Document.parse(str(page), CodeBlockParser("python", evaluator=lambda _: None)).examples())


def _stories() -> list[tuple[Path, list[Example]]]:
    """The blocks of each page, each with those that continue it."""
    stories: list[tuple[Path, list[Example]]] = []
    for page in PAGES:
        if not page.exists():
            continue
        of_page: list[list[Example]] = []
        for example in _blocks(page):
            if of_page and example.parsed.startswith("# continued"):
                of_page[-1].append(example)
            else:
                of_page.append([example])
        stories += [(page, story) for story in of_page]
    return stories


@pytest.mark.parametrize(
    ("page", "story"),
    [pytest.param(page, story, id=f"{_name(page)}-line-{story[0].line}") for page, story in _stories()],
)
def test_the_pages_run_as_printed(page: Path, story: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)  # as a reader runs it; classes look up their module there

    for block in story:
        lines_before = "\n" * (block.line + block.parsed.line_offset)  # so that a traceback names the page's line
        exec(compile(lines_before + block.parsed, page, "exec"), vars(script))


def test_the_trip_of_the_readme_survives_the_kill_that_it_shows(tmp_path: Path) -> None:
    block = next(b.parsed for b in _blocks(README) if "# kill it here" in b.parsed)
    script = tmp_path / "trip.py"
    script.write_text(block)
    command = [sys.executable, str(script)]
    shown = README.read_text().partition("```\n$ python")[2].partition("```")[0]
    killed, resumed, finished = re.split(r"^.*trip.py.*\n", shown, flags=re.MULTILINE)[1:]

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.readline() + process.stdout.readline()
        process.kill()

    assert printed.strip() == killed.strip()
    for expected in (resumed, finished):
        again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert again.stdout.strip() == expected.strip()


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [pytest.param(page, id=_name(page)) for page in LINKED])
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]

    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_every_page_of_the_guide_is_in_its_index_and_short() -> None:
    index = (ROOT / "examples" / "guide" / "README.md").read_text()

    assert len(GUIDE) > 12
    assert [page.name for page in GUIDE if page.name != "README.md" and f"]({page.name})" not in index] == []
    assert [page.name for page in GUIDE if len(page.read_text().splitlines()) > 150] == []
    assert len(README.read_text().splitlines()) <= 300


@pytest.mark.found("D8", "P6")
def test_the_pages_warn_of_what_others_do_and_say_what_is_proved() -> None:
    web = " ".join((ROOT / "examples" / "guide" / "fastapi.md").read_text().split())
    text = " ".join(README.read_text().split())

    assert "Hypercorn (as of 0.18.0) exits with 0" in web
    assert "The code supports macOS and Windows, but is not tested there" in text


def test_no_page_installs_the_package_by_its_name() -> None:
    """On the public index that name belongs to another project."""
    root = README.parent
    pages = [
        README,
        *(page for folder in ("asyncflow", "examples", "benchmarks") for page in (root / folder).rglob("*.md")),
    ]

    assert [page.name for page in pages if re.search(r"pip install asyncflow(?!-)", page.read_text())] == []


@pytest.mark.found("P7")
def test_the_oldest_versions_that_are_allowed_are_those_that_work() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]

    assert "pydantic>=2.11.7,<3" in allowed  # before, a FieldInfo that is given twice has no end
    assert "fastapi>=0.135.1" in allowed  # 0.135.0 breaks streams
    assert "psycopg[binary]>=3.2.1" in allowed  # 3.2.0 cannot be installed
