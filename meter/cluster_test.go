package meter_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

// In a Cluster the same verbs work, each partition is whole on one master, and each master has the functions and a
// part of the partitions.
func TestClusterOfThreeMasters(t *testing.T) {
	t.Parallel()
	c := redisd.TestCluster(t, 3)
	b := &testBundle{t: t, layout: meter.Layout{Number: 1, Partitions: 12}}
	b.book = metertest.NewBook(b.layout)
	b.engine = runEngine(t, c.URL(), b.layout, b.book)
	require.IsType(t, &redis.ClusterClient{}, b.engine.Redis())

	const accounts, requests = 48, 5
	for i := range accounts {
		b.account(fmt.Sprintf("acct-%d", i), meter.Credit, 9*meter.Credit)
		b.flush() // an account is loaded once Postgres has all that came before
	}
	var callers sync.WaitGroup // at once, so that flights are of several partitions
	errs := make([]error, accounts)
	for i := range accounts {
		callers.Go(func() {
			for range requests {
				if errs[i] = chargeOne(t.Context(), b.engine, fmt.Sprintf("acct-%d", i)); errs[i] != nil {
					return
				}
			}
		})
	}
	callers.Wait()
	for i, err := range errs {
		require.NoError(t, err)
		d, err := b.engine.Balance(t.Context(), fmt.Sprintf("acct-%d", i))
		require.NoError(t, err)
		require.Equal(t, (10-requests)*meter.Credit, d.Account.Available(d.NowMs))
	}

	homes := map[string]string{} // partition → master
	for _, s := range c.Masters() {
		client := redis.NewClient(&redis.Options{Addr: s.Addr()})
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		libraries, err := client.FunctionList(t.Context(), redis.FunctionListQuery{}).Result()
		require.NoError(t, err)
		require.Len(t, libraries, 1, s.Addr())
		keys, err := client.Keys(t.Context(), "{*").Result()
		require.NoError(t, err)
		require.NotEmpty(t, keys, "no partition is on %s", s.Addr())
		for _, key := range keys {
			tag, _, _ := strings.Cut(key, "}")
			if home, seen := homes[tag]; seen {
				require.Equal(t, home, s.Addr(), tag)
			}
			homes[tag] = s.Addr()
		}
		stats, err := client.Info(t.Context(), "errorstats").Result()
		require.NoError(t, err)
		require.NotContains(t, stats, "CROSSSLOT")
	}
	require.Len(t, homes, int(b.layout.Partitions))
}

func chargeOne(ctx context.Context, e *meter.Engine, account string) error {
	id := e.NewReservationID(account)
	d, err := e.Reserve(ctx, meter.Reserve{ID: id, Account: account, Amount: 2 * meter.Credit, Lease: lease})
	if err != nil {
		return err
	}
	if d.Code != meter.CodeOK {
		return fmt.Errorf("reserve for %s: %s", account, d.Code)
	}
	d, err = e.Commit(ctx, meter.Settle{ID: id, Account: account, Amount: meter.Credit})
	if err == nil && d.Code != meter.CodeOK {
		err = fmt.Errorf("commit for %s: %s", account, d.Code)
	}
	return err
}
