"""The log lines of commits: how long they take, and what is done after an error. They hold sizes and types, and no value."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from .jobs import Append, Job

__all__ = ["log_commit", "log_looked_up", "log_retried", "log_unclear"]

SLOW: Final = 1.0
"""Seconds from which on a commit is logged as slow: a thousand times as long as one takes on a usual disk."""

logger = logging.getLogger("asyncflow")


def log_commit(seconds: float, batch: Sequence[Job], size: int) -> None:
    """Log a commit that has ended, also one that failed: at DEBUG, or as a warning if it was slow."""
    is_slow = seconds >= SLOW
    if not is_slow and not logger.isEnabledFor(logging.DEBUG):
        return
    failed = sum(job.error is not None for job in batch)
    what, about = (seconds, len(batch), size, failed), _about(batch, seconds, size)
    if is_slow:
        logger.warning("commit slow: it took %.2f s, with %d jobs of %d bytes; %d failed", *what, extra=about)
    else:
        logger.debug("commit done: in %.4f s, with %d jobs of %d bytes; %d failed", *what, extra=about)


def log_retried(batch: Sequence[Job], error: Exception) -> None:
    """Log that the jobs of a batch are retried in smaller ones, because an error stored none of them."""
    logger.warning(
        "commit retried: %d jobs in smaller transactions, after %s",
        *(len(batch), _named(error)),
        extra=_about(batch),
    )


def log_looked_up(batch: Sequence[Job], found: int, error: Exception) -> None:
    """Log that what an error has left stored of a batch was looked up."""
    logger.warning(
        "commit looked up: %d of %d jobs were stored, after %s",
        *(found, len(batch), _named(error)),
        extra=_about(batch),
    )


def log_unclear(batch: Sequence[Job], error: Exception, refused: Exception) -> None:
    """Log that it is not known what an error has left stored of a batch, because looking it up failed, too."""
    logger.warning(
        "commit unclear: %d jobs may or may not be stored, after %s; looking it up failed with %s",
        *(len(batch), _named(error), _named(refused)),
        extra=_about(batch),
    )


def _about(batch: Sequence[Job], seconds: float | None = None, size: int | None = None) -> dict[str, Any]:
    about: dict[str, Any] = {"jobs": len(batch)}
    if seconds is not None:
        about |= {"seconds": seconds, "bytes": size}
    if len(batch) == 1:
        about["run_id"] = batch[0].run_id
        if isinstance(batch[0], Append):
            about["seq"] = batch[0].checkpoint.seq
    return about


def _named(error: Exception) -> str:
    """Return the type of an error and the database's code for it. Its message may hold values."""
    code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    return type(error).__name__ if code is None else f"{type(error).__name__} ({code})"
