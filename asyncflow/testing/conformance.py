"""The requirements for every backend, as tests to inherit, or to run without pytest by `check`.

    import pytest
    from asyncflow.testing.conformance import PersistenceConformance

    class TestMyBackend(PersistenceConformance):
        @pytest.fixture
        def persistence(self):
            return MyBackend(...)  # a new, empty one

The tests are `async def`: they run under anyio's plugin (`anyio_mode = "auto"`, or the mark `anyio` on the class), on
asyncio and trio, and under pytest-asyncio. Tests of capabilities that a backend does not offer are skipped. The levels, by capability:

| level | a backend offers | it must |
|---|---|---|
| two verbs | `save`, `load` | load what was saved; store all of a checkpoint or nothing, also when cancelled |
| log | `CheckpointLog` | compare and set; fold deltas; keep the order of appends that do not wait for one another |
| history | `CheckpointHistory` | keep every checkpoint |
| owners | `Ownership` | raise the fencing epoch with every owner, and refuse the commits of older owners |
| fences | `Fencing` | confirm the runs that its owner still has, and no other |
| sessions | `Sessions` | open with the first session, close with the last, and open again |
| catalog | `Catalog` | list its runs, newest first, page by page |
| retention | `Retention` | delete a run permanently, and prune runs that ended long ago |
| inboxes | `Inbox` | store a signal once for each key, and take it with a checkpoint or not at all |
| parked runs | `Parking` | release a run that waits, and find it when it is due or gets a signal |
| owners shown | `Owners` | report who owns a run |
| child runs | `Children` | store no child after the end of its parent, and delete trees of runs whole |

At every level a flow runs on the backend, fails, is cancelled, and resumes.
"""

from __future__ import annotations

import contextlib
import unittest
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import anyio
import anyio.lowlevel
from pydantic import Field

from .._definition.decorators import listen, router, start
from .._definition.triggers import and_, or_
from ..errors import MethodError
from ..flow import Flow
from ..persistence.protocol import FlowPersistence
from ..state import FlowState
from ._capabilities import Fences, History, Owners, SessionsOpenAndClose
from ._catalog import Forgotten, Listed
from ._children import ChildRuns
from ._compaction import Compacted
from ._inboxes import Inboxes
from ._inspected import Inspected
from ._log import Log
from ._parking import ParkedRuns
from ._promises import Promises, in_time, must
from ._two_verbs import TwoVerbs

__all__ = ["ConformanceError", "PersistenceConformance", "Report", "check"]


# ---- a flow from its start to its end --------------------------------------------------------------------------


class _Tally(FlowState):
    left: int = 0
    right: int = 0
    turns: int = 0
    log: list[str] = Field(default_factory=list)


class _Errand(Flow[_Tally]):
    """A flow with a fan-out, a join, and a loop of three turns; it calls `trouble` in the second turn."""

    name = "asyncflow.testing.Errand"

    def __init__(self, ran: Counter[str], trouble: Callable[[], Any], **options: Any) -> None:
        super().__init__(**options)
        self.ran = ran
        self.trouble = trouble

    @start()
    async def begin(self) -> int:
        self.ran["begin"] += 1
        return 10

    @listen(begin)
    async def go_left(self, n: int) -> int:
        self.ran["go_left"] += 1
        await anyio.lowlevel.checkpoint()
        self.state.left = n + 1
        return n + 1

    @listen(begin)
    async def go_right(self, n: int) -> int:
        self.ran["go_right"] += 1
        self.state.right = n + 2
        return n + 2

    @listen(and_(go_left, go_right))
    async def meet(self, go_left: int, go_right: int) -> int:
        self.ran["meet"] += 1
        return go_left * go_right

    @listen(or_(meet, "again"))
    async def turn(self) -> int:
        if self.state.turns == 1:
            await self.trouble()
        self.ran["turn"] += 1
        self.state.turns += 1
        self.state.log.append(f"turn {self.state.turns}")
        return self.state.turns

    @router(turn)
    async def judge(self, turns: int) -> Literal["again", "done"]:
        self.ran["judge"] += 1
        return "again" if turns < 3 else "done"

    @listen("done")
    async def end(self) -> str:
        self.ran["end"] += 1
        return f"{self.state.left} and {self.state.right}, {', '.join(self.state.log)}"


_EACH_ONCE = {"begin": 1, "go_left": 1, "go_right": 1, "meet": 1, "turn": 3, "judge": 3, "end": 1}
_OUTPUT = "11 and 12, turn 1, turn 2, turn 3"


class EndToEnd(Promises):
    """The tests with a real flow."""

    @in_time
    async def test_a_failed_flow_resumes_and_runs_each_method_once(self, persistence: FlowPersistence) -> None:
        ran: Counter[str] = Counter()
        flow = _Errand(ran, _raise, persistence=persistence)
        with contextlib.suppress(MethodError):
            await flow.kickoff()
        await _resumes(persistence, flow, ran)

    @in_time
    async def test_a_cancelled_flow_resumes_and_runs_each_method_once(self, persistence: FlowPersistence) -> None:
        ran: Counter[str] = Counter()
        scope = anyio.CancelScope()

        async def cancel() -> None:
            scope.cancel()
            await anyio.sleep_forever()

        flow = _Errand(ran, cancel, persistence=persistence)
        with scope:
            await flow.kickoff()
        await _resumes(persistence, flow, ran)


async def _raise() -> None:
    raise ConnectionError("in the second turn")


async def _resumes(persistence: FlowPersistence, flow: _Errand, ran: Counter[str]) -> None:
    assert ran["turn"] == 1, f"a flow must run on the backend up to its second turn, and ran {dict(ran)}"
    options: dict[str, Any] = {"ran": ran, "trouble": anyio.lowlevel.checkpoint, "persistence": persistence}
    with must("a run that stopped must be found and resumed"):
        output = await _Errand.resume(flow.run_id, **options)
        again = await _Errand.resume(flow.run_id, **options)
        loaded = await _Errand.load(flow.run_id, **options)

    assert ran == _EACH_ONCE, (
        f"a resumed run must run each method once, {_EACH_ONCE}; on this backend it ran {dict(ran)}"
    )
    assert output == again == _OUTPUT, (
        f"the output of a resumed run must be {_OUTPUT!r}, and is {output!r}, then {again!r}"
    )
    assert (loaded.status, loaded.state.turns) == ("finished", 3), "the last checkpoint of a run must be loaded"


# ---- the complete suite ------------------------------------------------------------------------------------------


class PersistenceConformance(
    TwoVerbs,
    Log,
    History,
    Owners,
    Fences,
    SessionsOpenAndClose,
    Listed,
    Forgotten,
    Inboxes,
    ParkedRuns,
    Compacted,
    ChildRuns,
    Inspected,
    EndToEnd,
):
    """All requirements for a backend. Inherit it, and define the fixture `persistence`: a new, empty backend."""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of each test, by its name."""

    outcomes: Mapping[str, Literal["passed", "skipped", "failed"]]
    """The outcome of each test."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a test was skipped, or its error."""

    def __str__(self) -> str:
        return "\n".join(
            f"{outcome:7} {name} {self.reasons.get(name, '')}".rstrip() for name, outcome in self.outcomes.items()
        )


class ConformanceError(ExceptionGroup[Exception]):
    """A backend violates requirements: one exception for each test that failed. `report` covers all tests."""

    def __new__(cls, message: str, exceptions: Sequence[Exception], report: Report) -> Self:  # noqa: D102 - documented by the class
        return super().__new__(cls, message, exceptions)

    def __init__(self, message: str, exceptions: Sequence[Exception], report: Report) -> None:
        super().__init__(message, exceptions)
        self.report = report

    def derive(self, excs: Sequence[Exception]) -> ConformanceError:  # type: ignore[override]  # the stub is generic
        """Create the group of some of the exceptions, as `except*` and `split` require."""
        return ConformanceError(self.message, excs, self.report)


async def check(
    make: Callable[[], FlowPersistence],
    *,
    suite: type[PersistenceConformance] = PersistenceConformance,
    only: Iterable[str] = (),
) -> Report:
    """Run the tests of the conformance suite, each on a backend of its own.

    - `make`: creates a new, empty backend.
    - `suite`: the class of the tests; a subclass may set `patience` or override `another`.
    - `only`: the names of the tests to run; without them, all are run.

    Returns the outcome of each test. Raises `ConformanceError` after all tests have run, if any has failed.
    """
    if not __debug__:
        raise RuntimeError("the tests are assertions, which `python -O` removes; run them without -O")
    outcomes: dict[str, Literal["passed", "skipped", "failed"]] = {}
    reasons: dict[str, str] = {}
    failed: list[Exception] = []
    for name in tuple(only) or _tests(suite):
        try:
            await getattr(suite(), name)(make())
            outcomes[name] = "passed"
        except unittest.SkipTest as skipped:
            outcomes[name], reasons[name] = "skipped", str(skipped)
        except Exception as error:  # any exception of a backend
            error.add_note(name)
            failed.append(error)
            outcomes[name], reasons[name] = "failed", f"{type(error).__name__}: {error}"
    report = Report(outcomes, reasons)
    if failed:
        raise ConformanceError(f"the backend fails {len(failed)} of {len(outcomes)} tests", failed, report)
    return report


def _tests(suite: type) -> list[str]:
    """Return the names of the tests, in the order of their levels."""
    found = (name for base in suite.__mro__ for name in vars(base) if name.startswith("test_"))
    return list(dict.fromkeys(found))
