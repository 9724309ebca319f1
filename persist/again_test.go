package persist_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
)

// The end of a cycle is moved, moved back, and moved to the same place again: Redis follows each time.
func TestRenewalMovedThereAndBackAndThereAgain(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 0)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(4)), StartsAt: s.time(t, "2027-01-10 09:00")})
	there := persist.SubscriptionChange{
		Plan: "pro", AnchorAt: s.time(t, "2027-02-25 00:00"), StartsAt: s.time(t, "2027-01-25 00:00"),
	}
	back := persist.SubscriptionChange{Plan: "pro"} // what was to come does not
	moved, kept := `
		20 monthly 27-01-10 09:00 to 27-02-25 00:00
		20 monthly 27-02-25 00:00 to 27-03-25 00:00`, `
		20 monthly 27-01-10 09:00 to 27-02-10 09:00
		20 monthly 27-02-10 09:00 to 27-03-10 09:00`
	for _, day := range []string{"2027-01-12 09:00", "2027-01-13 09:00"} {
		s.at(t, day)
		s.put(t, there)
		s.requireGiven(t, "ada", moved)
		s.put(t, back)
		s.requireGiven(t, "ada", kept)
	}
	s.flush(t)
	s.requireNoDrift(t)
}

// longerLaunch is the product with a promotion that lasts until another day, known as another version.
func longerLaunch(t *testing.T, ends time.Time) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("other.yaml", []byte("name: studio\nbuckets: [promo, monthly, purchased]\n"+
		"operations:\n  apply: {match: POST /apply, credits: 0}\n"))
	require.NoError(t, err)
	q := planPolicy(t, 1)
	p.Plans, p.Cycle, p.Location, p.Promotions = q.Plans, q.Cycle, q.Location, q.Promotions
	p.Promotions[0].Ends = ends
	return p
}

// A promotion is prolonged after its end. Who had it has had it; everybody else gets it, and nobody is kept waiting.
func TestPromotionProlongedAfterItsEnd(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.at(t, "2027-03-20 09:00")
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2))})
	s.issue(t)
	s.at(t, "2027-04-20 09:00")
	s.issue(t)
	s.putAccount(t, "bob")
	s.put(t, persist.SubscriptionChange{Account: "bob", Plan: "plus", Slots: new(uint32(2))})

	p := longerLaunch(t, s.time(t, "2027-05-10 00:00"))
	admin := persist.NewAdmin(s.store, s.bundle, policy.NewCatalog(map[string]*policy.Policy{"studio": p}), zerolog.Nop())
	_, err := persist.NewIssuer(admin, persist.IssueOptions{}, prometheus.NewRegistry(), zerolog.Nop()).Issue(t.Context())
	require.NoError(t, err)
	s.requireGiven(t, "ada", `
		7 promo 27-03-20 09:00 to 27-04-13 00:00
		20 monthly 27-03-20 09:00 to 27-04-01 00:00
		7 promo 27-04-01 00:00 to 27-04-13 00:00
		20 monthly 27-04-01 00:00 to 27-05-01 00:00
		7 promo 27-05-01 00:00 to 27-05-10 00:00
		20 monthly 27-05-01 00:00 to 27-06-01 00:00`)
	s.requireGiven(t, "bob", `
		7 promo 27-04-20 09:00 to 27-05-10 00:00
		20 monthly 27-04-20 09:00 to 27-05-01 00:00
		7 promo 27-05-01 00:00 to 27-05-10 00:00
		20 monthly 27-05-01 00:00 to 27-06-01 00:00`)
	s.flush(t)
	s.requireNoDrift(t)
}

// What was superseded would have been over by now; its cycle was prolonged since, and gives the same again.
func TestSupersededInACycleThatWasProlonged(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 0)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(4)), StartsAt: s.time(t, "2027-01-10 09:00")})
	s.at(t, "2027-01-20 09:00")
	s.put(t, persist.SubscriptionChange{Plan: "basic"})
	s.at(t, "2027-02-20 09:00")
	s.put(t, persist.SubscriptionChange{Plan: "basic", AnchorAt: s.time(t, "2027-03-25 00:00")})
	s.at(t, "2027-03-15 09:00")
	s.put(t, persist.SubscriptionChange{Plan: "pro"})
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-10 09:00
		20 monthly 27-03-15 09:00 to 27-03-25 00:00
		20 monthly 27-03-25 00:00 to 27-04-25 00:00`)
	s.flush(t)
	s.requireNoDrift(t)
}

// A repeat says whether Redis has it, and brings it there if it can.
func TestRepeatWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.down = true
	ask := persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2)), Ref: "order-1"}
	deal := persist.NewOverride{Account: "ada", Ref: "deal-1", Kind: "contingent", Target: "monthly", Credits: 100 * meter.Credit}
	require.False(t, s.put(t, ask).Applied)
	require.False(t, s.put(t, ask).Applied)
	for range 2 {
		state, err := s.admin.PutOverride(t.Context(), deal)
		require.NoError(t, err)
		require.False(t, state.Applied)
	}
	s.down = false
	state, err := s.admin.PutOverride(t.Context(), deal)
	require.NoError(t, err)
	require.True(t, state.Applied)
	require.True(t, s.put(t, ask).Applied)
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		80 monthly 27-01-10 09:00 to 27-02-01 00:00
		100 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	s.flush(t)
	s.requireNoDrift(t)
}

// Where somebody set the end of bought credit, there it stays: earlier than the renewal, or later.
func TestEndThatWasSetStays(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2))})
	for ref, to := range map[string]string{"pack-1": "2027-01-20 00:00", "pack-2": "2027-02-07 00:00"} {
		g, err := s.admin.Grant(t.Context(), persist.NewGrant{
			Account: "ada", Bucket: "purchased", Rank: 2, Credits: 50 * meter.Credit, Ref: ref, Follows: true,
			ExpiresAt: s.time(t, "2027-02-01 00:00"),
		})
		require.NoError(t, err)
		_, err = s.admin.MoveExpiry(t.Context(), persist.ExpiryChange{
			Account: "ada", GrantID: g.GrantID, ExpiresAt: s.time(t, to), Ref: "move-" + ref, Actor: "support",
		})
		require.NoError(t, err)
	}
	s.flush(t)
	s.at(t, "2027-01-12 09:00")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(3))})
	s.at(t, "2027-02-01 00:00")
	s.issue(t)
	require.Contains(t, s.given(t, "ada"), "50 purchased 27-01-10 09:00 to 27-01-20 00:00")
	require.Contains(t, s.given(t, "ada"), "50 purchased 27-01-10 09:00 to 27-02-07 00:00")
}

// Two gateways' clocks differ, and Redis is away: a revocation recorded by the one that is ahead still comes before
// its reversal.
func TestReversalByAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	grant := s.addGrant(t, "ada", "pack-1", 10*meter.Credit)
	s.flush(t)
	s.down = true
	_, err := s.admin.Revoke(t.Context(), persist.NewRevocation{Account: "ada", GrantID: grant, Ref: "back-1", Reason: "chargeback"})
	require.NoError(t, err)
	s.at(t, "2027-01-10 08:59")
	_, err = s.admin.Reverse(t.Context(), persist.NewReversal{Account: "ada", RevocationRef: "back-1", Ref: "won-1"})
	require.NoError(t, err)
	s.down = false
	s.at(t, "2027-01-10 09:05")
	s.startFlusher(t, persist.FlushOptions{})
	s.sweep(t)
	s.awaitFlushed(t)
	require.Empty(t, s.pending(t))
	require.Contains(t, s.given(t, "ada"), "10 promo")
	s.requireNoDrift(t)
}

// An account moves to another product between two subscriptions, never under one: what it would be given then is neither
// product's.
func TestAccountMovesToAnotherProduct(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	other := planPolicy(t, 1)
	other.Name, other.Plans[2].Contingents[0].Amount = "other", policy.PerSlot(3*meter.Credit)
	s.policies.Replace(map[string]*policy.Policy{"studio": s.policy, "other": other})
	move := func() error {
		_, err := s.admin.PutAccount(t.Context(), persist.AccountChange{Account: "ada", Product: new("other"), Suspended: new(true)})
		return err
	}
	refused := func(when string) {
		t.Helper()
		refusal, ok := errors.AsType[*persist.RefusalError](move())
		require.True(t, ok, when)
		require.ErrorIs(t, refusal, persist.ErrRefused)
		require.Equal(t, "product", refusal.Param)
		require.Contains(t, refusal.Detail, `plan "pro" of product "studio"`)
		require.Contains(t, refusal.Detail, "DELETE /v1/accounts/ada/subscription")
		a, err := s.admin.Account(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, "studio", a.Product)
		require.False(t, a.Suspended, "nothing of it counts")
	}
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(4)), StartsAt: s.time(t, "2027-01-12 09:00")})
	refused("to come")
	s.at(t, "2027-01-12 09:05")
	s.issue(t)
	refused("in force")
	s.putAccount(t, "ada") // the same product again changes nothing
	_, err := s.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: "ada"})
	require.NoError(t, err)
	refused("until the period ends")
	s.at(t, "2027-02-01 00:05")
	require.NoError(t, move())
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(4))})
	require.Contains(t, s.given(t, "ada"), "12 monthly 27-02-01")
	s.flush(t)
	s.requireNoDrift(t)
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
	refused := func(kind, say string, until time.Time) {
		t.Helper()
		refusal, ok := errors.AsType[*persist.RefusalError](ask(kind, until))
		require.True(t, ok)
		require.ErrorIs(t, refusal, persist.ErrInvalid)
		require.Equal(t, "kind", refusal.Param)
		require.Contains(t, refusal.Detail, say)
	}
	require.NoError(t, ask("fair_use", time.Time{}), "for the plan that it will have")
	s.put(t, persist.SubscriptionChange{Plan: "premium", Slots: new(uint32(1))})
	require.NoError(t, ask("fair_use", time.Time{}))
	refused("contingent", "unlimited in plan premium of the account; use kind fair_use", time.Time{})
	s.at(t, "2027-01-11 09:00")
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(1))}) // from the next cycle
	require.NoError(t, ask("contingent", time.Time{}), "pro will read it")
	refused("contingent", "use kind fair_use", s.time(t, "2027-02-01 00:00"))
	require.NoError(t, ask("fair_use", s.time(t, "2027-02-01 00:00")))
	s.at(t, "2027-02-02 09:00")
	refused("fair_use", "not unlimited in plan pro of the account; use kind contingent", time.Time{})
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
