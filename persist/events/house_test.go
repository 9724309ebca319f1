package events_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
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
	"creditgate/persist/events"
	"creditgate/persist/persisttest"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		crash()
	}
	persisttest.Main(m)
}

var layout = meter.Layout{Number: 1, Partitions: 2}

// house is the real thing: Redis, Postgres, an engine, a flusher, and a catalog that the test may replace.
type house struct {
	url    string
	redis  *redisd.Server
	store  *persist.Store
	engine *meter.Engine
	admin  *persist.Admin
	feed   *events.Feed
	rules  *policy.Catalog
	clock  *meter.Clock // of the producer
}

// studio is a policy that wants these notices.
func studio(n policy.Notices, promotions ...*policy.Promotion) *policy.Policy {
	return &policy.Policy{
		Name: "studio", Location: time.UTC, Buckets: []string{"promo", "monthly", "purchased"}, Notices: n,
		Promotions: promotions,
	}
}

func catalog(p *policy.Policy) map[string]*policy.Policy { return map[string]*policy.Policy{p.Name: p} }

func newHouse(t *testing.T, notices policy.Notices, promotions ...*policy.Promotion) *house {
	t.Helper()
	h := &house{
		redis: redisd.Test(t), url: persisttest.DB(t), clock: new(meter.Clock),
		rules: policy.NewCatalog(catalog(studio(notices, promotions...))),
	}
	h.store = persisttest.Open(t, h.url, layout)
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	var err error
	h.engine, err = meter.New(meter.Options{
		RedisURL: h.redis.URL(), Layout: layout, Book: h.store, Rebuild: h.store, Log: log, Metrics: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	h.admin = persist.NewAdmin(h.store, h.engine, h.rules, log)
	h.feed = events.NewFeed(h.store.Pool())
	inBackground(t, func(ctx context.Context) { _ = h.engine.Run(ctx) })
	flusher := persist.NewFlusher(h.store, h.engine.Ledger(),
		persist.FlushOptions{Wait: 50 * time.Millisecond, Every: time.Millisecond}, prometheus.NewRegistry(), log)
	inBackground(t, flusher.Run)
	require.Eventually(t, func() bool {
		return !slices.ContainsFunc(h.engine.Ready(), func(p meter.PartitionState) bool { return p.State != "open" })
	}, 20*time.Second, time.Millisecond)
	return h
}

// produce runs a producer until the test ends, or until the function returned is called.
func (h *house) produce(t *testing.T) (stop func()) {
	t.Helper()
	p := events.NewProducer(h.store.Pool(), layout, h.rules, events.Options{Clock: h.clock, Every: 10 * time.Millisecond},
		prometheus.NewRegistry(), zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel))
	return inBackground(t, p.Run)
}

func inBackground(tb testing.TB, run func(ctx context.Context)) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	tb.Cleanup(stop)
	return stop
}

func (h *house) account(t *testing.T, names ...string) {
	t.Helper()
	product := "studio"
	for _, name := range names {
		_, err := h.admin.PutAccount(t.Context(), persist.AccountChange{Account: name, Product: &product})
		require.NoError(t, err)
	}
}

// grant adds whole credits.
func (h *house) grant(t *testing.T, account, bucket string, credits meter.Credits, effective, expires time.Time) meter.ID {
	t.Helper()
	rank, _ := studio(policy.Notices{}).Rank(bucket)
	g, err := h.admin.Grant(t.Context(), persist.NewGrant{
		Account: account, Bucket: bucket, Rank: rank, Credits: credits * meter.Credit, EffectiveAt: effective,
		ExpiresAt: expires, Ref: meter.NewID(time.Now()).String(),
	})
	require.NoError(t, err)
	require.True(t, g.Applied)
	return g.GrantID
}

// spend charges whole credits.
func (h *house) spend(t *testing.T, account string, credits meter.Credits) {
	t.Helper()
	id := h.engine.NewReservationID(account)
	d, err := h.engine.Reserve(t.Context(), meter.Reserve{
		ID: id, Account: account, Amount: credits * meter.Credit, Lease: time.Minute, Note: meter.Note{Operation: "apply"},
	})
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, d.Code)
	d, err = h.engine.Commit(t.Context(), meter.Settle{ID: id, Account: account, Amount: credits * meter.Credit, Units: 1})
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, d.Code)
}

// settled waits until events were made of all that the ledger has now, and of what was due at the producer's time.
func (h *house) settled(t *testing.T) {
	t.Helper()
	for p := range layout.Partitions {
		head, err := h.engine.Ledger().Head(t.Context(), p)
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			n := h.query(t, `SELECT pseq FROM creditgate.event_cursor WHERE layout = 1 AND partition = $1`, int(p))
			return len(n) == 1 && n[0][0].(int64) >= int64(head.Pseq)
		}, 20*time.Second, 5*time.Millisecond, "no events were made of partition %d", p)
	}
}

// told are the events of some types, as "type account {data}".
func (h *house) told(t *testing.T, types ...string) []string {
	t.Helper()
	h.settled(t)
	out := []string{}
	for after := int64(0); ; {
		page, err := h.feed.Events(t.Context(), events.Query{After: after, Limit: 3, Types: types})
		require.NoError(t, err)
		for _, e := range page.Events {
			require.Greater(t, e.ID, after)
			require.Equal(t, "studio", e.Product)
			out = append(out, fmt.Sprintf("%s %s %s", e.Type, e.Account, without(t, e.Data, "grant_id", "entry_id")))
			after = e.ID
		}
		if page.Next == after && len(page.Events) == 0 {
			return out
		}
		after = page.Next
	}
}

// without is JSON without what differs from run to run, its keys sorted.
func without(t *testing.T, data []byte, keys ...string) string {
	t.Helper()
	var m map[string]any
	require.NoError(t, json.Unmarshal(data, &m))
	for _, k := range keys {
		delete(m, k)
	}
	b, err := json.Marshal(m)
	require.NoError(t, err)
	return string(b)
}

func (h *house) query(t *testing.T, sql string, args ...any) [][]any {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), persisttest.AsOwner(t, h.url))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.Background())) }()
	rows, err := conn.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
	require.NoError(t, err)
	return out
}

// requireDense checks what readers rely on: ids without gaps, and each happening once.
func (h *house) requireDense(t *testing.T) {
	t.Helper()
	require.Equal(t, [][]any{{true}}, h.query(t, `SELECT count(*) = h.last AND count(*) = count(DISTINCT e.dedupe)
		AND coalesce(min(e.id), 1) = 1 AND coalesce(max(e.id), 0) = h.last
		FROM creditgate.event_head h LEFT JOIN creditgate.event e ON true GROUP BY h.last`))
}
