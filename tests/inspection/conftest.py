"""The storages that runs are inspected in, and a run that has failed."""

from typing import Any

import pytest
from blocking import _no_blocking_calls as _no_blocking_calls  # a fixture for every test of this folder

from asyncflow import MemoryFlowPersistence, SQLiteFlowPersistence

STORES = {"memory": MemoryFlowPersistence, "sqlite": lambda: SQLiteFlowPersistence("runs.db", durability="process")}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()
