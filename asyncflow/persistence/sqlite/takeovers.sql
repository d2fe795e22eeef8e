-- Version 3. How often a run was taken over from a dead owner, and at which checkpoint.

ALTER TABLE runs ADD COLUMN takeovers INTEGER NOT NULL DEFAULT 0;

ALTER TABLE runs ADD COLUMN taken_at INTEGER;
