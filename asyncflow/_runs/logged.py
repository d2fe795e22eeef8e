"""The log lines of a run's begin and end. They hold ids, names and types of exceptions, and no value."""

from __future__ import annotations

import logging
from typing import Any, Literal, Protocol

from ..errors import RunFencedError
from ..persistence.status import Status

__all__ = ["log_begin", "log_cancelled", "log_end", "log_failed"]

logger = logging.getLogger("asyncflow")


class Shown(Protocol):
    """What is logged of a run."""

    @property
    def run_id(self) -> str:
        """Its id."""
        ...

    @property
    def flow_name(self) -> str:
        """The name of its flow."""
        ...

    @property
    def is_served(self) -> bool:
        """Whether a runner drives it, which logs its failure itself."""
        ...


def log_begin(run: Shown, pass_number: int, *, is_resumed: bool = False) -> None:
    """Log that a run starts or is resumed here. The caller asks for the level first: that is all that a run costs where it is off."""
    run_id, flow, about = _shown(run)
    if is_resumed:
        logger.info("run resumed: %s of %s, pass %d", run_id, flow, pass_number, extra=about)
    else:
        logger.info("run started: %s of %s, pass %d", run_id, flow, pass_number, extra=about)


def log_end(run: Shown, status: Status | Literal["new"], stopped: BaseException | None = None) -> None:
    """Log how a run has ended here. `stopped`: what stopped it."""
    run_id, flow, about = _shown(run)
    match status:
        case "finished":
            logger.info("run finished: %s of %s", run_id, flow, extra=about)
        case "cancelled":
            log_cancelled(run_id, flow)
        case "waiting":
            logger.info("run parked: %s of %s only waits, and leaves this process", run_id, flow, extra=about)
        case "interrupted" if isinstance(stopped, RunFencedError):
            logger.warning("run fenced: %s of %s has another owner, or is over", run_id, flow, extra=about)
        case "interrupted":
            why = "a cancellation" if stopped is None else type(stopped).__name__
            logger.info("run interrupted: %s of %s by %s; it can be resumed", run_id, flow, why, extra=about)
        case "failed" if not run.is_served:
            log_failed(run_id, flow)
        case _:
            pass


def log_cancelled(run_id: str, flow: str) -> None:
    """Log that a run was cancelled permanently."""
    logger.info("run cancelled: %s of %s", run_id, flow, extra={"run_id": run_id, "flow": flow})


def log_failed(run_id: str, flow: str, unseen: Any = None) -> None:
    """Log a failure: with its traceback, if it is `unseen`, an exception that no caller gets."""
    about = {"run_id": run_id, "flow": flow}
    if unseen is None:
        logger.info("run failed: %s of %s; its caller gets the error", run_id, flow, extra=about)
        return
    if method := getattr(unseen, "method", None):  # a time limit of the pass has none
        about["method"] = method
    logger.error("run failed: %s of %s, and no caller awaits its result", run_id, flow, exc_info=unseen, extra=about)


def _shown(run: Shown) -> tuple[str, str, dict[str, str]]:
    return run.run_id, run.flow_name, {"run_id": run.run_id, "flow": run.flow_name}
