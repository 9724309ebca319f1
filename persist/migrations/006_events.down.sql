DROP TABLE creditgate.webhook_delivery, creditgate.webhook, creditgate.event_level, creditgate.event_walk,
  creditgate.event_cursor, creditgate.event, creditgate.event_head;
DROP INDEX creditgate.grant_lot_ahead, creditgate.grant_state_ending, creditgate.grant_state_in_force,
  creditgate.purchase_recorded;
