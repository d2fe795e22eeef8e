"""Small states, and all states treated as large ones."""

import pytest
from large import treat_as_large


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every promise holds for large states, too, which are not copied where they can be lent."""
    if request.param == "large":
        treat_as_large(monkeypatch)
