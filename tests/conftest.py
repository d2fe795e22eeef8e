"""What all tests share: three event loops, an empty folder each, the sizes of the random ones, and what the short form leaves out."""

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
settings.register_profile("short", settings.get_profile("every run"), max_examples=20)

IS_SHORT = os.environ.get("ASYNCFLOW_TESTS") == "short"
"""For another Python, or other versions of dependencies: what depends on them. Without uvloop, and without what tests the tests."""

settings.load_profile(os.environ.get("ASYNCFLOW_HYPOTHESIS", "short" if IS_SHORT else "every run"))
collect_ignore = (
    [
        *("mutants", "typing", "testing/test_conformance.py", "test_benchmarks.py"),
        *("faults/test_bit_rot.py", "faults/test_io_errors.py", "faults/test_killed.py", "faults/test_machine.py"),
        *("faults/test_power_loss.py", "faults/test_schedules.py", "faults/test_soak.py", "faults/test_takeover.py"),
    ]
    if IS_SHORT
    else []
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # what a shell starts in the background ignores it, and so would every program that the tests start and interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(
    params=[pytest.param(loop, id=name) for name, loop in LOOPS.items() if not (IS_SHORT and name == "uvloop")]
)
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
