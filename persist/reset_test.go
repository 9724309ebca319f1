package persist_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
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

// newClockedHouse is a house with a policy, whose clock stands where the test puts it, Redis' side included.
func newClockedHouse(tb testing.TB, p *policy.Policy) (h *house, clock *meter.Clock) {
	tb.Helper()
	return newClockedHouseOn(tb, persisttest.DB(tb), p)
}

func newClockedHouseOn(tb testing.TB, dbURL string, p *policy.Policy) (h *house, clock *meter.Clock) {
	tb.Helper()
	clock = new(meter.Clock)
	h = &house{redis: redisd.Test(tb), url: dbURL}
	h.store = persisttest.OpenAt(tb, h.url, layout, clock)
	log := zerolog.New(zerolog.NewTestWriter(tb)).Level(zerolog.WarnLevel)
	var err error
	h.engine, err = meter.New(meter.Options{
		RedisURL: h.redis.URL(), Layout: layout, Book: h.store, Rebuild: h.store, Log: log, Metrics: prometheus.NewRegistry(),
		Clock: clock,
	})
	require.NoError(tb, err)
	h.admin = persist.NewAdmin(h.store, h.engine, policy.NewCatalog(map[string]*policy.Policy{"studio": p}), log)
	inBackground(tb, func(ctx context.Context) { _ = h.engine.Run(ctx) })
	f := persist.NewFlusher(h.store, h.engine.Ledger(), persist.FlushOptions{Wait: 100 * time.Millisecond},
		prometheus.NewRegistry(), log)
	inBackground(tb, f.Run)
	return h, clock
}

// One account is spent from by many clients while its cycle ends. Before the boundary everything is drawn from the grant
// that ends, from it on from the one that begins; nobody is refused, and what was left lapses.
func TestResetUnderLoad(t *testing.T) {
	t.Parallel()
	h, clock := newClockedHouse(t, planPolicy(t, 1))
	boundary := time.Date(2027, 1, 31, 23, 0, 0, 0, time.UTC)
	clock.Set(time.Until(boundary.Add(-time.Hour)))
	_, err := h.admin.PutAccount(t.Context(), persist.AccountChange{Account: "ada", Product: new("studio")})
	require.NoError(t, err)
	state, err := h.admin.PutSubscription(t.Context(), persist.SubscriptionChange{Account: "ada", Plan: "plus", Slots: new(uint32(100_000))})
	require.NoError(t, err)
	require.True(t, state.Applied)
	d, err := h.engine.Balance(t.Context(), "ada")
	require.NoError(t, err)
	require.Len(t, d.Account.Grants, 2)
	ends, begins := d.Account.Grants[0], d.Account.Grants[1]
	require.Equal(t, boundary.UnixMilli(), ends.ExpiresMs)
	require.Equal(t, boundary.UnixMilli(), begins.EffectiveMs)

	clock.Set(time.Until(boundary.Add(-200 * time.Millisecond)))
	var clients sync.WaitGroup
	var mu sync.Mutex
	spent := map[meter.ID]meter.Credits{}
	for range 16 {
		clients.Go(func() {
			mine := map[meter.ID]meter.Credits{}
			if err := spendAcross(h.engine, boundary, ends.ID, begins.ID, mine); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for id, c := range mine {
				spent[id] += c
			}
		})
	}
	clients.Wait()
	require.Positive(t, spent[ends.ID])
	require.Positive(t, spent[begins.ID])
	require.NoError(t, h.engine.SweepNow(t.Context()))
	h.requireNoDrift(t)
	require.Equal(t, [][]any{
		{int64(1_000_000_000), int64(spent[ends.ID]), int64(1_000_000_000 - spent[ends.ID])},
		{int64(1_000_000_000), int64(spent[begins.ID]), int64(0)},
	}, h.query(t, `SELECT s.granted::bigint, s.spent::bigint, s.lapsed::bigint FROM creditgate.grant_state s
		JOIN creditgate.grant_lot g ON g.id = s.grant_id ORDER BY g.effective_at`))
}

// spendAcross spends a credit at a time until the boundary has passed for a tenth of a second.
func spendAcross(engine *meter.Engine, boundary time.Time, ends, begins meter.ID, spent map[meter.ID]meter.Credits) error {
	ctx := context.Background()
	for {
		id := engine.NewReservationID("ada")
		d, err := engine.Reserve(ctx, meter.Reserve{ID: id, Account: "ada", Amount: meter.Credit, Lease: time.Minute})
		if err != nil || d.Code != meter.CodeOK {
			return errors.Join(err, fmt.Errorf("reserve: %s", d.Code))
		}
		want := ends
		if d.NowMs >= boundary.UnixMilli() {
			want = begins
		}
		if len(d.Reservation.Draws) != 1 || d.Reservation.Draws[0].Grant != want {
			return fmt.Errorf("at %d ms after the boundary: %v", d.NowMs-boundary.UnixMilli(), d.Reservation.Draws)
		}
		c, err := engine.Commit(ctx, meter.Settle{ID: id, Account: "ada", Amount: meter.Credit, Units: 1})
		if err != nil || c.Code != meter.CodeOK {
			return errors.Join(err, fmt.Errorf("commit: %s", c.Code))
		}
		spent[want] += meter.Credit
		if d.NowMs > boundary.UnixMilli()+100 {
			return nil
		}
	}
}

// BenchmarkIssue is b.N accounts whose cycles begin at the same midnight, all of them in Redis: run it with
// -benchtime 10000x.
func BenchmarkIssue(b *testing.B) {
	h, clock := newClockedHouse(b, planPolicy(b, 1))
	midnight := time.Date(2027, 1, 31, 23, 0, 0, 0, time.UTC)
	clock.Set(time.Until(midnight))
	addSubscribers(b, h.url, b.N)
	names := make(chan string)
	var loaders sync.WaitGroup
	for range 64 {
		loaders.Go(func() {
			for name := range names {
				if _, err := h.engine.Balance(context.Background(), name); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range b.N {
		names <- fmt.Sprintf("account-%d", i+1)
	}
	close(names)
	loaders.Wait()
	issuer := persist.NewIssuer(h.admin, persist.IssueOptions{}, prometheus.NewRegistry(), zerolog.Nop())
	runtime.GC()
	b.ReportAllocs()
	b.ResetTimer()
	n, err := issuer.Issue(b.Context())
	b.StopTimer()
	require.NoError(b, err)
	require.Equal(b, 2*b.N, n, "the cycle that begins and the one after it")
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "grants/s")
}

// addSubscribers puts accounts with a subscription straight into the tables, as if they had been asleep until now.
func addSubscribers(tb testing.TB, url string, n int) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), persisttest.AsOwner(tb, url))
	require.NoError(tb, err)
	defer func() { require.NoError(tb, conn.Close(context.WithoutCancel(tb.Context()))) }()
	for _, sql := range []string{
		`INSERT INTO creditgate.account (id, layout, partition, product) SELECT 'account-' || i, 1, 0, 'studio' FROM generate_series(1, $1::int) i`,
		`INSERT INTO creditgate.account_state (account) SELECT 'account-' || i FROM generate_series(1, $1::int) i`,
		`INSERT INTO creditgate.subscription_term (account, n, at, plan, slots, anchor, fingerprint)
			SELECT 'account-' || i, 1, '2026-12-01', 'pro', 5, '2026-12-01', sha256('') FROM generate_series(1, $1::int) i`,
		`INSERT INTO creditgate.subscription_due (account, product, policy_version, issued_until, due_at)
			SELECT 'account-' || i, 'studio', '', '2027-01-31 23:00:00Z', '2027-01-31 23:00:00Z' FROM generate_series(1, $1::int) i`,
	} {
		_, err := conn.Exec(tb.Context(), sql, n)
		require.NoError(tb, err)
	}
	_, err = conn.Exec(tb.Context(), `ANALYZE creditgate.account, creditgate.subscription_due, creditgate.subscription_term`)
	require.NoError(tb, err)
}
