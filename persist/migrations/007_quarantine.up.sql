-- Accounts whose ledger cannot be booked: Postgres lacks a row that a record names, as after it was restored to an older
-- copy, or what a record says does not add up. Their entries stand in ledger_record, whose cursor goes on for all others,
-- and are booked in their order once the account's first one can be.
CREATE TABLE creditgate.quarantined_account (
  account    text PRIMARY KEY CHECK (octet_length(account) <= 64),
  layout     int NOT NULL,
  partition  int NOT NULL,
  reason     text NOT NULL,
  entries    bigint NOT NULL DEFAULT 0,          -- that it has in quarantined_entry
  since      timestamptz NOT NULL DEFAULT now(),
  retry      boolean NOT NULL DEFAULT false,     -- a person has changed something
  checked_at timestamptz NOT NULL DEFAULT now(), -- when it was last tried to book the first entry
  FOREIGN KEY (layout, partition) REFERENCES creditgate.partition
);
CREATE INDEX quarantined_account_partition ON creditgate.quarantined_account (layout, partition);

-- Which entries are quarantined. A row goes in the transaction that books its entry. The record is in ledger_record, which
-- no foreign key leads to, as with ledger_entry.
CREATE TABLE creditgate.quarantined_entry (
  layout      int NOT NULL,
  partition   int NOT NULL,
  pseq        bigint NOT NULL,
  idx         int NOT NULL,
  account     text NOT NULL CONSTRAINT quarantined_entry_account REFERENCES creditgate.quarantined_account,
  seq         bigint NOT NULL,
  kind        text NOT NULL,
  subject     uuid NOT NULL,
  amount      creditgate.credits NOT NULL,
  reason      text NOT NULL,
  actor       text NOT NULL,
  occurred_at timestamptz NOT NULL,
  PRIMARY KEY (layout, partition, pseq, idx)
);
CREATE INDEX quarantined_entry_account ON creditgate.quarantined_entry (account, pseq, idx);
CREATE INDEX quarantined_entry_subject ON creditgate.quarantined_entry (subject);

-- Changes that a person booked because Postgres had lost them: who, why, and under which reference, such as the order that
-- a grant was bought with. Nothing else may be bought or changed under it any more.
CREATE TABLE creditgate.booked_change (
  id           uuid PRIMARY KEY,  -- of the grant, revocation or expiry move
  kind         text NOT NULL CHECK (kind IN ('grant', 'revoke', 'adjust')),
  account      creditgate.name NOT NULL REFERENCES creditgate.account,
  external_ref creditgate.name NOT NULL,
  fingerprint  creditgate.sha256 NOT NULL,
  reason       text NOT NULL CHECK (reason <> ''),
  actor        text NOT NULL CHECK (actor <> ''),
  booked_at    timestamptz NOT NULL DEFAULT now(),
  UNIQUE (kind, external_ref)
);

GRANT SELECT, INSERT ON creditgate.quarantined_account, creditgate.quarantined_entry, creditgate.booked_change TO creditgate_writer;
GRANT DELETE ON creditgate.quarantined_account, creditgate.quarantined_entry TO creditgate_writer;
GRANT UPDATE (reason, entries, retry, checked_at) ON creditgate.quarantined_account TO creditgate_writer;
