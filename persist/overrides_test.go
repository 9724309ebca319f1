package persist_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
)

func TestOverridesAreGivenAndEnd(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2))})
	ask := persist.NewOverride{Account: "ada", Ref: "deal-1", Kind: "contingent", Target: "monthly", Credits: 100 * meter.Credit}
	state, err := s.admin.PutOverride(t.Context(), ask)
	require.NoError(t, err)
	require.True(t, state.Created && state.Applied)
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		80 monthly 27-01-10 09:00 to 27-02-01 00:00
		100 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	state, err = s.admin.PutOverride(t.Context(), ask)
	require.NoError(t, err)
	require.False(t, state.Created)
	s.at(t, "2027-01-12 09:00")
	state, err = s.admin.EndOverride(t.Context(), "ada", "deal-1", "ops")
	require.NoError(t, err)
	require.WithinDuration(t, s.time(t, "2027-01-12 09:00"), state.Until, time.Minute)
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		80 monthly 27-01-10 09:00 to 27-02-01 00:00
		20 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	_, err = s.admin.EndOverride(t.Context(), "ada", "deal-2", "ops")
	require.ErrorIs(t, err, persist.ErrNoOverride)
	ask.Credits++
	_, err = s.admin.PutOverride(t.Context(), ask)
	require.ErrorIs(t, err, persist.ErrRefConflict)
}

// A number that the account's plan would not read is refused, with the kind that it reads.
func TestOverrideOfTheOtherKind(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	n := 0
	ask := func(kind string, until time.Time) error {
		n++
		_, err := s.admin.PutOverride(t.Context(), persist.NewOverride{
			Account: "ada", Ref: fmt.Sprintf("deal-%d", n), Kind: kind, Target: "monthly", Credits: 100 * meter.Credit, Until: until,
		})
		return err
	}
	require.NoError(t, ask("fair_use", time.Time{}), "for the plan that it will have")
	s.put(t, persist.SubscriptionChange{Plan: "premium", Slots: new(uint32(1))})
	require.NoError(t, ask("fair_use", time.Time{}))
	requireRefused(t, ask("contingent", time.Time{}), persist.ErrInvalid, "kind", "unlimited in plan premium of the account; use kind fair_use")
	s.at(t, "2027-01-11 09:00")
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(1))}) // from the next cycle
	require.NoError(t, ask("contingent", time.Time{}), "pro will read it")
	requireRefused(t, ask("contingent", s.time(t, "2027-02-01 00:00")), persist.ErrInvalid, "kind", "use kind fair_use")
	require.NoError(t, ask("fair_use", s.time(t, "2027-02-01 00:00")))
	s.at(t, "2027-02-02 09:00")
	requireRefused(t, ask("fair_use", time.Time{}), persist.ErrInvalid, "kind", "not unlimited in plan pro of the account; use kind contingent")
}

// No grant is so large that an account could not have 64 of them: Redis would refuse the last ones for ever.
func TestNoGrantIsTooLargeToBeAddedUp(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	p, err := policy.Parse("studio.yaml", []byte("name: studio\nbuckets: [monthly, purchased]\npacks:\n"+
		"  huge: {bucket: purchased, credits: 100000000000, price: 1.00 EUR}\n"+
		"operations:\n  apply: {match: POST /apply, credits: 1}\n"))
	require.NoError(t, err)
	s.policies.Replace(map[string]*policy.Policy{"studio": p})
	s.putAccount(t, "ada")
	_, err = s.admin.Purchase(t.Context(), persist.NewPurchase{Account: "ada", Pack: "huge", Ref: "order-1"})
	require.NoError(t, err)
	_, err = s.admin.Purchase(t.Context(), persist.NewPurchase{Account: "ada", Pack: "huge", Ref: "order-2", Quantity: 2})
	require.ErrorIs(t, err, persist.ErrInvalid)
	deal := persist.NewOverride{Account: "ada", Ref: "deal-1", Kind: "contingent", Target: "monthly", Credits: policy.AmountMax + 1}
	_, err = s.admin.PutOverride(t.Context(), deal)
	require.ErrorIs(t, err, persist.ErrInvalid)
	deal.Credits--
	_, err = s.admin.PutOverride(t.Context(), deal)
	require.NoError(t, err)
}
