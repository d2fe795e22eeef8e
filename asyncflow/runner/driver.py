"""The runner's port to a run: what it asks of the flow object that drives the run."""

from __future__ import annotations

from typing import Any

from ..flow import Flow


def instantiate(make: object) -> Flow[Any]:
    """Create a flow from a flow class, or from a function that returns a flow. Raises `TypeError` for anything else."""
    made = make() if callable(make) and make is not Flow else None
    if not isinstance(made, Flow):
        what = type(make).__name__ if made is None else getattr(make, "__name__", type(make).__name__)
        what = "Flow itself" if make is Flow else what
        advice = f"; write {what}, not {what}(...)" if isinstance(make, Flow) else ""
        raise TypeError(
            f"a runner takes a flow class, or a function that returns a flow, and {what} is neither{advice}"
        )
    return made
