"""The SQL statements of the writer and the readers. `{schema}` is the schema's quoted name."""

from __future__ import annotations

from .._database.listing import ORPHANED, PARKED
from .._database.run_head import Head
from ..checkpoint import Checkpoint

_NAMES = [name for name in Checkpoint._fields[2:] if name != "identity"]
_COLUMNS = ", ".join(f"c.{name}" for name in _NAMES)
_OF_RUN = "{schema}.checkpoints c JOIN {schema}.runs r ON r.id = c.run WHERE r.run_id = %s"
COLUMNS_OF_HEAD = (*Head._fields, "entry_digest")
HEAD = ", ".join(COLUMNS_OF_HEAD)
FLOW = "CASE identity WHEN '' THEN ':' || flow ELSE identity END"
"""The key by which a run's flow is found (`Checkpoint.known_by`), as in the index `running_by_flow`."""
_LEFT = "extract(epoch FROM expires - clock_timestamp())::DOUBLE PRECISION"
"""The remaining seconds of a lease. An owner that has left has none, which counts as 0."""

_HEAD_TYPES = "text text bigint bigint text text float8 text bigint text bigint text bigint"
_ARRAYS = (*_HEAD_TYPES.split(), *["bytea"] * 8, "text", "bytea")
"""The types of `run_head.values_of`."""

CLOCK = "extract(epoch FROM clock_timestamp())::float8"
"""The server's clock, read before whatever may wait for locks. See clock.py."""

BEGIN = (
    f"SELECT {CLOCK}, " + "{schema}.begin(%s::bigint, %s::bigint, %s::text, %s::float8), "
    "set_config('idle_in_transaction_session_timeout', %s::text, true)"
)
STORE = (
    f"SELECT {CLOCK}, "
    + "{schema}.append_checkpoints(%s::bigint, %s::bigint, %s::text, %s::float8, "
    + ", ".join(f"%b::{each}[]" for each in _ARRAYS)
    + ")"
)
"""It returns the time, too. Parameters: those of `begin`, then one array for each value. See children.sql."""

FENCE = "SELECT {schema}.fence(%s::bigint)"
AWAIT_END = "SELECT set_config('lock_timeout', %s::text, true), pg_advisory_xact_lock(%s::bigint)"
"""See lost.py."""

SELECT_HEAD = f"SELECT {HEAD} FROM {{schema}}.runs WHERE run_id = %s"
SELECT_NEWEST = (
    f"SELECT {', '.join(f'r.{name}' for name in COLUMNS_OF_HEAD)}, {_COLUMNS} FROM {{schema}}.runs r "
    "LEFT JOIN {schema}.checkpoints c ON c.run = r.id AND c.seq >= r.base WHERE r.run_id = %s ORDER BY c.seq"
)
"""A run's head joined with its rows from the last complete checkpoint on: one statement is one snapshot and one round trip."""
LOCK_HEADS = f"SELECT {HEAD} FROM {{schema}}.runs WHERE run_id = ANY(%s::text[]) ORDER BY run_id FOR UPDATE"
"""In run id order, which all transactions use, so that no deadlock can occur."""
ADOPT = (
    "UPDATE {schema}.runs SET parent = given.parent, parent_digest = given.digest "
    "FROM unnest(%s::text[], %s::text[], %s::bytea[]) AS given (run_id, parent, digest) WHERE runs.run_id = given.run_id"
)
SELECT_LEASES = f"SELECT owner, {_LEFT} FROM {{schema}}.owners WHERE owner = ANY(%s::text[])"
LEAVE = "DELETE FROM {schema}.owners WHERE owner = %s"
OWN_RUN = "UPDATE {schema}.runs SET owner = %s, epoch = %s, entry_digest = %s, wake_at = NULL WHERE run_id = %s"
PARK_RUN = (
    "UPDATE {schema}.runs SET owner = %s, epoch = %s, entry_digest = %s, wake_at = CASE WHEN EXISTS (SELECT FROM {schema}.signals s "
    "WHERE s.run = runs.id AND s.taken IS NULL AND s.problem IS NULL AND s.id > %s) THEN 0 ELSE %s::float8 END WHERE run_id = %s"
)
COUNT_TAKEOVER = (
    "UPDATE {schema}.runs SET takeovers = CASE WHEN counted_at = head THEN takeovers ELSE 0 END + 1, counted_at = head "
    "WHERE run_id = %s"
)
DELETE_CHECKPOINTS = "DELETE FROM {schema}.checkpoints WHERE run = (SELECT id FROM {schema}.runs WHERE run_id = %s)"
DELETE_RUN = "DELETE FROM {schema}.runs WHERE run_id = %s"
SELECT_RUNS = (
    "SELECT run_id, flow, status, pass_number, head, runs.owner, created_at, updated_at, id, "
    f"CASE WHEN counted_at = head THEN takeovers ELSE 0 END, {FLOW}, coalesce({_LEFT}, 0.0), "
    "CASE status WHEN 'running' THEN wake_at END, parent FROM {schema}.runs LEFT JOIN {schema}.owners ON owners.owner = runs.owner "
)
SELECT_PAGE = (
    SELECT_RUNS + "WHERE id < %s AND (%s::text IS NULL OR flow = %s::text) AND {chosen} ORDER BY id DESC LIMIT %s"
)
SELECT_PARKED = SELECT_RUNS + f"WHERE {PARKED} AND {FLOW} = %s AND wake_at <= %s ORDER BY wake_at LIMIT %s"
SELECT_ORPHANS = SELECT_RUNS + f"WHERE {ORPHANED.replace('@', '{schema}.')} ORDER BY id LIMIT %s"
SELECT_QUIET = f"SELECT run_id FROM {{schema}}.runs WHERE run_id = ANY(%s::text[]) AND {PARKED} AND wake_at > 0"
"""Those of some runs that are parked, and that no signal has made due."""
SELECT_RUN_IDS = "SELECT run_id FROM {schema}.runs ORDER BY id"
FORGET_TAKEOVERS = "UPDATE {schema}.runs SET counted_at = NULL WHERE run_id = %s AND counted_at IS NOT NULL"
"""Reset the takeover count: a run that is released normally, or that its process has driven for a while, is not a poison run."""
SELECT_CHECKPOINTS = f"SELECT {_COLUMNS} FROM {_OF_RUN} AND c.seq BETWEEN %s AND %s ORDER BY c.seq"
SELECT_DIGEST = f"SELECT c.digest FROM {_OF_RUN} AND c.seq = %s"
SELECT_BASE = f"SELECT c.base FROM {_OF_RUN} AND c.seq = %s"


def of_tables(sql: str) -> str:
    """Return a statement of `inboxes.py` for PostgreSQL."""
    return sql.replace("@", "{schema}.").replace("?", "%s")


def is_text(value: str) -> bool:
    """Whether PostgreSQL can store a text: it contains no NUL, and can be encoded as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value
