"""PROVE: test tools for asyncflow, usable for your own flows and backends. The core needs no pytest.

conformance    the tests that every backend must pass, to inherit with one fixture
faults         a backend that fails, delays, hangs, loses the reply, or kills the process at its n-th operation
cancelling     cancel work at its n-th await, or 2 ms later
simulation     crash a flow at every commit and resume it, under seeded schedules in virtual time
loops          the seeded event loops themselves
"""

from .cancelling import cancel_everywhere, cancelled_at
from .faults import Delay, Fail, Fault, FaultyPersistence, Hang, Kill, LoseReply
from .loops import simulated
from .simulation import CrashReport, End, crash_everywhere

__all__ = [
    "CrashReport",
    "Delay",
    "End",
    "Fail",
    "Fault",
    "FaultyPersistence",
    "Hang",
    "Kill",
    "LoseReply",
    "cancel_everywhere",
    "cancelled_at",
    "crash_everywhere",
    "simulated",
]
