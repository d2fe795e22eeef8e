-- Version 2. How often a run was taken over from a dead owner, and at which checkpoint.

ALTER TABLE {schema}.runs ADD COLUMN takeovers BIGINT NOT NULL DEFAULT 0, ADD COLUMN taken_at BIGINT;

INSERT INTO {schema}.asyncflow VALUES (2);
