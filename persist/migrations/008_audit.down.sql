DROP VIEW creditgate.audit;
DROP TRIGGER note_change ON creditgate.account;
DROP TRIGGER note_change ON creditgate.override;
DROP TRIGGER note_change ON creditgate.webhook;
DROP TRIGGER note_deletion ON creditgate.webhook;
DROP TABLE creditgate.overwritten;
DROP FUNCTION creditgate.note_change();
