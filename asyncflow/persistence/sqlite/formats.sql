-- Version 4. The format of each row and the version that wrote it; the identity of a run's flow, used to find interrupted runs.

-- Which version of asyncflow created each version of this schema, for the error message of an older asyncflow.
CREATE TABLE upgrades (
  schema INTEGER PRIMARY KEY,
  version TEXT NOT NULL
) STRICT;

ALTER TABLE runs ADD COLUMN identity TEXT NOT NULL DEFAULT '';

ALTER TABLE runs ADD COLUMN format INTEGER NOT NULL DEFAULT 1;

ALTER TABLE runs ADD COLUMN version TEXT NOT NULL DEFAULT '';

ALTER TABLE checkpoints ADD COLUMN format INTEGER NOT NULL DEFAULT 1;

ALTER TABLE checkpoints ADD COLUMN version TEXT NOT NULL DEFAULT '';

-- An index of the running runs of each flow. Runs that 0.1 stored have only the flow's name.
CREATE INDEX running_by_flow ON runs (CASE identity WHEN '' THEN ':' || flow ELSE identity END, id) WHERE status = 'running';

-- A process of 0.1 that has the file open uses the old names: its writes fail with the reason, its reads with "no such column: number".
-- It loses nothing.
-- (An unknown collation fails with a message of our choice; it is not a conflict and does not block later migrations.)
DROP VIEW commits;

ALTER TABLE runs RENAME COLUMN number TO pass_number;

ALTER TABLE checkpoints RENAME COLUMN number TO pass_number;

CREATE VIEW commits AS SELECT
  NULL AS run_id, NULL AS flow, NULL AS seq, NULL AS number, NULL AS kind, NULL AS status, NULL AS at,
  NULL AS method, NULL AS base, NULL AS epoch, NULL AS state, NULL AS progress, NULL AS changes, NULL AS result,
  NULL AS inputs, NULL AS outcome, NULL AS previous, NULL AS digest, NULL AS owner, NULL AS head_digest;

CREATE TRIGGER outdated INSTEAD OF INSERT ON commits BEGIN
  SELECT NEW.seq = NEW.number COLLATE "this database was upgraded by a newer asyncflow: update asyncflow in this process";
END;

-- A checkpoint is stored by inserting it into one of three views. The view's trigger stores it, and compares and sets the head of
-- its run. This view is for the first checkpoint of a run.
CREATE VIEW first_appends AS SELECT
  NULL AS run_id, NULL AS flow, NULL AS seq, NULL AS pass_number, NULL AS kind, NULL AS status,
  NULL AS at, NULL AS method, NULL AS base, NULL AS identity, NULL AS format, NULL AS version, NULL AS epoch, NULL AS state,
  NULL AS progress, NULL AS changes, NULL AS result, NULL AS inputs, NULL AS outcome, NULL AS previous, NULL AS digest,
  NULL AS owner, NULL AS head_digest;

CREATE TRIGGER append_first INSTEAD OF INSERT ON first_appends BEGIN
  INSERT INTO runs
    (run_id, flow, identity, status, pass_number, head, head_digest, base, format, version, owner, epoch, created_at,
    updated_at, digest)
  VALUES
    (NEW.run_id, NEW.flow, NEW.identity, NEW.status, NEW.pass_number, 0, NEW.digest, NEW.base, NEW.format, NEW.version,
    NEW.owner, NEW.epoch, NEW.at, NEW.at, NEW.head_digest);
  INSERT INTO checkpoints (run,
    seq, pass_number, kind, status, at, method, base, format, version, epoch, state, progress, changes, result, inputs,
    outcome, previous, digest)
  VALUES (last_insert_rowid(),
    0, NEW.pass_number, NEW.kind, NEW.status, NEW.at, NEW.method, NEW.base, NEW.format, NEW.version, NEW.epoch,
    NEW.state, NEW.progress, NEW.changes, NEW.result, NEW.inputs, NEW.outcome, NEW.previous, NEW.digest);
END;

-- For the next checkpoint of a run that continues running. Most are of this kind. The update does not change the two indexes of
-- running runs, which saves a page each.
CREATE VIEW running_appends AS SELECT
  NULL AS run_id, NULL AS seq, NULL AS pass_number, NULL AS kind, NULL AS at, NULL AS method, NULL AS base,
  NULL AS format, NULL AS version, NULL AS epoch, NULL AS state, NULL AS progress, NULL AS changes, NULL AS result,
  NULL AS inputs, NULL AS outcome, NULL AS previous, NULL AS digest, NULL AS head_digest;

CREATE TRIGGER append_running INSTEAD OF INSERT ON running_appends BEGIN
  UPDATE runs SET
    pass_number = NEW.pass_number, head = NEW.seq, head_digest = NEW.digest, base = NEW.base, format = NEW.format,
    version = NEW.version, updated_at = NEW.at, digest = NEW.head_digest
  WHERE run_id = NEW.run_id AND epoch = NEW.epoch AND head = NEW.seq - 1 AND head_digest = NEW.previous
    AND status = 'running';
  SELECT RAISE(ABORT, 'it does not follow what is stored') WHERE changes() = 0;
  INSERT INTO checkpoints (run,
    seq, pass_number, kind, status, at, method, base, format, version, epoch, state, progress, changes, result, inputs,
    outcome, previous, digest)
  SELECT id,
    NEW.seq, NEW.pass_number, NEW.kind, 'running', NEW.at, NEW.method, NEW.base, NEW.format, NEW.version, NEW.epoch,
    NEW.state, NEW.progress, NEW.changes, NEW.result, NEW.inputs, NEW.outcome, NEW.previous, NEW.digest
  FROM runs WHERE run_id = NEW.run_id;
END;

-- For all other checkpoints.
CREATE VIEW other_appends AS SELECT
  NULL AS run_id, NULL AS seq, NULL AS pass_number, NULL AS kind, NULL AS status, NULL AS at, NULL AS method,
  NULL AS base, NULL AS format, NULL AS version, NULL AS epoch, NULL AS state, NULL AS progress, NULL AS changes,
  NULL AS result, NULL AS inputs, NULL AS outcome, NULL AS previous, NULL AS digest, NULL AS owner, NULL AS head_digest;

CREATE TRIGGER append_other INSTEAD OF INSERT ON other_appends BEGIN
  UPDATE runs SET
    status = NEW.status, pass_number = NEW.pass_number, head = NEW.seq, head_digest = NEW.digest, base = NEW.base,
    format = NEW.format, version = NEW.version, owner = NEW.owner, updated_at = NEW.at, digest = NEW.head_digest
  WHERE run_id = NEW.run_id AND epoch = NEW.epoch AND head = NEW.seq - 1 AND head_digest = NEW.previous;
  SELECT RAISE(ABORT, 'it does not follow what is stored') WHERE changes() = 0;
  INSERT INTO checkpoints (run,
    seq, pass_number, kind, status, at, method, base, format, version, epoch, state, progress, changes, result, inputs,
    outcome, previous, digest)
  SELECT id,
    NEW.seq, NEW.pass_number, NEW.kind, NEW.status, NEW.at, NEW.method, NEW.base, NEW.format, NEW.version, NEW.epoch,
    NEW.state, NEW.progress, NEW.changes, NEW.result, NEW.inputs, NEW.outcome, NEW.previous, NEW.digest
  FROM runs WHERE run_id = NEW.run_id;
END;
