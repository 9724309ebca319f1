-- Who changed what. Most changes are rows that stay, with their actor. What is overwritten or deleted is noted here, in
-- the transaction that does it; the writer may not.
CREATE TABLE creditgate.overwritten (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor   text NOT NULL,
  action  text NOT NULL,
  account text,
  target  text NOT NULL,
  before  jsonb NOT NULL
);
CREATE INDEX overwritten_account ON creditgate.overwritten (account, at);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON creditgate.overwritten
  FOR EACH STATEMENT EXECUTE FUNCTION creditgate.refuse_change();

-- The actor is the one that the transaction names, else the one of the new row.
CREATE FUNCTION creditgate.note_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  was jsonb := to_jsonb(OLD) - ARRAY['secret', 'old_secret', 'fingerprint'];
  will jsonb := coalesce(to_jsonb(NEW), '{}');
  what text := TG_ARGV[0];
BEGIN
  IF TG_TABLE_NAME = 'account' AND was -> 'suspended' <> will -> 'suspended' THEN
    what := CASE WHEN (will ->> 'suspended')::boolean THEN 'account suspended' ELSE 'account resumed' END;
  END IF;
  INSERT INTO creditgate.overwritten (actor, action, account, target, before) VALUES (
    coalesce(nullif(current_setting('creditgate.actor', true), ''), will ->> 'actor', ''), what,
    CASE TG_TABLE_NAME WHEN 'account' THEN was ->> 'id' ELSE was ->> 'account' END,
    coalesce(was ->> 'name', was ->> 'external_ref', was ->> 'id'), was);
  RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION creditgate.note_change() FROM PUBLIC;

CREATE TRIGGER note_change AFTER UPDATE OF product, suspended ON creditgate.account
  FOR EACH ROW WHEN (OLD.product <> NEW.product OR OLD.suspended <> NEW.suspended)
  EXECUTE FUNCTION creditgate.note_change('account moved to another product');
CREATE TRIGGER note_change AFTER UPDATE OF until_at ON creditgate.override
  FOR EACH ROW EXECUTE FUNCTION creditgate.note_change('override ended');
CREATE TRIGGER note_change AFTER UPDATE OF url, types, secret ON creditgate.webhook
  FOR EACH ROW EXECUTE FUNCTION creditgate.note_change('webhook changed');
CREATE TRIGGER note_deletion AFTER DELETE ON creditgate.webhook
  FOR EACH ROW EXECUTE FUNCTION creditgate.note_change('webhook deleted');

-- Every change by an actor, in one place. What a policy gives by itself is not in it.
CREATE VIEW creditgate.audit AS
  SELECT at, actor, action, account, target, '' AS reason, before FROM creditgate.overwritten
  UNION ALL
  SELECT created_at, actor, 'key created', account, id::text, '', NULL FROM creditgate.api_key
  UNION ALL
  SELECT revoked_at, revoked_by, 'key revoked', account, id::text, '', NULL FROM creditgate.api_key WHERE revoked_at IS NOT NULL
  UNION ALL
  SELECT created_at, actor, 'grant', account, id::text, reason, NULL FROM creditgate.grant_lot WHERE actor <> 'policy'
  UNION ALL
  SELECT created_at, actor, 'revocation', account, id::text, reason, NULL FROM creditgate.revocation WHERE actor <> 'policy'
  UNION ALL
  SELECT created_at, actor, 'reversal', account, id::text, reason, NULL FROM creditgate.reversal WHERE actor <> 'policy'
  UNION ALL
  SELECT created_at, actor, 'expiry moved', account, grant_id::text, reason, NULL FROM creditgate.expiry_move WHERE actor <> 'policy'
  UNION ALL
  SELECT recorded_at, actor, 'subscription', account, coalesce(plan, 'ended'), '', NULL FROM creditgate.subscription_term
  UNION ALL
  SELECT recorded_at, actor, 'override', account, external_ref, reason, NULL FROM creditgate.override
  UNION ALL
  SELECT recorded_at, actor, 'purchase', account, external_ref, '', NULL FROM creditgate.purchase
  UNION ALL
  SELECT recorded_at, actor, 'payment ' || status, NULL, external_ref, '', NULL FROM creditgate.purchase_payment;

GRANT SELECT ON creditgate.overwritten, creditgate.audit TO creditgate_writer;
