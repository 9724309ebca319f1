package persist_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
)

func (b *bundle) sweep(t *testing.T) {
	t.Helper()
	s := persist.NewSweeper(b.admin, b.ledger, persist.SweepOptions{Pending: time.Nanosecond},
		prometheus.NewRegistry(), zerolog.Nop())
	require.NoError(t, s.Sweep(t.Context()))
}

// Redis was away and is back: what is pending follows without waiting for its age, what is superseded before what
// supersedes it.
func TestSweptAtOnceWhenRedisIsBack(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2))})
	s.startFlusher(t, persist.FlushOptions{})
	s.awaitFlushed(t)
	setDown := func(down bool) { s.mu.Lock(); defer s.mu.Unlock(); s.down = down }
	setDown(true)
	require.False(t, s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(2))}).Applied)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	defer func() { cancel(); done.Wait() }()
	sweeper := persist.NewSweeper(s.admin, s.ledger, persist.SweepOptions{Every: time.Second, Pending: time.Hour},
		prometheus.NewRegistry(), zerolog.Nop())
	done.Go(func() { sweeper.Run(ctx) })
	setDown(false)
	require.Eventually(t, func() bool { return len(s.pending(t)) == 0 }, 15*time.Second, 10*time.Millisecond)
	kinds := s.query(t, `SELECT kind::text FROM creditgate.ledger_entry ORDER BY pseq`)
	require.Equal(t, [][]any{{"grant"}, {"grant"}, {"revoke"}, {"grant"}}, kinds)
	s.requireNoDrift(t)
}

func (b *bundle) pending(t *testing.T) []persist.PendingChange {
	t.Helper()
	out, err := b.store.Pending(t.Context(), 0, 0, persist.PendingChange{}, 100)
	require.NoError(t, err)
	return out
}

func TestGrantWhileRedisIsAwayFollowsByItself(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "ada")
	b.down = true
	ask := persist.NewGrant{Account: "ada", Bucket: "promo", Credits: meter.Credit, Ref: "order-1"}
	g, err := b.admin.Grant(t.Context(), ask)
	require.NoError(t, err)
	require.False(t, g.Applied)
	require.Len(t, b.pending(t), 1)

	b.down = false
	b.sweep(t)
	require.Equal(t, meter.Credit, b.account("ada").Grants[0].Available)
	b.flush(t)
	require.Empty(t, b.pending(t))
	b.sweep(t)
	b.requireNoDrift(t)

	again, err := b.admin.Grant(t.Context(), ask)
	require.NoError(t, err)
	require.True(t, again.Repeated && again.Applied)
	require.Equal(t, g.GrantID, again.GrantID)
}

// The grant is applied and its answer lost; it is spent, flushed and forgotten by Redis before anybody asks again.
func TestLostAnswerNeverAppliesAGrantTwice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "ada")
	b.lost = true
	g, err := b.admin.Grant(t.Context(), persist.NewGrant{Account: "ada", Bucket: "promo", Credits: meter.Credit, Ref: "order-1"})
	require.NoError(t, err)
	require.False(t, g.Applied, "the answer was lost")
	b.lost = false
	b.commit("ada", g.GrantID, meter.Credit, 0, meter.Note{})

	stale, err := b.store.Cursor(t.Context(), 0)
	require.NoError(t, err)
	b.flush(t)
	b.forget("ada", 2)
	// an attempt that was checked before the flush, and arrives late
	d, err := b.Grant(t.Context(), meter.GrantChange{
		Account: "ada", Grant: meter.Grant{ID: g.GrantID, Available: meter.Credit}, CheckedPseq: stale.Pseq,
	})
	require.NoError(t, err)
	require.Equal(t, meter.CodeRecheck, d.Code)
	b.sweep(t)
	require.EqualValues(t, 2, b.account("ada").Seq)
	b.requireNoDrift(t)
}

// Redis forgot newer changes than the cursor that a change is checked at: it waits until the cursor has passed them.
func TestRecheckWaitsForTheCursor(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.addAccount(t, "ada")
	b.forget("ada", 1) // the cursor is at 0
	g, err := b.admin.Grant(t.Context(), persist.NewGrant{Account: "ada", Bucket: "promo", Credits: meter.Credit, Ref: "order-2"})
	require.NoError(t, err)
	require.False(t, g.Applied, "at this cursor it cannot be proved that Redis did not have it")
	b.flush(t)
	b.sweep(t)
	require.Len(t, b.account("ada").Grants, 2)
	b.flush(t)
	b.requireNoDrift(t)
}

func TestSameReferenceOtherContentIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	b.putAccount(t, "bob")
	ask := persist.NewGrant{
		Account: "ada", Bucket: "promo", Credits: 10 * meter.Credit, Ref: "ada-welcome", Reason: "welcome", Actor: "other",
	}
	g, err := b.admin.Grant(t.Context(), ask)
	require.NoError(t, err, "another actor asks for the same content")
	require.Equal(t, grant, g.GrantID)
	for name, change := range map[string]func(*persist.NewGrant){
		"credits": func(g *persist.NewGrant) { g.Credits++ },
		"bucket":  func(g *persist.NewGrant) { g.Bucket = "monthly" },
		"account": func(g *persist.NewGrant) { g.Account = "bob" },
		"expiry":  func(g *persist.NewGrant) { g.ExpiresAt = time.Now().Add(time.Hour) },
		"reason":  func(g *persist.NewGrant) { g.Reason = "" },
		"price":   func(g *persist.NewGrant) { g.Price = &persist.Price{Minor: 1, Currency: "EUR"} },
	} {
		other := ask
		change(&other)
		_, err := b.admin.Grant(t.Context(), other)
		require.ErrorIs(t, err, persist.ErrRefConflict, name)
	}
	require.EqualValues(t, 1, b.account("ada").Seq)
}

func TestSixtyFourLiveGrantsAreTheMost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "ada")
	b.down = true // pending ones count
	for i := range meter.GrantsMax {
		_, err := b.admin.Grant(t.Context(), persist.NewGrant{
			Account: "ada", Bucket: "promo", Credits: meter.Credit, Ref: fmt.Sprintf("order-%d", i),
		})
		require.NoError(t, err)
	}
	one := persist.NewGrant{Account: "ada", Bucket: "promo", Credits: meter.Credit, Ref: "order-64"}
	_, err := b.admin.Grant(t.Context(), one)
	require.ErrorIs(t, err, persist.ErrTooManyGrants)
	require.Equal(t, [][]any{{int64(meter.GrantsMax)}}, b.query(t, `SELECT count(*) FROM creditgate.grant_lot`))

	b.down = false
	b.sweep(t)
	b.commit("ada", b.account("ada").Grants[0].ID, meter.Credit, 0, meter.Note{})
	b.flush(t)
	_, err = b.admin.Grant(t.Context(), one)
	require.NoError(t, err, "one is used up")
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	ask := persist.NewRevocation{Account: "ada", GrantID: grant, Credits: 4 * meter.Credit, Ref: "dispute-1", Reason: "dispute"}
	v, err := b.admin.Revoke(t.Context(), ask)
	require.NoError(t, err)
	require.True(t, v.Applied)
	again, err := b.admin.Revoke(t.Context(), ask)
	require.NoError(t, err)
	require.True(t, again.Repeated)
	require.Equal(t, v.RevocationID, again.RevocationID)
	require.Equal(t, 6*meter.Credit, b.account("ada").Grants[0].Available)

	_, err = b.admin.Revoke(t.Context(), persist.NewRevocation{Account: "ada", GrantID: grant, Credits: 7 * meter.Credit, Ref: "dispute-2"})
	require.ErrorIs(t, err, persist.ErrExceedsGrant)
	all, err := b.admin.Revoke(t.Context(), persist.NewRevocation{Account: "ada", PurchaseRef: "ada-welcome", Ref: "dispute-3"})
	require.NoError(t, err)
	require.Equal(t, 6*meter.Credit, all.Credits, "no amount means all that is left to revoke")
	_, err = b.admin.Revoke(t.Context(), persist.NewRevocation{Account: "ada", GrantID: meter.ID{1}, Ref: "dispute-4"})
	require.ErrorIs(t, err, persist.ErrNoGrant)
	b.flush(t)
	b.requireNoDrift(t)
}

// A revocation of a grant that Redis does not have yet would be booked against nothing, and the grant come after it.
func TestRevocationWaitsForItsGrant(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "ada")
	b.down = true
	g, err := b.admin.Grant(t.Context(), persist.NewGrant{Account: "ada", Bucket: "promo", Credits: meter.Credit, Ref: "order-1"})
	require.NoError(t, err)
	b.down = false
	v, err := b.admin.Revoke(t.Context(), persist.NewRevocation{Account: "ada", GrantID: g.GrantID, Ref: "dispute-1"})
	require.NoError(t, err)
	require.True(t, v.Applied)
	require.Zero(t, b.account("ada").Grants[0].Available)
	require.Zero(t, b.account("ada").Grants[0].Debt)
	b.flush(t)
	b.requireNoDrift(t)
}

func TestExpiryMoves(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	day := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Millisecond)
	move := func(ref string, to time.Time) persist.ExpiryChange {
		return persist.ExpiryChange{Account: "ada", GrantID: grant, ExpiresAt: to, Ref: ref}
	}
	b.down = true
	_, err := b.admin.MoveExpiry(t.Context(), move("to-tomorrow", day))
	require.NoError(t, err)
	b.down = false
	g, err := b.admin.MoveExpiry(t.Context(), move("to-later", day.Add(time.Hour)))
	require.NoError(t, err)
	require.True(t, g.Applied)
	require.Equal(t, day.Add(time.Hour), g.ExpiresAt)
	b.flush(t)
	b.sweep(t)
	require.Equal(t, day.Add(time.Hour).UnixMilli(), b.account("ada").Grants[0].ExpiresMs, "the older wish must not follow")
	_, err = b.admin.MoveExpiry(t.Context(), move("to-never", time.Time{}))
	require.NoError(t, err)
	b.flush(t)
	a, _, err := b.store.Account(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, meter.Never, a.Grants[0].ExpiresMs)
	b.requireNoDrift(t)

	b.commit("ada", grant, 10*meter.Credit, 0, meter.Note{})
	b.flush(t)
	_, err = b.admin.MoveExpiry(t.Context(), move("too-late", day))
	require.ErrorIs(t, err, persist.ErrGrantGone)
	require.Empty(t, b.pending(t))
	_, err = b.admin.MoveExpiry(t.Context(), persist.ExpiryChange{Account: "ada", GrantID: meter.ID{1}, Ref: "no-such"})
	require.ErrorIs(t, err, persist.ErrNoGrant)
}

func TestSuspension(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.addAccount(t, "ada")
	put := func(suspended bool) persist.AccountState {
		a, err := b.admin.PutAccount(t.Context(), persist.AccountChange{Account: "ada", Suspended: &suspended})
		require.NoError(t, err)
		require.Equal(t, suspended, a.Suspended)
		return a
	}
	require.True(t, put(true).Applied)
	require.True(t, b.account("ada").Suspended)
	b.down = true
	require.False(t, put(false).Applied)
	require.Len(t, b.pending(t), 2, "the grant is not flushed, the suspension not applied")
	b.down = false
	b.flush(t)
	b.sweep(t)
	require.False(t, b.account("ada").Suspended)
	require.Empty(t, b.pending(t))

	// a Redis that lost its last second is opened: what it had of flags is not trusted any more
	require.True(t, put(true).Applied)
	b.account("ada").Suspended, b.account("ada").FlagsVersion = false, 2
	_, err := b.store.ClaimEpoch(t.Context(), 0, 1)
	require.NoError(t, err)
	b.sweep(t)
	require.True(t, b.account("ada").Suspended)
}

func TestAccountsAndKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.admin.PutAccount(t.Context(), persist.AccountChange{Account: "ada"})
	require.ErrorIs(t, err, persist.ErrInvalid, "a new account needs a product")
	_, err = b.admin.AccountState(t.Context(), "ada")
	require.ErrorIs(t, err, meter.ErrNoAccount)
	b.putAccount(t, "ada")
	b.putAccount(t, "bob")

	key := persist.NewKey{Account: "ada", KeyID: meter.NewID(time.Now()).String(), Hash: [32]byte{1}, Ref: "laptop"}
	k, err := b.store.CreateKey(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, persist.KeyCreated{KeyID: key.KeyID}, k)
	again := key
	again.KeyID, again.Hash = meter.NewID(time.Now()).String(), [32]byte{2}
	k, err = b.store.CreateKey(t.Context(), again)
	require.NoError(t, err)
	require.Equal(t, persist.KeyCreated{KeyID: key.KeyID, Repeated: true}, k)
	again.Account = "bob"
	_, err = b.store.CreateKey(t.Context(), again)
	require.ErrorIs(t, err, persist.ErrRefConflict)
	again.Account, again.Ref = "nobody", ""
	_, err = b.store.CreateKey(t.Context(), again)
	require.ErrorIs(t, err, meter.ErrNoAccount)

	who, err := b.store.IdentityByKey(t.Context(), [32]byte{1})
	require.NoError(t, err)
	require.Equal(t, persist.Identity{Account: "ada", Product: "studio", KeyID: key.KeyID}, who)
	require.ErrorIs(t, b.store.RevokeKey(t.Context(), "bob", key.KeyID, "tests"), persist.ErrNoKey)
	require.NoError(t, b.store.RevokeKey(t.Context(), "ada", key.KeyID, "tests"))
	require.NoError(t, b.store.RevokeKey(t.Context(), "ada", key.KeyID, "tests"))
	_, err = b.store.IdentityByKey(t.Context(), [32]byte{1})
	require.ErrorIs(t, err, persist.ErrNoKey)
	who, err = b.store.IdentityByAccount(t.Context(), "bob")
	require.NoError(t, err)
	require.Equal(t, persist.Identity{Account: "bob", Product: "studio"}, who)
}

func TestInvalidGrantsAreRefusedBeforeTheyAreRecorded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "ada")
	good := persist.NewGrant{Account: "ada", Bucket: "promo", Credits: 1, Ref: "order-1"}
	for name, change := range map[string]func(*persist.NewGrant){
		"no credits":    func(g *persist.NewGrant) { g.Credits = 0 },
		"too many":      func(g *persist.NewGrant) { g.Credits = meter.MaxCredits + 1 },
		"reference":     func(g *persist.NewGrant) { g.Ref = "a b" },
		"bucket":        func(g *persist.NewGrant) { g.Bucket = "" },
		"ends too soon": func(g *persist.NewGrant) { g.ExpiresAt = time.Now().Add(-time.Hour) },
		"currency":      func(g *persist.NewGrant) { g.Price = &persist.Price{Minor: 1, Currency: "euro"} },
	} {
		bad := good
		change(&bad)
		_, err := b.admin.Grant(t.Context(), bad)
		require.ErrorIs(t, err, persist.ErrInvalid, name)
	}
	_, err := b.admin.Grant(t.Context(), persist.NewGrant{Account: "nobody", Bucket: "promo", Credits: 1, Ref: "order-1"})
	require.ErrorIs(t, err, meter.ErrNoAccount)
	require.Empty(t, b.pending(t))
}
