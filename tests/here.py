"""A storage that a test module names once, and that is in the folder of whichever test runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asyncflow import SQLiteFlowPersistence


class Here(SQLiteFlowPersistence):
    """A `SQLiteFlowPersistence` makes its path absolute when it is made; this one does whenever it is asked for it."""

    def __init__(self, name: str | Path, **options: Any) -> None:
        self._name = Path(name)
        super().__init__(name, **options)

    @property
    def path(self) -> Path:  # type: ignore[override]  # an attribute there
        return self._name.absolute()

    @path.setter
    def path(self, path: Path) -> None: ...
