package persist

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// PolicyUse is how many accounts depend on a product, or with Plan on one of its plans.
type PolicyUse struct {
	Product  string
	Plan     string // "": all accounts of the product
	Accounts int64
}

// PolicyUses counts the accounts of products, and of each plan that subscriptions to them are on now or will be. It
// reads every account of these products.
func (s *Store) PolicyUses(ctx context.Context, products []string) ([]PolicyUse, error) {
	rows, err := s.pool.Query(ctx, `SELECT a.product, coalesce(t.plan, ''), count(DISTINCT a.id)
		FROM creditgate.account a LEFT JOIN LATERAL (
			SELECT plan FROM creditgate.subscription_term
			WHERE account = a.id AND NOT void AND plan IS NOT NULL AND at >= coalesce((
				SELECT max(at) FROM creditgate.subscription_term WHERE account = a.id AND NOT void AND at <= $2), '-infinity')
		) t ON true
		WHERE a.product = ANY ($1)
		GROUP BY GROUPING SETS ((a.product), (a.product, t.plan))
		HAVING grouping(t.plan) = 1 OR t.plan IS NOT NULL
		ORDER BY a.product, t.plan NULLS FIRST`, products, s.clock.Now())
	if err != nil {
		return nil, storeError("count accounts of products", err)
	}
	uses, err := pgx.CollectRows(rows, pgx.RowToStructByPos[PolicyUse])
	return uses, storeError("count accounts of products", err)
}
