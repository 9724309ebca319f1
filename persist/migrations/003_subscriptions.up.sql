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
  CHECK (until_at > from_at)
);
CREATE INDEX override_account ON creditgate.override (account);

GRANT SELECT, INSERT ON creditgate.subscription_term, creditgate.override TO creditgate_writer;
GRANT UPDATE (void) ON creditgate.subscription_term TO creditgate_writer;
GRANT UPDATE (until_at) ON creditgate.override TO creditgate_writer;
