DROP VIEW finance.purchases, creditgate.purchase_now;
DROP TABLE creditgate.reversal;
ALTER TABLE creditgate.revocation DROP COLUMN instead_of, DROP COLUMN purchase_id, DROP COLUMN beyond;
DROP TABLE creditgate.purchase_payment, creditgate.purchase;
-- A ledger with reversals cannot go back: this fails, and changes nothing, where one was booked.
DO $$
DECLARE
  entries text := pg_get_viewdef('finance.entries'::regclass);
BEGIN
  DROP VIEW finance.entries;
  ALTER TABLE creditgate.ledger_line DROP CONSTRAINT ledger_line_conserves, ALTER COLUMN revoked TYPE creditgate.amount;
  EXECUTE 'CREATE VIEW finance.entries AS ' || entries;
  GRANT SELECT ON finance.entries TO finance_reader;
END $$;
ALTER TABLE creditgate.ledger_line ADD CONSTRAINT ledger_line_conserves CHECK (CASE
  WHEN kind = 'grant'  THEN granted > 0 AND (spent, returned, lapsed, revoked, debt) = (0, 0, 0, 0, 0)
  WHEN kind = 'lapse'  THEN lapsed > 0 AND (granted, spent, returned, revoked, debt) = (0, 0, 0, 0, 0)
  WHEN kind = 'revoke' THEN debt >= 0 AND (granted, spent, returned, lapsed) = (0, 0, 0, 0)
  WHEN kind = 'late'   THEN spent > 0 AND (granted, returned, lapsed, revoked, debt) = (0, 0, 0, 0, 0)
  WHEN kind IN ('commit', 'release', 'expire') THEN
    granted = 0 AND lapsed + revoked <= returned AND debt = -revoked AND (kind = 'commit' OR spent = 0)
  WHEN kind IN ('adjust', 'hold') THEN true
  ELSE false END);
