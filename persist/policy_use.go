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

// BucketUse is how many accounts have credit in a bucket that was granted at one place of the drain order.
type BucketUse struct {
	Product  string
	Bucket   string
	Rank     uint8
	Accounts int64
}

// BucketUses counts the accounts of products that hold credit, or are about to, by its bucket and the place that it was
// granted with: a grant keeps its place as long as it lasts. It reads every such grant of these products.
func (s *Store) BucketUses(ctx context.Context, products []string) ([]BucketUse, error) {
	rows, err := s.pool.Query(ctx, `SELECT a.product, g.bucket, g.rank, count(DISTINCT a.id)
		FROM creditgate.account a JOIN creditgate.grant_lot g ON g.account = a.id
		LEFT JOIN creditgate.grant_state t ON t.grant_id = g.id
		WHERE a.product = ANY ($1) AND (t.live OR g.status = 'pending')
			AND (coalesce(t.expires_at, g.expires_at) IS NULL OR coalesce(t.expires_at, g.expires_at) > $2)
		GROUP BY a.product, g.bucket, g.rank ORDER BY a.product, g.rank, g.bucket`, products, s.clock.Now())
	if err != nil {
		return nil, storeError("count accounts of buckets", err)
	}
	uses, err := pgx.CollectRows(rows, pgx.RowToStructByPos[BucketUse])
	return uses, storeError("count accounts of buckets", err)
}
