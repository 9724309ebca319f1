DROP TABLE creditgate.booked_change, creditgate.held_entry, creditgate.held_account;
