DROP TABLE creditgate.override, creditgate.subscription_term;
