package persist_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

func TestFlushedLedgerIsWhatWasBooked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	note := meter.Note{
		Operation: "apply", PolicyVersion: "v1", KeyID: "key-1", Key: &meter.IdempotencyKey{Hash: [16]byte{1}, Fingerprint: [16]byte{2}},
	}
	id := b.commit("ada", grant, 3*meter.Credit, 2*meter.Credit, note)
	b.flush(t)

	a, at, err := b.store.Account(t.Context(), "ada")
	require.NoError(t, err)
	require.EqualValues(t, 2, at.Pseq)
	require.EqualValues(t, 2, a.Seq)
	require.Len(t, a.Grants, 1)
	require.Equal(t, 7*meter.Credit, a.Grants[0].Available)
	require.Zero(t, a.Grants[0].Held)
	require.Equal(t, at.Pseq, a.PrunedPseq)

	r, _, ok, err := b.store.Outcome(t.Context(), meter.ReservationID{Layout: 1, ID: id})
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, meter.Committed, r.State)
	require.Equal(t, 5*meter.Credit, r.Amount)
	require.Equal(t, 3*meter.Credit, r.Charged)
	require.Equal(t, note, r.Note)
	require.Equal(t, []meter.Draw{{Grant: grant, Amount: 5 * meter.Credit, Charged: 3 * meter.Credit}}, r.Draws)
}

// A transaction that is many times what is encoded ahead, in records smaller and larger than that, has each row once.
func TestLargeBatchIsFlushedWhole(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "ada")
	grant := b.addGrant(t, "ada", "much", 10_000*meter.Credit)
	booked := 0
	for _, entries := range []int{1, 1500, 3, 499, 700} {
		var record []meter.Entry
		for range entries {
			id := meter.NewID(time.UnixMilli(startMs))
			note := meter.Note{Operation: "apply", PolicyVersion: "v1", KeyID: id.String(), Reason: "many"}
			if booked%2 == 0 {
				note.Key = &meter.IdempotencyKey{Hash: id, Fingerprint: id}
			}
			record = append(record, commitEntry("ada", id, grant, meter.Credit, meter.Credit/10, note))
			grantOf(b.account("ada"), grant).Available -= meter.Credit
			booked++
		}
		b.book(record...)
	}
	b.flush(t)
	b.requireNoDrift(t) // decodes each record and compares it with its rows
	require.Equal(t, [][]any{{int64(booked + 1)}}, b.query(t, `SELECT count(*) FROM creditgate.ledger_line`))
}

// A migration under a running flusher changes what a prepared statement answers: it is prepared anew.
func TestFlusherOutlivesAChangedTable(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	b.startFlusher(t, persist.FlushOptions{TrimLag: time.Nanosecond})
	b.commit("ada", grant, meter.Credit/10, 0, meter.Note{})
	b.awaitFlushed(t)
	owner := persisttest.AsOwner(t, b.url)
	conn, err := pgx.Connect(t.Context(), owner)
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), `ALTER TABLE creditgate.grant_state ALTER bucket TYPE varchar(200)`)
	require.NoError(t, err)
	b.commit("ada", grant, meter.Credit/10, 0, meter.Note{})
	b.awaitFlushed(t)
}

func TestFlusherFollowsTheLedger(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	b.startFlusher(t, persist.FlushOptions{TrimLag: time.Nanosecond})
	for range 20 {
		b.commit("ada", grant, meter.Credit/10, 0, meter.Note{})
	}
	b.awaitFlushed(t)
	require.Eventually(t, func() bool { return b.ledger.flushed(0) == "1-21 1-21" }, 5*time.Second, time.Millisecond,
		"Redis must be told what is flushed and what to trim, last: %s", b.ledger.flushed(0))
}

func TestMetricsShowABacklogWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	server, url := persisttest.Private(t)
	b := setupOn(t, url)
	grant := b.addAccount(t, "ada")
	reg := prometheus.NewRegistry()
	f := persist.NewFlusher(b.store, b.ledger, persist.FlushOptions{Wait: 20 * time.Millisecond}, reg, zerolog.Nop())
	inBackground(t, f.Run)
	b.awaitFlushed(t)

	require.NoError(t, server.Kill())
	for range 3 {
		b.commit("ada", grant, meter.Credit, 0, meter.Note{})
	}
	require.Eventually(t, func() bool {
		return gauge(t, reg, "creditgate_ledger_pending") == 3 && gauge(t, reg, "creditgate_ledger_lag_seconds") > 0
	}, 20*time.Second, 5*time.Millisecond, "a backlog must show")
	require.NoError(t, server.Restart(t.Context()))
	b.awaitFlushed(t)
	require.Eventually(t, func() bool {
		return gauge(t, reg, "creditgate_ledger_pending") == 0 && gauge(t, reg, "creditgate_ledger_lag_seconds") == 0
	}, 5*time.Second, 5*time.Millisecond, "a drained backlog must show")
	require.Zero(t, gauge(t, reg, "creditgate_flush_stopped"))

	require.Equal(t, map[string]float64{"record": 4, "entry": 4, "line": 4}, counters(t, reg, "creditgate_flush_rows_total"))
	require.Equal(t, map[string]float64{"promo granted": 10, "promo spent": 3},
		counters(t, reg, "creditgate_credits_total"))
}

// counters are a family's values by its label values.
func counters(t *testing.T, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			out[strings.Join(labels, " ")] = m.GetCounter().GetValue()
		}
	}
	return out
}
