"""Who takes part: each line of the tables, with what a power cut takes there, and what it cannot do, and why.

This module imports none of them; `peers/` has how each does the works, and `environments` where.
"""

from __future__ import annotations

from dataclasses import dataclass, field

EVERYTHING = "everything: nothing is stored"
NOTHING = "nothing"
NEWEST = "the newest checkpoints"
ONE = "perhaps the newest step: its rollback journal may come back"


@dataclass(frozen=True)
class Contestant:
    """`way` is one of the `WAYS` of `peers/<module>.py`, which runs in the `environment` of that name."""

    title: str
    module: str
    way: str
    environment: str
    takes: str
    """The acknowledged data that a power cut loses."""
    versus: tuple[str, str] = ("asyncflow", "full")
    """Module and way that it is compared with: equal work, equal durability."""
    loops: tuple[str, ...] = ("asyncio",)
    only: tuple[str, ...] = ()
    """The works that it is there for; none: for all."""
    cannot: dict[str, str] = field(default_factory=dict, hash=False)
    """Why there is no figure, by work."""

    @property
    def is_stored(self) -> bool:
        return self.takes != EVERYTHING

    @property
    def needs_server(self) -> bool:
        return self.way == "postgres"


NO_STORE = ("asyncflow", "none")
SERVER = ("asyncflow", "postgres")
ALL_LOOPS = ("asyncio", "uvloop", "trio")
WRITES = ("W1", "W2", "W2-all")

CONTESTANTS = (
    Contestant("bare task group", "bare", "none", "asyncflow", EVERYTHING, NO_STORE, ALL_LOOPS),
    Contestant("asyncflow", "asyncflow", "none", "asyncflow", EVERYTHING, NO_STORE, ALL_LOOPS),
    Contestant(
        "pydantic-graph",
        "pydantic_graph",
        "none",
        "pydantic-graph",
        EVERYTHING,
        NO_STORE,
        cannot={"W5": "it has no store"},
    ),
    Contestant("Burr", "burr", "none", "burr", EVERYTHING, NO_STORE),
    Contestant("LangGraph", "langgraph", "none", "langgraph", EVERYTHING, NO_STORE),
    Contestant("llama-index-workflows", "llama_workflows", "none", "llama-index-workflows", EVERYTHING, NO_STORE),
    Contestant("CrewAI", "crewai", "none", "crewai", EVERYTHING, NO_STORE),
    Contestant("asyncflow, SQLite", "asyncflow", "full", "asyncflow", NOTHING, loops=ALL_LOOPS),
    Contestant('asyncflow, SQLite, durability="process"', "asyncflow", "process", "asyncflow", NEWEST),
    Contestant("Burr, AsyncSQLitePersister", "burr", "sqlite", "burr", ONE),
    Contestant("LangGraph, AsyncSqliteSaver", "langgraph", "sqlite", "langgraph", NOTHING),
    Contestant("DBOS, SQLite", "dbos", "sqlite", "dbos", ONE),
    Contestant("llama-index-workflows, SQLite", "llama_workflows", "sqlite", "llama-index-workflows", NOTHING),
    Contestant("CrewAI, @persist", "crewai", "sqlite", "crewai", NOTHING),
    Contestant("asyncflow, PostgreSQL", "asyncflow", "postgres", "asyncflow", NOTHING, SERVER),
    Contestant("DBOS, PostgreSQL", "dbos", "postgres", "dbos", NOTHING, SERVER),
    Contestant("raw sqlite3, a commit a row", "limits", "1", "asyncflow", NOTHING, only=WRITES),
    Contestant("raw aiosqlite, a commit a row", "limits", "aiosqlite", "asyncflow", NOTHING, only=(*WRITES, "W5")),
    Contestant("raw sqlite3, a commit for 100 rows", "limits", "100", "asyncflow", NOTHING, only=WRITES[1:]),
    Contestant("raw sqlite3, a commit for 1,000 rows", "limits", "1000", "asyncflow", NOTHING, only=WRITES[1:]),
    Contestant("one write and one fsync a step", "limits", "fsync", "asyncflow", NOTHING, only=WRITES[:1]),
    Contestant("to_json of the state, alone", "limits", "json", "asyncflow", EVERYTHING, only=("W4", "W4-middle")),
)
