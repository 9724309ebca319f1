package events_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"creditgate/persist/events"
	"creditgate/persist/persisttest"
)

// Of an account of which there is nothing to tell only the grants are read: with a million accounts every other row is
// on a page that is not in memory.
func TestAccountsWithNothingToTellAreReadInOneTable(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), persisttest.AsOwner(t, persisttest.DB(t)))
	require.NoError(t, err)
	defer conn.Close(t.Context())
	const accounts = 5000
	_, err = conn.Exec(t.Context(), `SET session_replication_role = replica;
		INSERT INTO creditgate.account (id, layout, partition, product) SELECT 'a-' || i, 1, 0, 'studio' FROM generate_series(1, 5000) i;
		INSERT INTO creditgate.account_state (account, seq) SELECT id, 7 FROM creditgate.account;
		INSERT INTO creditgate.grant_state (grant_id, account, product, bucket, rank, effective_at, credits, granted, spent)
			SELECT md5(id)::uuid, id, product, 'promo', 0, now() - interval '1 hour', 10, 10, CASE WHEN id = 'a-5' THEN 9 ELSE 8 END
			FROM creditgate.account`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `VACUUM ANALYZE`)
	require.NoError(t, err)
	touched, at := make([]string, 100), make([]time.Time, 100)
	standings := func(first int) (found int, plan string) {
		for i := range touched {
			touched[i], at[i] = fmt.Sprint("a-", first+i), time.Now()
		}
		args := []any{touched, at, events.Untold, 20}
		rows, err := conn.Query(t.Context(), events.Standings, args...)
		require.NoError(t, err)
		all, err := pgx.CollectRows(rows, pgx.RowToMap)
		require.NoError(t, err)
		rows, err = conn.Query(t.Context(), "EXPLAIN (ANALYZE, TIMING OFF) "+events.Standings, args...)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return len(all), strings.Join(lines, "\n")
	}
	found, plan := standings(accounts / 2)
	require.Zero(t, found)
	for _, index := range []string{"account_pkey", "account_state_pkey"} {
		require.Regexp(t, "Scan using "+index+" .*never executed", plan)
	}
	found, plan = standings(1)
	require.Equal(t, 1, found, "below 20 percent")
	require.NotRegexp(t, "Scan using .*never executed", plan)
	require.Regexp(t, "on cycle_grant .*never executed", plan, "asked of grants that are used up only")
}
