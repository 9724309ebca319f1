package persist_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// layout has one partition, so that a test need not think about where an account lives.
var layout = meter.Layout{Number: 1, Partitions: 1}

const startMs = 1_790_000_000_000 // the clock of test records

// world is a small Redis: it decides admin changes as the scripts do, and books them in a ledger that a flusher
// reads. Settlements are booked as the test says.
type world struct {
	tb     testing.TB
	ledger *fileLedger

	mu       sync.Mutex
	pseq     uint64
	accounts map[string]*meter.Account
	down     bool // does not answer, and does nothing
	lost     bool // does what it is asked, but the answer is lost
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	return &world{tb: tb, ledger: newFileLedger(tb.TempDir()), accounts: map[string]*meter.Account{}}
}

func (w *world) account(name string) *meter.Account {
	a := w.accounts[name]
	if a == nil {
		a = &meter.Account{}
		w.accounts[name] = a
	}
	return a
}

// book writes one record with the entries; their seqs are filled in.
func (w *world) book(entries ...meter.Entry) {
	w.pseq++
	for i := range entries {
		a := w.account(entries[i].Account)
		a.Seq++
		entries[i].Seq = a.Seq
	}
	w.ledger.append(w.tb, meter.Record{
		Layout: layout.Number, Position: meter.Position{Epoch: w.ledger.epoch, Pseq: w.pseq},
		OccurredMs: startMs + int64(w.pseq), Entries: entries,
	})
}

// change is the scripts' rule for admin changes: known ids are done, a check that is too old must be made again.
func (w *world) change(account string, id meter.ID, checked uint64, do func(a *meter.Account) meter.Entry) (meter.Decision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return meter.Decision{}, meter.ErrUnavailable
	}
	a := w.account(account)
	known := slices.ContainsFunc(a.Applied, func(c meter.AppliedChange) bool { return c.ID == id })
	switch {
	case known:
	case checked < a.PrunedPseq:
		return meter.Decision{Code: meter.CodeRecheck}, nil
	default:
		e := do(a)
		if e.Kind == 0 {
			return meter.Decision{Code: meter.CodeGone}, nil
		}
		e.Account, e.ID = account, id
		w.book(e)
		a.Applied = append(a.Applied, meter.AppliedChange{ID: id, Pseq: w.pseq})
	}
	if w.lost {
		return meter.Decision{}, meter.ErrUnavailable
	}
	return meter.Decision{Code: meter.CodeOK}, nil
}

func (w *world) Grant(_ context.Context, c meter.GrantChange) (meter.Decision, error) {
	return w.change(c.Account, c.Grant.ID, c.CheckedPseq, func(a *meter.Account) meter.Entry {
		a.Grants = append(a.Grants, c.Grant)
		return meter.Entry{Kind: meter.KindGrant, Amount: c.Grant.Available, Note: c.Note, Lines: []meter.Line{
			{Grant: c.Grant.ID, Granted: c.Grant.Available},
		}}
	})
}

func (w *world) Revoke(_ context.Context, c meter.Revocation) (meter.Decision, error) {
	return w.change(c.Account, c.ID, c.CheckedPseq, func(a *meter.Account) meter.Entry {
		require.Nil(w.tb, c.Undone, "purchases are tested on Redis")
		line := meter.Line{Grant: c.Grant, Debt: c.Amount}
		if g := grantOf(a, c.Grant); g != nil {
			line.Revoked = min(g.Available, c.Amount)
			if c.Beyond != meter.BeyondDebt { // nothing is held here
				c.Amount = line.Revoked
			}
			line.Debt = c.Amount - line.Revoked
			g.Available -= line.Revoked
			g.Debt += line.Debt
		}
		return meter.Entry{Kind: meter.KindRevoke, Amount: c.Amount, Note: c.Note, Lines: []meter.Line{line}}
	})
}

func (w *world) Reverse(_ context.Context, c meter.Reversal) (meter.Decision, error) {
	return w.change(c.Account, c.ID, c.CheckedPseq, func(a *meter.Account) meter.Entry {
		g := grantOf(a, c.Grant.ID)
		settled := min(g.Debt, c.Amount)
		g.Debt -= settled
		g.Available += c.Amount - settled
		return meter.Entry{Kind: meter.KindAdjust, Amount: c.Amount, Note: c.Note, Lines: []meter.Line{
			{Grant: g.ID, Revoked: settled - c.Amount, Debt: -settled},
		}}
	})
}

func (w *world) MoveExpiry(_ context.Context, c meter.ExpiryMove) (meter.Decision, error) {
	return w.change(c.Account, c.ID, c.CheckedPseq, func(a *meter.Account) meter.Entry {
		g := grantOf(a, c.Grant)
		if g == nil || g.Available == 0 {
			return meter.Entry{}
		}
		g.ExpiresMs = c.ExpiresMs
		return meter.Entry{Kind: meter.KindAdjust, Note: c.Note, Lines: []meter.Line{{Grant: c.Grant}}}
	})
}

func (w *world) Suspend(_ context.Context, account string, suspended bool, version uint32) (meter.Decision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return meter.Decision{}, meter.ErrUnavailable
	}
	if a := w.account(account); version > a.FlagsVersion {
		a.Suspended, a.FlagsVersion = suspended, version
	}
	return meter.Decision{Code: meter.CodeOK}, nil
}

func grantOf(a *meter.Account, id meter.ID) *meter.Grant {
	if i := slices.IndexFunc(a.Grants, func(g meter.Grant) bool { return g.ID == id }); i >= 0 {
		return &a.Grants[i]
	}
	return nil
}

// forget drops changes that are flushed, as the scripts do.
func (w *world) forget(account string, flushed uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.account(account)
	a.Applied = slices.DeleteFunc(a.Applied, func(c meter.AppliedChange) bool {
		if c.Pseq <= flushed {
			a.PrunedPseq = max(a.PrunedPseq, c.Pseq)
			return true
		}
		return false
	})
}

// commit books a commit that spent and returned credit of one grant, and returns the reservation's id.
func (w *world) commit(account string, grant meter.ID, spent, returned meter.Credits, note meter.Note) meter.ID {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := meter.NewID(time.UnixMilli(startMs))
	grantOf(w.account(account), grant).Available -= spent
	w.book(commitEntry(account, id, grant, spent, returned, note))
	return id
}

func commitEntry(account string, id, grant meter.ID, spent, returned meter.Credits, note meter.Note) meter.Entry {
	return meter.Entry{
		Kind: meter.KindCommit, Account: account, ID: id, Amount: spent + returned, Units: uint32(spent / meter.Credit),
		Note: note, Lines: []meter.Line{{Grant: grant, Spent: spent, Returned: returned}},
	}
}

// live answers as the engine's Balance does.
func (w *world) live(_ context.Context, account string) (meter.Decision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := *w.account(account)
	a.Grants = slices.DeleteFunc(slices.Clone(a.Grants), func(g meter.Grant) bool { return g.Available+g.Held == 0 })
	return meter.Decision{Code: meter.CodeOK, Account: a}, nil
}

// bundle is what most tests need: a database, a world that stands in for Redis, and an administrator over both.
type bundle struct {
	*world

	url   string
	clock *meter.Clock
	store *persist.Store
	admin *persist.Admin
}

func setup(t *testing.T) *bundle {
	t.Helper()
	return setupOn(t, persisttest.DB(t))
}

func setupOn(t *testing.T, url string) *bundle {
	t.Helper()
	w := newWorld(t)
	clock := new(meter.Clock)
	store := persisttest.OpenAt(t, url, layout, clock)
	epoch, err := store.ClaimEpoch(t.Context(), 0, 0) // as opening the partition does
	require.NoError(t, err)
	w.ledger.setEpoch(epoch)
	return &bundle{
		world: w, url: url, clock: clock, store: store,
		admin: persist.NewAdmin(store, w, policy.NewCatalog(nil), zerolog.Nop()),
	}
}

// addAccount creates an account with one grant of ten credits that Redis has.
func (b *bundle) addAccount(t *testing.T, name string) meter.ID {
	t.Helper()
	b.putAccount(t, name)
	return b.addGrant(t, name, name+"-welcome", 10*meter.Credit)
}

func (b *bundle) putAccount(t *testing.T, name string) {
	t.Helper()
	product := "studio"
	_, err := b.admin.PutAccount(t.Context(), persist.AccountChange{Account: name, Product: &product})
	require.NoError(t, err)
}

func (b *bundle) addGrant(t *testing.T, account, ref string, credits meter.Credits) meter.ID {
	t.Helper()
	g, err := b.admin.Grant(t.Context(), persist.NewGrant{
		Account: account, Bucket: "promo", Credits: credits, Ref: ref, Reason: "welcome", Actor: "tests",
	})
	require.NoError(t, err)
	require.True(t, g.Applied)
	return g.GrantID
}

// flush runs a flusher until Postgres has everything that the ledger has now.
func (b *bundle) flush(t *testing.T) {
	t.Helper()
	stop := b.startFlusher(t, persist.FlushOptions{})
	b.awaitFlushed(t)
	stop()
}

// startFlusher runs a flusher in the background; the function returned stops it and waits.
func (b *bundle) startFlusher(t *testing.T, options persist.FlushOptions) (stop func()) {
	t.Helper()
	if options.Wait == 0 {
		options.Wait = 20 * time.Millisecond
	}
	f := persist.NewFlusher(b.store, b.ledger, options, prometheus.NewRegistry(), zerolog.New(zerolog.NewTestWriter(t)))
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { f.Run(ctx) })
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); done.Wait() }) }
	t.Cleanup(stop)
	return stop
}

func (b *bundle) awaitFlushed(t *testing.T) {
	t.Helper()
	head, err := b.ledger.Head(t.Context(), 0)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		at, err := b.store.Cursor(context.Background(), 0)
		return err == nil && at.Pseq >= head.Pseq
	}, 20*time.Second, 5*time.Millisecond, "the flusher did not reach %s", head)
}

// query runs one query as superuser.
func (b *bundle) query(t *testing.T, sql string, args ...any) [][]any {
	t.Helper()
	return queryAs(t, persisttest.AsOwner(t, b.url), sql, args...)
}
