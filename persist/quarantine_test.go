package persist_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
)

// A fault of one account's records does not keep the others from Postgres.
func TestOneAccountIsQuarantined(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		account, reason string
		entries         func(grant meter.ID) []meter.Entry // after one grant and one commit of ada's: seq 2
	}{
		"a gap in account seq": {"ada", `account "ada" is at seq 2 and the ledger goes on with 4`, func(g meter.ID) []meter.Entry {
			return []meter.Entry{next(4, commitEntry("ada", meter.ID{1}, g, 1, 0, meter.Note{}))}
		}},
		"a gap in account seq inside a record": {"ada", "account seq 5 follows 3", func(g meter.ID) []meter.Entry {
			return []meter.Entry{
				next(3, commitEntry("ada", meter.ID{1}, g, 1, 0, meter.Note{})),
				next(5, commitEntry("ada", meter.ID{2}, g, 1, 0, meter.Note{})),
			}
		}},
		"an unknown account": {"eve", `account "eve" is not in Postgres`, func(meter.ID) []meter.Entry {
			return []meter.Entry{{Kind: meter.KindUncollected, Account: "eve", Seq: 1, ID: meter.ID{1}, Amount: 1}}
		}},
		"an unknown grant": {"ada", "0 of 1 grants are as the ledger says", func(meter.ID) []meter.Entry {
			return []meter.Entry{next(3, commitEntry("ada", meter.ID{1}, meter.ID{9}, 1, 0, meter.Note{}))}
		}},
		"a lost grant": {"ada", "0 of 1 grant_lot rows are as the ledger says", func(meter.ID) []meter.Entry {
			return []meter.Entry{{
				Kind: meter.KindGrant, Account: "ada", Seq: 3, ID: meter.ID{9}, Amount: meter.Credit,
				Lines: []meter.Line{{Grant: meter.ID{9}, Granted: meter.Credit}},
			}}
		}},
		"a lost revocation": {"ada", "0 of 1 revocation rows are as the ledger says", func(g meter.ID) []meter.Entry {
			return []meter.Entry{{
				Kind: meter.KindRevoke, Account: "ada", Seq: 3, ID: meter.ID{9}, Amount: meter.Credit,
				Lines: []meter.Line{{Grant: g, Revoked: meter.Credit}},
			}}
		}},
		"a lost expiry move": {"ada", "0 of 1 expiry_move rows are as the ledger says", func(g meter.ID) []meter.Entry {
			return []meter.Entry{{Kind: meter.KindAdjust, Account: "ada", Seq: 3, ID: meter.ID{9}, Lines: []meter.Line{{Grant: g}}}}
		}},
		"amounts that do not add up": {"ada", "its lines account for 0.001 of 5 credits", func(g meter.ID) []meter.Entry {
			e := next(3, commitEntry("ada", meter.ID{1}, g, 1, 0, meter.Note{}))
			e.Amount = 5 * meter.Credit
			return []meter.Entry{e}
		}},
		"more spent than granted": {"ada", "grant_state_conserves", func(g meter.ID) []meter.Entry {
			return []meter.Entry{next(3, commitEntry("ada", meter.ID{1}, g, 11*meter.Credit, 0, meter.Note{}))}
		}},
		"a line that does not conserve": {"ada", "ledger_line_conserves", func(g meter.ID) []meter.Entry {
			e := next(3, commitEntry("ada", meter.ID{1}, g, 0, 1, meter.Note{}))
			e.Lines[0].Lapsed = 2
			return []meter.Entry{e}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			grant, other := b.addAccount(t, "ada"), b.addAccount(t, "bob")
			b.commit("ada", grant, meter.Credit, 0, meter.Note{})
			b.flush(t)
			good := next(2, commitEntry("bob", meter.ID{0xb}, other, 1, 0, meter.Note{}))
			b.record(4, append([]meter.Entry{good}, c.entries(grant)...)...)
			b.record(5, next(3, commitEntry("bob", meter.ID{0xbb}, other, 1, 0, meter.Note{})))

			var out log
			reg := prometheus.NewRegistry()
			f := persist.NewFlusher(b.store, b.ledger, persist.FlushOptions{Wait: 20 * time.Millisecond}, reg, zerolog.New(&out))
			stop := inBackground(t, f.Run)
			b.awaitFlushed(t)
			require.Eventually(t, func() bool { return gauge(t, reg, "creditgate_ledger_quarantined_accounts") == 1 },
				5*time.Second, 5*time.Millisecond)
			require.Positive(t, gauge(t, reg, "creditgate_ledger_lag_seconds"), "what is quarantined lags")
			require.Zero(t, gauge(t, reg, "creditgate_flush_stopped"))
			stop()
			require.Contains(t, out.String(), `"named":["`+c.account+`"]`)
			require.Equal(t, [][]any{{int64(3)}}, b.query(t, `SELECT seq FROM creditgate.account_state WHERE account = 'bob'`))
			require.Equal(t, [][]any{{int64(2)}}, b.query(t, `SELECT seq FROM creditgate.account_state WHERE account = 'ada'`))
			found := b.query(t, `SELECT account, reason FROM creditgate.quarantined_account`)
			require.Len(t, found, 1)
			require.Equal(t, c.account, found[0][0])
			require.Contains(t, found[0][1], c.reason)
			require.Equal(t, [][]any{{int64(5)}}, b.query(t, `SELECT count(*) FROM creditgate.ledger_record`))
			require.Equal(t, [][]any{{int64(len(c.entries(grant)))}}, b.query(t, `SELECT count(*) FROM creditgate.quarantined_entry`))
		})
	}
}

// An account that waited for long has many entries. While they are booked, the other accounts go on.
func TestReleaseLetsTheOthersGoOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant, other := b.addAccount(t, "ada"), b.addAccount(t, "bob")
	b.flush(t)
	const records = 1200
	b.exec(t, `UPDATE creditgate.account_state SET seq = 0 WHERE account = 'ada'`)
	for n := range uint64(records) {
		b.record(3+n, next(2+n, commitEntry("ada", meter.ID{1, byte(n >> 8), byte(n)}, grant, 1, 0, meter.Note{})))
	}
	var repaired, between atomic.Bool
	bob := uint64(1)
	more := func() { // each read finds another record of bob's
		b.record(2+records+bob, next(1+bob, commitEntry("bob", meter.ID{2, byte(bob >> 8), byte(bob)}, other, 1, 0, meter.Note{})))
		bob++
	}
	waiting := func() (n int) { // -1: cannot tell
		err := b.store.Pool().QueryRow(context.Background(), `SELECT count(*) FROM creditgate.quarantined_entry`).Scan(&n)
		if err != nil {
			return -1
		}
		return n
	}
	b.startFlusher(t, persist.FlushOptions{Every: time.Millisecond, Wait: 20 * time.Millisecond, OnStep: func(_ uint16, step persist.Step) {
		if step != persist.StepRead || !repaired.Load() {
			return
		}
		if n := waiting(); n > 0 {
			between.Store(between.Load() || n < records)
			more()
		}
	}})
	require.Eventually(t, func() bool { return waiting() == records }, 30*time.Second, 5*time.Millisecond)
	require.Equal(t, [][]any{{int64(records)}}, b.query(t, `SELECT entries FROM creditgate.quarantined_account`))
	b.exec(t, `UPDATE creditgate.account_state SET seq = 1 WHERE account = 'ada'`)
	b.exec(t, `UPDATE creditgate.quarantined_account SET retry = true`)
	repaired.Store(true)
	more()
	require.Eventually(t, func() bool { return waiting() == 0 }, 30*time.Second, 5*time.Millisecond)
	require.True(t, between.Load(), "bob's records waited for all of ada's")
	require.Equal(t, [][]any{{int64(1 + records)}}, b.query(t, `SELECT seq FROM creditgate.account_state WHERE account = 'ada'`))
	report, err := persist.Verify(t.Context(), b.store, nil)
	require.NoError(t, err)
	require.True(t, report.OK(), printed(t, report))
}

// Redis may be rebuilt while an account is quarantined: a key that was charged is honoured all the same.
func TestQuarantinedKeysAreLoaded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	b.flush(t)
	b.exec(t, `UPDATE creditgate.account_state SET seq = 0 WHERE account = 'ada'`)
	key := &meter.IdempotencyKey{Hash: [16]byte{1}, Fingerprint: [16]byte{2}}
	b.record(2,
		next(2, commitEntry("ada", meter.ID{1}, grant, meter.Credit, meter.Credit, meter.Note{Operation: "photo", Key: key})),
		next(3, commitEntry("ada", meter.ID{2}, grant, meter.Credit, 0, meter.Note{Operation: "photo"})))
	outcomes := func(sinceMs int64) (out []meter.Reservation) {
		require.NoError(t, b.store.KeyedOutcomes(t.Context(), 0, sinceMs, func(rs []meter.Reservation) error {
			out = append(out, rs...)
			return nil
		}))
		return out
	}
	stop := b.startFlusher(t, persist.FlushOptions{Wait: 20 * time.Millisecond})
	b.awaitFlushed(t)
	quarantined := outcomes(0)
	require.Len(t, quarantined, 1)
	require.Empty(t, outcomes(startMs))
	b.exec(t, `UPDATE creditgate.account_state SET seq = 1 WHERE account = 'ada'`)
	b.exec(t, `UPDATE creditgate.quarantined_account SET retry = true`)
	require.Eventually(t, func() bool {
		found, err := b.store.Quarantine(context.Background())
		return err == nil && len(found) == 0
	}, 30*time.Second, 5*time.Millisecond)
	stop()
	require.Equal(t, outcomes(0), quarantined, "as they are once they are booked")
}
