"""An extra that is not installed is named by the module that needs it."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.modules[{missing!r}] = None  # as if it were not installed
{does}
"""


@pytest.mark.found("T9")
@pytest.mark.parametrize(
    ("extra", "missing", "does"),
    [
        ("fastapi", "fastapi", "import asyncflow.integrations.fastapi"),
        ("fastapi", "fastapi.sse", "from asyncflow.integrations.fastapi import flow_router"),  # an older one
        ("web", "jinja2", "import asyncflow.integrations.inspector"),
        ("otel", "opentelemetry", "import asyncflow.integrations.opentelemetry"),
        ("postgres", "psycopg", "import asyncflow.persistence.postgres"),
        ("trio", "trio", "from asyncflow.testing.loops import simulated; simulated(None, seed=1, loop='trio')"),
    ],
)
def test_an_extra_that_is_missing_is_named_with_the_command_for_it(extra: str, missing: str, does: str) -> None:
    program = [sys.executable, "-c", PROGRAM.format(missing=missing, does=does)]

    error = subprocess.run(program, capture_output=True, text=True, check=False).stderr.splitlines()[-1]

    assert error.startswith("ImportError: ")
    assert f"pip install '.[{extra}]'" in error
