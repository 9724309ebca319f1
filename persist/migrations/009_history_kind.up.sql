-- History of one kind: an account with a million charges has its few grants on a few pages. Commits are left out, which
-- are most entries: they cost no write here, and the key (account, seq) finds them.
CREATE INDEX ledger_entry_kind ON creditgate.ledger_entry (account, kind, seq) WHERE kind <> 'commit';
