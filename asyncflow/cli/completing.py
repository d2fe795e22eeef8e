"""Shell completion of run ids and flows: what the storage lists, as far as it can be read."""

from __future__ import annotations

from typing import Any

__all__ = ["flows", "run_ids"]

_MOST = 50
"""Ids that a shell is given at once."""


def run_ids(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """Return ids of runs that begin with a text, the newest first, each with flow and status."""
    return [
        (entry.run_id, f"{entry.flow} {entry.status}") for entry in _listed(ctx) if entry.run_id.startswith(incomplete)
    ][:_MOST]


def flows(ctx: Any, incomplete: str) -> list[str]:
    """Return the names of the flows of the newest runs."""
    return sorted({entry.flow for entry in _listed(ctx) if entry.flow.startswith(incomplete)})


def _listed(ctx: Any) -> list[Any]:
    from .settings import awaited, to_read

    given = [context.params.get("db") for context in (ctx, ctx.parent) if context is not None]
    db = next(filter(None, given), None)

    async def listed() -> list[Any]:
        async with to_read(db) as storage:
            return await storage.runs(limit=1_000)

    try:
        return awaited(listed)
    except Exception:  # a shell that completes a word shows no error
        return []
