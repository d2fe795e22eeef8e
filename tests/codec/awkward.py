"""Awkward types, and three ways to try a value: in a model, in a dict state, as a result."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import math
from typing import Any, NamedTuple, Optional

import pytest
from pydantic import BaseModel, create_model

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, errors, listen, start

UTC = dt.UTC
D = decimal.Decimal
NAN, INF = math.nan, math.inf


def exact(value: Any) -> Any:
    """A form that is equal for two values only if they are of the same types all the way down."""
    if isinstance(value, BaseModel):
        return type(value), {k: exact(v) for k, v in value}
    if dataclasses.is_dataclass(value):
        return type(value), {f.name: exact(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return type(value), [(exact(k), exact(v)) for k, v in value.items()]
    if isinstance(value, list | tuple | collections.deque):
        return type(value), [exact(v) for v in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, map(exact, value)))
    return type(value), str(value) if isinstance(value, dt.datetime | dt.time) else repr(value)


def named(cases: list[Any]) -> list[str]:
    """Names for the cases of a table that are the same in every process: no addresses, no order of sets."""
    return [
        f"{n}-" + "-".join(getattr(part, "__name__", type(part).__name__) for part in case if not isinstance(part, str))
        for n, case in enumerate(cases)
    ]


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


class Base(BaseModel):
    a: int = 1


@dataclasses.dataclass
class Point:
    x: int
    tags: tuple[str, ...] = ()


class Pair(NamedTuple):
    left: int
    right: str


class MyStr(str):
    __slots__ = ()


class MyList(list):
    __slots__ = ()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


class Tried(NamedTuple):
    """A value as it was given, as it was live afterwards, and as it was loaded."""

    live: Any
    loaded: Any


async def in_a_model(annotation: Any, value: Any) -> Tried:
    """Assign the value to a model's field of this annotation, in a method of a stored flow."""
    model = create_model("Holding", __base__=FlowState, value=(Optional[annotation], None))  # noqa: UP045 - a variable

    class Keep(Flow[model]):
        persistence = MemoryFlowPersistence()

        @start()
        async def assign(self) -> None:
            self.state.value = value

    flow = Keep()
    await flow.kickoff()
    return Tried(flow.state.value, (await Keep.load(flow.run_id)).state.value)


async def in_a_dict(value: Any) -> Tried:
    """Put the value into the dict state of a stored flow."""

    class Keep(Flow[dict]):
        persistence = MemoryFlowPersistence()

        @start()
        async def assign(self) -> None:
            self.state["value"] = value

    flow = Keep()
    await flow.kickoff()
    return Tried(flow.state["value"], (await Keep.load(flow.run_id)).state["value"])


NO_ANNOTATION = object()


async def returned(annotation: Any, value: Any) -> Tried:
    """Return the value from a method; what its listener gets live, and after the run was resumed."""
    received: list[Any] = []

    class Give(Flow):
        persistence = MemoryFlowPersistence()

        if annotation is NO_ANNOTATION:

            @start()
            async def make(self):
                return value
        else:

            @start()
            async def make(self) -> annotation:
                return value

        @listen(make)
        async def take(self, got: Any) -> None:
            received.append(got)
            if len(received) == 1:
                raise RuntimeError("again, please")

    flow = Give()
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()
    if not isinstance(caught.value.__cause__, RuntimeError):
        raise caught.value
    await Give.resume(flow.run_id)
    return Tried(*received)


async def refusal(trying: Any) -> errors.AsyncflowError:
    """What the refused value's method failed with."""
    with pytest.raises(MethodError) as caught:
        await trying
    cause = caught.value.__cause__
    assert isinstance(cause, errors.NotStorableError | errors.LimitExceededError), repr(cause)
    return cause
