-- What was bought, as the shop told it and the policy priced it. A reference is used once for ever; the fingerprint
-- tells a repeat from another purchase. A purchase has no grant while it waits for its payment.
CREATE TABLE creditgate.purchase (
  id              uuid PRIMARY KEY,
  external_ref    creditgate.name NOT NULL UNIQUE,
  account         creditgate.name NOT NULL REFERENCES creditgate.account,
  product         creditgate.name NOT NULL,
  policy_version  text NOT NULL,
  pack            creditgate.name NOT NULL,
  quantity        int NOT NULL CHECK (quantity BETWEEN 1 AND 1000),
  bucket          creditgate.name NOT NULL,
  rank            smallint NOT NULL CHECK (rank BETWEEN 0 AND 255),
  credits         creditgate.amount NOT NULL CHECK (credits > 0),
  list_minor      bigint NOT NULL CHECK (list_minor >= 0),  -- of all of it, net, in the currency's minor unit
  net_minor       bigint NOT NULL CHECK (net_minor >= 0),
  tax_minor       bigint NOT NULL CHECK (tax_minor >= 0),
  currency        text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  invoice_ref     text NOT NULL DEFAULT '' CHECK (octet_length(invoice_ref) <= 120),
  refundable      boolean NOT NULL,
  write_off       boolean NOT NULL,  -- what was spent of it is written off when it is taken back; else it becomes debt
  follows_renewal boolean NOT NULL,  -- it ends at the account's next renewal, wherever that moves to
  purchased_at    timestamptz NOT NULL,
  expires_at      timestamptz,       -- as bought; null: never, or not known before it is granted
  paid_at         timestamptz,
  overdue_at      timestamptz,
  grant_id        uuid UNIQUE,
  fingerprint     creditgate.sha256 NOT NULL,
  actor           text NOT NULL DEFAULT '',
  recorded_at     timestamptz NOT NULL DEFAULT now(),
  FOREIGN KEY (grant_id, account) REFERENCES creditgate.grant_lot (id, account),
  CHECK (expires_at > purchased_at)
);
CREATE INDEX purchase_account ON creditgate.purchase (account);

-- What was reported about the payment of a purchase.
CREATE TABLE creditgate.purchase_payment (
  id           uuid PRIMARY KEY,
  external_ref creditgate.name NOT NULL UNIQUE,
  purchase_id  uuid NOT NULL REFERENCES creditgate.purchase,
  status       text NOT NULL CHECK (status IN ('paid', 'overdue')),
  at           timestamptz NOT NULL,
  fingerprint  creditgate.sha256 NOT NULL,
  actor        text NOT NULL DEFAULT '',
  recorded_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX purchase_payment_purchase ON creditgate.purchase_payment (purchase_id);

-- What becomes of the part of a revocation that was spent already, the purchase it takes back, and the earlier revocation
-- that it takes the place of: the reversal of that one is one change with it.
ALTER TABLE creditgate.revocation
  ADD COLUMN beyond smallint NOT NULL DEFAULT 0 CHECK (beyond BETWEEN 0 AND 2),  -- debt, nothing, what is held
  ADD COLUMN purchase_id uuid REFERENCES creditgate.purchase,
  ADD COLUMN instead_of uuid UNIQUE REFERENCES creditgate.revocation;
CREATE INDEX revocation_purchase ON creditgate.revocation (purchase_id) WHERE purchase_id IS NOT NULL;

-- A revocation undone, once: a dispute was won, or a frozen pack was paid. Void: the revocation had taken nothing.
CREATE TABLE creditgate.reversal (
  id            uuid PRIMARY KEY,
  account       creditgate.name NOT NULL,
  grant_id      uuid NOT NULL,
  revocation_id uuid NOT NULL UNIQUE REFERENCES creditgate.revocation,
  external_ref  creditgate.name NOT NULL UNIQUE,
  fingerprint   creditgate.sha256 NOT NULL,
  reason        text NOT NULL DEFAULT '',
  actor         text NOT NULL DEFAULT '',
  created_at    timestamptz NOT NULL,
  status        text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'applied', 'void')),
  applied_at    timestamptz,
  FOREIGN KEY (grant_id, account) REFERENCES creditgate.grant_lot (id, account),
  CHECK ((status = 'pending') = (applied_at IS NULL))
);
CREATE INDEX reversal_pending ON creditgate.reversal (created_at) WHERE status = 'pending';
CREATE INDEX reversal_grant ON creditgate.reversal (grant_id);

-- A reversal is an adjustment whose line takes back what the revocation booked: revoked and debt are negative, and
-- what came back too late lapses. The view over the column is made again as it was.
DO $$
DECLARE
  entries text := pg_get_viewdef('finance.entries'::regclass);
BEGIN
  DROP VIEW finance.entries;
  ALTER TABLE creditgate.ledger_line DROP CONSTRAINT ledger_line_conserves, ALTER COLUMN revoked TYPE creditgate.credits;
  EXECUTE 'CREATE VIEW finance.entries AS ' || entries;
  GRANT SELECT ON finance.entries TO finance_reader;
END $$;
ALTER TABLE creditgate.ledger_line ADD CONSTRAINT ledger_line_conserves CHECK (CASE
  WHEN kind = 'grant'  THEN granted > 0 AND (spent, returned, lapsed, revoked, debt) = (0, 0, 0, 0, 0)
  WHEN kind = 'lapse'  THEN lapsed > 0 AND (granted, spent, returned, revoked, debt) = (0, 0, 0, 0, 0)
  WHEN kind = 'revoke' THEN revoked >= 0 AND debt >= 0 AND (granted, spent, returned, lapsed) = (0, 0, 0, 0)
  WHEN kind = 'late'   THEN spent > 0 AND (granted, returned, lapsed, revoked, debt) = (0, 0, 0, 0, 0)
  WHEN kind IN ('commit', 'release', 'expire') THEN
    granted = 0 AND revoked >= 0 AND lapsed + revoked <= returned AND debt = -revoked AND (kind = 'commit' OR spent = 0)
  WHEN kind = 'adjust' THEN
    revoked <= 0 AND debt <= 0 AND lapsed <= -revoked AND (granted, spent, returned) = (0, 0, 0)
  WHEN kind = 'hold' THEN true
  ELSE false END);

-- How each purchase stands. What counts of revocations is what was not undone. A revocation that the ledger has not
-- booked yet counts with what it asks for.
CREATE VIEW creditgate.purchase_now AS
SELECT p.*,
  CASE WHEN p.grant_id IS NULL THEN 'awaiting_payment'
    WHEN r.frozen IS NOT NULL THEN 'frozen'
    WHEN r.asked >= p.credits THEN 'revoked'
    WHEN g.status = 'pending' THEN 'pending'
    ELSE 'granted' END AS state,
  g.applied_at AS granted_at,
  t.expires_at AS ends_at,
  t.spent, t.lapsed, t.revoked, t.debt, t.granted - t.spent - t.lapsed - t.revoked AS remaining,
  coalesce(r.refunded, 0) AS refunded, coalesce(r.charged_back, 0) AS charged_back, coalesce(r.corrected, 0) AS corrected,
  coalesce(r.frozen, 0) AS frozen, coalesce(r.overdue, 0) AS overdue, coalesce(r.written_off, 0) AS written_off
FROM creditgate.purchase p
LEFT JOIN creditgate.grant_lot g ON g.id = p.grant_id
LEFT JOIN creditgate.grant_state t ON t.grant_id = p.grant_id
LEFT JOIN LATERAL (
  SELECT sum(c.credits) AS asked,
    sum(coalesce(e.amount, c.credits)) FILTER (WHERE c.reason = 'refund') AS refunded,
    sum(coalesce(e.amount, c.credits)) FILTER (WHERE c.reason = 'chargeback') AS charged_back,
    sum(coalesce(e.amount, c.credits)) FILTER (WHERE c.reason NOT IN ('refund', 'chargeback', 'frozen', 'overdue')) AS corrected,
    sum(coalesce(e.amount, c.credits)) FILTER (WHERE c.reason = 'frozen' AND c.purchase_id IS NOT NULL) AS frozen,
    sum(coalesce(e.amount, c.credits)) FILTER (WHERE c.reason = 'overdue') AS overdue,
    sum(c.credits - coalesce(e.amount, c.credits)) FILTER (WHERE c.beyond = 1) AS written_off
  FROM creditgate.revocation c
  LEFT JOIN creditgate.ledger_entry e
    ON e.subject = c.id AND e.kind = 'revoke' AND e.kind IN ('grant', 'revoke', 'adjust')  -- for the partial index
  WHERE c.grant_id = p.grant_id AND NOT EXISTS (SELECT FROM creditgate.reversal v WHERE v.revocation_id = c.id)
) r ON true;

-- One row per purchase. Money is in the currency's minor unit, net and tax apart. Credits taken back count as taken or
-- owed; debt is what of that is still owed; written off is what was asked back, was spent, and is not owed.
CREATE VIEW finance.purchases AS
SELECT
  p.external_ref::text AS purchase_ref,
  p.account::text AS account_id,
  p.product::text AS product,
  p.pack::text AS pack,
  p.quantity,
  p.bucket::text AS bucket,
  p.grant_id,
  p.state,
  p.list_minor,
  p.net_minor,
  p.tax_minor,
  p.currency,
  p.invoice_ref,
  (p.credits / 1000.0)::numeric(20,3) AS credits,
  (coalesce(p.remaining, 0) / 1000.0)::numeric(20,3) AS remaining,
  (coalesce(p.spent, 0) / 1000.0)::numeric(20,3) AS spent,
  (coalesce(p.lapsed, 0) / 1000.0)::numeric(20,3) AS lapsed,
  (coalesce(p.revoked, 0) / 1000.0)::numeric(20,3) AS revoked,
  (p.refunded / 1000.0)::numeric(20,3) AS refunded,
  (p.charged_back / 1000.0)::numeric(20,3) AS charged_back,
  (p.corrected / 1000.0)::numeric(20,3) AS corrected,
  (p.frozen / 1000.0)::numeric(20,3) AS frozen,
  (p.overdue / 1000.0)::numeric(20,3) AS taken_overdue,
  (p.written_off / 1000.0)::numeric(20,3) AS written_off,
  (coalesce(p.debt, 0) / 1000.0)::numeric(20,3) AS debt,
  p.purchased_at,
  p.paid_at,
  p.overdue_at,
  p.granted_at,
  coalesce(p.ends_at, p.expires_at) AS expires_at,
  p.policy_version,
  p.actor,
  p.recorded_at
FROM creditgate.purchase_now p;

GRANT SELECT, INSERT ON creditgate.purchase, creditgate.purchase_payment, creditgate.reversal TO creditgate_writer;
GRANT SELECT ON creditgate.purchase_now TO creditgate_writer;
GRANT UPDATE (paid_at, overdue_at, expires_at, grant_id) ON creditgate.purchase TO creditgate_writer;
GRANT UPDATE (status, applied_at) ON creditgate.reversal TO creditgate_writer;
GRANT SELECT ON finance.purchases TO finance_reader;
