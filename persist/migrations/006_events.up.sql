-- What consumers are told, in the order in which it was committed.

-- Every event gets its id under the lock of this row, so ids have no gaps and become visible in their order: who has
-- read up to n never misses one that commits later. The past before this migration is not told.
CREATE TABLE creditgate.event_head (
  one     boolean PRIMARY KEY DEFAULT true CHECK (one),
  last    bigint NOT NULL DEFAULT 0 CHECK (last >= 0),
  dropped bigint NOT NULL DEFAULT 0 CHECK (dropped BETWEEN 0 AND last)  -- the newest that was removed for its age
);
INSERT INTO creditgate.event_head DEFAULT VALUES;

CREATE TABLE creditgate.event (
  id          bigint PRIMARY KEY CHECK (id > 0),
  account     creditgate.name NOT NULL,
  product     creditgate.name NOT NULL,
  type        text NOT NULL CHECK (type ~ '^[a-z_]+\.[a-z_]+$'),
  at          timestamptz NOT NULL,
  data        jsonb NOT NULL,
  dedupe      text NOT NULL UNIQUE,  -- what happened: a second look at the same makes no second event
  keep_until  timestamptz,           -- kept at least so long, so that a second look then is still recognised
  recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX event_recorded ON creditgate.event (recorded_at);

-- How far each partition's ledger was looked at; moved in the transaction that has the events.
CREATE TABLE creditgate.event_cursor (
  layout    int NOT NULL,
  partition int NOT NULL,
  pseq      bigint NOT NULL DEFAULT 0 CHECK (pseq >= 0),
  PRIMARY KEY (layout, partition),
  FOREIGN KEY (layout, partition) REFERENCES creditgate.partition
);
INSERT INTO creditgate.event_cursor SELECT layout, partition, cursor_pseq FROM creditgate.partition;

-- How far a walk along an index of dates has come: the last row that it looked at.
CREATE TABLE creditgate.event_walk (
  name     text PRIMARY KEY,
  at       timestamptz NOT NULL,
  grant_id uuid NOT NULL
);
INSERT INTO creditgate.event_walk VALUES
  ('beginning', now(), '00000000-0000-0000-0000-000000000000'),
  ('purchases', now(), '00000000-0000-0000-0000-000000000000');
CREATE INDEX purchase_recorded ON creditgate.purchase (recorded_at);

-- Accounts of which it was told that they are low or exhausted, and have not risen since.
CREATE TABLE creditgate.event_level (
  account   creditgate.name PRIMARY KEY,
  percent   int NOT NULL CHECK (percent BETWEEN 0 AND 100),  -- the lowest threshold told; 0: exhausted
  available creditgate.amount NOT NULL                       -- the least that was seen since
);

-- What begins later than it was made, by when; what ends, by when, which is also how grants are found that lapse; and what
-- counts for an account now.
CREATE INDEX grant_lot_ahead ON creditgate.grant_lot (effective_at, id) WHERE effective_at > created_at;
CREATE INDEX grant_state_ending ON creditgate.grant_state (expires_at, grant_id) WHERE live;
CREATE INDEX grant_state_in_force ON creditgate.grant_state (account, expires_at);

-- Where events are posted. The secrets must be at hand to sign with, so they stand here as they are: only the writer
-- may read this table.
CREATE TABLE creditgate.webhook (
  name             creditgate.name PRIMARY KEY,
  url              text NOT NULL CHECK (length(url) BETWEEN 1 AND 2048),
  types            text[] NOT NULL DEFAULT '{}',  -- none: all
  secret           text NOT NULL,
  old_secret       text,                          -- signed with as well, until …
  old_secret_until timestamptz,
  failing_since    timestamptz,                   -- the first failure after the last success
  last_error       text NOT NULL DEFAULT '',
  disabled_at      timestamptz,
  disabled_reason  text NOT NULL DEFAULT '',
  actor            text NOT NULL DEFAULT '',
  created_at       timestamptz NOT NULL DEFAULT now(),
  CHECK ((old_secret IS NULL) = (old_secret_until IS NULL))
);

-- What is to be posted. A row goes when it was; one that was given up stays, without a next attempt, as long as its
-- event.
CREATE TABLE creditgate.webhook_delivery (
  webhook  creditgate.name NOT NULL REFERENCES creditgate.webhook ON DELETE CASCADE,
  event_id bigint NOT NULL REFERENCES creditgate.event ON DELETE CASCADE,
  attempt  int NOT NULL DEFAULT 0 CHECK (attempt >= 0),
  next_at  timestamptz DEFAULT now(),
  PRIMARY KEY (webhook, event_id)
);
CREATE INDEX webhook_delivery_due ON creditgate.webhook_delivery (webhook, next_at, event_id) WHERE next_at IS NOT NULL;
CREATE INDEX webhook_delivery_event ON creditgate.webhook_delivery (event_id);

GRANT SELECT, INSERT ON creditgate.event, creditgate.event_cursor, creditgate.event_walk, creditgate.event_level,
  creditgate.webhook, creditgate.webhook_delivery TO creditgate_writer;
GRANT SELECT ON creditgate.event_head TO creditgate_writer;
GRANT UPDATE (last, dropped) ON creditgate.event_head TO creditgate_writer;
GRANT DELETE ON creditgate.event, creditgate.event_level, creditgate.webhook, creditgate.webhook_delivery
  TO creditgate_writer;
GRANT UPDATE (pseq) ON creditgate.event_cursor TO creditgate_writer;
GRANT UPDATE (at, grant_id) ON creditgate.event_walk TO creditgate_writer;
GRANT UPDATE (percent, available) ON creditgate.event_level TO creditgate_writer;
GRANT UPDATE (url, types, secret, old_secret, old_secret_until, failing_since, last_error, disabled_at, disabled_reason,
  actor) ON creditgate.webhook TO creditgate_writer;
GRANT UPDATE (attempt, next_at) ON creditgate.webhook_delivery TO creditgate_writer;
