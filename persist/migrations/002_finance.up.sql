-- What finance reads. Credits are numeric(20,3) and signed as the customer sees them.

DO $$
BEGIN
  CREATE ROLE finance_reader NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
  NULL;
END $$;

CREATE SCHEMA finance;

-- One row per entry and grant touched; an entry that touched none has one row with credits 0. The sum of credits over
-- an account is what it has, available and held, over all grants.
CREATE VIEW finance.entries AS
SELECT
  concat(e.layout, '-', lpad(e.partition::text, greatest(2, length(e.partition::text)), '0'), '-', e.pseq, '-', e.idx)
    AS entry_id,
  e.account AS account_id,
  a.product::text AS product,
  e.seq,
  e.kind,
  g.bucket::text AS bucket,
  l.grant_id,
  (coalesce(l.granted - l.spent - l.lapsed - l.revoked, 0) / 1000.0)::numeric(20,3) AS credits,
  e.operation,
  e.units,
  CASE e.kind
    WHEN 'commit' THEN 'committed'
    WHEN 'release' THEN 'released'
    WHEN 'expire' THEN 'expired'
    WHEN 'late' THEN 'late'
    WHEN 'uncollected' THEN 'uncollected'
    WHEN 'hold' THEN 'held'
  END AS outcome,
  CASE WHEN e.kind IN ('commit', 'release', 'expire', 'late', 'uncollected', 'hold') THEN
    concat(e.layout, '-', lpad(e.partition::text, greatest(2, length(e.partition::text)), '0'), '-', e.subject)
  END AS reservation_id,
  CASE WHEN e.kind IN ('commit', 'release', 'expire', 'late', 'uncollected', 'hold') THEN e.subject END AS request_id,
  e.key_id,
  e.policy_version,
  e.reason,
  e.actor,
  -- a late or uncollected entry corrects the expiry that came before it
  CASE WHEN x.pseq IS NOT NULL THEN
    concat(x.layout, '-', lpad(x.partition::text, greatest(2, length(x.partition::text)), '0'), '-', x.pseq, '-', x.idx)
  END AS corrects_entry_id,
  e.occurred_at,
  e.recorded_at
FROM creditgate.ledger_entry e
JOIN creditgate.account a ON a.id = e.account
LEFT JOIN creditgate.ledger_line l ON (l.layout, l.partition, l.pseq, l.idx) = (e.layout, e.partition, e.pseq, e.idx)
LEFT JOIN creditgate.grant_lot g ON g.id = l.grant_id
LEFT JOIN creditgate.ledger_entry x
  ON e.kind IN ('late', 'uncollected') AND x.subject = e.subject AND x.kind = 'expire'
    AND x.kind IN ('commit', 'release', 'expire');  -- repeated so that the planner sees the partial index

-- What an account has, by bucket, as of seq. Debt is what was revoked after it had been drawn.
CREATE VIEW finance.balances AS
SELECT
  a.id::text AS account_id,
  a.product::text AS product,
  g.bucket::text AS bucket,
  s.seq,
  (sum(t.granted) / 1000.0)::numeric(20,3) AS granted,
  (sum(t.spent) / 1000.0)::numeric(20,3) AS spent,
  (sum(t.lapsed) / 1000.0)::numeric(20,3) AS lapsed,
  (sum(t.revoked) / 1000.0)::numeric(20,3) AS revoked,
  (sum(t.granted - t.spent - t.lapsed - t.revoked) / 1000.0)::numeric(20,3) AS credits,
  (sum(t.debt) / 1000.0)::numeric(20,3) AS debt
FROM creditgate.grant_state t
JOIN creditgate.grant_lot g ON g.id = t.grant_id
JOIN creditgate.account a ON a.id = t.account
JOIN creditgate.account_state s ON s.account = t.account
WHERE t.granted > 0
GROUP BY a.id, a.product, g.bucket, s.seq;

-- What was used, by account and operation, over all time. Credits are positive here: they are a quantity sold.
CREATE VIEW finance.usage_by_operation AS
SELECT
  e.account AS account_id,
  a.product::text AS product,
  e.operation,
  count(*) FILTER (WHERE e.kind IN ('commit', 'late')) AS charged,
  count(*) FILTER (WHERE e.kind = 'release') AS released,
  count(*) FILTER (WHERE e.kind = 'expire') AS expired,
  count(*) FILTER (WHERE e.kind = 'uncollected') AS uncollected,
  coalesce(sum(e.units) FILTER (WHERE e.kind IN ('commit', 'late')), 0)::bigint AS units,
  (coalesce(sum(l.spent), 0) / 1000.0)::numeric(20,3) AS credits,
  (coalesce(sum(e.amount) FILTER (WHERE e.kind = 'uncollected'), 0) / 1000.0)::numeric(20,3) AS uncollected_credits
FROM creditgate.ledger_entry e
JOIN creditgate.account a ON a.id = e.account
LEFT JOIN LATERAL (
  SELECT sum(spent) AS spent FROM creditgate.ledger_line
  WHERE (layout, partition, pseq, idx) = (e.layout, e.partition, e.pseq, e.idx)
) l ON true
WHERE e.kind IN ('commit', 'release', 'expire', 'late', 'uncollected')
GROUP BY e.account, a.product, e.operation;

GRANT USAGE ON SCHEMA finance TO finance_reader;
GRANT SELECT ON finance.entries, finance.balances, finance.usage_by_operation TO finance_reader;
