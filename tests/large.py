"""Every state treated as a large one: lent, encoded in pieces, stored as patches. For tests whose states are small."""

import pytest

from asyncflow._codec import chunked as pieces
from asyncflow._codec import patches
from asyncflow._runtime import large_states, versions


def treat_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, size in (
        (large_states, "LARGE", 0),
        (versions, "LARGE", 0),
        (patches, "SMALL", 0),
        (pieces, "FEW", 1),
        (pieces, "PIECE", 16),
    ):
        assert hasattr(module, name)
        monkeypatch.setattr(module, name, size)
