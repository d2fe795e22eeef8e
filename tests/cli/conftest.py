"""The command line in this process, and a file with three runs."""

import pytest
from commands import Cli, runs_here, stored


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return runs_here(capfd)


@pytest.fixture
def db() -> str:
    stored("runs.db")
    return "runs.db"
