package persist_test

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
)

func TestPolicyUses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	now := time.Now()
	for _, name := range []string{"a", "b", "c", "d"} {
		b.putAccount(t, name)
	}
	other := "other"
	_, err := b.admin.PutAccount(t.Context(), persist.AccountChange{Account: "e", Product: &other})
	require.NoError(t, err)
	b.term(t, "a", 1, now.Add(-2*time.Hour), "basic", 1, false)
	b.term(t, "a", 2, now.Add(-time.Hour), "pro", 1, false)
	b.term(t, "a", 3, now.Add(time.Hour), "premium", 1, false)
	b.term(t, "b", 1, now.Add(-time.Hour), "pro", 1, false)
	b.term(t, "c", 1, now.Add(-2*time.Hour), "pro", 1, false)
	b.term(t, "c", 2, now.Add(-time.Hour), "", 0, false) // over
	uses, err := b.store.PolicyUses(t.Context(), []string{"studio", "none"})
	require.NoError(t, err)
	require.Equal(t, []persist.PolicyUse{
		{Product: "studio", Accounts: 4},
		{Product: "studio", Plan: "premium", Accounts: 1},
		{Product: "studio", Plan: "pro", Accounts: 2},
	}, uses)
}

func TestBucketUses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.addAccount(t, "a")
	b.flush(t)
	b.putAccount(t, "b")
	for i, expires := range []time.Duration{time.Hour, 30 * time.Second} {
		_, err := b.admin.Grant(t.Context(), persist.NewGrant{
			Account: "b", Bucket: "monthly", Rank: uint8(i + 1), Credits: meter.Credit, Ref: fmt.Sprintf("b-%d", i),
			ExpiresAt: time.Now().Add(expires),
		})
		require.NoError(t, err)
	}
	b.clock.Set(time.Minute) // one is over
	all := func(string, string, uint8) bool { return true }
	uses, err := b.store.BucketUses(t.Context(), []string{"studio"}, all)
	require.NoError(t, err)
	require.Equal(t, []persist.BucketUse{
		{Product: "studio", Bucket: "promo", Accounts: 1}, {Product: "studio", Bucket: "monthly", Rank: 1, Accounts: 1},
	}, uses)
	uses, err = b.store.BucketUses(t.Context(), []string{"studio"}, func(_, bucket string, _ uint8) bool { return bucket == "monthly" })
	require.NoError(t, err)
	require.Equal(t, []persist.BucketUse{{Product: "studio", Bucket: "monthly", Rank: 1, Accounts: 1}}, uses)
	other := "other"
	_, err = b.admin.PutAccount(t.Context(), persist.AccountChange{Account: "b", Product: &other})
	require.NoError(t, err)
	uses, err = b.store.BucketUses(t.Context(), []string{"other"}, all)
	require.NoError(t, err)
	require.Equal(t, []persist.BucketUse{{Product: "other", Bucket: "monthly", Rank: 1, Accounts: 1}}, uses, "it moved with its account")
}

// What is counted is what reading every grant gives, with accounts of several products, grants that are pending, live,
// used up, over or moved, at any place. And finding the places reads a page or two for each, whatever the grants.
func TestBucketUsesAreThoseOfEveryGrant(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const accounts, each = 500, 10
	b.exec(t, `SET session_replication_role = replica;
		INSERT INTO creditgate.account (id, layout, partition, product)
			SELECT 'a-' || i, 1, 0, 'product-' || i % 3 FROM generate_series(1, 500) i;
		INSERT INTO creditgate.grant_lot (id, account, bucket, rank, credits, paid, effective_at, expires_at, external_ref,
				fingerprint, created_at, status, applied_at)
			SELECT md5(i || '-' || g)::uuid, 'a-' || i, 'bucket-' || g % 4,
				CASE WHEN (i * g) % 11 = 0 AND i % 50 = 0 THEN 9 ELSE g % 4 + (i * g) % 7 / 6 END, 10, false, now() - interval '9 hours',
				CASE WHEN (i + g) % 3 > 0 THEN now() + (g - 2) * interval '1 hour' END, i || '-' || g, sha256(''),
				now() - interval '9 hours', CASE WHEN (i * g) % 11 = 0 THEN 'pending' ELSE 'applied' END,
				CASE WHEN (i * g) % 11 > 0 THEN now() END
			FROM generate_series(1, 500) i, generate_series(0, 9) g;
		INSERT INTO creditgate.grant_state (grant_id, account, product, bucket, rank, effective_at, credits, expires_at,
				granted, spent)
			SELECT g.id, g.account, a.product, g.bucket, g.rank, g.effective_at, g.credits, g.expires_at,
				CASE WHEN g.status = 'applied' THEN 10 ELSE 0 END,
				CASE WHEN g.status = 'applied' THEN hashtext(g.id::text) & 1 ELSE 0 END * 10
			FROM creditgate.grant_lot g JOIN creditgate.account a ON a.id = g.account;
		SET session_replication_role = origin;
		UPDATE creditgate.account SET product = 'product-9' WHERE id LIKE 'a-1%' AND product = 'product-1'`)
	b.exec(t, `VACUUM ANALYZE creditgate.grant_state`)
	var want []persist.BucketUse
	products := []string{"product-0", "product-1", "product-9"}
	for _, row := range b.query(t, `SELECT a.product::text, g.bucket::text, g.rank, count(DISTINCT a.id)
		FROM creditgate.account a JOIN creditgate.grant_lot g ON g.account = a.id
		LEFT JOIN creditgate.grant_state t ON t.grant_id = g.id
		WHERE a.product = ANY ($1) AND (t.live OR g.status = 'pending')
			AND (coalesce(t.expires_at, g.expires_at) IS NULL OR coalesce(t.expires_at, g.expires_at) > $2)
		GROUP BY a.product, g.bucket, g.rank ORDER BY a.product, g.rank, g.bucket`, products, b.clock.Now()) {
		want = append(want, persist.BucketUse{
			Product: row[0].(string), Bucket: row[1].(string), Rank: uint8(row[2].(int16)), Accounts: row[3].(int64),
		})
	}
	require.Greater(t, len(want), 3*4)
	uses, err := b.store.BucketUses(t.Context(), products, func(string, string, uint8) bool { return true })
	require.NoError(t, err)
	require.Equal(t, want, uses)
	plan := b.explain(t, persist.BucketPlaces)
	require.NotContains(t, plan, "Seq Scan", plan)
	require.NotContains(t, plan, "Sort", plan)
	read := regexp.MustCompile(`Buffers: shared hit=(\d+)`).FindStringSubmatch(plan)
	require.Len(t, read, 2, plan)
	n, err := strconv.Atoi(read[1])
	require.NoError(t, err)
	require.Less(t, n, accounts*each/10, plan)
}
