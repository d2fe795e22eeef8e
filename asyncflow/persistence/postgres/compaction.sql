-- Version 8. Where a run begins whose earlier passes were deleted.

ALTER TABLE {schema}.runs
  ADD COLUMN first BIGINT NOT NULL DEFAULT 0,
  ADD COLUMN first_digest BYTEA;    -- of it and of that checkpoint; NULL for a run that was not compacted

INSERT INTO {schema}.asyncflow VALUES (8);
