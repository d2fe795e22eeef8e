-- Version 9. Child runs: each names its parent.

ALTER TABLE {schema}.runs
  ADD COLUMN parent TEXT COLLATE "C",   -- the run id of the parent; NULL for a run that has none; outside the digest of the row
  ADD COLUMN parent_digest BYTEA;       -- of the run id and of that of the parent

CREATE INDEX children ON {schema}.runs (parent, id) WHERE parent IS NOT NULL;

-- Child runs that are not over.
CREATE INDEX live_children ON {schema}.runs (id, parent) WHERE parent IS NOT NULL AND status IN ('running', 'failed');

-- A connected process of 0.5 uses the old names: its statements fail with the reason, and it loses nothing.
ALTER TABLE {schema}.runs RENAME COLUMN run_digest TO entry_digest;

CREATE OR REPLACE FUNCTION {schema}.store_checkpoints(
  connection BIGINT, milliseconds BIGINT, keeper TEXT, lease DOUBLE PRECISION,
  run_ids TEXT[], flows TEXT[], seqs BIGINT[], pass_numbers BIGINT[], kinds TEXT[], statuses TEXT[],
  ats DOUBLE PRECISION[], methods TEXT[], bases BIGINT[], identities TEXT[], formats BIGINT[], versions TEXT[], epochs BIGINT[],
  states BYTEA[], progresses BYTEA[], changess BYTEA[], results BYTEA[], inputss BYTEA[], outcomes BYTEA[],
  previouses BYTEA[], digests BYTEA[], owners TEXT[], run_digests BYTEA[]
) RETURNS BIGINT[] LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'this schema was upgraded by a newer asyncflow: update asyncflow in this process';
END $$;

-- Store checkpoints one after the other: each in its table and, by compare and set, in the head of its run. Return the positions,
-- from 1, of those that do not follow what is stored; these change nothing. The count of takeovers stays valid after a resume.
CREATE FUNCTION {schema}.append_checkpoints(
  connection BIGINT, milliseconds BIGINT, keeper TEXT, lease DOUBLE PRECISION,
  run_ids TEXT[], flows TEXT[], seqs BIGINT[], pass_numbers BIGINT[], kinds TEXT[], statuses TEXT[],
  ats DOUBLE PRECISION[], methods TEXT[], bases BIGINT[], identities TEXT[], formats BIGINT[], versions TEXT[], epochs BIGINT[],
  states BYTEA[], progresses BYTEA[], changess BYTEA[], results BYTEA[], inputss BYTEA[], outcomes BYTEA[],
  previouses BYTEA[], digests BYTEA[], owners TEXT[], entry_digests BYTEA[]
) RETURNS BIGINT[] LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  c RECORD;
  place BIGINT;
  refused BIGINT[] := '{}';
BEGIN
  PERFORM {schema}.begin(connection, milliseconds, keeper, lease);
  FOR c IN
    SELECT * FROM unnest(
      run_ids, flows, seqs, pass_numbers, kinds, statuses, ats, methods, bases, identities, formats, versions, epochs,
      states, progresses, changess, results, inputss, outcomes, previouses, digests, owners, entry_digests
    ) WITH ORDINALITY AS given (
      run_id, flow, seq, pass_number, kind, status, at, method, base, identity, format, version, epoch,
      state, progress, changes, result, inputs, outcome, previous, digest, owner, entry_digest, nth
    ) ORDER BY nth
  LOOP
    IF c.seq = 0 THEN
      INSERT INTO {schema}.runs
        (run_id, flow, identity, status, pass_number, head, head_digest, base, format, version, owner, epoch,
        created_at, updated_at, entry_digest)
      VALUES
        (c.run_id, c.flow, c.identity, c.status, c.pass_number, 0, c.digest, c.base, c.format, c.version, c.owner,
        c.epoch, c.at, c.at, c.entry_digest)
      ON CONFLICT (run_id) DO NOTHING RETURNING id INTO place;
    ELSE
      UPDATE {schema}.runs SET
        status = c.status, pass_number = c.pass_number, head = c.seq, head_digest = c.digest, base = c.base,
        format = c.format, version = c.version, owner = c.owner, updated_at = c.at, entry_digest = c.entry_digest,
        counted_at = CASE WHEN c.kind = 'resumed' AND counted_at = head THEN c.seq ELSE counted_at END
      WHERE run_id = c.run_id AND epoch = c.epoch AND head = c.seq - 1 AND head_digest = c.previous
      RETURNING id INTO place;
    END IF;
    IF place IS NULL THEN
      refused := refused || c.nth;
      CONTINUE;
    END IF;
    INSERT INTO {schema}.checkpoints
      (run, seq, pass_number, kind, status, at, method, base, format, version, epoch, state, progress, changes, result,
      inputs, outcome, previous, digest)
    VALUES
      (place, c.seq, c.pass_number, c.kind, c.status, c.at, c.method, c.base, c.format, c.version, c.epoch, c.state,
      c.progress, c.changes, c.result, c.inputs, c.outcome, c.previous, c.digest);
  END LOOP;
  RETURN refused;
END $$;

INSERT INTO {schema}.asyncflow VALUES (9);
