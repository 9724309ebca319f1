-- The tables of pgrow, made anew by each process. Rows are updated in place where a page has room (fillfactor), and no
-- index holds what changes, so that an update touches no index.
DROP SCHEMA IF EXISTS rival_pgrow CASCADE;
CREATE SCHEMA rival_pgrow;

CREATE TABLE rival_pgrow.grants (
    account    text        NOT NULL,
    id         integer     NOT NULL,
    expires_at timestamptz NOT NULL,
    credits    bigint      NOT NULL CHECK (credits >= 0), -- milli-credits left
    PRIMARY KEY (account, id)
) WITH (fillfactor = 50);

CREATE TABLE rival_pgrow.reservations (
    id      bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text     NOT NULL,
    amount  bigint   NOT NULL,
    grants  integer[] NOT NULL, -- drawn on, and by how much
    draws   bigint[] NOT NULL
);

CREATE TABLE rival_pgrow.ledger (
    reservation bigint      PRIMARY KEY,
    account     text        NOT NULL,
    amount      bigint      NOT NULL, -- charged
    at          timestamptz NOT NULL DEFAULT now()
);
