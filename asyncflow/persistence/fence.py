"""The proof that this process still owns its runs. It is checked right before each method starts."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Fence"]


class Fence(Protocol):
    """Checks whether this process can still be the owner of its runs."""

    @property
    def stretch(self) -> object:
        """A key of the period in which the lease has held without a gap. Read it before a run is acquired or first stored."""
        ...

    def holds(self, stretch: object) -> bool:
        """Whether the lease provably holds now, and has held without a gap since this stretch started. No I/O; called from any thread.

        - `stretch`: as `stretch` or `confirm` returned it.

        Called right before each method starts.
        """
        ...

    async def confirm(self, run_id: str, epoch: int) -> object:
        """Renew the lease, check in the same transaction that the run is still owned under this epoch, and return the current stretch.

        - `run_id`: the id of the run.
        - `epoch`: the fencing epoch under which this process owns it.

        Also reset the run's count of takeovers from dead owners, because its process is alive. Raises `StaleCheckpoint` if the run
        is not owned under this epoch: another owner has taken it over, or it has ended or was deleted.
        """
        ...
