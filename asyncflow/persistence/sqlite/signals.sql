-- Version 6. The inbox of each run: the signals that were sent to it, until a checkpoint takes them.

CREATE TABLE signals (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  key TEXT NOT NULL,                -- the idempotency key; one that begins with a space was made for a sender without one
  name TEXT NOT NULL,
  payload BLOB,                     -- JSON; NULL once it was taken
  sender TEXT NOT NULL,
  at REAL NOT NULL,                 -- seconds since the Unix epoch
  taken INTEGER,                    -- the seq of the checkpoint that took it
  problem TEXT,                     -- why it was set aside
  content BLOB NOT NULL,            -- a digest of name and payload
  digest BLOB NOT NULL,             -- of the row
  UNIQUE (run, key)
) STRICT;

-- What is in the inboxes, in the order in which it came.
CREATE INDEX untaken ON signals (run, id) WHERE taken IS NULL AND problem IS NULL;
