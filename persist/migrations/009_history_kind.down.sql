DROP INDEX creditgate.ledger_entry_kind;
