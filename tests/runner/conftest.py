"""The storages that every test of runners is run on, and a clean slate."""

from typing import Any

import pytest
from blocking import _no_blocking_calls as _no_blocking_calls  # a fixture for every test of this folder
from owned import STORES, gates, ran


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()
    gates.clear()


@pytest.fixture(params=STORES)
def storage(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()
