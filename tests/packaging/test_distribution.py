"""The wheel and the sdist: what they hold, and that an empty environment runs a flow with what they install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import asyncflow

ROOT = Path(__file__).parents[2]

FIRST_FLOW = """
import sys
import anyio
import asyncflow
from asyncflow import Flow, SQLiteFlowPersistence, listen, start

assert "site-packages" in asyncflow.__file__, asyncflow.__file__
assert asyncflow.__version__ == sys.argv[1]


class Hello(Flow):
    @start()
    async def greet(self) -> str:
        return "hello"

    @listen(greet)
    async def answer(self, greeting: str) -> str:
        return greeting + " again"


async def main() -> None:
    storage = SQLiteFlowPersistence("runs.db")
    flow = Hello(persistence=storage)
    assert await flow.kickoff() == "hello again"
    assert await Hello.resume(flow.run_id, persistence=storage) == "hello again"


anyio.run(main, backend=sys.argv[2])
"""

EXTRAS = {
    "": "import asyncflow.testing",
    "trio": "from asyncflow.testing.loops import simulated; simulated",
    "fastapi": "from asyncflow.integrations.fastapi import flow_router; flow_router",
    "web": "from asyncflow.integrations.inspector import inspector; inspector",
    "cli": "from asyncflow.cli import main; assert main(['--version']) == 0",
    "otel": "from asyncflow.integrations.opentelemetry import OpenTelemetryObserver; OpenTelemetryObserver()",
    "postgres": "from asyncflow.persistence.postgres import PostgresFlowPersistence; PostgresFlowPersistence",
}
"""What each extra is for."""


def run(*command: object, cwd: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONWARNINGS")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    return folder


def test_the_wheel_says_what_it_is(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = Parser().parsestr(archive.read(metadata).decode())
    assert about["Name"] == "asyncflow-runtime"
    assert about["Version"] == asyncflow.__version__
    assert about["License-Expression"] == "MIT"
    assert about["Requires-Python"] == ">=3.11"
    assert set(about.get_all("Provides-Extra") or ()) == EXTRAS.keys() - {""}
    assert "asyncflow/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"asyncflow", metadata.split("/")[0]}


def test_the_wheel_holds_each_file_of_the_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "asyncflow").rglob("*")
        if path.suffix in (".py", ".sql", ".typed", ".js", ".css", ".txt", ".md")
    }
    with zipfile.ZipFile(wheel) as archive:
        assert there <= set(archive.namelist())


def names_in_sdist(built: Path) -> set[str]:
    """The files of the sdist, without the folder that holds them."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_sdist_holds_the_package_its_papers_and_its_examples(built: Path) -> None:
    names = names_in_sdist(built)

    papers = {"README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO", "pyproject.toml"}
    assert {name.split("/")[0] for name in names} - {".gitignore"} == {
        *("asyncflow", "examples", "benchmarks", "tests"),
        *papers,
    }
    assert {name for name in names if name.startswith(("benchmarks/", "tests/"))} == {
        "benchmarks/README.md",
        "tests/README.md",
    }


def test_the_links_of_the_readme_lead_somewhere_in_the_sdist(built: Path) -> None:
    names = names_in_sdist(built)
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", (ROOT / "README.md").read_text())
    folders = {parent.as_posix() for name in names for parent in Path(name).parents}

    missing = {link for link in links if "://" not in link and link.rstrip("/") not in names | folders}

    assert len(links) > 20
    assert missing == set()


@pytest.mark.parametrize(
    ("what", "extra"), [("*.tar.gz", ""), *(("*.whl", extra) for extra in EXTRAS)], ids=lambda given: given or "bare"
)
def test_an_empty_environment_runs_the_first_flow(built: Path, tmp_path: Path, what: str, extra: str) -> None:
    (archive,) = built.glob(what)
    run(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{archive}[{extra}]" if extra else archive, cwd=tmp_path)
    run(python, "-I", "-W", "error", "-c", EXTRAS[extra], cwd=tmp_path)
    backend = "trio" if extra == "trio" else "asyncio"
    (tmp_path / "first.py").write_text(FIRST_FLOW)
    run(python, "-I", "-W", "error", "first.py", asyncflow.__version__, backend, cwd=tmp_path)
