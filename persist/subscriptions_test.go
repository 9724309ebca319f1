package persist_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
)

func TestSubscriptionIsGivenTwoCyclesAndThenOneAMonth(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	state := s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2)), Ref: "order-1"})
	require.True(t, state.Created && state.Applied)
	require.Equal(t, s.time(t, "2027-02-01 00:00"), state.NextReset)
	require.Equal(t, s.time(t, "2027-01-01 00:00"), state.Cycle.From)
	require.Zero(t, state.EndsAt)
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		20 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	require.Zero(t, s.issue(t), "nothing is due before the next cycle")
	s.at(t, "2027-02-01 00:00")
	require.Equal(t, 2, s.issue(t), "the cycle after the next, and the promotion that begins in it")
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		20 monthly 27-02-01 00:00 to 27-03-01 00:00
		20 monthly 27-03-01 00:00 to 27-04-01 00:00
		7 promo 27-03-16 00:00 to 27-04-13 00:00`)
	require.Zero(t, s.issue(t))
	s.flush(t)
	s.requireNoDrift(t)

	again, err := s.admin.Subscription(t.Context(), "ada")
	require.NoError(t, err)
	require.True(t, again.Applied)
	require.Equal(t, s.time(t, "2027-03-01 00:00"), again.NextReset)
}

func TestTheSamePutChangesNothing(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 0)
	s.putAccount(t, "ada")
	ask := persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2)), StartsAt: s.time(t, "2027-01-10 09:00"), Ref: "order-1"}
	s.put(t, ask)
	down := persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(2))}
	s.put(t, down)
	before := s.query(t, `SELECT count(*), (SELECT count(*) FROM creditgate.grant_lot), (SELECT count(*) FROM creditgate.revocation)
		FROM creditgate.subscription_term`)
	s.at(t, "2027-01-12 09:00")
	require.False(t, s.put(t, down).Created)
	again := s.put(t, ask) // its reference was seen: what came after it still counts
	require.NotNil(t, again.Scheduled)
	require.Equal(t, before, s.query(t, `SELECT count(*), (SELECT count(*) FROM creditgate.grant_lot), (SELECT count(*) FROM creditgate.revocation)
		FROM creditgate.subscription_term`))

	ask.Slots = new(uint32(3))
	ask.Account = "ada"
	_, err := s.admin.PutSubscription(t.Context(), ask)
	require.ErrorIs(t, err, persist.ErrRefConflict)
}

func TestUpgradeAtOnceDowngradeNextCycle(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2))})
	s.at(t, "2027-01-15 09:00")
	up := s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(5))})
	require.Nil(t, up.Scheduled)
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		30 monthly 27-01-15 09:00 to 27-02-01 00:00
		50 monthly 27-02-01 00:00 to 27-03-01 00:00`)

	s.at(t, "2027-01-20 09:00")
	down := s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(1))})
	require.Equal(t, &persist.ScheduledTerm{Plan: "pro", Slots: 1, At: s.time(t, "2027-02-01 00:00")}, down.Scheduled)
	require.EqualValues(t, 5, down.Slots)
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		30 monthly 27-01-15 09:00 to 27-02-01 00:00
		5 monthly 27-02-01 00:00 to 27-03-01 00:00`)

	s.at(t, "2027-01-21 09:00")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(4))}) // less than five, more than what was to come
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		30 monthly 27-01-15 09:00 to 27-02-01 00:00
		40 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	require.Equal(t, [][]any{{"monthly 2027-01-31T23:00:00.000Z 0", int64(4), int64(3)}}, s.query(t, `SELECT key, count(*), count(*) FILTER (WHERE superseded)
		FROM creditgate.cycle_grant GROUP BY key HAVING count(*) > 1`))
	s.flush(t)
	s.requireNoDrift(t)
}

func TestUnlimitedIsACapWithFlags(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "premium"})
	s.requireGiven(t, "ada", `
		20000 monthly 27-01-10 09:00 to 27-02-01 00:00 unlimited
		20000 monthly 27-02-01 00:00 to 27-03-01 00:00 unlimited`)
	requireStatesOfLots(t, s.url)
}

func TestCancelResumeAndComeBack(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 0)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2))})
	s.at(t, "2027-01-20 09:00")
	end := persist.SubscriptionEnd{Account: "ada"}
	ended, err := s.admin.EndSubscription(t.Context(), end)
	require.NoError(t, err)
	require.WithinDuration(t, s.time(t, "2027-02-10 09:00"), ended.EndsAt, time.Minute)
	require.Zero(t, ended.NextReset)
	s.requireGiven(t, "ada", `20 monthly 27-01-10 09:00 to 27-02-10 09:00`)
	again, err := s.admin.EndSubscription(t.Context(), end)
	require.NoError(t, err)
	require.Equal(t, ended, again)

	s.put(t, persist.SubscriptionChange{Plan: "plus"}) // resumed: slots as they were
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-10 09:00
		20 monthly 27-02-10 09:00 to 27-03-10 09:00`)

	s.at(t, "2027-01-21 09:00")
	gone, err := s.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: "ada", AtOnce: true})
	require.NoError(t, err)
	require.WithinDuration(t, s.time(t, "2027-01-21 09:00"), gone.EndsAt, time.Minute)
	s.requireGiven(t, "ada", `20 monthly 27-01-10 09:00 to 27-02-10 09:00`)

	s.at(t, "2027-01-25 09:00")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(3))}) // back inside the cycle
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-10 09:00
		10 monthly 27-01-25 09:00 to 27-02-10 09:00
		30 monthly 27-02-10 09:00 to 27-03-10 09:00`)

	_, err = s.admin.EndSubscription(t.Context(), end)
	require.NoError(t, err)
	s.at(t, "2027-06-20 12:00")
	require.Zero(t, s.issue(t), "there is nothing to come")
	back := s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(1))})
	require.WithinDuration(t, s.time(t, "2027-06-20 12:00"), back.StartsAt, time.Minute)
	require.WithinDuration(t, s.time(t, "2027-07-20 12:00"), back.NextReset, time.Minute)
	s.flush(t)
	s.requireNoDrift(t)
}

func TestWhatASubscriptionCannotBe(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	f := func(want string, is error, c persist.SubscriptionChange) {
		t.Helper()
		if c.Account == "" {
			c.Account = "ada"
		}
		_, err := s.admin.PutSubscription(t.Context(), c)
		require.ErrorIs(t, err, is)
		require.ErrorContains(t, err, want)
	}
	invalid := persist.ErrInvalid
	f("studio has premium, plus, pro, basic", invalid, persist.SubscriptionChange{Plan: "gold"})
	f("slots is required", invalid, persist.SubscriptionChange{Plan: "plus"})
	f("slots is 1000001; it is at most 1000000", invalid, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(1000001))})
	f("starts_at", invalid, persist.SubscriptionChange{Plan: "basic", StartsAt: s.time(t, "2031-01-01 00:00")})
	f("anchor_at", invalid, persist.SubscriptionChange{Plan: "basic", AnchorAt: s.time(t, "2027-01-20 00:00")})
	f("external_ref", invalid, persist.SubscriptionChange{Plan: "basic", Ref: "a b"})
	f("nobody", meter.ErrNoAccount, persist.SubscriptionChange{Account: "nobody", Plan: "basic"})
	_, err := s.admin.Subscription(t.Context(), "ada")
	require.ErrorIs(t, err, persist.ErrNoSubscription)
	_, err = s.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: "ada"})
	require.ErrorIs(t, err, persist.ErrNoSubscription)

	soon := s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2)), StartsAt: s.time(t, "2027-01-20 00:00")})
	require.Zero(t, soon.Cycle)
	never, err := s.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: "ada"})
	require.NoError(t, err)
	require.Equal(t, never.StartsAt, never.EndsAt, "it does not begin")
	s.requireGiven(t, "ada", ``)

	s.put(t, persist.SubscriptionChange{Plan: "basic"})
	_, err = s.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: "ada", AtOnce: true})
	require.NoError(t, err)
	f("lies before the end", invalid, persist.SubscriptionChange{Plan: "basic", StartsAt: s.time(t, "2027-01-09 00:00")})
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
	stays := func(when string) {
		t.Helper()
		requireRefused(t, move(), persist.ErrRefused, "product", `plan "pro" of product "studio"`, "DELETE /v1/accounts/ada/subscription")
		a, err := s.admin.AccountState(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, "studio", a.Product, when)
		require.False(t, a.Suspended, "nothing of it counts")
	}
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(4)), StartsAt: s.time(t, "2027-01-12 09:00")})
	stays("to come")
	s.at(t, "2027-01-12 09:05")
	s.issue(t)
	stays("in force")
	s.putAccount(t, "ada") // the same product again changes nothing
	_, err := s.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: "ada"})
	require.NoError(t, err)
	stays("until the period ends")
	s.at(t, "2027-02-01 00:05")
	require.NoError(t, move())
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(4))})
	require.Contains(t, s.given(t, "ada"), "12 monthly 27-02-01")
	s.flush(t)
	s.requireNoDrift(t)
}
