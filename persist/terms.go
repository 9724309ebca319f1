package persist

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter/policy"
)

// rowsQuerier is a pool or a transaction.
type rowsQuerier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// history is what was decided about an account's subscription, oldest first; empty if it never had one.
func history(ctx context.Context, q rowsQuerier, account string) (policy.History, error) {
	rows, err := q.Query(ctx, `SELECT at, coalesce(plan, ''), slots, yearly, anchor FROM creditgate.subscription_term
		WHERE account = $1 AND NOT void ORDER BY at, n`, account)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t policy.Term, err error) {
		var at, anchor time.Time
		err = row.Scan(&at, &t.Plan, &t.Slots, &t.Yearly, &anchor)
		t.At, t.Anchor = at.UTC(), anchor.UTC()
		return t, err
	})
}
