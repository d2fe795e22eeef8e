"""The latest result of each method, by its name: a dict that explains itself if a key is missing."""

from __future__ import annotations

from typing import Any, NoReturn

from ..errors import NoOutputError

__all__ = ["Outputs"]


class Outputs(dict[str, Any]):
    """The latest result of each method that completed in this process."""

    def __missing__(self, key: object) -> NoReturn:
        completed = ", ".join(self) or "none"
        if isinstance(key, str):
            raise NoOutputError(f"no method of this name has completed in this process; completed: {completed}")
        raise NoOutputError(
            "method_outputs is not a list: it maps the name of each method to its latest result. Write method_outputs['method'], or "
            f"flow.result for the output of the run. Completed: {completed}"
        )
