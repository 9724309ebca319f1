DROP TABLE creditgate.booked_change, creditgate.quarantined_entry, creditgate.quarantined_account;
