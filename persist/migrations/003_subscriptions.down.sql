DROP TABLE creditgate.policy_in_force, creditgate.subscription_due, creditgate.cycle_grant, creditgate.override,
  creditgate.subscription_term;
DROP INDEX creditgate.grant_lot_follows, creditgate.expiry_move_grant;
ALTER TABLE creditgate.grant_lot DROP COLUMN follows_renewal;
DROP FUNCTION creditgate.note_agreement();
UPDATE creditgate.account SET agreed = false WHERE agreed;
