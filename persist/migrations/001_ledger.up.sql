-- The system of record. Amounts are bigint thousandths of a credit; times are UTC.

-- Roles belong to the whole cluster, so another database, or a migration running beside this one, may have made it.
DO $$
BEGIN
  CREATE ROLE creditgate_writer NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
  NULL;
END $$;

CREATE SCHEMA creditgate;

-- An amount that a Lua number holds exactly.
CREATE DOMAIN creditgate.credits AS bigint CHECK (VALUE BETWEEN -9007199254740991 AND 9007199254740991);
CREATE DOMAIN creditgate.amount  AS bigint CHECK (VALUE BETWEEN 0 AND 9007199254740991);
CREATE DOMAIN creditgate.name    AS text   CHECK (VALUE ~ '^[A-Za-z0-9._-]{1,64}$');
CREATE DOMAIN creditgate.sha256  AS bytea  CHECK (octet_length(VALUE) = 32);

-- How accounts are spread over partitions. One layout is current; it changes only by drain and rebuild.
CREATE TABLE creditgate.layout (
  number     int PRIMARY KEY CHECK (number BETWEEN 1 AND 65535),
  partitions int NOT NULL CHECK (partitions BETWEEN 1 AND 256),
  current    boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX layout_current ON creditgate.layout (current) WHERE current;

-- The cursor is advanced in the transaction that writes the rows: that, and nothing else, makes flushing exactly once.
CREATE TABLE creditgate.partition (
  layout       int NOT NULL REFERENCES creditgate.layout,
  partition    int NOT NULL CHECK (partition BETWEEN 0 AND 255),
  epoch        bigint NOT NULL DEFAULT 0,  -- the newest that was claimed for opening
  cursor_epoch bigint NOT NULL DEFAULT 0,
  cursor_pseq  bigint NOT NULL DEFAULT 0,
  cursor_hash  creditgate.sha256 NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
  PRIMARY KEY (layout, partition),
  CHECK (cursor_epoch BETWEEN 0 AND epoch),
  CHECK (cursor_pseq >= 0)
) WITH (fillfactor = 50);

CREATE TABLE creditgate.account (
  id                    creditgate.name NOT NULL,
  layout                int NOT NULL,
  partition             int NOT NULL,
  product               creditgate.name NOT NULL,
  suspended             boolean NOT NULL DEFAULT false,
  -- Whether it ever had a term of a subscription or an override, so that looking up a key asks for them only where there
  -- are some. Whoever records the first one cannot forget to say so: it is done by triggers of 003.
  agreed                boolean NOT NULL DEFAULT false,
  flags_version         bigint NOT NULL DEFAULT 0 CHECK (flags_version BETWEEN 0 AND 4294967295),
  applied_flags_version bigint NOT NULL DEFAULT 0,  -- what Redis was last seen to have
  flags_changed_at      timestamptz NOT NULL DEFAULT now(),
  actor                 text NOT NULL DEFAULT '',  -- of the last change
  created_at            timestamptz NOT NULL DEFAULT now(),
  -- Looking up a key reads this index, and with a million accounts the rows would be as many pages again.
  PRIMARY KEY (id) INCLUDE (product, suspended, agreed),
  FOREIGN KEY (layout, partition) REFERENCES creditgate.partition,
  CHECK (applied_flags_version BETWEEN 0 AND flags_version)
);
CREATE INDEX account_partition ON creditgate.account (layout, partition, id);
CREATE INDEX account_flags_pending ON creditgate.account (flags_changed_at) WHERE applied_flags_version <> flags_version;

CREATE TABLE creditgate.api_key (
  id           uuid PRIMARY KEY,
  account      creditgate.name NOT NULL REFERENCES creditgate.account,
  hash         creditgate.sha256 NOT NULL,
  external_ref creditgate.name UNIQUE,
  actor        text NOT NULL DEFAULT '',
  created_at   timestamptz NOT NULL DEFAULT now(),
  revoked_at   timestamptz,
  revoked_by   text NOT NULL DEFAULT '',
  CONSTRAINT api_key_hash_key UNIQUE (hash) INCLUDE (id, account, revoked_at)  -- as with account
);
CREATE INDEX api_key_account ON creditgate.api_key (account);

-- Changes that start here and are then applied to Redis. They are pending until their ledger entry is flushed; a void
-- expiry move found its grant used up, or was superseded. A reference is used once for ever; the fingerprint tells a repeat from another
-- request.
CREATE TABLE creditgate.grant_lot (
  id           uuid PRIMARY KEY,
  account      creditgate.name NOT NULL REFERENCES creditgate.account,
  bucket       creditgate.name NOT NULL,
  rank         smallint NOT NULL CHECK (rank BETWEEN 0 AND 255),
  credits      creditgate.amount NOT NULL CHECK (credits > 0),
  paid         boolean NOT NULL,
  unlimited    boolean NOT NULL DEFAULT false,  -- a fair-use cap, shown as unlimited
  stops        boolean NOT NULL DEFAULT false,  -- while it is in force, used up or not, no bucket behind its own is drawn
  price_minor  bigint CHECK (price_minor >= 0),
  currency     text CHECK (currency ~ '^[A-Z]{3}$'),
  effective_at timestamptz NOT NULL,
  expires_at   timestamptz,  -- as granted; where it was moved to stands in grant_state
  external_ref creditgate.name NOT NULL UNIQUE,
  fingerprint  creditgate.sha256 NOT NULL,
  reason       text NOT NULL DEFAULT '',
  actor        text NOT NULL DEFAULT '',
  created_at   timestamptz NOT NULL,
  status       text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'applied')),
  applied_at   timestamptz,
  UNIQUE (id, account),
  CHECK (expires_at > effective_at),
  CHECK ((price_minor IS NULL) = (currency IS NULL)),
  CHECK ((status = 'applied') = (applied_at IS NOT NULL))
);
CREATE INDEX grant_lot_pending ON creditgate.grant_lot (created_at) WHERE status = 'pending';
CREATE INDEX grant_lot_account ON creditgate.grant_lot (account);
CREATE INDEX grant_lot_stops ON creditgate.grant_lot (account) WHERE stops;

CREATE TABLE creditgate.revocation (
  id           uuid PRIMARY KEY,
  account      creditgate.name NOT NULL,
  grant_id     uuid NOT NULL,
  credits      creditgate.amount NOT NULL CHECK (credits > 0),
  external_ref creditgate.name NOT NULL UNIQUE,
  fingerprint  creditgate.sha256 NOT NULL,
  reason       text NOT NULL DEFAULT '',
  actor        text NOT NULL DEFAULT '',
  created_at   timestamptz NOT NULL,
  status       text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'applied')),
  applied_at   timestamptz,
  FOREIGN KEY (grant_id, account) REFERENCES creditgate.grant_lot (id, account),
  CHECK ((status = 'pending') = (applied_at IS NULL))
);
CREATE INDEX revocation_pending ON creditgate.revocation (created_at) WHERE status = 'pending';
CREATE INDEX revocation_grant ON creditgate.revocation (grant_id);

CREATE TABLE creditgate.expiry_move (
  id           uuid PRIMARY KEY,
  account      creditgate.name NOT NULL,
  grant_id     uuid NOT NULL,
  expires_at   timestamptz,  -- null: never
  external_ref creditgate.name NOT NULL UNIQUE,
  fingerprint  creditgate.sha256 NOT NULL,
  reason       text NOT NULL DEFAULT '',
  actor        text NOT NULL DEFAULT '',
  created_at   timestamptz NOT NULL,
  status       text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'applied', 'void')),
  applied_at   timestamptz,
  FOREIGN KEY (grant_id, account) REFERENCES creditgate.grant_lot (id, account),
  CHECK ((status = 'pending') = (applied_at IS NULL))
);
CREATE INDEX expiry_move_pending ON creditgate.expiry_move (created_at) WHERE status = 'pending';
-- A newer wish voids the one before, so that they cannot reach Redis in the wrong order.
CREATE UNIQUE INDEX expiry_move_newest ON creditgate.expiry_move (grant_id) WHERE status = 'pending';

-- The ledger: what Redis decided, byte for byte, with a hash chain per partition …
CREATE TABLE creditgate.ledger_record (
  layout      int NOT NULL,
  partition   int NOT NULL,
  pseq        bigint NOT NULL CHECK (pseq > 0),
  epoch       bigint NOT NULL CHECK (epoch >= 0),
  occurred_at timestamptz NOT NULL,
  body        bytea NOT NULL,
  hash        creditgate.sha256 NOT NULL,  -- sha256(hash of the record before || body)
  recorded_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (layout, partition, pseq)
);

-- … and the same decoded. No foreign keys inside the ledger or out of it: they would double the cost of a flush, and
-- the flusher already fails unless the projections below, which have them, match every account and grant named.
CREATE TABLE creditgate.ledger_entry (
  layout          int NOT NULL,
  partition       int NOT NULL,
  pseq            bigint NOT NULL,
  idx             int NOT NULL CHECK (idx >= 0),
  kind            text NOT NULL CHECK (kind IN
    ('grant', 'commit', 'release', 'expire', 'late', 'uncollected', 'lapse', 'revoke', 'adjust', 'hold')),
  account         text NOT NULL,
  seq             bigint NOT NULL CHECK (seq > 0),
  amount          creditgate.credits NOT NULL,
  subject         uuid NOT NULL,  -- the reservation, grant, revocation or change
  units           bigint NOT NULL CHECK (units >= 0),
  operation       text,
  policy_version  text,
  key_id          text,
  reason          text,
  actor           text,
  key_hash        bytea CHECK (octet_length(key_hash) = 16),
  key_fingerprint bytea CHECK (octet_length(key_fingerprint) = 16),
  occurred_at     timestamptz NOT NULL,
  recorded_at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (layout, partition, pseq, idx),
  -- What an account's history, its usage and verify read by. With a million accounts it is half of what an entry costs,
  -- since each lies on another page; the others cost a tenth each, and the partial ones that a commit is not in, nothing.
  UNIQUE (account, seq),
  CHECK ((key_hash IS NULL) = (key_fingerprint IS NULL))
);
-- At most one of committed, released, expired per reservation; late or uncollected once, and never after committed or
-- released. The two sets overlap, which is what leaves "expired, then late" as the only pair.
CREATE UNIQUE INDEX ledger_entry_settled ON creditgate.ledger_entry (subject)
  WHERE kind IN ('commit', 'release', 'expire');
CREATE UNIQUE INDEX ledger_entry_charged ON creditgate.ledger_entry (subject)
  WHERE kind IN ('commit', 'release', 'late', 'uncollected');
-- A grant, revocation or expiry move is booked once.
CREATE UNIQUE INDEX ledger_entry_change ON creditgate.ledger_entry (subject)
  WHERE kind IN ('grant', 'revoke', 'adjust');
-- What a rebuild needs to go on honouring Idempotency-Keys.
CREATE INDEX ledger_entry_keyed ON creditgate.ledger_entry (layout, partition, occurred_at, pseq, idx)
  WHERE key_hash IS NOT NULL AND kind IN ('commit', 'late');

-- What an entry did to one grant. Each check is conservation for one kind: what was reserved is spent or returned;
-- what was returned and did not lapse or pay a debt is available again.
CREATE TABLE creditgate.ledger_line (
  layout    int NOT NULL,
  partition int NOT NULL,
  pseq      bigint NOT NULL,
  idx       int NOT NULL,
  line      smallint NOT NULL CHECK (line >= 0),  -- in drain order
  kind      text NOT NULL,
  grant_id  uuid NOT NULL,
  granted   creditgate.amount NOT NULL,
  spent     creditgate.amount NOT NULL,
  returned  creditgate.amount NOT NULL,
  lapsed    creditgate.amount NOT NULL,
  revoked   creditgate.amount NOT NULL,
  debt      creditgate.credits NOT NULL,
  PRIMARY KEY (layout, partition, pseq, idx, line),
  CONSTRAINT ledger_line_conserves CHECK (CASE
    WHEN kind = 'grant'  THEN granted > 0 AND (spent, returned, lapsed, revoked, debt) = (0, 0, 0, 0, 0)
    WHEN kind = 'lapse'  THEN lapsed > 0 AND (granted, spent, returned, revoked, debt) = (0, 0, 0, 0, 0)
    WHEN kind = 'revoke' THEN debt >= 0 AND (granted, spent, returned, lapsed) = (0, 0, 0, 0)
    WHEN kind = 'late'   THEN spent > 0 AND (granted, returned, lapsed, revoked, debt) = (0, 0, 0, 0, 0)
    WHEN kind IN ('commit', 'release', 'expire') THEN
      granted = 0 AND lapsed + revoked <= returned AND debt = -revoked AND (kind = 'commit' OR spent = 0)
    WHEN kind IN ('adjust', 'hold') THEN true
    ELSE false END)
);

-- Projections of the ledger, updated in the same transaction, so that loading an account costs its live grants and
-- not its history. `creditgate verify` compares them with the sums. Bucket, unlimited and effective_at are the lot's,
-- which never change: flushing and looking for events read them for every request, and would look up the lot each time.
-- So is the rank; it and the account's product, which a trigger keeps, are there for index grant_state_place.
CREATE TABLE creditgate.account_state (
  account text PRIMARY KEY REFERENCES creditgate.account,
  seq     bigint NOT NULL DEFAULT 0 CHECK (seq >= 0)
) WITH (fillfactor = 70);

CREATE TABLE creditgate.grant_state (
  grant_id     uuid PRIMARY KEY,
  account      text NOT NULL,
  product      text NOT NULL,
  bucket       text NOT NULL,
  rank         smallint NOT NULL,
  unlimited    boolean NOT NULL DEFAULT false,
  effective_at timestamptz NOT NULL,
  credits      creditgate.amount NOT NULL,
  granted      creditgate.amount NOT NULL DEFAULT 0,
  spent        creditgate.amount NOT NULL DEFAULT 0,
  lapsed       creditgate.amount NOT NULL DEFAULT 0,
  revoked      creditgate.amount NOT NULL DEFAULT 0,
  debt         creditgate.amount NOT NULL DEFAULT 0,
  expires_at   timestamptz,
  live         boolean NOT NULL GENERATED ALWAYS AS (granted - spent - lapsed - revoked > 0) STORED,
  FOREIGN KEY (grant_id, account) REFERENCES creditgate.grant_lot (id, account),
  CONSTRAINT grant_state_once CHECK (granted IN (0, credits)),
  CONSTRAINT grant_state_conserves CHECK (spent + lapsed + revoked <= granted)
) WITH (fillfactor = 70);
CREATE INDEX grant_state_live ON creditgate.grant_state (account) WHERE live;
-- At which places of which drain orders credit is, or will be: a few, however many grants there are.
CREATE INDEX grant_state_place ON creditgate.grant_state (product, bucket, rank) WHERE live OR granted = 0;

CREATE FUNCTION creditgate.move_product() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE creditgate.grant_state SET product = NEW.product WHERE account = NEW.id;
  RETURN NULL;
END $$;
CREATE TRIGGER move_product AFTER UPDATE OF product ON creditgate.account
  FOR EACH ROW WHEN (OLD.product <> NEW.product) EXECUTE FUNCTION creditgate.move_product();

CREATE FUNCTION creditgate.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'creditgate.% is append-only: % is refused; correct it with a new entry', TG_TABLE_NAME, TG_OP
    USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON creditgate.ledger_record
  FOR EACH STATEMENT EXECUTE FUNCTION creditgate.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON creditgate.ledger_entry
  FOR EACH STATEMENT EXECUTE FUNCTION creditgate.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON creditgate.ledger_line
  FOR EACH STATEMENT EXECUTE FUNCTION creditgate.refuse_change();

-- What the running gateway may do, column by column: facts are inserted, only statuses and projections change.
GRANT USAGE ON SCHEMA creditgate TO creditgate_writer;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA creditgate TO creditgate_writer;
GRANT UPDATE (epoch, cursor_epoch, cursor_pseq, cursor_hash) ON creditgate.partition TO creditgate_writer;
GRANT UPDATE (product, suspended, agreed, flags_version, applied_flags_version, flags_changed_at, actor)
  ON creditgate.account TO creditgate_writer;
GRANT UPDATE (revoked_at, revoked_by) ON creditgate.api_key TO creditgate_writer;
GRANT UPDATE (status, applied_at) ON creditgate.grant_lot, creditgate.revocation, creditgate.expiry_move
  TO creditgate_writer;
GRANT UPDATE (seq) ON creditgate.account_state TO creditgate_writer;
GRANT UPDATE (product, granted, spent, lapsed, revoked, debt, expires_at) ON creditgate.grant_state TO creditgate_writer;
GRANT SELECT ON public.creditgate_version TO creditgate_writer;
