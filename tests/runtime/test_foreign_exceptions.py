"""What user code may raise, whatever that is: a typed end on every loop, plain or not, stored or not, alone or next to another."""

import asyncio
import contextlib
import dataclasses
import functools
import pickle
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import asyncflow
from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    MethodError,
    and_,
    errors,
    listen,
    start,
)


class Abort(BaseException):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class Untidy(Exception):
    """Its arguments cannot be written, and its constructor not be called by what pickles it."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(object(), b"\xff", "\ud800")


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int = 3


class Odd(Exception):
    __module__ = 3  # type: ignore[assignment]
    __notes__ = 3  # type: ignore[assignment]


class Delegating(Exception):
    """Answers no question for an attribute with an AttributeError."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


def in_a_circle() -> Exception:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


FAILURES: dict[str, Callable[[], Exception]] = {
    "unprintable": Unprintable,
    "untidy": lambda: Untidy(1, 2),
    "frozen": Frozen,
    "odd": Odd,
    "delegating": Delegating,
    "in a circle": in_a_circle,
    "a group": lambda: ExceptionGroup("several", [ValueError(1), Unprintable()]),
    "StopAsyncIteration": StopAsyncIteration,
    "one of ours": lambda: errors.StaleCheckpoint("mine"),
    "MethodError": lambda: MethodError("mine"),
    "TimeoutError": TimeoutError,
}

CRASHES: dict[str, Callable[[], BaseException]] = {
    "GeneratorExit": GeneratorExit,
    "a BaseException": Abort,
    "a group with one": lambda: BaseExceptionGroup("several", [Abort(), ValueError(1)]),
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
}


class Raising(Flow[dict]):
    """`a` raises the given error, the first time."""

    name = "Raising"

    def __init__(self, make: Callable[[], BaseException] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.make = make

    def give(self) -> str:
        if self.make is not None:
            raise self.make()
        return "well"


class InTheLoop(Raising):
    @start()
    async def a(self) -> str:
        return self.give()


class InAThread(Raising):
    @start()
    def a(self) -> str:
        return self.give()


class BesideAnother(InTheLoop):
    @start()
    async def b(self) -> None:
        await anyio.lowlevel.checkpoint()


class InAThreadBesideAnother(InAThread):
    @start()
    async def b(self) -> None:
        await anyio.lowlevel.checkpoint()


FLOWS = [InTheLoop, InAThread, BesideAnother, InAThreadBesideAnother]


async def end_of(flow: Flow[Any]) -> BaseException:
    try:
        await flow.kickoff()
    except BaseException as error:  # whatever it is
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.found("B15", "B16", "B17", "B18")
@pytest.mark.clauses("X1")
@pytest.mark.parametrize("cls", FLOWS)
@pytest.mark.parametrize("make", FAILURES.values(), ids=FAILURES)
async def test_an_exception_of_any_kind_is_a_failure(make: Callable[[], Exception], cls: type[Raising]) -> None:
    storage = MemoryFlowPersistence()
    for options in ({}, {"persistence": storage}):
        flow = cls(make, **options)
        error = await end_of(flow)

        assert type(error) is MethodError
        assert type(error.__cause__) is type(make())
        assert flow.status == "failed"
    again = await cls.load(flow.run_id, persistence=storage)
    await again.kickoff()
    assert again.method_outputs["a"] == "well"


@pytest.mark.found("B15", "B16", "B17", "B18")
@pytest.mark.clauses("X4")
@pytest.mark.parametrize("cls", FLOWS)
@pytest.mark.parametrize("make", CRASHES.values(), ids=CRASHES)
async def test_what_is_no_exception_leaves_as_itself_and_the_run_is_resumable(
    make: Callable[[], BaseException], cls: type[Raising]
) -> None:
    storage = MemoryFlowPersistence()
    for options in ({}, {"persistence": storage}):
        flow = cls(make, **options)
        error = await end_of(flow)

        assert type(error) is type(make())
        assert flow.status == "interrupted"
    again = await cls.load(flow.run_id, persistence=storage)
    await again.kickoff()
    assert again.method_outputs["a"] == "well"


@pytest.mark.found("B15", "B16", "B17", "B18")
@pytest.mark.parametrize("cls", FLOWS)
async def test_stop_iteration_is_reported_as_python_reports_it_for_a_coroutine(cls: type[Raising]) -> None:
    error = await end_of(cls(lambda: StopIteration(5), persistence=MemoryFlowPersistence()))

    assert type(error) is MethodError
    assert isinstance(error.__cause__, RuntimeError)
    assert isinstance(error.__cause__.__cause__, StopIteration)


@pytest.mark.found("B15", "B16", "B17", "B18")
@pytest.mark.parametrize("cls", FLOWS)
async def test_a_cancelled_error_that_a_method_makes_up_interrupts_the_run(cls: type[Raising], is_trio: bool) -> None:
    flow = cls(asyncio.CancelledError, persistence=(storage := MemoryFlowPersistence()))
    error = await end_of(flow)

    assert type(error) is asyncio.CancelledError
    assert flow.status == "interrupted"
    again = await cls.load(flow.run_id, persistence=storage)
    await again.kickoff()
    assert again.method_outputs["a"] == "well"


@pytest.mark.found("B15", "B16", "B17", "B18")
@pytest.mark.parametrize("cls", [InTheLoop, InAThread])
@pytest.mark.parametrize("make", [GeneratorExit, Abort, asyncio.CancelledError, Unprintable])
async def test_a_runner_outlives_what_a_method_raises(make: Callable[[], BaseException], cls: type[Raising]) -> None:
    async with FlowRunner(MemoryFlowPersistence(), recover_every=None) as runner:
        handle = await runner.start(lambda: cls(make))
        with pytest.raises((errors.RunInterruptedError, MethodError)) as ended:
            await handle.result()

        assert type(ended.value.__cause__) is type(make())
        assert await runner.run(cls) == "well"


@pytest.mark.found("B15", "B16", "B17", "B18")
@pytest.mark.clauses("S5")
@pytest.mark.parametrize("make", FAILURES.values(), ids=FAILURES)
async def test_a_method_error_pickles_whatever_its_cause_is(make: Callable[[], Exception]) -> None:
    class Both(InTheLoop):
        @start()
        async def b(self) -> None:
            raise make()

    for cls, kind in ((InTheLoop, MethodError), (Both, errors.MethodErrorGroup)):
        error = await end_of(cls(make))
        again = pickle.loads(pickle.dumps(error))

        assert (type(again), str(again)) == (kind, str(error))
        for failure, before in zip(again.failures, error.failures, strict=True):
            assert failure.invocation_id == before.invocation_id
            named = type(make()).__qualname__
            assert type(failure.exception).__qualname__ == named or named in str(failure.exception)


# ---- what is no method -------------------------------------------------------------------------------------------------


def hiding(function: Callable[..., Any]) -> Callable[..., Any]:
    def inner(self: Any) -> Any:
        return function(self)

    return inner


def a_property() -> None:
    class Wrong(InTheLoop):
        @property
        @start()
        def extra(self) -> int: ...


def a_cached_property() -> None:
    class Wrong(InTheLoop):
        @functools.cached_property
        @start()
        def extra(self) -> int: ...


def a_start_on_a_property() -> None:
    class Wrong(InTheLoop):
        @start()
        @property
        def extra(self) -> int: ...


def a_class_method() -> None:
    class Wrong(InTheLoop):
        @start()
        @classmethod
        def extra(cls) -> int: ...


def a_builtin() -> None:
    class Wrong(InTheLoop):
        extra = start()(len)


def a_hidden_method() -> None:
    class Wrong(InTheLoop):
        @hiding
        @start()
        def extra(self) -> int: ...


def a_context_manager() -> None:
    class Wrong(InTheLoop):
        @start()
        @contextlib.asynccontextmanager
        async def extra(self) -> Any:
            yield 1


NO_METHODS = {
    a_property: "extra is a flow method and must be a plain function, not a property",
    a_cached_property: "extra is a flow method and must be a plain function, not a cached_property",
    a_start_on_a_property: "must be a plain function, not a property",
    a_class_method: "extra is a flow method and must be a plain function, not a classmethod",
    a_builtin: "must be a plain function, not a builtin_function_or_method",
    a_hidden_method: "extra has an outer decorator that hides the flow's; put it below that one, or let it use functools.wraps",
    a_context_manager: "extra is a generator, but a flow method returns one result",
}


@pytest.mark.found("B15", "B16", "B17", "B18")
@pytest.mark.parametrize(("make", "told"), NO_METHODS.items(), ids=[make.__name__ for make in NO_METHODS])
def test_what_cannot_be_a_method_is_no_silent_nothing(make: Callable[[], None], told: str) -> None:
    with pytest.raises(errors.FlowDefinitionError) as refused:
        make()

    assert told in str(refused.value)


@pytest.mark.found("B15", "B16", "B17", "B18")
def test_a_method_is_known_by_the_name_that_the_class_gives_it() -> None:
    class Named(Flow[dict]):
        one = start()(lambda self: 1)

        @listen(one)
        @hiding
        def two(self) -> int:
            return 2

        @listen(and_(one, two))
        @hiding
        def three(self) -> str:
            return "three"

    assert asyncflow.run(Named()) == "three"


@pytest.mark.found("B15", "B16", "B17", "B18")
def test_a_wrapper_that_collects_what_a_generator_yields_is_a_method() -> None:
    def collected(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inner(self: Any) -> list[Any]:
            return list(function(self))

        return inner

    class Collecting(Flow[dict]):
        @start()
        @collected
        def numbers(self) -> Any:
            yield from range(3)

    assert asyncflow.run(Collecting()) == [0, 1, 2]
