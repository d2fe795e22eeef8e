"""The latest result of each method, by its name: a dict that explains itself if a key is missing."""

from __future__ import annotations

from typing import Any, NoReturn

from .._scheduling.progress import Progress
from ..errors import NoOutputError
from .results import Results

__all__ = ["Outputs"]


class Outputs(dict[str, Any]):
    """The latest result of each method that completed in this process."""

    def output_of(self, key: str, progress: Progress, results: Results) -> Any:
        """Return the result of an invocation that has completed here, or before the pass was resumed."""
        method, kept = key.rpartition(":")[0], progress.output
        if kept is not None and (method not in self or progress.ending):
            self[method] = results.received(*kept)
        return self[method] if method else None

    def __missing__(self, key: object) -> NoReturn:
        completed = ", ".join(self) or "none"
        if isinstance(key, str):
            raise NoOutputError(f"no method of this name has completed in this process; completed: {completed}")
        raise NoOutputError(
            "method_outputs is not a list: it maps the name of each method to its latest result. Write method_outputs['method'], or "
            f"flow.result for the output of the run. Completed: {completed}"
        )
