DROP TABLE creditgate.clock;
DROP FUNCTION creditgate.refuse_past();
