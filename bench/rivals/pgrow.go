package rivals

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"creditgate/bench/cast"
)

//go:embed pgrow.sql
var pgTables string

// pgConns is how many connections the pool has. Of 8, 16, 32 and 64, 16 gave the most with 64 clients on two cores:
// more backends than that only take the cores from each other.
const pgConns = 16

// The statements. pgx prepares each once a connection.
const (
	// pgReserve locks the account's live grants in drain order, so that two requests of an account never wait for each
	// other crosswise, draws, and keeps what was drawn. No row: not enough, and nothing changed.
	pgReserve = `
WITH live AS (
    SELECT id, credits, expires_at FROM rival_pgrow.grants
    WHERE account = $1 AND credits > 0 AND expires_at > now()
    ORDER BY expires_at, id FOR UPDATE
), stacked AS (
    SELECT id, credits, sum(credits) OVER (ORDER BY expires_at, id)::bigint - credits AS below FROM live
), draws AS (
    SELECT id, least(credits, $2::bigint - below) AS amount FROM stacked WHERE below < $2::bigint
), drawn AS (
    UPDATE rival_pgrow.grants g SET credits = g.credits - d.amount FROM draws d
    WHERE g.account = $1 AND g.id = d.id AND (SELECT sum(amount) FROM draws) = $2::bigint
    RETURNING d.id, d.amount
)
INSERT INTO rival_pgrow.reservations (account, amount, grants, draws)
SELECT $1, $2::bigint, array_agg(id), array_agg(amount) FROM drawn HAVING count(*) > 0
RETURNING id`

	pgCommit = `
WITH settled AS (DELETE FROM rival_pgrow.reservations WHERE id = $1 RETURNING account, amount)
INSERT INTO rival_pgrow.ledger (reservation, account, amount) SELECT $1, account, amount FROM settled`

	// pgRelease locks in the same order as pgReserve.
	pgRelease = `
WITH settled AS (
    DELETE FROM rival_pgrow.reservations WHERE id = $1 RETURNING account, grants, draws
), draws AS (
    SELECT account, unnest(grants) AS id, unnest(draws) AS amount FROM settled
), locked AS (
    SELECT g.account, g.id, d.amount FROM rival_pgrow.grants g JOIN draws d USING (account, id)
    ORDER BY g.expires_at, g.id FOR UPDATE OF g
), returned AS (
    UPDATE rival_pgrow.grants g SET credits = g.credits + l.amount FROM locked l WHERE g.account = l.account AND g.id = l.id
)
INSERT INTO rival_pgrow.ledger (reservation, account, amount) SELECT $1, account, 0 FROM settled`
)

// pgrow meters with row locks in Postgres.
type pgrow struct{ pool *pgxpool.Pool }

func newPgrow(ctx context.Context, o *options) (*pgrow, error) {
	config, err := pgxpool.ParseConfig(o.postgres)
	if err != nil {
		return nil, fmt.Errorf("-postgres: %w", err)
	}
	config.MinConns, config.MaxConns = pgConns, pgConns
	config.ConnConfig.RuntimeParams["synchronous_commit"] = "off"
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("-postgres: %w", err)
	}
	p := &pgrow{pool}
	if err := p.prepare(ctx, o); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// prepare makes the tables and fills them. VACUUM ANALYZE is what a database that has run for a day has had.
func (p *pgrow) prepare(ctx context.Context, o *options) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, pgTables, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("make the tables: %w", err)
	}
	lots := o.lots(time.Now())
	rows := pgx.CopyFromSlice(o.accounts*len(lots), func(i int) ([]any, error) {
		g := lots[i%len(lots)]
		return []any{cast.Account(i / len(lots)), g.id, g.expires, g.amount}, nil
	})
	table := pgx.Identifier{pgSchema, "grants"}
	if _, err := conn.CopyFrom(ctx, table, []string{"account", "id", "expires_at", "credits"}, rows); err != nil {
		return fmt.Errorf("seed the grants: %w", err)
	}
	if _, err := conn.Exec(ctx, "VACUUM ANALYZE "+table.Sanitize()); err != nil {
		return fmt.Errorf("vacuum the grants: %w", err)
	}
	return nil
}

func (p *pgrow) reserve(ctx context.Context, account string, amount int64) (string, error) {
	var id int64
	err := p.pool.QueryRow(ctx, pgReserve, account, amount).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", errInsufficient
	}
	return strconv.FormatInt(id, 10), err
}

func (p *pgrow) settle(ctx context.Context, _, hold string, charged int64) error {
	id, err := strconv.ParseInt(hold, 10, 64)
	if err != nil {
		return err
	}
	statement := pgCommit
	if charged == 0 {
		statement = pgRelease
	}
	tag, err := p.pool.Exec(ctx, statement, id)
	if err == nil && tag.RowsAffected() == 0 {
		err = errors.New("reservation " + hold + " is not there: it was settled before")
	}
	return err
}

func (p *pgrow) close() { p.pool.Close() }
