-- What was decided about an account's subscription. The past only grows; a term that has not begun may be made void
-- by a newer one. The term in force at t is the newest by (at, n) among those not void and not after t.
CREATE TABLE creditgate.subscription_term (
  account      creditgate.name NOT NULL REFERENCES creditgate.account,
  n            int NOT NULL CHECK (n > 0),
  at           timestamptz NOT NULL,
  plan         creditgate.name,             -- null: no subscription from here on
  slots        int NOT NULL CHECK (slots BETWEEN 0 AND 1000000),
  yearly       boolean NOT NULL DEFAULT false,
  anchor       timestamptz NOT NULL,        -- what cycles are counted from where the policy has no day of month
  void         boolean NOT NULL DEFAULT false,
  external_ref creditgate.name UNIQUE,
  fingerprint  creditgate.sha256 NOT NULL,
  actor        text NOT NULL DEFAULT '',
  recorded_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (account, n)
);

-- What was negotiated with one account, from and until when: another contingent or fair-use cap of a bucket, or another
-- price of an operation's unit.
CREATE TABLE creditgate.override (
  external_ref creditgate.name PRIMARY KEY,
  account      creditgate.name NOT NULL REFERENCES creditgate.account,
  kind         text NOT NULL CHECK (kind IN ('contingent', 'fair_use', 'unit_credits')),
  target       creditgate.name NOT NULL,    -- the bucket, or the operation
  credits      creditgate.amount NOT NULL,
  from_at      timestamptz NOT NULL,
  until_at     timestamptz,                 -- null: until further notice
  fingerprint  creditgate.sha256 NOT NULL,
  reason       text NOT NULL DEFAULT '',
  actor        text NOT NULL DEFAULT '',
  recorded_at  timestamptz NOT NULL DEFAULT now(),
  CHECK (until_at >= from_at)               -- equal: ended before it began
);
CREATE INDEX override_account ON creditgate.override (account);

-- What is agreed on is noted with the account.
CREATE FUNCTION creditgate.note_agreement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE creditgate.account SET agreed = true WHERE id = NEW.account AND NOT agreed;
  RETURN NULL;
END $$;
CREATE TRIGGER agreed AFTER INSERT ON creditgate.subscription_term
  FOR EACH ROW EXECUTE FUNCTION creditgate.note_agreement();
CREATE TRIGGER agreed AFTER INSERT ON creditgate.override
  FOR EACH ROW EXECUTE FUNCTION creditgate.note_agreement();

-- Bought credit that ends with the account's cycle, and follows when that end moves.
ALTER TABLE creditgate.grant_lot ADD COLUMN follows_renewal boolean NOT NULL DEFAULT false;
CREATE INDEX grant_lot_follows ON creditgate.grant_lot (account) WHERE follows_renewal;
CREATE INDEX expiry_move_grant ON creditgate.expiry_move (grant_id);

-- Which grants a subscription was given. The key names bucket or promotion, cycle and step; a change before a grant
-- begins supersedes it, and the next revision takes its place. So each is given once, whoever issues it. One in force is
-- superseded where its bucket becomes unlimited, or is so no more; a later step follows it.
CREATE TABLE creditgate.cycle_grant (
  account        creditgate.name NOT NULL,
  key            text NOT NULL CHECK (octet_length(key) <= 128),
  revision       int NOT NULL CHECK (revision > 0),
  grant_id       uuid NOT NULL UNIQUE,
  expires_at     timestamptz NOT NULL,      -- where it was last moved to; of what is superseded when it ended, or would have begun
  superseded     boolean NOT NULL DEFAULT false,
  policy_version text NOT NULL,
  PRIMARY KEY (account, key, revision),
  FOREIGN KEY (grant_id, account) REFERENCES creditgate.grant_lot (id, account)
);
CREATE UNIQUE INDEX cycle_grant_valid ON creditgate.cycle_grant (account, key) WHERE NOT superseded;

-- How far grants were issued, and when the issuer has to look at the account again.
CREATE TABLE creditgate.subscription_due (
  account        creditgate.name PRIMARY KEY REFERENCES creditgate.account,
  product        creditgate.name NOT NULL,
  policy_version text NOT NULL,             -- by which they were issued
  issued_until   timestamptz NOT NULL,
  due_at         timestamptz                -- null: nothing to come
) WITH (fillfactor = 70);
CREATE INDEX subscription_due_next ON creditgate.subscription_due (product, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX subscription_due_version ON creditgate.subscription_due (product, policy_version);

-- The policy that was loaded last, by product: a gateway that still has an older one leaves issuing to the others.
CREATE TABLE creditgate.policy_in_force (
  product creditgate.name PRIMARY KEY,
  version text NOT NULL,
  since   timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT ON creditgate.subscription_term, creditgate.override, creditgate.cycle_grant,
  creditgate.subscription_due, creditgate.policy_in_force TO creditgate_writer;
GRANT UPDATE (void) ON creditgate.subscription_term TO creditgate_writer;
GRANT UPDATE (until_at) ON creditgate.override TO creditgate_writer;
GRANT UPDATE (expires_at, superseded) ON creditgate.cycle_grant TO creditgate_writer;
GRANT UPDATE (product, policy_version, issued_until, due_at) ON creditgate.subscription_due TO creditgate_writer;
GRANT UPDATE (version, since) ON creditgate.policy_in_force TO creditgate_writer;
