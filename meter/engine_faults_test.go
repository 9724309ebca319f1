package meter_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// patience bounds every wait in these tests; none of them should need a tenth of it.
const patience = 20 * time.Second

func (b *testBundle) eventuallyOpen(e *meter.Engine) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		for _, p := range e.Ready() {
			if p.State != "open" {
				return false
			}
		}
		return true
	}, patience, 5*time.Millisecond)
}

func TestNeverOversoldByManyEngines(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 100*meter.Credit, 400*meter.Credit, 500*meter.Credit)
	engines := []*meter.Engine{b.engine, b.startEngine()}
	var charged, refused atomic.Int64
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for range 20 {
				e := engines[w%2]
				id := e.NewReservationID("acme")
				d, err := e.Reserve(t.Context(), meter.Reserve{ID: id, Account: "acme", Amount: meter.Credit, Lease: lease})
				switch {
				case err != nil:
					t.Errorf("reserve: %v", err)
				case d.Code == meter.CodeInsufficient:
					refused.Add(1)
				case d.Code == meter.CodeOK:
					d, err = e.Commit(t.Context(), meter.Settle{ID: id, Account: "acme", Amount: meter.Credit})
					if err != nil || d.Code != meter.CodeOK {
						t.Errorf("commit: %v %v", d.Code, err)
					}
					charged.Add(1)
				default:
					t.Errorf("reserve: code %d", d.Code)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, [2]int64{1000, 280}, [2]int64{charged.Load(), refused.Load()})
	available, held := b.balance("acme")
	require.Equal(t, [2]meter.Credits{0, 0}, [2]meter.Credits{available, held})
	b.flush()
	sum := meter.Credits(0)
	for _, e := range b.book.Entries() {
		for _, l := range e.Lines {
			sum += l.Credits()
		}
	}
	require.Zero(t, sum)
}

func TestLeaseOverIsReturnedAndCommittedLate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 3*meter.Credit)
	id := b.engine.NewReservationID("acme")
	d, err := b.engine.Reserve(t.Context(), meter.Reserve{
		ID: id, Account: "acme", Amount: 2 * meter.Credit, Lease: meter.LeaseMin,
	})
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, d.Code)
	require.Eventually(t, func() bool { _, held := b.balance("acme"); return held == 0 }, patience, 20*time.Millisecond)
	d, err = b.engine.Reservation(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, meter.Expired, d.Reservation.State)

	settle := meter.Settle{ID: id, Account: "acme", Amount: 2 * meter.Credit}
	for range 2 { // the second is a repeat
		d, err = b.engine.Commit(t.Context(), settle)
		require.NoError(t, err)
		require.Equal(t, meter.CodeOK, d.Code)
		require.Equal(t, meter.Late, d.Reservation.State)
	}
	available, _ := b.balance("acme")
	require.Equal(t, meter.Credit, available)
}

func TestRedisKilledWithItsLogKept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	held := b.reserve("acme", 2*meter.Credit)
	require.NoError(t, b.server.Kill())
	_, err := b.engine.Commit(t.Context(), meter.Settle{ID: held.Reservation.ID, Account: "acme", Amount: meter.Credit})
	require.ErrorIs(t, err, meter.ErrUnavailable)
	require.NoError(t, b.server.Restart(t.Context()))

	d, err := b.commitUntilAnswered(meter.Settle{ID: held.Reservation.ID, Account: "acme", Amount: meter.Credit})
	require.NoError(t, err)
	require.Equal(t, meter.Committed, d.Reservation.State)
	available, stillHeld := b.balance("acme")
	require.Equal(t, [2]meter.Credits{9000, 0}, [2]meter.Credits{available, stillHeld})
	b.flush() // refuses a gap or a second terminal entry
}

func (b *testBundle) commitUntilAnswered(s meter.Settle) (d meter.Decision, err error) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		d, err = b.engine.Commit(b.t.Context(), s)
		return err == nil
	}, patience, 20*time.Millisecond)
	return d, err
}

func TestRedisPausedReleasesWhatWasNeverAnswered(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	b.eventuallyOpen(b.engine)
	require.NoError(t, b.server.Pause())
	_, err := b.engine.Reserve(t.Context(), meter.Reserve{
		ID: b.engine.NewReservationID("acme"), Account: "acme", Amount: meter.Credit, Lease: time.Hour,
	})
	require.ErrorIs(t, err, meter.ErrUnavailable)
	require.NotErrorIs(t, err, meter.ErrNotSent, "the paused Redis has the reserve in its socket")
	require.NoError(t, b.server.Resume())
	require.Eventually(t, func() bool {
		d, err := b.engine.Balance(t.Context(), "acme")
		return err == nil && d.Account.Held() == 0 && d.Account.Available(d.NowMs) == 10*meter.Credit && d.Account.Seq == 2
	}, patience, 20*time.Millisecond, "the reserve ran and its release followed: entries grant, release")
}

func TestRedisEmptyIsRebuilt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 3*meter.Credit, 5*meter.Credit)
	key := &meter.IdempotencyKey{Hash: [16]byte{1}, Fingerprint: [16]byte{2}}
	note := meter.Note{Operation: "generate", Key: key}
	id := b.engine.NewReservationID("acme")
	_, err := b.engine.Reserve(t.Context(), meter.Reserve{
		ID: id, Account: "acme", Amount: 4 * meter.Credit, Lease: lease, Note: note,
	})
	require.NoError(t, err)
	settle := meter.Settle{ID: id, Account: "acme", Amount: 4 * meter.Credit, Reserved: 4 * meter.Credit, Note: note}
	_, err = b.engine.Commit(t.Context(), settle)
	require.NoError(t, err)
	lost := b.reserve("acme", meter.Credit)
	b.flush()

	client, err := meter.NewRedis(b.server.URL())
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.FlushAll(t.Context()).Err())

	available, held := b.balance("acme")
	require.Equal(t, [2]meter.Credits{4000, 0}, [2]meter.Credits{available, held}, "open holds go back to the customer")
	repeat, err := b.engine.Commit(t.Context(), settle)
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, repeat.Code, "asked of the ledger, not charged again")
	require.Equal(t, 4*meter.Credit, repeat.Reservation.Charged)

	id = b.engine.NewReservationID("acme")
	replay, err := b.engine.Reserve(t.Context(), meter.Reserve{
		ID: id, Account: "acme", Amount: meter.Credit, Lease: lease, Note: meter.Note{Key: key},
	})
	require.NoError(t, err)
	require.Equal(t, meter.CodeKeyReplay, replay.Code)
	require.Equal(t, settle.ID, replay.Reservation.ID)

	late, err := b.engine.Commit(t.Context(), meter.Settle{
		ID: lost.Reservation.ID, Account: "acme", Amount: meter.Credit, Reserved: meter.Credit,
	})
	require.NoError(t, err)
	require.Equal(t, meter.Late, late.Reservation.State, "a hold that Redis lost is still charged, once")
	b.flush()
}

func TestPostgresAheadStaysFenced(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", meter.Credit)
	b.flush()
	p := b.layout.PartitionOf("acme")
	at, err := b.book.Cursor(t.Context(), p)
	require.NoError(t, err)
	entry := meter.Entry{Kind: meter.KindGrant, Seq: 2, Amount: 1, Account: "acme", ID: meter.NewID(time.Now())}
	body := meter.AppendRecord(nil, meter.Record{OccurredMs: 1, Entries: []meter.Entry{entry}})
	rec, err := meter.UnpackRecord(body)
	require.NoError(t, err)
	rec.Partition, rec.Position = p, meter.Position{Epoch: at.Epoch, Pseq: at.Pseq + 1}
	require.NoError(t, b.book.Fold([]meter.Record{rec}))

	require.NoError(t, b.server.Kill())
	require.NoError(t, b.server.Restart(t.Context()))
	var seen atomic.Pointer[meter.PartitionState]
	require.Eventually(t, func() bool {
		_, _ = b.engine.Balance(t.Context(), "acme") // notices the restart
		s := b.engine.Ready()[p]
		seen.Store(&s)
		return s.State == "fenced" && strings.HasPrefix(s.Reason, "Postgres has 1 ledger records more than Redis: ")
	}, patience, 20*time.Millisecond, "%+v", &seen)
}

func TestKeyRules(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	ask := func(fingerprint byte) (meter.Decision, meter.Settle) {
		note := meter.Note{Key: &meter.IdempotencyKey{Hash: [16]byte{7}, Fingerprint: [16]byte{fingerprint}}}
		id := b.engine.NewReservationID("acme")
		d, err := b.engine.Reserve(t.Context(), meter.Reserve{ID: id, Account: "acme", Amount: meter.Credit, Lease: lease, Note: note})
		require.NoError(t, err)
		return d, meter.Settle{ID: id, Account: "acme", Amount: meter.Credit, Reserved: meter.Credit, Note: note}
	}
	first, settle := ask(1)
	require.Equal(t, meter.CodeOK, first.Code)
	busy, _ := ask(1)
	require.Equal(t, meter.CodeKeyInProgress, busy.Code)
	require.Equal(t, settle.ID, busy.Reservation.ID)
	other, _ := ask(2)
	require.Equal(t, meter.CodeKeyMismatch, other.Code)

	_, err := b.engine.Release(t.Context(), settle)
	require.NoError(t, err)
	second, settle2 := ask(1)
	require.Equal(t, meter.CodeOK, second.Code, "after a failure the key starts a new attempt")
	_, err = b.engine.Commit(t.Context(), settle2)
	require.NoError(t, err)
	replay, _ := ask(1)
	require.Equal(t, meter.CodeKeyReplay, replay.Code)
	require.Equal(t, settle2.ID, replay.Reservation.ID)
	require.Equal(t, meter.Committed, replay.Reservation.State)
	mismatch, _ := ask(3)
	require.Equal(t, meter.CodeKeyMismatch, mismatch.Code)
}

func TestOneBadOperationHarmsNobody(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 100*meter.Credit)
	b.account("broken", 100*meter.Credit)
	client, err := meter.NewRedis(b.server.URL())
	require.NoError(t, err)
	defer client.Close()
	key := b.layout.Keys(b.layout.PartitionOf("broken")).Account("broken")
	require.NoError(t, client.Set(t.Context(), key, "\x09 not an account", 0).Err())

	var wg sync.WaitGroup
	for i := range 40 {
		account := []string{"acme", "broken"}[i%2]
		wg.Go(func() {
			d, err := b.engine.Reserve(context.WithoutCancel(t.Context()), meter.Reserve{
				ID: b.engine.NewReservationID(account), Account: account, Amount: meter.Credit, Lease: lease,
			})
			if account == "acme" {
				if err != nil || d.Code != meter.CodeOK {
					t.Errorf("acme: %v %v", d.Code, err)
				}
			} else if err == nil || d.Code != meter.CodeError {
				t.Errorf("broken: %v %v", d.Code, err)
			}
		})
	}
	wg.Wait()
	_, held := b.balance("acme")
	require.Equal(t, 20*meter.Credit, held)
}

func TestGrantSpentAtOnceIsNotAppliedTwice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.book.AddAccount("acme")
	g := meter.Grant{ID: meter.NewID(time.Now()), Bucket: "promo", Available: meter.Credit, ExpiresMs: meter.Never}
	b.book.AddLot(g)
	change := meter.GrantChange{Account: "acme", Grant: g}
	_, err := b.engine.Grant(t.Context(), change)
	require.NoError(t, err)
	d := b.reserve("acme", meter.Credit)
	_, err = b.engine.Commit(t.Context(), meter.Settle{ID: d.Reservation.ID, Account: "acme", Amount: meter.Credit})
	require.NoError(t, err)

	repeat, err := b.engine.Grant(t.Context(), change)
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, repeat.Code, "remembered, though nothing of it is left")
	b.flush()
	b.account("other-on-any-partition", meter.Credit)
	nudge := b.reserve("acme", meter.Credit)
	require.Equal(t, meter.CodeInsufficient, nudge.Code)
	moved, err := b.engine.Grant(t.Context(), meter.GrantChange{
		Account: "acme", Grant: meter.Grant{ID: meter.NewID(time.Now()), Bucket: "promo", Available: 1, ExpiresMs: meter.Never},
		CheckedPseq: 100,
	})
	require.NoError(t, err) // an account written after the flush forgets what was flushed
	require.Equal(t, meter.CodeOK, moved.Code)
	repeat, err = b.engine.Grant(t.Context(), change)
	require.NoError(t, err)
	require.Equal(t, meter.CodeRecheck, repeat.Code, "forgotten, and the old proof does not reach that far")
	available, _ := b.balance("acme")
	require.Equal(t, meter.Credits(1), available)
}

func TestExpiredGrantLapses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.book.AddAccount("acme")
	now := time.Now().UnixMilli()
	grants := []meter.Grant{
		{ID: meter.NewID(time.Now()), Bucket: "promo", Available: 2 * meter.Credit, ExpiresMs: now + 1500},
		{ID: meter.NewID(time.Now()), Bucket: "monthly", Rank: 1, Available: meter.Credit, ExpiresMs: meter.Never},
		{
			ID: meter.NewID(time.Now()), Bucket: "monthly", Rank: 1, Available: 4 * meter.Credit,
			EffectiveMs: now + 3_600_000, ExpiresMs: meter.Never,
		},
	}
	for _, g := range grants {
		b.book.AddLot(g)
		_, err := b.engine.Grant(t.Context(), meter.GrantChange{Account: "acme", Grant: g})
		require.NoError(t, err)
	}
	held := b.reserve("acme", meter.Credit) // from promo
	b.flush()                               // what ends is asked of the book
	require.Equal(t, grants[0].ID, held.Reservation.Draws[0].Grant)
	require.Eventually(t, func() bool {
		d, err := b.engine.Balance(t.Context(), "acme")
		return err == nil && d.Account.Grants[0].Available == 0
	}, patience, 20*time.Millisecond)
	_, err := b.engine.Release(t.Context(), meter.Settle{ID: held.Reservation.ID, Account: "acme"})
	require.NoError(t, err)
	available, stillHeld := b.balance("acme")
	require.Equal(t, [2]meter.Credits{1000, 0}, [2]meter.Credits{available, stillHeld}, "what returns to an expired grant lapses")
	b.flush()
	lapsed := map[meter.Kind]meter.Credits{}
	for _, e := range b.book.Entries() {
		for _, l := range e.Lines {
			lapsed[e.Kind] += l.Lapsed
		}
	}
	require.Equal(t, meter.Credits(1000), lapsed[meter.KindLapse])
	require.Equal(t, meter.Credits(1000), lapsed[meter.KindRelease])
}

func TestOutcomeSlotsAreDropped(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", meter.Credit)
	// A tombstone with an id of yesterday lands in yesterday's slot; only its age by last write counts.
	id := b.layout.NewReservationID(meter.NewID(time.Now().Add(-24*time.Hour)), "acme")
	_, err := b.engine.Release(t.Context(), meter.Settle{ID: id, Account: "acme"})
	require.NoError(t, err)
	client, err := meter.NewRedis(b.server.URL())
	require.NoError(t, err)
	defer client.Close()
	keys := b.layout.Keys(id.Partition)
	slots, err := client.HGetAll(t.Context(), keys.Slots()).Result()
	require.NoError(t, err)
	require.Contains(t, slots, keys.Done(id.ID.CreatedMs()))
	hourAgo := strconv.FormatInt(time.Now().Add(-time.Hour).UnixMilli(), 10)
	require.NoError(t, client.HSet(t.Context(), keys.Slots(), keys.Done(id.ID.CreatedMs()), hourAgo).Err())
	require.Eventually(t, func() bool {
		return client.Exists(t.Context(), keys.Done(id.ID.CreatedMs())).Val() == 0
	}, 60*time.Second, 50*time.Millisecond)
	d, err := b.engine.Reserve(t.Context(), meter.Reserve{ID: id, Account: "acme", Amount: 1, Lease: lease})
	require.NoError(t, err)
	require.Equal(t, meter.CodeStale, d.Code, "a reserve from before the outcomes kept is refused")
}

func TestExpiredThenForgottenIsStillCommittedLate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 3*meter.Credit)
	id := b.engine.NewReservationID("acme")
	_, err := b.engine.Reserve(t.Context(), meter.Reserve{
		ID: id, Account: "acme", Amount: meter.Credit, Lease: meter.LeaseMin,
	})
	require.NoError(t, err)
	require.Eventually(t, func() bool { _, held := b.balance("acme"); return held == 0 }, patience, 20*time.Millisecond)
	b.flush()
	client, err := meter.NewRedis(b.server.URL())
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.FlushAll(t.Context()).Err())

	settle := meter.Settle{ID: id, Account: "acme", Amount: meter.Credit, Reserved: meter.Credit}
	for range 2 {
		d, err := b.engine.Commit(t.Context(), settle)
		require.NoError(t, err)
		require.Equal(t, meter.CodeOK, d.Code)
		require.Equal(t, meter.Late, d.Reservation.State)
	}
	b.flush()
	available, _ := b.balance("acme")
	require.Equal(t, 2*meter.Credit, available)
}

// A Redis that has lost the function library, and nothing else, is given it again.
func TestLibraryIsLoadedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 5*meter.Credit)
	b.reserve("acme", meter.Credit)
	require.NoError(t, b.raw().FunctionFlush(t.Context()).Err())
	require.Equal(t, meter.CodeOK, b.reserve("acme", meter.Credit).Code)
	require.NoError(t, b.raw().FunctionFlush(t.Context()).Err())
	available, held := b.balance("acme")
	require.Equal(t, [2]meter.Credits{3 * meter.Credit, 2 * meter.Credit}, [2]meter.Credits{available, held})
}
