-- Version 7. Parked runs: they wait for a time or a signal, have no owner, and are found when they are due.

-- When a parked run is due, in seconds since the Unix epoch; infinity: it waits for signals only. NULL: the run is not parked. It is
-- outside the digest of the row: it decides only when the run is looked at.
ALTER TABLE runs ADD COLUMN wake_at REAL;

-- A process of 0.4 that has the file open uses the old name: its statements fail, and it loses nothing.
ALTER TABLE runs RENAME COLUMN row_digest TO run_digest;

DROP INDEX running;

DROP INDEX running_by_flow;

-- The runs that a process drives, or that were interrupted.
CREATE INDEX unparked ON runs (id) WHERE status = 'running' AND wake_at IS NULL;

CREATE INDEX unparked_by_flow ON runs (CASE identity WHEN '' THEN ':' || flow ELSE identity END, id)
  WHERE status = 'running' AND wake_at IS NULL;

-- The parked runs, of each flow by the time at which they are due.
CREATE INDEX parked ON runs (id) WHERE status = 'running' AND wake_at IS NOT NULL;

CREATE INDEX parked_by_flow ON runs (CASE identity WHEN '' THEN ':' || flow ELSE identity END, wake_at)
  WHERE status = 'running' AND wake_at IS NOT NULL;
