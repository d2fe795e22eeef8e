"""The SQL statements of the writer and the readers."""

from __future__ import annotations

from .._database.listing import ORPHANED, PARKED
from .._database.run_head import Head
from ..checkpoint import Checkpoint

_NAMES = [name for name in Checkpoint._fields[2:] if name != "identity"]
_COLUMNS = ", ".join(_NAMES)
_HEAD = (*Head._fields, "entry_digest")
FLOW = "CASE identity WHEN '' THEN ':' || flow ELSE identity END"
"""The key by which a run's flow is found (`Checkpoint.known_by`), as in the index `running_by_flow`."""

HEAD = ", ".join(_HEAD)
"""The columns for `Head.read`."""

NOW = "(julianday('now') - 2440587.5) * 86400.0"
"""Seconds since the epoch, by the clock of the database's host."""

SELECT_HEAD = f"SELECT {HEAD} FROM runs WHERE run_id = ?"
SELECT_HEADS = f"SELECT {HEAD} FROM runs WHERE run_id IN (SELECT value FROM json_each(?))"
ADOPT = "UPDATE runs SET parent = ?, parent_digest = ? WHERE run_id = ?"
SELECT_OWNED = (
    f"SELECT {HEAD}, (SELECT expires - {NOW} FROM owners WHERE owners.owner = runs.owner) FROM runs "
    "WHERE run_id IN (SELECT value FROM json_each(?))"
)
"""The heads of runs, each with the remaining seconds of its owner's lease."""
_NEWEST = (
    ", ".join([*(f"r.{name}" for name in _HEAD), *(f"c.{name}" for name in _NAMES)])
    + " FROM runs r LEFT JOIN checkpoints c ON c.run = r.id AND c.seq >= r.base WHERE r.run_id"
)
SELECT_NEWEST = f"SELECT {_NEWEST} = ? ORDER BY c.seq"
"""A run's head joined with its rows from the last complete checkpoint on. One statement is one snapshot and one hop."""
SELECT_NEWEST_OF = f"SELECT r.run_id, {_NEWEST} IN (SELECT value FROM json_each(?)) ORDER BY r.id, c.seq"
"""The same of several runs, each row after the run id."""
SELECT_LEASE = f"SELECT expires - {NOW} FROM owners WHERE owner = ?"
"""The remaining seconds of an owner's lease."""
RENEW = f"REPLACE INTO owners VALUES (?, {NOW} + ?)"
EXPEL = (
    f"DELETE FROM owners WHERE expires < {NOW} - 86400.0 "
    "AND NOT EXISTS (SELECT 1 FROM runs WHERE status = 'running' AND wake_at IS NULL AND runs.owner = owners.owner)"
)
"""Delete old leases, except those of owners with running runs. An expired lease proves that its owner's runs may be taken over.

Without that row, a process that was stopped would count as alive.
"""
DELETE_CHECKPOINTS = "DELETE FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?)"
DELETE_RUN = "DELETE FROM runs WHERE run_id = ?"
SELECT_RUNS = (
    "SELECT run_id, flow, status, pass_number, head, owner, created_at, updated_at, id, "
    f"CASE WHEN counted_at = head THEN takeovers ELSE 0 END, {FLOW}, "
    f"(SELECT expires - {NOW} FROM owners WHERE owners.owner = runs.owner), CASE status WHEN 'running' THEN wake_at END, parent FROM runs "
)
SELECT_PAGE = SELECT_RUNS + "WHERE id < ? AND {chosen} ORDER BY id DESC LIMIT ?"
FEW = 1_000
"""Up to how many runs are sorted after they were found by their ids."""
COUNT_PREFIXED = f"SELECT count(*) FROM (SELECT 1 FROM runs WHERE run_id >= ? AND run_id < ? LIMIT {FEW})"
SELECT_PARKED = SELECT_RUNS + f"WHERE {PARKED} AND {FLOW} = ? AND wake_at <= ? ORDER BY wake_at LIMIT ?"
SELECT_ORPHANS = SELECT_RUNS + f"WHERE {ORPHANED.replace('@', '')} ORDER BY id LIMIT ?"
SELECT_QUIET = f"SELECT run_id FROM runs WHERE run_id IN (SELECT value FROM json_each(?)) AND {PARKED} AND wake_at > 0"
"""Those of some runs that are parked, and that no signal has made due."""
SELECT_RUN_IDS = "SELECT run_id FROM runs ORDER BY id"
OWN_RUN = "UPDATE runs SET owner = ?, epoch = ?, entry_digest = ?, wake_at = NULL WHERE run_id = ?"
PARK_RUN = (
    "UPDATE runs SET owner = ?, epoch = ?, entry_digest = ?, wake_at = CASE WHEN EXISTS (SELECT 1 FROM signals s "
    "WHERE s.run = runs.id AND s.taken IS NULL AND s.problem IS NULL AND s.id > ?) THEN 0 ELSE ? END WHERE run_id = ?"
)
COUNT_TAKEOVER = "UPDATE runs SET takeovers = CASE WHEN counted_at = head THEN takeovers ELSE 0 END + 1, counted_at = head WHERE run_id = ?"
FORGET_TAKEOVERS = "UPDATE runs SET counted_at = NULL WHERE run_id = ? AND counted_at IS NOT NULL"
"""Reset the takeover count: a run that is released normally, or that its process has driven for a while, is not a poison run."""
SELECT_CHECKPOINTS = (
    f"SELECT {_COLUMNS} FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) "
    "AND seq BETWEEN ? AND ? ORDER BY seq"
)
SELECT_DIGEST = "SELECT digest FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) AND seq = ?"
SELECT_STORED = "SELECT run_id FROM runs WHERE run_id IN (SELECT value FROM json_each(?))"
SELECT_BASE = "SELECT base FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) AND seq = ?"


def by_run_id(page: str) -> str:
    """Return a page's statement that finds runs by the index of their ids, and not in the order of their positions."""
    return page.replace("id < ?", "+id < ?", 1).replace("id > ?", "+id > ?").replace("ORDER BY id", "ORDER BY +id")


def of_tables(sql: str) -> str:
    """Return a statement of `inboxes.py` for SQLite, whose tables need no prefix."""
    return sql.replace("@", "")
