"""PROVE: what asyncflow is tested with, for one's own flows and backends. Its core needs no pytest.

conformance    what every persistence must do, as tests to inherit with one fixture
faults         a persistence that fails, is late, hangs, loses the reply, or kills the process at its n-th operation
cancelling     work, cancelled at its n-th await, or 2 ms later
simulation     a flow crashed at every commit and resumed, under seeded schedules in virtual time
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
