-- Version 8. Where a run begins whose earlier passes were deleted.

ALTER TABLE runs ADD COLUMN first INTEGER NOT NULL DEFAULT 0;

-- A digest of it and of that checkpoint; NULL for a run that was not compacted.
ALTER TABLE runs ADD COLUMN first_digest BLOB;
