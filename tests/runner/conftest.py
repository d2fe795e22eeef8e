"""The storages that every test of runners is run on, and a clean slate."""

from typing import Any

import pytest
from owned import STORES, gates, ran


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()
    gates.clear()


@pytest.fixture(params=STORES)
def storage(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()
