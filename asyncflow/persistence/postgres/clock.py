"""The server's clock, as far as this process knows it. Due times count by it, because the clocks of several hosts differ."""

from __future__ import annotations

from .._database.lease import Moment

__all__ = ["ServerClock"]


class ServerClock:
    """How far the server's clock is ahead of this machine's wall clock: measured by statements that are sent anyway.

    A measurement is only as exact as its round trip is short. So it changes nothing unless it proves the known offset wrong: a slow
    server never makes a good measurement worse, and the clock of a synchronized machine is used as it is.
    """

    __slots__ = ("offset",)

    def __init__(self) -> None:
        self.offset: float = 0.0

    def measured(self, at: float, sent: Moment, received: Moment) -> None:
        """Correct the offset. The server's clock showed `at` at some moment between these two; the middle is assumed.

        The wall clock may be set between the two, so the time since boot measures the round trip.
        """
        least = at - received[1]
        most = least + received[0] - sent[0]
        if not least <= self.offset <= most:
            self.offset = (least + most) / 2
