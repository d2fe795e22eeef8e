"""Where each peer runs: in its own virtual environment, `.nox/benchmarks/<name>`, in a process without network access."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".nox" / "benchmarks"  # `.nox/bench` belongs to the session, and nox may recreate it

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "burr": ("apache-burr==0.43.0", "aiosqlite==0.22.1", "anyio==4.16.0", "pydantic==2.14.4"),
    "crewai": ("crewai==1.15.30", "anyio==4.16.0", "pydantic==2.12.5"),
    "dbos": ("dbos==3.4.0", "psycopg[binary]==3.3.9", "anyio==4.16.0", "pydantic==2.14.4"),
    "langgraph": (
        "langgraph==1.2.24",
        "langgraph-checkpoint-sqlite==3.1.2",
        "langgraph-checkpoint==4.3.2",
        "aiosqlite==0.22.1",
        "anyio==4.16.0",
        "pydantic==2.14.4",
    ),
    "llama-index-workflows": (
        "llama-index-workflows==2.26.1",
        "llama-agents-server==0.8.0",
        "anyio==4.16.0",
        "pydantic==2.14.4",
    ),
    "pydantic-graph": ("pydantic-graph==2.68.0", "anyio==4.16.0", "pydantic==2.14.4"),
}
"""Of each peer; anyio and pydantic are what the harness imports, besides."""

QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "DBOS__CLOUD": "false",
    "DO_NOT_TRACK": "true",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "OTEL_SDK_DISABLED": "true",
}
"""The variables with which the peers document how to switch off their telemetry."""


class NoEnvironment(Exception):  # noqa: N818  (reported in the table)
    """The environment of a peer cannot be created; the message says why."""


_failures: dict[str, str] = {}
"""Environments that could not be created in this run: they are not retried for each line."""


def python_of(environment: str) -> Path:
    """Return the interpreter of a peer's environment; create the environment if it is missing or outdated. Raises `NoEnvironment`."""
    if environment == "asyncflow":
        return Path(sys.executable)
    if environment in _failures:
        raise NoEnvironment(_failures[environment])
    try:
        return _made(environment)
    except NoEnvironment as error:
        _failures[environment] = str(error)
        raise


def _made(environment: str) -> Path:
    folder = FOLDER / environment
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = "\n".join(REQUIREMENTS[environment])
    note = folder / "requirements.txt"
    if not (note.exists() and note.read_text() == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS[environment]]
        )
        note.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NoEnvironment(f"not installed: {last_line(done.stderr or done.stdout)}")


def last_line(text: str) -> str:
    """Return the last non-empty line, shortened for a cell of a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no output"]
    return lines[-1].replace("|", "/")[:200]


def variables(home: Path) -> dict[str, str]:
    """Return the environment variables of a measurement: no telemetry, and a temporary home folder."""
    return {**os.environ, **QUIET, "HOME": str(home), "XDG_DATA_HOME": str(home), "PYTHONDONTWRITEBYTECODE": ""}
