from collections.abc import Iterator
from pathlib import Path
from typing import Any

import press
import pytest

from asyncflow import MemoryFlowPersistence, SQLiteFlowPersistence


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MemoryFlowPersistence() if request.param == "memory" else SQLiteFlowPersistence(tmp_path / "runs.db")


@pytest.fixture(autouse=True)
def _gates() -> Iterator[None]:
    press.gates.clear()
    yield
    press.gates.clear()
