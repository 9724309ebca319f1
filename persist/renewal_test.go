package persist_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
)

func TestYearlyEndsWithThePaidYear(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2)), Yearly: new(true)})
	s.at(t, "2027-05-20 09:00")
	ended, err := s.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: "ada"})
	require.NoError(t, err)
	require.Equal(t, s.time(t, "2028-02-01 00:00"), ended.EndsAt, "the first cycle that ends a full year after 10 January")
	s.at(t, "2028-01-05 00:00")
	s.issue(t)
	require.Contains(t, s.given(t, "ada"), "20 monthly 28-01-01 00:00 to 28-02-01 00:00")
	require.NotContains(t, s.given(t, "ada"), "28-02-01 00:00 to")
}

func TestMovedAnchorTakesGrantsAndPacksAlong(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 0)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2)), StartsAt: s.time(t, "2027-01-10 09:00")})
	_, err := s.admin.Grant(t.Context(), persist.NewGrant{
		Account: "ada", Bucket: "purchased", Rank: 2, Credits: 50 * meter.Credit, Ref: "pack-1", Follows: true,
		ExpiresAt: s.time(t, "2027-02-10 09:00"),
	})
	require.NoError(t, err)
	s.at(t, "2027-01-20 09:00")
	state := s.put(t, persist.SubscriptionChange{Plan: "pro", AnchorAt: s.time(t, "2027-02-25 00:00")})
	require.Equal(t, s.time(t, "2027-02-25 00:00"), state.NextReset)
	require.Equal(t, s.time(t, "2027-02-25 00:00"), state.Scheduled.At, "less counts from the next cycle, wherever that is")
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-25 00:00
		50 purchased 27-01-10 09:00 to 27-02-25 00:00
		10 monthly 27-02-25 00:00 to 27-03-25 00:00`)
	s.flush(t)
	s.requireNoDrift(t)
}

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

// The policy's day of renewal moves. The month that runs is extended to the first new date after its end: nobody is
// given two contingents for one time, and no cycle is shorter than it was.
func TestNewDayOfRenewalExtendsTheCycleThatRuns(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		from, to int
		want     []string // after the change, and a month later
	}{
		"later in the month": {1, 15, []string{
			`20 monthly 27-01-10 09:00 to 27-02-15 00:00
			20 monthly 27-02-15 00:00 to 27-03-15 00:00`,
			`20 monthly 27-01-10 09:00 to 27-02-15 00:00
			20 monthly 27-02-15 00:00 to 27-03-15 00:00
			20 monthly 27-03-15 00:00 to 27-04-15 00:00
			7 promo 27-03-16 00:00 to 27-04-13 00:00`,
		}},
		"earlier in the month": {25, 5, []string{
			`20 monthly 27-01-10 09:00 to 27-02-05 00:00
			20 monthly 27-02-05 00:00 to 27-03-05 00:00`,
			`20 monthly 27-01-10 09:00 to 27-02-05 00:00
			20 monthly 27-02-05 00:00 to 27-03-05 00:00
			20 monthly 27-03-05 00:00 to 27-04-05 00:00
			7 promo 27-03-16 00:00 to 27-04-13 00:00`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newDesk(t, c.from)
			s.putAccount(t, "ada")
			s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2))})
			s.at(t, "2027-01-20 09:00")
			s.policies.Replace(map[string]*policy.Policy{"studio": planPolicy(t, c.to)})
			s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2)), Yearly: new(true)}) // looks at the account
			s.requireGiven(t, "ada", c.want[0])
			s.at(t, "2027-02-16 09:00")
			s.issue(t)
			s.requireGiven(t, "ada", c.want[1])
			s.flush(t)
			s.requireNoDrift(t)
		})
	}
}

// While a cycle is bridged the next reset is where something is given next, and what lasts until the next renewal lasts
// until then.
func TestNextResetWhileACycleIsBridged(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	packs := func(p *policy.Policy) {
		p.Packs = []*policy.Pack{{
			Name: "cycle", Bucket: "purchased", Rank: 2, Credits: 20 * meter.Credit, Price: policy.Money{Minor: 1900, Currency: "EUR"},
			Lifetime: policy.Lifetime{Kind: policy.NextRenewal},
		}}
		p.Plans[1].Packs = p.Packs
	}
	packs(s.policy)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2))})
	buy := func(ref string) persist.PurchaseState {
		state, err := s.admin.Purchase(t.Context(), persist.NewPurchase{Account: "ada", Pack: "cycle", Ref: ref})
		require.NoError(t, err)
		return state
	}
	require.Equal(t, s.time(t, "2027-02-01 00:00"), buy("before").ExpiresAt)
	s.at(t, "2027-01-12 09:00")
	moved := planPolicy(t, 15)
	packs(moved)
	s.policies.Replace(map[string]*policy.Policy{"studio": moved})
	next := s.time(t, "2027-02-15 00:00")
	look := func() {
		t.Helper()
		state, err := s.admin.Subscription(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, next, state.NextReset)
		require.Equal(t, policy.Window{From: s.time(t, "2027-01-01 00:00"), To: next}, state.Cycle)
	}
	look() // before anything was issued by the new policy, and after it
	require.Equal(t, next, buy("at-once").ExpiresAt)
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2)), Yearly: new(true)}) // looks at the account
	look()
	const want = `
		20 monthly 27-01-10 09:00 to 27-02-15 00:00
		20 purchased 27-01-10 09:00 to 27-02-15 00:00
		20 purchased 27-01-12 09:00 to 27-02-15 00:00
		20 monthly 27-02-15 00:00 to 27-03-15 00:00`
	s.requireGiven(t, "ada", want)
	s.at(t, "2027-01-16 09:00")
	s.issue(t)
	look()
	s.requireGiven(t, "ada", want)
	s.at(t, "2027-02-15 00:00")
	s.issue(t)
	state, err := s.admin.Subscription(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, s.time(t, "2027-03-15 00:00"), state.NextReset)
	s.flush(t)
	s.requireNoDrift(t)
}

// Who manages subscriptions elsewhere sends all of one each time, its first day included. That is no way around the
// rules of when a change counts.
func TestStartThatLiesBackDoesNotMakeAChangeCountAtOnce(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.policy.Rules.SlotsUpNextCycle = true
	s.putAccount(t, "ada")
	first := s.time(t, "2027-01-10 09:00")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2)), StartsAt: first})
	s.at(t, "2027-01-15 09:00")
	next := s.time(t, "2027-02-01 00:00")
	up := s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(5)), StartsAt: first})
	require.Equal(t, &persist.ScheduledTerm{Plan: "plus", Slots: 5, At: next}, up.Scheduled)
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		50 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	down := s.put(t, persist.SubscriptionChange{Plan: "basic", StartsAt: first})
	require.Equal(t, &persist.ScheduledTerm{Plan: "basic", Slots: 2, At: next}, down.Scheduled)
	require.Equal(t, "plus", down.Plan)
}

// A move of the anchor that is planned, given up and planned again moves the cycle that runs each time: there is no gap
// between its end and what begins with the new anchor.
func TestAnchorThatIsPlannedTwiceMovesTwice(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 0)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2)), StartsAt: s.time(t, "2027-01-10 09:00")})
	s.at(t, "2027-01-15 09:00")
	planned := persist.SubscriptionChange{
		Plan: "plus", StartsAt: s.time(t, "2027-01-25 00:00"), AnchorAt: s.time(t, "2027-01-20 00:00"),
	}
	const moved = `
		20 monthly 27-01-10 09:00 to 27-02-20 00:00
		20 monthly 27-02-20 00:00 to 27-03-20 00:00
		7 promo 27-03-16 00:00 to 27-04-13 00:00`
	s.put(t, planned)
	s.requireGiven(t, "ada", moved)
	s.put(t, persist.SubscriptionChange{Plan: "plus"})
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-10 09:00
		20 monthly 27-02-10 09:00 to 27-03-10 09:00`)
	s.put(t, planned)
	s.requireGiven(t, "ada", moved)
	s.flush(t)
	s.requireNoDrift(t)
}
