package persist_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// addEnds puts grants straight into the projection: i of n ends i/4 seconds after the given time, four of them at once;
// every eighth has nothing left and every tenth never ends.
func addEnds(tb testing.TB, url string, n int, from time.Time) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), persisttest.AsOwner(tb, url))
	require.NoError(tb, err)
	defer func() { require.NoError(tb, conn.Close(context.WithoutCancel(tb.Context()))) }()
	_, err = conn.Exec(tb.Context(), `SET session_replication_role = replica`) // none of them has a lot
	require.NoError(tb, err)
	_, err = conn.Exec(tb.Context(), `INSERT INTO creditgate.grant_state (grant_id, account, credits, granted, spent, expires_at)
		SELECT md5(i::text)::uuid, 'account-' || i, 5, 5, CASE WHEN i % 8 = 0 THEN 5 ELSE 0 END,
			CASE WHEN i % 10 = 0 THEN NULL ELSE $2::timestamptz + i / 4 * interval '1 second' END
		FROM generate_series(1, $1::int) i`, n, from)
	require.NoError(tb, err)
	_, err = conn.Exec(tb.Context(), `VACUUM ANALYZE creditgate.grant_state`)
	require.NoError(tb, err)
}

// Every end is found once, in order, a page at a time; and a page costs what it holds, wherever it begins.
func TestDueLapses(t *testing.T) {
	t.Parallel()
	url := persisttest.DB(t)
	store := persisttest.Open(t, url, layout)
	const n, limit = 20_000, 1000
	from := time.UnixMilli(startMs)
	addEnds(t, url, n, from)
	until := from.Add(n / 8 * time.Second) // half of them
	want := queryAs(t, persisttest.AsOwner(t, url), `SELECT account FROM creditgate.grant_state
		WHERE spent = 0 AND expires_at <= $1 ORDER BY expires_at, grant_id`, until)
	require.Greater(t, len(want), n/3)
	var got [][]any
	after := meter.Lapse{}
	for {
		page, err := store.DueLapses(t.Context(), after, until, limit)
		require.NoError(t, err)
		for _, l := range page {
			got = append(got, []any{l.Account})
		}
		if len(page) < limit {
			break
		}
		after = page[len(page)-1]
	}
	require.Equal(t, want, got)
	for _, begin := range []meter.Lapse{{}, after} {
		plan := ""
		for _, row := range queryAs(t, persisttest.AsOwner(t, url), `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS) `+persist.DueLapses,
			until, begin.At, [16]byte(begin.Grant), limit) {
			plan += row[0].(string) + "\n"
		}
		t.Log(plan)
		require.Contains(t, plan, "Index Scan using grant_state_ending")
		require.NotContains(t, plan, "Sort")
		require.NotContains(t, plan, "Filter")
	}
}
