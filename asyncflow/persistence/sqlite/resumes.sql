-- Version 5. A resume has a checkpoint of its own, which shows no progress: takeovers are counted up to it.

DROP VIEW first_appends;

DROP VIEW running_appends;

DROP VIEW other_appends;

-- The seq of the newest checkpoint at which a takeover was counted, or of the resumes after it. If it is the head, the count is
-- valid.
ALTER TABLE runs RENAME COLUMN taken_at TO counted_at;

-- A process of 0.2 that has the file open uses the old names: its statements fail, and it loses nothing.
ALTER TABLE runs RENAME COLUMN digest TO row_digest;

-- As in version 4, a checkpoint is stored by inserting it into one of three views. This one is for the first checkpoint of a run.
CREATE VIEW first_checkpoints AS SELECT
  NULL AS run_id, NULL AS flow, NULL AS seq, NULL AS pass_number, NULL AS kind, NULL AS status,
  NULL AS at, NULL AS method, NULL AS base, NULL AS identity, NULL AS format, NULL AS version, NULL AS epoch, NULL AS state,
  NULL AS progress, NULL AS changes, NULL AS result, NULL AS inputs, NULL AS outcome, NULL AS previous, NULL AS digest,
  NULL AS owner, NULL AS row_digest;

CREATE TRIGGER store_first INSTEAD OF INSERT ON first_checkpoints BEGIN
  INSERT INTO runs
    (run_id, flow, identity, status, pass_number, head, head_digest, base, format, version, owner, epoch, created_at,
    updated_at, row_digest)
  VALUES
    (NEW.run_id, NEW.flow, NEW.identity, NEW.status, NEW.pass_number, 0, NEW.digest, NEW.base, NEW.format, NEW.version,
    NEW.owner, NEW.epoch, NEW.at, NEW.at, NEW.row_digest);
  INSERT INTO checkpoints (run,
    seq, pass_number, kind, status, at, method, base, format, version, epoch, state, progress, changes, result, inputs,
    outcome, previous, digest)
  VALUES (last_insert_rowid(),
    0, NEW.pass_number, NEW.kind, NEW.status, NEW.at, NEW.method, NEW.base, NEW.format, NEW.version, NEW.epoch,
    NEW.state, NEW.progress, NEW.changes, NEW.result, NEW.inputs, NEW.outcome, NEW.previous, NEW.digest);
END;

-- For the next checkpoint of a run that continues running, unless it is a resume. Most are of this kind. The update does not change
-- the two indexes of running runs, which saves a page each.
CREATE VIEW running_checkpoints AS SELECT
  NULL AS run_id, NULL AS seq, NULL AS pass_number, NULL AS kind, NULL AS at, NULL AS method, NULL AS base,
  NULL AS format, NULL AS version, NULL AS epoch, NULL AS state, NULL AS progress, NULL AS changes, NULL AS result,
  NULL AS inputs, NULL AS outcome, NULL AS previous, NULL AS digest, NULL AS row_digest;

CREATE TRIGGER store_running INSTEAD OF INSERT ON running_checkpoints BEGIN
  UPDATE runs SET
    pass_number = NEW.pass_number, head = NEW.seq, head_digest = NEW.digest, base = NEW.base, format = NEW.format,
    version = NEW.version, updated_at = NEW.at, row_digest = NEW.row_digest
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

-- For all other checkpoints. The count of takeovers stays valid after a resume.
CREATE VIEW other_checkpoints AS SELECT
  NULL AS run_id, NULL AS seq, NULL AS pass_number, NULL AS kind, NULL AS status, NULL AS at, NULL AS method,
  NULL AS base, NULL AS format, NULL AS version, NULL AS epoch, NULL AS state, NULL AS progress, NULL AS changes,
  NULL AS result, NULL AS inputs, NULL AS outcome, NULL AS previous, NULL AS digest, NULL AS owner, NULL AS row_digest;

CREATE TRIGGER store_other INSTEAD OF INSERT ON other_checkpoints BEGIN
  UPDATE runs SET
    status = NEW.status, pass_number = NEW.pass_number, head = NEW.seq, head_digest = NEW.digest, base = NEW.base,
    format = NEW.format, version = NEW.version, owner = NEW.owner, updated_at = NEW.at, row_digest = NEW.row_digest,
    counted_at = CASE WHEN NEW.kind = 'resumed' AND counted_at = head THEN NEW.seq ELSE counted_at END
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
