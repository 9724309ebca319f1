package persist_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
)

// Pages of any size list the same changes, whatever their kinds, each once and oldest first.
func TestPendingPageByPage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "ada")
	b.putAccount(t, "bob")
	grant := b.addGrant(t, "ada", "much", 10*meter.Credit)
	b.flush(t)
	b.down = true
	for i := range 3 {
		_, err := b.admin.Grant(t.Context(), persist.NewGrant{
			Account: "bob", Bucket: "promo", Credits: meter.Credit, Ref: fmt.Sprint("grant-", i),
		})
		require.NoError(t, err)
		_, err = b.admin.Revoke(t.Context(), persist.NewRevocation{
			Account: "ada", GrantID: grant, Credits: meter.Credit, Ref: fmt.Sprint("back-", i), Reason: "error",
		})
		require.NoError(t, err)
	}
	_, err := b.admin.PutAccount(t.Context(), persist.AccountChange{Account: "bob", Suspended: new(true)})
	require.NoError(t, err)
	all := b.pending(t)
	kinds := map[string]int{}
	for i, c := range all {
		kinds[c.Kind]++
		require.Equal(t, i < 3, c.Kind == "revocation", "revocations first")
		require.True(t, i == 0 || i == 3 || !c.CreatedAt.Before(all[i-1].CreatedAt))
	}
	require.Equal(t, map[string]int{"grant": 3, "revocation": 3, "suspension": 1}, kinds)
	for limit := 1; limit <= len(all); limit++ {
		var listed []persist.PendingChange
		for last := (persist.PendingChange{}); ; last = listed[len(listed)-1] {
			page, err := b.store.Pending(t.Context(), 0, 0, last, limit)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page), limit)
			if listed = append(listed, page...); len(page) < limit {
				break
			}
		}
		require.Equal(t, all, listed, limit)
	}
}

// What is pending is asked for every few seconds, for each partition: it must not cost what the accounts do.
func TestPendingDoesNotReadAllAccounts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, `INSERT INTO creditgate.account (id, layout, partition, product, actor)
		SELECT 'a' || n, 1, 0, 'studio', '' FROM generate_series(1, 100000) n`)
	b.exec(t, `ANALYZE creditgate.account, creditgate.grant_lot`)
	plan := b.explain(t, persist.PendingChanges, 1, 0, time.Now().Add(time.Hour), 100,
		time.Time{}, "", [16]byte{}, time.Time{}, "", [16]byte{})
	require.NotContains(t, plan, "Seq Scan on account", plan)
	require.NotContains(t, plan, "Index Cond: ((layout = 1) AND (partition = 0))\n", plan)
	require.Contains(t, plan, "account_flags_pending", plan)
}
