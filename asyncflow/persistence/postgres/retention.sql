-- Version 4. When a run ended, by the server's clock, so that pruning does not depend on the writers' clocks.

ALTER TABLE {schema}.runs ADD COLUMN ended_at DOUBLE PRECISION;  -- seconds since the epoch; NULL for runs that ended before version 4

CREATE FUNCTION {schema}.ended() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  NEW.ended_at := extract(epoch FROM clock_timestamp());
  RETURN NEW;
END $$;

CREATE TRIGGER ended BEFORE INSERT OR UPDATE OF head ON {schema}.runs
  FOR EACH ROW WHEN (NEW.status <> 'running') EXECUTE FUNCTION {schema}.ended();

INSERT INTO {schema}.asyncflow VALUES (4);
