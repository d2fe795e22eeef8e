-- Version 6. The inbox of each run: the signals that were sent to it, until a checkpoint takes them.

CREATE TABLE {schema}.signals (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run BIGINT NOT NULL REFERENCES {schema}.runs (id) ON DELETE CASCADE,
  key TEXT COLLATE "C" NOT NULL,    -- the idempotency key; one that begins with a space was made for a sender without one
  name TEXT COLLATE "C" NOT NULL,
  payload BYTEA,                    -- JSON; NULL once it was taken
  sender TEXT COLLATE "C" NOT NULL,
  at DOUBLE PRECISION NOT NULL,     -- seconds since the Unix epoch
  taken BIGINT,                     -- the seq of the checkpoint that took it
  problem TEXT COLLATE "C",         -- why it was set aside
  content BYTEA NOT NULL,           -- a digest of name and payload
  digest BYTEA NOT NULL,            -- of the row
  UNIQUE (run, key)
);

-- What is in the inboxes, in the order in which it came.
CREATE INDEX untaken ON {schema}.signals (run, id) WHERE taken IS NULL AND problem IS NULL;

INSERT INTO {schema}.asyncflow VALUES (6);
