-- Version 9. Child runs: each names its parent.

-- The run id of the parent; NULL for a run that has none. It is outside the digest of the row.
ALTER TABLE runs ADD COLUMN parent TEXT;

-- A digest of the run id and of that of the parent.
ALTER TABLE runs ADD COLUMN parent_digest BLOB;

-- A process of 0.5 that has the file open uses the old name: its statements fail, and it loses nothing.
ALTER TABLE runs RENAME COLUMN run_digest TO entry_digest;

CREATE INDEX children ON runs (parent, id) WHERE parent IS NOT NULL;

-- Child runs that are not over.
CREATE INDEX live_children ON runs (id, parent) WHERE parent IS NOT NULL AND status IN ('running', 'failed');
