"""The event loops that async tests run on."""

import pytest

LOOPS = {
    "asyncio": ("asyncio", {"debug": True}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}

ON_ASYNCIO = ("asyncio", "uvloop")

on_asyncio = pytest.mark.parametrize(
    "anyio_backend", [LOOPS[name] for name in ON_ASYNCIO], ids=ON_ASYNCIO, indirect=True
)
"""For what only asyncio has: tasks that are cancelled by themselves, and its own timeouts and task groups."""
