package persist_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
)

// capOf grants a fair-use cap that stops what is behind it for an hour.
func (b *bundle) capOf(t *testing.T, account, ref string, credits meter.Credits) meter.ID {
	t.Helper()
	g, err := b.admin.Grant(t.Context(), persist.NewGrant{
		Account: account, Bucket: "monthly", Credits: credits, ExpiresAt: b.clock.Now().Add(time.Hour), Ref: ref,
		Unlimited: true, Stops: true,
	})
	require.NoError(t, err)
	require.True(t, g.Applied)
	return g.GrantID
}

// loaded is what Redis would be given of an account that it lost.
func (b *bundle) loaded(t *testing.T, account string) []meter.Grant {
	t.Helper()
	b.flush(t)
	a, _, err := b.store.Account(t.Context(), account)
	require.NoError(t, err)
	return a.Grants
}

func TestAUsedUpCapIsLoadedWhileItStopsOthers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "ada")
	id := b.capOf(t, "ada", "cap-1", 3*meter.Credit)
	grants := b.loaded(t, "ada")
	require.Len(t, grants, 1)
	require.True(t, grants[0].Unlimited && grants[0].Stops)

	b.commit("ada", id, 3*meter.Credit, 0, meter.Note{})
	grants = b.loaded(t, "ada")
	require.Len(t, grants, 1, "it is used up, and stops what is behind it")
	require.True(t, grants[0].Stops)
	require.Zero(t, grants[0].Available)
	b.requireNoDrift(t)

	b.clock.Set(59 * time.Minute)
	require.Len(t, b.loaded(t, "ada"), 1)
	b.clock.Set(2 * time.Hour)
	require.Empty(t, b.loaded(t, "ada"), "it is over")
}

func TestARevokedCapStopsNoMore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "ada")
	id := b.capOf(t, "ada", "cap-1", 3*meter.Credit)
	b.commit("ada", id, meter.Credit, 0, meter.Note{})
	_, err := b.admin.Revoke(t.Context(), persist.NewRevocation{Account: "ada", GrantID: id, Credits: meter.Credit, Ref: "r-1"})
	require.NoError(t, err)
	grants := b.loaded(t, "ada")
	require.Len(t, grants, 1)
	require.False(t, grants[0].Stops)
	require.True(t, grants[0].Unlimited)
	require.Equal(t, meter.Credit, grants[0].Available)
}

// Redis counts a used-up cap as a grant, so Postgres must leave it the room.
func TestAUsedUpCapTakesRoom(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "ada")
	id := b.capOf(t, "ada", "cap-1", meter.Credit)
	for i := range meter.GrantsMax - 1 {
		b.addGrant(t, "ada", fmt.Sprintf("g-%d", i), meter.Credit)
	}
	b.commit("ada", id, meter.Credit, 0, meter.Note{})
	b.flush(t)
	one := persist.NewGrant{Account: "ada", Bucket: "promo", Credits: meter.Credit, Ref: "one-more"}
	_, err := b.admin.Grant(t.Context(), one)
	require.ErrorIs(t, err, persist.ErrTooManyGrants)
	b.clock.Set(2 * time.Hour)
	_, err = b.admin.Grant(t.Context(), one)
	require.NoError(t, err)
}

// A grant and a subscription find the same room: a cap that was revoked in part and is used up stops nobody and takes
// none; one whose revocation found nothing left to take takes none either.
func TestBothWaysFindTheSameRoom(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	id := s.capOf(t, "ada", "cap-1", 2*meter.Credit)
	s.commit("ada", id, meter.Credit, 0, meter.Note{})
	for i := range meter.GrantsMax - 3 {
		s.addGrant(t, "ada", fmt.Sprintf("g-%d", i), meter.Credit)
	}
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(2))})
	more := persist.SubscriptionChange{Account: "ada", Plan: "pro", Slots: new(uint32(9))}
	s.commit("ada", id, meter.Credit, 0, meter.Note{})
	s.flush(t)
	_, err := s.admin.PutSubscription(t.Context(), more)
	require.ErrorIs(t, err, persist.ErrTooManyGrants)
	_, err = s.admin.Revoke(t.Context(), persist.NewRevocation{
		Account: "ada", GrantID: id, Ref: "r-1", Reason: "error", Beyond: meter.BeyondNothing,
	})
	require.NoError(t, err)
	s.flush(t)
	s.put(t, more)
}

func TestACapIsAnotherGrantThanItsCredits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "ada")
	g := persist.NewGrant{Account: "ada", Bucket: "monthly", Credits: meter.Credit, Ref: "one"}
	_, err := b.admin.Grant(t.Context(), g)
	require.NoError(t, err)
	g.Unlimited = true
	_, err = b.admin.Grant(t.Context(), g)
	require.ErrorIs(t, err, persist.ErrRefConflict)
}
