-- Version 2. A lease for each owner, renewed once for all its runs; and the runs that are to be taken up, found at once.

CREATE TABLE owners (
  owner TEXT PRIMARY KEY,
  expires REAL NOT NULL             -- seconds since the epoch, by the clock of the database's host
) STRICT;

CREATE INDEX running ON runs (id) WHERE status = 'running';
