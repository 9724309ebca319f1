DROP TABLE creditgate.gateway, creditgate.policy_reload;
