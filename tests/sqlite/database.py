"""A flow, its database file, and what the file holds."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from here import Here

from asyncflow import Flow, FlowState, errors, listen, start
from asyncflow.persistence import Checkpoint

PATH = Path("runs.db")


class Work(FlowState):
    done: list[str] = []  # noqa: RUF012 - pydantic copies it
    size: int = 0


class Steps(Flow[Work]):
    name = "Steps"
    persistence = Here(PATH)

    @start()
    async def first(self) -> str:
        self.state.done.append("first")
        return "one"

    @listen(first)
    async def second(self, value: str) -> str:
        self.state.done.append("second")
        return value + " two"

    @listen(second)
    async def third(self, value: str) -> str:
        self.state.done.append("third")
        return value + " three"


def sql(statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Read or change the file, as another program would."""
    with contextlib.closing(sqlite3.connect(PATH)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def rows_of(run_id: str, columns: str = "seq, kind, method, status") -> list[tuple[Any, ...]]:
    return sql(
        f"SELECT {columns} FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) ORDER BY seq", run_id
    )


class Seen:
    """The statements that SQLite got, by every connection of this process."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.settings: list[dict[str, Any]] = []

    def commits(self) -> int:
        """Transactions: those that were ended, and the statements that are one each; their triggers are listed as themselves again."""
        ended = sum(statement.upper().startswith(("COMMIT", "END")) for statement in self.statements)
        return ended + len({statement for statement in self.statements if statement.startswith("WITH here")})


def made(run_id: str, after: Checkpoint | None = None, **fields: Any) -> Checkpoint:
    """A checkpoint by hand."""
    first = {"seq": 0, "kind": "started", "previous": b""}
    following = {} if after is None else {"seq": after.seq + 1, "kind": "method", "previous": after.digest}
    whole = {"flow": "Hand", "pass_number": 1, "status": "running", "at": 1.0, "state": b"{}", "progress": b"{}"}
    fields = {"run_id": run_id, **whole, **first, **following, **fields}
    return Checkpoint(**{"base": fields["seq"], **fields}).sealed()


def changed(value: Any) -> Any:
    """The value with one bit changed, or with something where nothing was."""
    if isinstance(value, bytes):
        middle = len(value) // 2
        return value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]
    if isinstance(value, str):
        return value[:-1] + chr(ord(value[-1]) ^ 1)
    return "x" if value is None else value + 1


async def two_runs() -> tuple[str, str]:
    """A run that failed in its third step, to be damaged, and one that did so too, to be left alone."""

    class Failing(Steps):
        name = "Steps"

        async def third(self, value: str) -> str:
            raise ValueError

    flows = Failing(), Failing()
    for flow in flows:
        with pytest.raises(errors.MethodError):
            await flow.kickoff({"size": 3})
    return flows[0].run_id, flows[1].run_id
