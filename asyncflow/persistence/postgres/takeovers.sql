-- Version 2. How often a run was taken over from an owner that is dead, and at which checkpoint that was.

ALTER TABLE {schema}.runs ADD COLUMN takeovers BIGINT NOT NULL DEFAULT 0, ADD COLUMN taken_at BIGINT;

INSERT INTO {schema}.asyncflow VALUES (2);
