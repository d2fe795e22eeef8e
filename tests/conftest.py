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
"""For another Python, or other versions of dependencies: what depends on them. Most of it on asyncio alone."""

settings.load_profile(os.environ.get("ASYNCFLOW_HYPOTHESIS", "short" if IS_SHORT else "every run"))
collect_ignore = (
    [
        *("mutants", "packaging", "typing", "test_benchmarks.py", "test_examples.py", "test_readme.py"),
        *("faults", "testing/test_conformance.py", "testing/test_simulation.py"),
        *("scheduling/test_random_graphs.py", "scheduling/test_patterns.py", "state/test_large.py"),
        *("runner/test_recovery.py", "runs/test_identity.py", "sqlite/test_paths.py", "sqlite/test_damage.py"),
        *("postgres/test_away.py", "postgres/test_cuts.py", "postgres/test_leases.py", "postgres/test_poolers.py"),
        *(
            "postgres/test_processes.py",
            "postgres/test_restarts.py",
            "postgres/test_starts_fenced.py",
            "postgres/test_workers.py",
        ),
        *("web/test_example.py", "web/test_servers.py", "cli/test_command_processes.py"),
    ]
    if IS_SHORT
    else []
)
if "ASYNCFLOW_BROWSER" not in os.environ:  # which the session `e2e` of noxfile.py sets
    collect_ignore.append("e2e")

LEFT_OUT = ("memory", "two verbs", "uvloop")
"""The variants of tests that the short form leaves out: what they check is not what depends on a version."""

ON_TRIO = (
    "test_triggers.py",
    "test_worker_threads.py",
    "test_nested_flows.py",
    "test_cycles_and_limits.py",
    "test_instance.py",
    "test_cancellation.py",
    "test_leaving.py",
    "test_loops.py",
    "test_threads.py",
)
"""The files that the short form runs on trio, too."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave most files to asyncio alone, and the slowest ones out, in the short form."""
    left = [item for item in items if IS_SHORT and _is_left_out(item)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [i for i in items if i not in set(left)]


def _is_left_out(item: pytest.Item) -> bool:
    variant = item.name.partition("[")[2].rstrip("]").split("-")
    return any(name in variant for name in LEFT_OUT) or ("trio" in variant and item.path.name not in ON_TRIO)


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
