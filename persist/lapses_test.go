package persist_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/meter/redisd"
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
	_, err = conn.Exec(tb.Context(), `INSERT INTO creditgate.grant_state (grant_id, account, bucket, effective_at, credits, granted, spent,
			expires_at)
		SELECT md5(i::text)::uuid, 'account-' || i, 'promo', $2::timestamptz, 5, 5, CASE WHEN i % 8 = 0 THEN 5 ELSE 0 END,
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
		var lines strings.Builder
		for _, row := range queryAs(t, persisttest.AsOwner(t, url), `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS) `+persist.DueLapses,
			until, begin.At, [16]byte(begin.Grant), limit) {
			fmt.Fprintln(&lines, row[0])
		}
		plan := lines.String()
		require.Contains(t, plan, "Index Scan using grant_state_ending")
		require.NotContains(t, plan, "Sort")
		require.NotContains(t, plan, "Filter")
	}
}

// endingHouse has an account with ten credits that end in a day, flushed.
func endingHouse(t *testing.T, dbURL string) *house {
	t.Helper()
	h := openHouseOn(t, dbURL, planned(&policy.Policy{Name: "studio", Location: time.UTC, Buckets: []string{"promo"}}))
	h.startFlusher(t)
	_, err := h.admin.PutAccount(t.Context(), persist.AccountChange{Account: "ada", Product: new("studio")})
	require.NoError(t, err)
	g, err := h.admin.Grant(t.Context(), persist.NewGrant{
		Account: "ada", Bucket: "promo", Credits: 10 * meter.Credit, Ref: "welcome", ExpiresAt: h.clock.Now().Add(24 * time.Hour),
	})
	require.NoError(t, err)
	require.True(t, g.Applied)
	h.requireNoDrift(t)
	return h
}

// requireLapsed waits for the ten credits to be booked, in one entry.
func (h *house) requireLapsed(t *testing.T, lapsed meter.Credits) {
	t.Helper()
	const entries = `SELECT l.lapsed::bigint FROM creditgate.ledger_line l WHERE l.kind = 'lapse'`
	require.Eventually(t, func() bool { return len(h.query(t, entries)) > 0 }, time.Minute, 50*time.Millisecond)
	h.requireNoDrift(t)
	require.Equal(t, [][]any{{int64(lapsed)}}, h.query(t, entries))
}

// While Postgres is away nobody knows what ends, and nothing that has ended is spent; then it is booked, once.
func TestLapsesWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	server, dbURL := persisttest.Private(t)
	h := endingHouse(t, dbURL)
	require.NoError(t, server.Kill())
	h.clock.Set(25 * time.Hour)
	require.ErrorIs(t, h.engine.SweepNow(t.Context()), persist.ErrUnavailable)
	ask := meter.Reserve{ID: h.engine.NewReservationID("ada"), Account: "ada", Amount: 1, Lease: time.Minute}
	d, err := h.engine.Reserve(t.Context(), ask)
	require.NoError(t, err)
	require.Equal(t, meter.CodeInsufficient, d.Code)
	require.Equal(t, 10*meter.Credit, d.Account.Grants[0].Available, "there, and over")
	require.NoError(t, server.Restart(t.Context()))
	h.requireLapsed(t, 10*meter.Credit)
}

// Redis that lost everything is given what has ended too, and it lapses.
func TestRebuiltAccountsLapse(t *testing.T) {
	t.Parallel()
	h := endingHouse(t, persisttest.DB(t))
	require.NoError(t, h.redis.Kill())
	h.clock.Set(25 * time.Hour)
	empty := redisd.Test(t)
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel)
	engine, err := meter.New(meter.Options{
		RedisURL: empty.URL(), Layout: layout, Book: h.store, Rebuild: h.store, Log: log, Metrics: prometheus.NewRegistry(), Clock: h.clock,
	})
	require.NoError(t, err)
	h.engine = engine
	inBackground(t, func(ctx context.Context) { _ = engine.Run(ctx) })
	h.startFlusher(t)
	h.requireLapsed(t, 10*meter.Credit)
}
