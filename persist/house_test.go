package persist_test

import (
	"context"
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

// house is the real thing: an engine on a private Redis, a store on a private Postgres, an administrator over both.
type house struct {
	redis    *redisd.Server
	url      string // of the database
	clock    *meter.Clock
	policies *policy.Catalog
	store    *persist.Store
	engine   *meter.Engine
	admin    *persist.Admin
}

func newEngine(store *persist.Store, redisURL string, clock *meter.Clock, log zerolog.Logger) (*meter.Engine, error) {
	return meter.New(meter.Options{
		RedisURL: redisURL, Layout: layout, Book: store, Rebuild: store, Log: log, Metrics: prometheus.NewRegistry(), Clock: clock,
	})
}

// newHouse is a house without policies.
func newHouse(t *testing.T) *house {
	t.Helper()
	return openHouse(t, policy.NewCatalog(nil))
}

// openHouse is a house whose accounts live by these policies, and whose clock stands where the test puts it, Redis' side
// included.
func openHouse(tb testing.TB, policies *policy.Catalog) *house {
	tb.Helper()
	return openHouseOn(tb, persisttest.DB(tb), policies)
}

func openHouseOn(tb testing.TB, dbURL string, policies *policy.Catalog) *house {
	tb.Helper()
	h := &house{redis: redisd.Test(tb), url: dbURL, clock: new(meter.Clock), policies: policies}
	h.store = persisttest.OpenAt(tb, h.url, layout, h.clock)
	h.startEngine(tb)
	return h
}

// warnings are what a test logs.
func warnings(tb testing.TB) zerolog.Logger {
	tb.Helper()
	return zerolog.New(zerolog.NewTestWriter(tb)).Level(zerolog.WarnLevel)
}

// startEngine runs an engine, and puts an administrator over it, until the test ends.
func (h *house) startEngine(tb testing.TB) {
	tb.Helper()
	var err error
	h.engine, err = newEngine(h.store, h.redis.URL(), h.clock, warnings(tb))
	require.NoError(tb, err)
	h.administer(tb, h.engine)
	inBackground(tb, func(ctx context.Context) { _ = h.engine.Run(ctx) })
}

// administer puts the administrator over another engine, such as one that watches what goes through.
func (h *house) administer(tb testing.TB, engine persist.Engine) {
	tb.Helper()
	h.admin = persist.NewAdmin(h.store, engine, h.policies, warnings(tb))
}

// sweeper is one that finds every change old enough.
func (h *house) sweeper() *persist.Sweeper {
	return persist.NewSweeper(h.admin, h.engine.Ledger(), persist.SweepOptions{Pending: time.Nanosecond},
		prometheus.NewRegistry(), zerolog.Nop())
}

// startFlusher flushes until the test ends, or until the function returned is called.
func (h *house) startFlusher(tb testing.TB) (stop func()) {
	tb.Helper()
	f := persist.NewFlusher(h.store, h.engine.Ledger(), persist.FlushOptions{Wait: 100 * time.Millisecond},
		prometheus.NewRegistry(), warnings(tb))
	return inBackground(tb, f.Run)
}

func inBackground(tb testing.TB, run func(ctx context.Context)) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { run(ctx) })
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); running.Wait() }) }
	tb.Cleanup(stop)
	return stop
}

func (h *house) addAccount(t *testing.T, name string, credits meter.Credits) meter.ID {
	t.Helper()
	product := "studio"
	a, err := h.admin.PutAccount(t.Context(), persist.AccountChange{Account: name, Product: &product})
	require.NoError(t, err)
	require.True(t, a.Created)
	g, err := h.admin.Grant(t.Context(), persist.NewGrant{
		Account: name, Bucket: "promo", Credits: credits * meter.Credit, Ref: name + "-welcome",
	})
	require.NoError(t, err)
	require.True(t, g.Applied, "Redis is there, so the grant must be applied in the same call")
	return g.GrantID
}

// charge reserves credits and commits some of them.
func (h *house) charge(t *testing.T, account string, reserved, charged meter.Credits) meter.ReservationID {
	t.Helper()
	id := h.engine.NewReservationID(account)
	d, err := h.engine.Reserve(t.Context(), meter.Reserve{
		ID: id, Account: account, Amount: reserved * meter.Credit, Lease: time.Minute, Note: meter.Note{Operation: "apply"},
	})
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, d.Code)
	d, err = h.engine.Commit(t.Context(), meter.Settle{
		ID: id, Account: account, Amount: charged * meter.Credit, Units: uint32(charged),
	})
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, d.Code)
	return id
}

func (h *house) requireNoDrift(t *testing.T) {
	t.Helper()
	report, err := persist.Verify(t.Context(), h.store, h.engine.Balance)
	require.NoError(t, err)
	require.True(t, report.OK(), printed(t, report))
	require.NotZero(t, report.Accounts)
}

func (h *house) query(t *testing.T, sql string, args ...any) [][]any {
	t.Helper()
	return queryAs(t, persisttest.AsOwner(t, h.url), sql, args...)
}

func queryAs(tb testing.TB, url, sql string, args ...any) [][]any {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), url)
	require.NoError(tb, err)
	defer func() { require.NoError(tb, conn.Close(context.Background())) }()
	rows, err := conn.Query(tb.Context(), sql, args...)
	require.NoError(tb, err)
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
	require.NoError(tb, err)
	return out
}

func TestOneAccountThroughTheHouse(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	grant := h.addAccount(t, "ada", 10)
	h.startFlusher(t)
	id := h.charge(t, "ada", 3, 2)
	h.requireNoDrift(t)

	r, _, ok, err := h.store.Outcome(t.Context(), id)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, meter.Committed, r.State)
	require.Equal(t, []meter.Draw{{Grant: grant, Amount: 3 * meter.Credit, Charged: 2 * meter.Credit}}, r.Draws)

	moved, err := h.admin.MoveExpiry(t.Context(), persist.ExpiryChange{
		Account: "ada", GrantID: grant, ExpiresAt: time.Now().Add(time.Hour), Ref: "longer",
	})
	require.NoError(t, err)
	require.True(t, moved.Applied)
	v, err := h.admin.Revoke(t.Context(), persist.NewRevocation{
		Account: "ada", GrantID: grant, Credits: 5 * meter.Credit, Ref: "chargeback", Reason: "chargeback",
	})
	require.NoError(t, err)
	require.True(t, v.Applied)
	h.requireNoDrift(t)
	suspended := true
	a, err := h.admin.PutAccount(t.Context(), persist.AccountChange{Account: "ada", Suspended: &suspended})
	require.NoError(t, err)
	require.True(t, a.Applied)
	d, err := h.engine.Balance(t.Context(), "ada")
	require.NoError(t, err)
	require.True(t, d.Account.Suspended)
	require.Equal(t, 3*meter.Credit, d.Account.Grants[0].Available)
}

func TestRedisIsRebuiltFromPostgres(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.addAccount(t, "ada", 10)
	h.charge(t, "ada", 4, 4)
	key := &meter.IdempotencyKey{Hash: [16]byte{7}, Fingerprint: [16]byte{8}}
	id := h.engine.NewReservationID("ada")
	note := meter.Note{Operation: "apply", Key: key}
	_, err := h.engine.Reserve(t.Context(), meter.Reserve{
		ID: id, Account: "ada", Amount: meter.Credit, Lease: time.Minute, Note: note,
	})
	require.NoError(t, err)
	_, err = h.engine.Commit(t.Context(), meter.Settle{ID: id, Account: "ada", Amount: meter.Credit, Units: 1, Note: note})
	require.NoError(t, err)
	stop := h.startFlusher(t)
	h.requireNoDrift(t)
	stop()

	h.redis = redisd.Test(t) // another, empty one
	h.startEngine(t)
	h.startFlusher(t)
	d, err := h.engine.Balance(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, 5*meter.Credit, d.Account.Available(d.NowMs))
	d, err = h.engine.Reserve(t.Context(), meter.Reserve{
		ID: h.engine.NewReservationID("ada"), Account: "ada", Amount: meter.Credit, Lease: time.Minute, Note: note,
	})
	require.NoError(t, err)
	require.Equal(t, meter.CodeKeyReplay, d.Code, "an Idempotency-Key must survive the loss of Redis")
	require.Equal(t, id, d.Reservation.ID)
	h.charge(t, "ada", 1, 1)
	h.requireNoDrift(t)
}

func TestGrantSpentAtOnceIsAppliedOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.addAccount(t, "ada", 10)
	h.charge(t, "ada", 10, 10) // the grant is used up and gone from Redis, and Postgres still has it as pending
	sweeper := h.sweeper()
	for range 3 { // a repeat of the request, as after a lost answer
		g, err := h.admin.Grant(t.Context(), persist.NewGrant{
			Account: "ada", Bucket: "promo", Credits: 10 * meter.Credit, Ref: "ada-welcome",
		})
		require.NoError(t, err)
		require.True(t, g.Applied && g.Repeated)
	}
	h.startFlusher(t)
	require.NoError(t, sweeper.Sweep(t.Context()))
	d, err := h.engine.Balance(t.Context(), "ada")
	require.NoError(t, err)
	require.Zero(t, d.Account.Available(d.NowMs))
	h.requireNoDrift(t)
	require.Equal(t, [][]any{{int64(1)}}, h.query(t, `SELECT count(*) FROM creditgate.ledger_entry WHERE kind = 'grant'`))
}
