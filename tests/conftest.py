"""What all tests share: three event loops, an empty folder each, and the sizes of the random ones."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from loops import LOOPS

settings.register_profile(
    "every run", deadline=None, print_blob=True, max_examples=200, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", settings.get_profile("every run"), max_examples=5_000)
settings.load_profile(os.environ.get("ASYNCFLOW_HYPOTHESIS", "every run"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # what a shell starts in the background ignores it, and so would every program that the tests start and interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=[pytest.param(loop, id=name) for name, loop in LOOPS.items()])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Every async test runs on asyncio (in debug mode), on uvloop, and on trio."""
    return request.param


@pytest.fixture
def is_trio(anyio_backend: tuple[str, object]) -> bool:
    return anyio_backend[0] == "trio"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASYNCFLOW_DB", raising=False)
