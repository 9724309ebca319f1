-- The gateways that serve, each with the policies that it goes by. Each renews its row every second, and deletes it when it
-- ends in order. Gateways of an earlier version have none.
CREATE TABLE creditgate.gateway (
  id       uuid PRIMARY KEY, -- of the process
  name     text NOT NULL,    -- host:port of its control plane
  seen_at  timestamptz NOT NULL DEFAULT now(),
  reload   bigint NOT NULL,  -- the newest request to reload that it has followed; 0: none
  policies jsonb NOT NULL,   -- product: version
  error    text NOT NULL     -- why its last reload was refused; empty: it was not
);

-- The newest request to all gateways to reload their policies.
CREATE TABLE creditgate.policy_reload (
  one          boolean PRIMARY KEY DEFAULT true CHECK (one),
  number       bigint NOT NULL DEFAULT 0,
  requested_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO creditgate.policy_reload DEFAULT VALUES;

GRANT SELECT, INSERT, DELETE ON creditgate.gateway TO creditgate_writer;
GRANT UPDATE (seen_at, reload, policies, error) ON creditgate.gateway TO creditgate_writer;
GRANT SELECT, UPDATE (number, requested_at) ON creditgate.policy_reload TO creditgate_writer;
