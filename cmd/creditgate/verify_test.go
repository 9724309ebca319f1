package main_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/persist/persisttest"
)

// A Redis that lost everything is rebuilt at Postgres' cursor: its stream begins behind that record, which is no drift.
func TestVerifyKnowsARebuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t)
	key := g.account(t, "ada", "purchased", 10)
	_, err := generate(t.Context(), http.DefaultClient, g.data, key)
	require.NoError(t, err)
	w.verified(t)
	redisDo(t, w, "FLUSHALL")
	g.awaitBalance(t, "ada", 9)
	w.verified(t)
	status, out := command(t, w.env(), "inspect", "partition", "0")
	require.Zero(t, status, out)
	require.Regexp(t, `rebuilt at +2\n`, out)
	_, err = generate(t.Context(), http.DefaultClient, g.data, key)
	require.NoError(t, err)
	w.verified(t)
	require.NoError(t, w.redis.Kill())
	require.NoError(t, w.redis.Restart(t.Context()))
	g.awaitBalance(t, "ada", 8)
	w.verified(t)
}

// awaitBalance waits until an account is served and has this much.
func (g *gateway) awaitBalance(t *testing.T, account string, want float64) {
	t.Helper()
	require.Eventually(t, func() bool {
		status, body := g.ask(t, "GET", "/v1/accounts/"+account+"/balance", "")
		return status == http.StatusOK && part(t, body, "available") == want
	}, patience, 10*time.Millisecond, "%s", g.text())
}

// Postgres was restored to before the rebuild: verify says so, and does not wait for a flusher that has nothing to flush.
func TestVerifyFindsPostgresBehindTheRebuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t)
	g.account(t, "ada", "purchased", 10)
	w.verified(t)
	redisDo(t, w, "FLUSHALL")
	g.awaitBalance(t, "ada", 10)
	g.kill()
	keys := meter.Layout{Number: 1, Partitions: 1}.Keys(0)
	client, err := meter.NewRedis(w.redis.URL())
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, metertest.EditMeta(context.Background(), client, keys, func(m *meter.Meta) { m.Base, m.Pseq = m.Base+7, m.Pseq+7 }))
	status, out := command(t, w.env(), "verify")
	require.Equal(t, 1, status, out)
	require.Contains(t, out, "Postgres has lost 7 ledger records since Redis was rebuilt from it")
}

// What verify finds shows in a gauge, whether it concerns an account or not.
func TestDriftsShowInMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t, "CREDITGATE_VERIFY_EVERY=200ms")
	g.account(t, "ada", "purchased", 10)
	shows := func(lines ...string) {
		t.Helper()
		require.Eventually(t, func() bool { return containsAll(g.must(t, "GET", "/metrics", ""), lines...) }, patience,
			20*time.Millisecond, "%v", lines)
	}
	clean := []string{
		`creditgate_drifts{kind="chain"} 0`, `creditgate_drifts{kind="rows"} 0`, `creditgate_drifts{kind="sums"} 0`,
		`creditgate_drifts{kind="redis"} 0`, "creditgate_drift_accounts 0",
	}
	w.verified(t) // the ledger is in Postgres: gauges are 0 before that too
	shows(clean...)
	flip := func() {
		persisttest.Tamper(t, w.database, `UPDATE creditgate.ledger_record SET hash = set_byte(hash, 0, get_byte(hash, 0) # 1)`)
	}
	flip()
	shows(`creditgate_drifts{kind="chain"} 2`, `creditgate_drifts{kind="rows"} 0`, "creditgate_drift_accounts 0")
	flip()
	shows(clean...)

	keys := meter.Layout{Number: 1, Partitions: 1}.Keys(0)
	redisDo(t, w, "HSET", keys.Open(), "0123456789abcdef", string(meter.AppendReservation(nil, meter.Reservation{
		State: meter.Held, Account: "ada", Amount: meter.Credit, DeadlineMs: meter.Never,
	})))
	shows(`creditgate_drifts{kind="redis"} 1`, "creditgate_drift_accounts 1")
	redisDo(t, w, "HDEL", keys.Open(), "0123456789abcdef")
	shows(clean...)
}

// A partition that stays closed says why, what to do and what that costs, in the log, /readyz and inspect. What only Redis
// has is counted before it is thrown away.
func TestClosedPartitionIsExplained(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t)
	key := g.account(t, "ada", "purchased", 10)
	_, err := generate(t.Context(), http.DefaultClient, g.data, key)
	require.NoError(t, err)
	w.verified(t)
	keys := meter.Layout{Number: 1, Partitions: 1}.Keys(0)
	record := meter.AppendRecord(nil, meter.Record{OccurredMs: time.Now().UnixMilli(), Entries: []meter.Entry{{
		Kind: meter.KindCommit, Seq: 3, Amount: 2 * meter.Credit, Account: "ada", ID: meter.NewID(time.Now()),
		Lines: []meter.Line{{Grant: meter.NewID(time.Now()), Spent: 2 * meter.Credit}},
	}}})
	redisDo(t, w, "SETRANGE", keys.Meta(), "2", "\x01") // torn
	_, err = generate(t.Context(), http.DefaultClient, g.data, key)
	require.NoError(t, err)
	g.await(t, "why the partition is closed", func(line string) bool {
		return containsAll(line, "partition not open", "a write failed half-way", `"do":"read what only Redis has`, `"cost":"the charges`)
	})
	status, ready := g.ask(t, "GET", "/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, part(t, ready, "detail"), "a write failed half-way")
	shown := text(t, part(t, ready, "closed_partitions"))
	require.Contains(t, shown, "redis-cli -c -u REDIS_URL EVAL 'local k=")
	require.Contains(t, shown, "the charges in ledger records that only Redis has")
	g.kill() // else its flusher, which waits for the next record, takes this one
	redisDo(t, w, "XADD", keys.Ledger(), "1-3", "e", string(record))
	status, out := command(t, w.env(), "inspect", "partition", "0")
	require.Zero(t, status, out)
	require.Regexp(t, `in Postgres +records up to 1-2\n`, out)
	require.Regexp(t, `only in Redis +1 records, which charge 2 credits\n`, out)
	require.Regexp(t, `closed +a write failed half-way in Redis`, out)
	require.Regexp(t, `to do +read what only Redis has .*redis-cli`, out)
	require.Regexp(t, `cost +the charges in ledger records that only Redis has`, out)

	redisDo(t, w, "DEL", keys.Meta())
	env := slices.DeleteFunc(w.env(), func(s string) bool { return strings.HasPrefix(s, "CREDITGATE_POSTGRES_URL=") })
	status, out = command(t, env, "inspect", "partition", "0")
	require.Zero(t, status, out)
	require.Regexp(t, `in Postgres +not asked: set postgres_url\n`, out)
	require.Regexp(t, `closed +Redis has keys of the partition but not its head`, out)
}
