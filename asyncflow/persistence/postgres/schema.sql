-- Version 1. `{schema}` is the schema's quoted name. The whole file runs in one transaction, under an advisory lock.

CREATE TABLE {schema}.asyncflow (version BIGINT NOT NULL);

CREATE TABLE {schema}.runs (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id TEXT COLLATE "C" NOT NULL UNIQUE,
  flow TEXT COLLATE "C" NOT NULL,
  status TEXT COLLATE "C" NOT NULL,
  number BIGINT NOT NULL,           -- of the pass
  head BIGINT NOT NULL,             -- seq of the newest checkpoint
  head_digest BYTEA NOT NULL,
  base BIGINT NOT NULL,             -- seq of the newest complete checkpoint
  owner TEXT COLLATE "C",           -- who drives it; NULL if no process does
  epoch BIGINT NOT NULL,            -- how many owners it has had
  created_at DOUBLE PRECISION NOT NULL,  -- seconds since the epoch
  updated_at DOUBLE PRECISION NOT NULL,
  digest BYTEA NOT NULL             -- over the head: what a flipped bit or an old copy of this row fails
) WITH (fillfactor = 70);           -- it is updated by every checkpoint: room for that in the page itself

CREATE INDEX running ON {schema}.runs (id) WHERE status = 'running';

CREATE TABLE {schema}.checkpoints (
  run BIGINT NOT NULL REFERENCES {schema}.runs (id),
  seq BIGINT NOT NULL,
  number BIGINT NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  status TEXT COLLATE "C" NOT NULL,
  at DOUBLE PRECISION NOT NULL,
  method TEXT COLLATE "C" NOT NULL,
  base BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  state BYTEA,
  progress BYTEA,
  changes BYTEA,
  result BYTEA,
  inputs BYTEA,
  outcome BYTEA,
  previous BYTEA NOT NULL,
  digest BYTEA NOT NULL,
  PRIMARY KEY (run, seq)
);

-- One lease for each owner, renewed once for all its runs.
CREATE TABLE {schema}.owners (
  owner TEXT COLLATE "C" PRIMARY KEY,
  expires TIMESTAMPTZ NOT NULL      -- by the server's clock
);

-- Begin a transaction: set its lock timeout, make its commit durable, and renew the owner's lease if it is due.
CREATE FUNCTION {schema}.begin(milliseconds BIGINT, keeper TEXT, lease DOUBLE PRECISION) RETURNS VOID LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  PERFORM set_config('lock_timeout', milliseconds::TEXT, true);
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  IF lease IS NOT NULL THEN
    INSERT INTO {schema}.owners VALUES (keeper, clock_timestamp() + make_interval(secs => lease))
      ON CONFLICT (owner) DO UPDATE SET expires = EXCLUDED.expires;
    DELETE FROM {schema}.owners WHERE owner IN (
      SELECT owner FROM {schema}.owners WHERE expires < clock_timestamp() - INTERVAL '1 day' FOR UPDATE SKIP LOCKED);
  END IF;
END $$;

-- Store checkpoints one after the other: each in its table and, by compare and set, in the head of its run. Return the positions,
-- from 1, of those that do not follow what is stored; these change nothing.
CREATE FUNCTION {schema}.store(
  milliseconds BIGINT, keeper TEXT, lease DOUBLE PRECISION,
  run_ids TEXT[], flows TEXT[], seqs BIGINT[], numbers BIGINT[], kinds TEXT[], statuses TEXT[], ats DOUBLE PRECISION[],
  methods TEXT[], bases BIGINT[], epochs BIGINT[], states BYTEA[], progresses BYTEA[], changess BYTEA[], results BYTEA[],
  inputss BYTEA[], outcomes BYTEA[], previouses BYTEA[], digests BYTEA[], owners TEXT[], head_digests BYTEA[]
) RETURNS BIGINT[] LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  c RECORD;
  place BIGINT;
  refused BIGINT[] := '{}';
BEGIN
  PERFORM {schema}.begin(milliseconds, keeper, lease);
  FOR c IN
    SELECT * FROM unnest(
      run_ids, flows, seqs, numbers, kinds, statuses, ats, methods, bases, epochs, states, progresses, changess, results,
      inputss, outcomes, previouses, digests, owners, head_digests
    ) WITH ORDINALITY AS given (
      run_id, flow, seq, number, kind, status, at, method, base, epoch, state, progress, changes, result,
      inputs, outcome, previous, digest, owner, head_digest, nth
    ) ORDER BY nth
  LOOP
    IF c.seq = 0 THEN
      INSERT INTO {schema}.runs
        (run_id, flow, status, number, head, head_digest, base, owner, epoch, created_at, updated_at, digest)
      VALUES
        (c.run_id, c.flow, c.status, c.number, 0, c.digest, c.base, c.owner, c.epoch, c.at, c.at, c.head_digest)
      ON CONFLICT (run_id) DO NOTHING RETURNING id INTO place;
    ELSE
      UPDATE {schema}.runs SET
        status = c.status, number = c.number, head = c.seq, head_digest = c.digest, base = c.base, owner = c.owner,
        updated_at = c.at, digest = c.head_digest
      WHERE run_id = c.run_id AND epoch = c.epoch AND head = c.seq - 1 AND head_digest = c.previous
      RETURNING id INTO place;
    END IF;
    IF place IS NULL THEN
      refused := refused || c.nth;
      CONTINUE;
    END IF;
    INSERT INTO {schema}.checkpoints
      (run, seq, number, kind, status, at, method, base, epoch, state, progress, changes, result, inputs, outcome, previous,
      digest)
    VALUES
      (place, c.seq, c.number, c.kind, c.status, c.at, c.method, c.base, c.epoch, c.state, c.progress, c.changes, c.result,
      c.inputs, c.outcome, c.previous, c.digest);
  END LOOP;
  RETURN refused;
END $$;

INSERT INTO {schema}.asyncflow VALUES (1);
