-- Version 2. One lease for each owner, renewed once for all its runs; and an index of the running runs, to find those to recover.

CREATE TABLE owners (
  owner TEXT PRIMARY KEY,
  expires REAL NOT NULL             -- seconds since the epoch, by the clock of the database's host
) STRICT;

CREATE INDEX running ON runs (id) WHERE status = 'running';
