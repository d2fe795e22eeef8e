-- Version 1. Statements are separated by blank lines; each migration runs in one transaction.

CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL UNIQUE,
  flow TEXT NOT NULL,
  status TEXT NOT NULL,
  number INTEGER NOT NULL,          -- of the pass
  head INTEGER NOT NULL,            -- seq of the newest checkpoint
  head_digest BLOB NOT NULL,
  base INTEGER NOT NULL,            -- seq of the newest complete checkpoint
  owner TEXT,                       -- who drives it, while somebody does
  epoch INTEGER NOT NULL,           -- how many owners it has had
  created_at REAL NOT NULL,         -- seconds since the epoch
  updated_at REAL NOT NULL,
  digest BLOB NOT NULL              -- over the head: what a flipped bit or an old copy of this row fails
) STRICT;

CREATE TABLE checkpoints (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (id),
  seq INTEGER NOT NULL,
  number INTEGER NOT NULL,
  kind TEXT NOT NULL,
  status TEXT NOT NULL,
  at REAL NOT NULL,
  method TEXT NOT NULL,
  base INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  state BLOB,
  progress BLOB,
  changes BLOB,
  result BLOB,
  inputs BLOB,
  outcome BLOB,
  previous BLOB NOT NULL,
  digest BLOB NOT NULL,
  UNIQUE (run, seq)
) STRICT;
