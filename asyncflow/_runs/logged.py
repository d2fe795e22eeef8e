"""The log lines of a run's begin and end. They hold ids, names and types of exceptions, and no value."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import RunFencedError
from ..persistence.status import Status

__all__ = ["log_begin", "log_end", "log_failed"]

logger = logging.getLogger("asyncflow")


def log_begin(run_id: str, flow: str, pass_number: int, *, is_resumed: bool) -> None:
    """Log that a run starts or is resumed here."""
    if not logger.isEnabledFor(logging.INFO):
        return
    about = {"run_id": run_id, "flow": flow}
    if is_resumed:
        logger.info("run resumed: %s of %s, pass %d", run_id, flow, pass_number, extra=about)
    else:
        logger.info("run started: %s of %s, pass %d", run_id, flow, pass_number, extra=about)


def log_end(run_id: str, flow: str, status: Status, stopped: BaseException | None, *, is_served: bool) -> None:
    """Log how a run has ended here. `stopped`: what stopped it. `is_served`: a runner drives it, which logs its failure itself."""
    about = {"run_id": run_id, "flow": flow}
    if status == "interrupted" and isinstance(stopped, RunFencedError):
        logger.warning("run fenced: %s of %s has another owner, or is over", run_id, flow, extra=about)
    if not logger.isEnabledFor(logging.INFO):
        return
    match status:
        case "finished":
            logger.info("run finished: %s of %s", run_id, flow, extra=about)
        case "cancelled":
            logger.info("run cancelled: %s of %s", run_id, flow, extra=about)
        case "waiting":
            logger.info("run parked: %s of %s only waits, and leaves this process", run_id, flow, extra=about)
        case "interrupted" if not isinstance(stopped, RunFencedError):
            why = "a cancellation" if stopped is None else type(stopped).__name__
            logger.info("run interrupted: %s of %s by %s; it can be resumed", run_id, flow, why, extra=about)
        case "failed" if not is_served:
            log_failed(run_id, flow)
        case _:
            pass


def log_failed(run_id: str, flow: str, unseen: Any = None) -> None:
    """Log a failure: with its traceback, if it is `unseen`, an exception that no caller gets."""
    about = {"run_id": run_id, "flow": flow}
    if unseen is None:
        logger.info("run failed: %s of %s; its caller gets the error", run_id, flow, extra=about)
        return
    about |= {"method": getattr(unseen, "method", None) or ""}
    logger.error("run failed: %s of %s, and no caller awaits its result", run_id, flow, exc_info=unseen, extra=about)
