-- Whether this database is a test database, decided once by the gateway that first starts on it, and how far the test
-- clock of a test database is ahead. Time never goes back.
CREATE TABLE creditgate.clock (
  one       boolean PRIMARY KEY DEFAULT true CHECK (one),
  test      boolean NOT NULL,
  offset_ms bigint NOT NULL DEFAULT 0 CHECK (offset_ms BETWEEN 0 AND 6311520000000), -- 200 years
  CHECK (test OR offset_ms = 0)
);

CREATE FUNCTION creditgate.refuse_past() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'creditgate.clock: time never goes back' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER never_back BEFORE UPDATE ON creditgate.clock
  FOR EACH ROW WHEN (NEW.offset_ms < OLD.offset_ms OR NEW.test <> OLD.test) EXECUTE FUNCTION creditgate.refuse_past();

GRANT SELECT, INSERT ON creditgate.clock TO creditgate_writer;
GRANT UPDATE (offset_ms) ON creditgate.clock TO creditgate_writer;
