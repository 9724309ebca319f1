package persist_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// log gathers what a flusher logs.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// requireStopped flushes until the partition is stopped with the reason, and checks that nothing more was committed.
func (b *bundle) requireStopped(t *testing.T, reason string) {
	t.Helper()
	var out log
	reg := prometheus.NewRegistry()
	f := persist.NewFlusher(b.store, b.ledger, persist.FlushOptions{Wait: 20 * time.Millisecond}, reg, zerolog.New(&out))
	stop := inBackground(t, f.Run)
	require.Eventually(t, func() bool {
		return gauge(t, reg, "creditgate_flush_stopped") == 1
	}, 10*time.Second, 5*time.Millisecond, "the partition must stop")
	stop()
	require.Contains(t, out.String(), `"level":"error"`)
	require.Contains(t, out.String(), reason)
}

func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// record appends a record as the test says it.
func (b *bundle) record(pseq uint64, entries ...meter.Entry) {
	b.ledger.append(b.tb, meter.Record{
		Layout: 1, Position: meter.Position{Epoch: b.ledger.epoch, Pseq: pseq}, OccurredMs: startMs, Entries: entries,
	})
}

func next(seq uint64, e meter.Entry) meter.Entry { e.Seq = seq; return e }

// A gap in pseq and a fork belong to no single account.
func TestBrokenLedgerStopsItsPartition(t *testing.T) {
	t.Parallel()
	record := (*bundle).record
	id := meter.NewID(time.UnixMilli(startMs))
	for name, c := range map[string]struct {
		reason string
		book   func(b *bundle, grant meter.ID) // after one grant and one commit of id, which are flushed: pseq 2, seq 2
	}{
		"a gap in pseq": {"a gap", func(b *bundle, g meter.ID) {
			record(b, 4, next(3, commitEntry("ada", meter.ID{1}, g, 1, 0, meter.Note{})))
		}},
		"an account seq that is taken": {"ledger_entry_account_seq_key", func(b *bundle, g meter.ID) {
			record(b, 3, next(2, commitEntry("ada", meter.ID{1}, g, 1, 0, meter.Note{})))
		}},
		"a reservation committed twice": {"ledger_entry_settled", func(b *bundle, g meter.ID) {
			record(b, 3, next(3, commitEntry("ada", id, g, 1, 0, meter.Note{})))
		}},
		"a late commit of a committed reservation": {"ledger_entry_charged", func(b *bundle, g meter.ID) {
			e := next(3, commitEntry("ada", id, g, 1, 0, meter.Note{}))
			e.Kind = meter.KindLate
			record(b, 3, e)
		}},
		"an uncollected entry of a committed reservation": {"ledger_entry_charged", func(b *bundle, _ meter.ID) {
			record(b, 3, meter.Entry{Kind: meter.KindUncollected, Account: "ada", Seq: 3, ID: id, Amount: 1})
		}},
		"a grant booked twice": {"ledger_entry_change", func(b *bundle, g meter.ID) {
			record(b, 3, meter.Entry{
				Kind: meter.KindGrant, Account: "ada", Seq: 3, ID: g, Amount: 10 * meter.Credit,
				Lines: []meter.Line{{Grant: g, Granted: 10 * meter.Credit}},
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			grant := b.addAccount(t, "ada")
			b.book(commitEntry("ada", id, grant, 1, 0, meter.Note{}))
			b.flush(t)
			c.book(b, grant)
			b.requireStopped(t, c.reason)
			at, err := b.store.Cursor(t.Context(), 0)
			require.NoError(t, err)
			require.EqualValues(t, 2, at.Pseq, "nothing of the broken record may be committed")
			require.Equal(t, int64(2), b.query(t, `SELECT count(*) FROM creditgate.ledger_entry`)[0][0])
		})
	}
}

func TestTwoFlushersNeverWriteTwice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grants := map[string]meter.ID{"ada": b.addAccount(t, "ada"), "bob": b.addAccount(t, "bob")}
	for range 3 {
		b.startFlusher(t, persist.FlushOptions{})
	}
	b.bookBatches(t, grants, 5)
	b.awaitFlushed(t)
	b.requireExactlyOnce(t)
}

// An old primary that nobody demoted still has records that the opened one never got.
func TestZombieDoesNotWritePastANewEpoch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	b.flush(t)
	b.commit("ada", grant, meter.Credit, 0, meter.Note{}) // only the zombie has it
	claimed, err := b.store.ClaimEpoch(t.Context(), 0, 0)
	require.NoError(t, err)

	b.startFlusher(t, persist.FlushOptions{})
	require.Eventually(t, func() bool {
		b.ledger.mu.Lock()
		defer b.ledger.mu.Unlock()
		return b.ledger.reopened > 0
	}, 10*time.Second, 10*time.Millisecond, "an opening that does not finish is asked for again")
	at, err := b.store.Cursor(t.Context(), 0)
	require.NoError(t, err)
	require.EqualValues(t, 1, at.Pseq)

	// the same records, once their Redis is the one that was opened, precede the epoch and are flushed
	b.ledger.setEpoch(claimed)
	b.awaitFlushed(t)
	b.requireExactlyOnce(t)
}

func TestClaimInTheMiddleOfAFlushLocksItOut(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.addAccount(t, "ada")
	var once sync.Once
	var claimErr error
	b.startFlusher(t, persist.FlushOptions{OnStep: func(_ uint16, at persist.Step) {
		if at == persist.StepRead { // what was read is of the old epoch now
			once.Do(func() { _, claimErr = b.store.ClaimEpoch(context.Background(), 0, 0) })
		}
	}})
	require.Eventually(t, func() bool {
		b.ledger.mu.Lock()
		defer b.ledger.mu.Unlock()
		return b.ledger.reopened > 0
	}, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, claimErr)
	at, err := b.store.Cursor(t.Context(), 0)
	require.NoError(t, err)
	require.Zero(t, at.Pseq)
}

func TestVerifyFindsTampering(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ sql, drift string }{
		"a tampered line": {
			`UPDATE creditgate.ledger_line SET spent = spent - 1, returned = returned + 1 WHERE pseq = 2`,
			"ledger_line 1-00-2-0 line 0",
		},
		"a missing line":   {`DELETE FROM creditgate.ledger_line WHERE pseq = 2`, "the row is missing"},
		"a tampered entry": {`UPDATE creditgate.ledger_entry SET operation = 'free' WHERE pseq = 2`, "operation  apply  free"},
		"a missing entry":  {`DELETE FROM creditgate.ledger_entry WHERE pseq = 2`, "ledger_entry 1-00-2-0  the row is missing"},
		"an entry put in": {`INSERT INTO creditgate.ledger_entry (layout, partition, pseq, idx, kind, account, seq, amount, subject,
			units, occurred_at) SELECT layout, partition, pseq, 1, 'uncollected', account, 99, amount, gen_random_uuid(), 0,
			occurred_at FROM creditgate.ledger_entry WHERE pseq = 2`, "ledger_entry 1-00-2-1  the record has no such entry"},
		"entries without a record": {
			`UPDATE creditgate.ledger_entry SET pseq = 77 WHERE pseq = 3`, "ledger_entry 1-00-77-0  the record has no such entry",
		},
		"lines without an entry": {
			`UPDATE creditgate.ledger_line SET pseq = 77 WHERE pseq = 3`, "ledger_line 1-00-77-0 line 0  the record has no such line",
		},
		"rows of no partition": {
			`INSERT INTO creditgate.ledger_record SELECT 7, partition, pseq, epoch, occurred_at, body, hash FROM creditgate.ledger_record`,
			"ledger_record 7-0  rows of a partition that does not exist",
		},
		"a changed body": {
			`UPDATE creditgate.ledger_record SET body = set_byte(body, 20, get_byte(body, 20) # 1) WHERE pseq = 2`,
			"the hash does not follow",
		},
		"a missing record": {`DELETE FROM creditgate.ledger_record WHERE pseq = 2`, "records are missing"},
		"a cut-off ledger": {`DELETE FROM creditgate.ledger_record WHERE pseq = 3`, "the cursor is not the last record"},
		"a projection":     {`UPDATE creditgate.grant_state SET spent = spent - 1`, "granted, spent, lapsed, revoked, debt"},
		"a seq":            {`UPDATE creditgate.account_state SET seq = seq + 1`, "entries up to"},
		"a status": {
			`UPDATE creditgate.grant_lot SET status = 'pending', applied_at = NULL`, "status of a change",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			grant := b.addAccount(t, "ada")
			b.commit("ada", grant, meter.Credit, meter.Credit, meter.Note{Operation: "apply"})
			b.commit("ada", grant, meter.Credit, 0, meter.Note{Operation: "apply"})
			b.flush(t)
			b.requireNoDrift(t)
			b.tamper(t, c.sql)
			report, err := persist.Verify(t.Context(), b.store, nil)
			require.NoError(t, err)
			require.False(t, report.OK())
			require.Contains(t, printed(t, report), c.drift)
		})
	}
}

// tamper does what only a superuser can: change the ledger behind its triggers.
func (b *bundle) tamper(t *testing.T, sql string) {
	t.Helper()
	persisttest.Tamper(t, b.url, sql)
}

func TestVerifyComparesRedisAtEqualSeq(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	b.startFlusher(t, persist.FlushOptions{})
	b.awaitFlushed(t)
	verify := func(live func(context.Context, string) (meter.Decision, error)) *persist.Report {
		report, err := persist.Verify(t.Context(), b.store, live)
		require.NoError(t, err)
		return report
	}
	// Redis is read, then goes on: what is compared is the state at the seq that was read
	moving := func(ctx context.Context, account string) (meter.Decision, error) {
		d, err := b.live(ctx, account)
		b.commit("ada", grant, meter.Credit, 0, meter.Note{})
		b.awaitFlushed(t)
		return d, err
	}
	report := verify(moving)
	require.True(t, report.OK(), printed(t, report))

	wrong := func(change func(a *meter.Account)) func(context.Context, string) (meter.Decision, error) {
		return func(ctx context.Context, account string) (meter.Decision, error) {
			d, err := b.live(ctx, account)
			change(&d.Account)
			return d, err
		}
	}
	for drift, change := range map[string]func(a *meter.Account){
		"available + held":         func(a *meter.Account) { a.Grants[0].Available++ },
		"debt":                     func(a *meter.Account) { a.Grants[0].Debt++ },
		"is not in Redis":          func(a *meter.Account) { a.Grants = nil },
		"below zero in Redis":      func(a *meter.Account) { a.Grants[0].Held--; a.Grants[0].Available++ },
		"Redis is behind Postgres": func(a *meter.Account) { a.Seq-- },
	} {
		report := verify(wrong(change))
		require.Contains(t, printed(t, report), drift)
		require.Equal(t, 1, report.DriftAccounts())
	}
	b.addGrant(t, "ada", "extra", meter.Credit)
	b.awaitFlushed(t)
	b.requireNoDrift(t)
}
