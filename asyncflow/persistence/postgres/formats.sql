-- Version 3. The format of each row and the version that wrote it; the identity of a run's flow, used to find interrupted runs;
-- and fences for lost connections.

-- Which version of asyncflow created each version of this schema, for the error message of an older asyncflow.
ALTER TABLE {schema}.asyncflow ADD COLUMN made_by TEXT COLLATE "C" NOT NULL DEFAULT '';

ALTER TABLE {schema}.runs
  ADD COLUMN identity TEXT COLLATE "C" NOT NULL DEFAULT '',
  ADD COLUMN format BIGINT NOT NULL DEFAULT 1,
  ADD COLUMN version TEXT COLLATE "C" NOT NULL DEFAULT '';

ALTER TABLE {schema}.checkpoints
  ADD COLUMN format BIGINT NOT NULL DEFAULT 1,
  ADD COLUMN version TEXT COLLATE "C" NOT NULL DEFAULT '';

-- An index of the running runs of each flow. Runs that 0.1 stored have only the flow's name.
CREATE INDEX running_by_flow ON {schema}.runs ((CASE identity WHEN '' THEN ':' || flow ELSE identity END), id)
  WHERE status = 'running';

-- A connected process of 0.1 uses the old names: its statements fail with the reason, and it loses nothing.
ALTER TABLE {schema}.runs RENAME COLUMN number TO pass_number;
ALTER TABLE {schema}.checkpoints RENAME COLUMN number TO pass_number;

CREATE OR REPLACE FUNCTION {schema}.begin(milliseconds BIGINT, keeper TEXT, lease DOUBLE PRECISION)
RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'this schema was upgraded by a newer asyncflow: update asyncflow in this process';
END $$;

CREATE OR REPLACE FUNCTION {schema}.store(
  milliseconds BIGINT, keeper TEXT, lease DOUBLE PRECISION,
  run_ids TEXT[], flows TEXT[], seqs BIGINT[], numbers BIGINT[], kinds TEXT[], statuses TEXT[], ats DOUBLE PRECISION[],
  methods TEXT[], bases BIGINT[], epochs BIGINT[], states BYTEA[], progresses BYTEA[], changess BYTEA[], results BYTEA[],
  inputss BYTEA[], outcomes BYTEA[], previouses BYTEA[], digests BYTEA[], owners TEXT[], head_digests BYTEA[]
) RETURNS BIGINT[] LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'this schema was upgraded by a newer asyncflow: update asyncflow in this process';
END $$;

-- Fences: what was sent over a connection that was lost during a commit must not commit later. See lost.py.
CREATE TABLE {schema}.fences (
  session BIGINT PRIMARY KEY,       -- the number of the lost connection
  at TIMESTAMPTZ NOT NULL
);

-- Commit a fence durably. Fences are kept for a month: no proxy is expected to deliver anything later than that.
CREATE FUNCTION {schema}.fence(lost BIGINT) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  DELETE FROM {schema}.fences WHERE session IN (
    SELECT session FROM {schema}.fences WHERE at < clock_timestamp() - INTERVAL '30 days' FOR UPDATE SKIP LOCKED);
  INSERT INTO {schema}.fences VALUES (lost, clock_timestamp()) ON CONFLICT DO NOTHING;
END $$;

-- Begin a transaction: set its lock timeout, make its commit durable, check that its connection is not fenced, and renew the
-- owner's lease if it is due. `connection`: the number of the connection, see lost.py.
CREATE FUNCTION {schema}.begin(connection BIGINT, milliseconds BIGINT, keeper TEXT, lease DOUBLE PRECISION)
RETURNS VOID LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  IF set_config('lock_timeout', milliseconds::TEXT, true) IS NULL  -- one expression: each statement of its own takes a microsecond more
    OR pg_advisory_xact_lock(connection) IS NULL OR current_setting('transaction_isolation') <> 'read committed'
  THEN
    RAISE EXCEPTION 'a fence is seen by transactions of the level READ COMMITTED only' USING ERRCODE = '25001';
  END IF;
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  IF EXISTS (SELECT FROM {schema}.fences WHERE session = connection) THEN  -- it sees what was committed before the lock
    RAISE EXCEPTION 'this came after its connection was given up' USING ERRCODE = '08003';
  END IF;
  IF lease IS NOT NULL THEN
    INSERT INTO {schema}.owners VALUES (keeper, clock_timestamp() + make_interval(secs => lease))
      ON CONFLICT (owner) DO UPDATE SET expires = EXCLUDED.expires;
    DELETE FROM {schema}.owners WHERE owner IN (  -- a lease that has run out says no more than one that is not there
      SELECT owner FROM {schema}.owners WHERE expires < clock_timestamp() - INTERVAL '1 minute' FOR UPDATE SKIP LOCKED);
  END IF;
END $$;

-- Store checkpoints one after the other: each in its table and, by compare and set, in the head of its run. Return the positions,
-- from 1, of those that do not follow what is stored; these change nothing.
CREATE FUNCTION {schema}.store(
  connection BIGINT, milliseconds BIGINT, keeper TEXT, lease DOUBLE PRECISION,
  run_ids TEXT[], flows TEXT[], seqs BIGINT[], pass_numbers BIGINT[], kinds TEXT[], statuses TEXT[],
  ats DOUBLE PRECISION[], methods TEXT[], bases BIGINT[], identities TEXT[], formats BIGINT[], versions TEXT[], epochs BIGINT[],
  states BYTEA[], progresses BYTEA[], changess BYTEA[], results BYTEA[], inputss BYTEA[], outcomes BYTEA[],
  previouses BYTEA[], digests BYTEA[], owners TEXT[], head_digests BYTEA[]
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
      states, progresses, changess, results, inputss, outcomes, previouses, digests, owners, head_digests
    ) WITH ORDINALITY AS given (
      run_id, flow, seq, pass_number, kind, status, at, method, base, identity, format, version, epoch,
      state, progress, changes, result, inputs, outcome, previous, digest, owner, head_digest, nth
    ) ORDER BY nth
  LOOP
    IF c.seq = 0 THEN
      INSERT INTO {schema}.runs
        (run_id, flow, identity, status, pass_number, head, head_digest, base, format, version, owner, epoch,
        created_at, updated_at, digest)
      VALUES
        (c.run_id, c.flow, c.identity, c.status, c.pass_number, 0, c.digest, c.base, c.format, c.version, c.owner,
        c.epoch, c.at, c.at, c.head_digest)
      ON CONFLICT (run_id) DO NOTHING RETURNING id INTO place;
    ELSE
      UPDATE {schema}.runs SET
        status = c.status, pass_number = c.pass_number, head = c.seq, head_digest = c.digest, base = c.base,
        format = c.format, version = c.version, owner = c.owner, updated_at = c.at, digest = c.head_digest
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

INSERT INTO {schema}.asyncflow VALUES (3);
