-- Version 1. Statements are separated by blank lines; each migration runs in one transaction.
-- SQLite stores each statement from CREATE on, comments included, and an opening compares it with this text: never change it.

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

-- Inserting a checkpoint here stores it: in its table and, by compare and set, in the head of its run.
CREATE VIEW commits AS SELECT
  NULL AS run_id, NULL AS flow, NULL AS seq, NULL AS number, NULL AS kind, NULL AS status, NULL AS at,
  NULL AS method, NULL AS base, NULL AS epoch, NULL AS state, NULL AS progress, NULL AS changes, NULL AS result,
  NULL AS inputs, NULL AS outcome, NULL AS previous, NULL AS digest, NULL AS owner, NULL AS head_digest;

CREATE TRIGGER first INSTEAD OF INSERT ON commits WHEN NEW.seq = 0 BEGIN
  INSERT INTO runs
    (run_id, flow, status, number, head, head_digest, base, owner, epoch, created_at, updated_at, digest)
  VALUES
    (NEW.run_id, NEW.flow, NEW.status, NEW.number, 0, NEW.digest, NEW.base, NEW.owner, NEW.epoch, NEW.at, NEW.at,
    NEW.head_digest);
  INSERT INTO checkpoints (run,
    seq, number, kind, status, at, method, base, epoch, state, progress, changes, result, inputs, outcome,
    previous, digest)
  VALUES (last_insert_rowid(),
    NEW.seq, NEW.number, NEW.kind, NEW.status, NEW.at, NEW.method, NEW.base, NEW.epoch, NEW.state, NEW.progress,
    NEW.changes, NEW.result, NEW.inputs, NEW.outcome, NEW.previous, NEW.digest);
END;

CREATE TRIGGER following INSTEAD OF INSERT ON commits WHEN NEW.seq > 0 BEGIN
  UPDATE runs SET
    status = NEW.status, number = NEW.number, head = NEW.seq, head_digest = NEW.digest, base = NEW.base,
    owner = NEW.owner, updated_at = NEW.at, digest = NEW.head_digest
  WHERE run_id = NEW.run_id AND epoch = NEW.epoch AND head = NEW.seq - 1 AND head_digest = NEW.previous;
  SELECT RAISE(ABORT, 'it does not follow what is stored') WHERE changes() = 0;
  INSERT INTO checkpoints (run,
    seq, number, kind, status, at, method, base, epoch, state, progress, changes, result, inputs, outcome,
    previous, digest)
  SELECT id,
    NEW.seq, NEW.number, NEW.kind, NEW.status, NEW.at, NEW.method, NEW.base, NEW.epoch, NEW.state, NEW.progress,
    NEW.changes, NEW.result, NEW.inputs, NEW.outcome, NEW.previous, NEW.digest
  FROM runs WHERE run_id = NEW.run_id;
END;
