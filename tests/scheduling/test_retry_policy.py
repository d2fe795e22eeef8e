"""Retry policies as pure tables: what is retried, how long the pauses are, and which values are refused."""

from __future__ import annotations

import math
import pickle
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import Flow, Retry, RetryAfter, errors, listen, router, start
from asyncflow._definition.retry import next_delay

THE_SAME = Retry(attempts=None, initial=1, jitter=0)


class Mine(Exception):
    pass


def conflict() -> errors.StateConflictError:
    return errors.StateConflictError("x", path="n")


def late() -> errors.MethodTimeoutError:
    return errors.MethodTimeoutError("late")


@pytest.mark.parametrize(
    ("policy", "pauses"),
    [
        (Retry(jitter=0), [1, 2, 4, 8, 16, 32, 60, 60]),
        (Retry(initial=0, jitter=1), [0, 0, 0]),
        (Retry(initial=5, factor=1, jitter=0), [5, 5, 5]),
        (Retry(initial=5, maximum=2, jitter=0), [2, 2]),
        (Retry(initial=timedelta(minutes=1), maximum=timedelta(days=2), factor=1_000, jitter=0), [60, 60_000, 172_800]),
    ],
)
def test_each_pause_is_longer_than_the_one_before_up_to_the_maximum(policy: Retry, pauses: list[float]) -> None:
    assert [policy.pause(n, 0.5) for n in range(1, len(pauses) + 1)] == pauses


@pytest.mark.parametrize(("draw", "pause"), [(0.0, 9.0), (0.5, 10.0), (0.75, 10.5), (1.0, 11.0)])
def test_the_jitter_is_a_part_of_the_pause_in_either_direction(draw: float, pause: float) -> None:
    assert Retry(initial=10, jitter=0.1).pause(1, draw) == pytest.approx(pause)


def test_the_maximum_holds_with_jitter_and_for_any_number_of_attempts() -> None:
    assert Retry(initial=60, jitter=0.5).pause(1, 1.0) == 60
    assert Retry(jitter=0).pause(1_000_000, 0.5) == 60
    assert Retry(initial=0, factor=2).pause(1_000_000, 0.5) == 0
    assert Retry(initial=1e308, factor=1e308, maximum=1e308, jitter=1).pause(3, 1.0) == 1e308


@given(st.integers(1, 5_000), st.floats(0, 1), st.floats(0, 1e9), st.floats(1, 1e9), st.floats(0, 1e9), st.floats(0, 1))
def test_every_pause_is_a_number_from_0_to_the_maximum(
    failed: int, draw: float, initial: float, factor: float, maximum: float, jitter: float
) -> None:
    pause = Retry(initial=initial, factor=factor, maximum=maximum, jitter=jitter).pause(failed, draw)

    assert 0 <= pause <= maximum
    assert math.isfinite(pause)


@pytest.mark.parametrize(
    ("on", "error", "is_retried"),
    [
        (Exception, ValueError(), True),
        (LookupError, KeyError(), True),
        (LookupError, ValueError(), False),
        ((LookupError, ValueError), ValueError(), True),
        ((LookupError, OSError), ValueError(), False),
        (lambda error: "again" in str(error), ValueError("again"), True),
        (lambda error: "again" in str(error), ValueError("never"), False),
        # groups: each of their exceptions has to be retried
        (ValueError, ExceptionGroup("", [ValueError(), ValueError()]), True),
        (ValueError, ExceptionGroup("", [ValueError(), KeyError()]), False),
        (ValueError, ExceptionGroup("", [ExceptionGroup("", [ValueError()]), ExceptionGroup("", [KeyError()])]), False),
        (lambda error: isinstance(error, ValueError), ExceptionGroup("", [ValueError()]), True),
        (ValueError, ExceptionGroup("", [ValueError(), RetryAfter(1)]), True),
        # asyncflow's own errors
        (Exception, late(), True),
        (Exception, conflict(), True),
        (ValueError, late(), False),
        (ValueError, conflict(), False),
        (TimeoutError, late(), True),
        (lambda error: True, late(), True),
        (ValueError, RetryAfter(1), True),
        (lambda error: False, RetryAfter(1), True),
        (Exception, errors.StateError("x"), False),
        (Exception, errors.RunTimeoutError("x"), False),
        (TimeoutError, errors.RunTimeoutError("x"), False),
        (lambda error: True, errors.StateError("x"), False),
        (Exception, errors.MethodErrorGroup("x", [ValueError()]), False),
        (Exception, ExceptionGroup("", [ValueError(), errors.RunLockedError("x")]), False),
        (errors.RunLockedError, errors.RunLockedError("x"), True),
        ((ValueError, errors.AsyncflowError), errors.RunLockedError("x"), True),
        ((ValueError, errors.RunLockedError), errors.StateError("x"), False),
    ],
)
def test_what_is_retried(on: Any, error: Exception, is_retried: bool) -> None:
    assert (next_delay(Retry(on=on), error, 1, 0.5) is not None) == is_retried


@pytest.mark.parametrize(
    ("policy", "failed", "delay"),
    [
        (None, 1, None),
        (Retry(attempts=1), 1, None),
        (Retry(attempts=3, jitter=0), 2, 2.0),
        (Retry(attempts=3), 3, None),
        (Retry(attempts=3), 4, None),
        (THE_SAME, 7, 60.0),
    ],
)
def test_the_number_of_attempts_is_the_policys(policy: Retry | None, failed: int, delay: float | None) -> None:
    assert next_delay(policy, ValueError(), failed, 0.5) == delay


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (RetryAfter(90), 90),  # also above the maximum
        (RetryAfter(0), 0),
        (RetryAfter(timedelta(hours=1)), 3600),
        (ExceptionGroup("", [RetryAfter(3), ExceptionGroup("", [RetryAfter(9), ValueError()]), RetryAfter(5)]), 9),
    ],
)
def test_the_longest_retry_after_replaces_the_pause(error: Exception, delay: float) -> None:
    assert next_delay(THE_SAME, error, 1, 0.5) == delay


def test_a_retry_after_needs_an_attempt_that_is_left() -> None:
    assert next_delay(Retry(attempts=2), RetryAfter(1), 2, 0.5) is None
    assert next_delay(None, RetryAfter(1), 1, 0.5) is None


def test_a_predicate_that_raises_raises_in_the_callers_place() -> None:
    with pytest.raises(ZeroDivisionError):
        next_delay(Retry(on=lambda error: 1 / 0), ValueError(), 1, 0.5)


def test_a_retry_after_keeps_its_seconds_in_a_pickle() -> None:
    again = pickle.loads(pickle.dumps(RetryAfter(timedelta(minutes=2), "later")))

    assert (again.seconds, str(again)) == (120.0, "later")


@pytest.mark.parametrize("after", [-1, math.nan, math.inf, None, "1", True, timedelta(seconds=-1)])
def test_a_retry_after_that_cannot_be_right_is_refused(after: Any) -> None:
    with pytest.raises(ValueError, match="RetryAfter takes a number of seconds from 0"):
        RetryAfter(after)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"attempts": 0}, "attempts"),
        ({"attempts": -1}, "attempts"),
        ({"attempts": 2.0}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"initial": -0.1}, "initial"),
        ({"initial": "1"}, "initial"),
        ({"initial": math.nan}, "initial"),
        ({"maximum": timedelta(seconds=-1)}, "maximum"),
        ({"maximum": math.inf}, "maximum"),
        ({"maximum": 10**400}, "maximum"),
        ({"factor": 10**400}, "factor"),
        ({"factor": 0.9}, "factor"),
        ({"factor": math.nan}, "factor"),
        ({"factor": True}, "factor"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1.1}, "jitter"),
        ({"jitter": None}, "jitter"),
        ({"on": int}, "on"),
        ({"on": ()}, "on"),
        ({"on": (ValueError, 3)}, "on"),
        ({"on": [ValueError]}, "on"),
        ({"on": None}, "on"),
    ],
)
def test_a_value_that_cannot_be_right_is_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(errors.FlowDefinitionError) as caught:
        Retry(**given)

    (problem,) = caught.value.problems
    assert problem.startswith(f"{named} must be")


def test_a_policy_names_all_its_mistakes_at_once() -> None:
    with pytest.raises(errors.FlowDefinitionError) as caught:
        Retry(attempts=0, factor=0, jitter=2)

    assert len(caught.value.problems) == 3


# ---- what a class declares -------------------------------------------------------------------------------------


def test_a_class_attribute_is_the_default_and_a_decorator_overrides_it() -> None:
    class Declared(Flow[dict]):
        retry = Retry(attempts=5)
        timeout = timedelta(minutes=1)

        @start()
        async def default(self) -> None: ...

        @listen(default, retry=None, timeout=None)
        async def without(self) -> None: ...

        @listen(default, retry=Retry(attempts=2), timeout=3)
        async def own(self) -> None: ...

        @router(own, emit=["a"], retry=Retry(attempts=7))
        async def routing(self) -> str:
            return "a"

    class Derived(Declared):
        retry = Retry(attempts=9)  # type: ignore[assignment]  # no annotation in the base

    def declared(flow: type[Flow[Any]]) -> dict[str, tuple[int | None, float | None]]:
        methods = flow._definition.methods.items()
        return {name: (m.retry.attempts if m.retry is not None else None, m.timeout) for name, m in methods}

    assert declared(Declared) == {"default": (5, 60.0), "without": (None, None), "own": (2, 3.0), "routing": (7, 60.0)}
    assert declared(Derived) == {"default": (9, 60.0), "without": (None, None), "own": (2, 3.0), "routing": (7, 60.0)}


def test_an_attribute_of_another_kind_is_left_alone() -> None:
    class Older(Flow[dict]):
        """A class of an earlier version, with names of its own."""

        retry = ("yes",)

        @start()
        async def begin(self) -> None: ...

        def timeout(self) -> int:
            return 3

    class Methods(Flow[dict]):
        @start()
        async def retry(self) -> None: ...

        @listen(retry)
        async def timeout(self) -> None: ...

    class Properties(Flow[dict]):
        @property
        def retry(self) -> Retry:
            return Retry()

        timeout = ("soon",)

        @start()
        async def begin(self) -> None: ...

    for flow in (Older, Methods, Properties):
        assert [(m.retry, m.timeout) for m in flow._definition.methods.values()] == [(None, None)] * len(
            flow._definition.methods
        )
    assert Older().timeout() == 3
    assert Older.retry == ("yes",)


@pytest.mark.parametrize("value", [3, "yes", Retry, ValueError])
def test_a_decorator_takes_a_policy_alone(value: Any) -> None:
    with pytest.raises(errors.FlowDefinitionError, match=r"pass a policy: retry=Retry\(attempts=3\)"):

        class Wrong(Flow[dict]):
            @start(retry=value)
            async def begin(self) -> None: ...


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, 10**400, "3", True, timedelta(0)])
@pytest.mark.parametrize("where", ["decorator", "run_timeout"])
def test_a_time_limit_is_above_0(value: Any, where: str) -> None:
    with pytest.raises(errors.FlowDefinitionError, match=r"above 0, a timedelta, or None"):

        class Wrong(Flow[dict]):
            run_timeout = value if where == "run_timeout" else None

            @start(timeout=value if where == "decorator" else None)
            async def begin(self) -> None: ...


@pytest.mark.parametrize("value", [0, -1.5, timedelta(seconds=-1)])
def test_a_class_attribute_timeout_of_the_right_kind_is_above_0(value: Any) -> None:
    with pytest.raises(errors.FlowDefinitionError, match="timeout must be a number of seconds above 0"):

        class Wrong(Flow[dict]):
            timeout = value

            @start()
            async def begin(self) -> None: ...


@pytest.mark.parametrize("value", [0, "3", math.nan, timedelta(0)])
def test_an_instance_takes_a_time_limit_above_0(value: Any) -> None:
    class Right(Flow[dict]):
        @start()
        async def begin(self) -> None: ...

    with pytest.raises(ValueError, match="run_timeout must be a number of seconds above 0"):
        Right(run_timeout=value)


def test_attempts_without_a_limit_need_a_time_limit_of_the_run() -> None:
    with pytest.raises(errors.FlowDefinitionError, match=r"begin may be tried again without end.*run_timeout"):

        class Wrong(Flow[dict]):
            @start(retry=Retry(attempts=None))
            async def begin(self) -> None: ...

    class Right(Flow[dict]):
        run_timeout = 60

        @start(retry=Retry(attempts=None))
        async def begin(self) -> None: ...

    with pytest.raises(errors.FlowDefinitionError, match="cannot run as configured: begin may be tried again"):
        Right(run_timeout=None)
    Right(run_timeout=timedelta(days=1))


def test_two_decorators_of_one_method_give_a_policy_once() -> None:
    with pytest.raises(errors.FlowDefinitionError, match="begin is given retry= by two decorators"):

        class Wrong(Flow[dict]):
            @start(retry=Retry())
            @router(emit=["a"], retry=Retry())
            async def begin(self) -> str:
                return "a"
