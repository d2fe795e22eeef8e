"""The progress of a long command, on stderr."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

__all__ = ["Bar"]


class Bar(AbstractContextManager["Bar"]):
    """A progress bar, or a spinner with a count where the total is not known."""

    def __init__(self, title: str, total: int | None, on: Console) -> None:
        columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=30)]
        self._progress = Progress(*columns, MofNCompleteColumn(), TimeElapsedColumn(), console=on, transient=True)
        self._task = self._progress.add_task(title, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show how much is done."""
        if total is not None:
            self._progress.update(self._task, total=total)
        self._progress.update(self._task, completed=done)
