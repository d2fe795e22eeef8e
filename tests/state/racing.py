"""A flow whose two methods race for one state."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import anyio
import pytest
from pydantic import BaseModel, Field

from asyncflow import Flow, FlowState, MethodError, errors, listen, merge, start


class Address(BaseModel):
    street: str = ""
    town: str = ""


class Wide(FlowState):
    number: int = 0
    other: int = 0
    text: str = ""
    flag: bool = False
    items: list[int] = Field(default_factory=list)
    tags: set[str] = Field(default_factory=set)
    table: dict[str, Any] = Field(default_factory=dict)
    address: Address = Field(default_factory=Address)
    maybe: int | None = None


Edit = Callable[[Any], Any]


S = TypeVar("S")


class Racing(Flow[S], Generic[S]):
    """Two starts that begin with the same state: `early` commits its edit, and then `late` does."""

    def __init__(self, early: Edit, late: Edit, **options: Any) -> None:
        super().__init__(**options)
        self.edits = early, late
        self.committed = anyio.Event()

    @start()
    async def early(self) -> None:
        self.edits[0](self.state)

    @start()
    async def late(self) -> None:
        self.edits[1](self.state)
        await self.committed.wait()

    @listen(early)
    async def after_early(self) -> None:
        self.committed.set()


class DictRace(Racing[dict]):
    merges = {  # noqa: RUF012 - what users write
        "total": merge.add,
        "log": merge.append,
        "winner": merge.last,
        "top": lambda base, ours, theirs: max(ours, theirs),
    }


def put(**fields: Any) -> Edit:
    def edit(state: Any) -> None:
        for name, value in fields.items():
            setattr(state, name, value)

    return edit


def do(code: str) -> Edit:
    return lambda state: exec(code, {"s": state})


async def conflict_of(flow: Flow[Any]) -> errors.StateConflictError:
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()
    cause = caught.value.__cause__
    assert isinstance(cause, errors.StateConflictError)
    return cause
