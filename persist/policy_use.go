package persist

import (
	"context"
	"slices"

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

// bucketPlaces are the distinct places at which grants are that hold credit or are about to: one step along index
// grant_state_place for each, and not one for each grant.
const bucketPlaces = `WITH RECURSIVE place AS (
	(SELECT product, bucket, rank FROM creditgate.grant_state WHERE live OR granted = 0
		ORDER BY product, bucket, rank LIMIT 1)
	UNION ALL
	SELECT n.product, n.bucket, n.rank FROM place p, LATERAL (
		SELECT s.product, s.bucket, s.rank FROM creditgate.grant_state s
		WHERE (s.live OR s.granted = 0) AND (s.product, s.bucket, s.rank) > (p.product, p.bucket, p.rank)
		ORDER BY s.product, s.bucket, s.rank LIMIT 1) n
) SELECT product, bucket, rank FROM place`

// BucketUses counts the accounts of products that hold credit, or are about to, by its bucket and the place that it was
// granted with: a grant keeps its place as long as it lasts. It counts at those places only that are wanted; which
// there are costs nothing, and counting reads every such grant.
func (s *Store) BucketUses(
	ctx context.Context, products []string, wanted func(product, bucket string, rank uint8) bool,
) ([]BucketUse, error) {
	rows, err := s.pool.Query(ctx, bucketPlaces)
	if err != nil {
		return nil, storeError("find places of buckets", err)
	}
	var of, buckets []string
	var ranks []int16
	var u BucketUse
	_, err = pgx.ForEachRow(rows, []any{&u.Product, &u.Bucket, &u.Rank}, func() error {
		if slices.Contains(products, u.Product) && wanted(u.Product, u.Bucket, u.Rank) {
			of, buckets, ranks = append(of, u.Product), append(buckets, u.Bucket), append(ranks, int16(u.Rank))
		}
		return nil
	})
	if err != nil || len(of) == 0 {
		return nil, storeError("find places of buckets", err)
	}
	rows, err = s.pool.Query(ctx, `SELECT s.product, s.bucket, s.rank, count(DISTINCT s.account)
		FROM unnest($1::text[], $2::text[], $3::smallint[]) p (product, bucket, rank)
		JOIN creditgate.grant_state s USING (product, bucket, rank)
		WHERE (s.live OR s.granted = 0) AND (s.expires_at IS NULL OR s.expires_at > $4)
		GROUP BY s.product, s.bucket, s.rank ORDER BY s.product, s.rank, s.bucket`, of, buckets, ranks, s.clock.Now())
	if err != nil {
		return nil, storeError("count accounts of buckets", err)
	}
	uses, err := pgx.CollectRows(rows, pgx.RowToStructByPos[BucketUse])
	return uses, storeError("count accounts of buckets", err)
}
