-- Version 3. How often a run was taken over from an owner that is dead, and at which checkpoint that was.

ALTER TABLE runs ADD COLUMN takeovers INTEGER NOT NULL DEFAULT 0;

ALTER TABLE runs ADD COLUMN taken_at INTEGER;
