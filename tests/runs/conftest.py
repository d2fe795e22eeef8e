"""The storages that the calls for stored runs are tested on."""

from typing import Any

import pytest
from blocking import _no_blocking_calls as _no_blocking_calls  # a fixture for every test of this folder
from flows import STORES


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest) -> Any:
    """A store that keeps a history."""
    return STORES[request.param]()
