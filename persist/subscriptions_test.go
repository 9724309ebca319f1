package persist_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
)

// planPolicy is a product with plans. Its cycles begin on a day of the month, or with the subscription if that is 0.
func planPolicy(tb testing.TB, day int) *policy.Policy {
	tb.Helper()
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(tb, err)
	monthly := func(c policy.Contingent) []policy.Contingent {
		c.Bucket, c.Rank = "monthly", 1
		return []policy.Contingent{c}
	}
	launch := &policy.Promotion{
		Name: "launch", Bucket: "promo", Amount: policy.FixedAmount(7 * meter.Credit), PerCycle: true,
		Starts: time.Date(2027, 3, 15, 23, 0, 0, 0, time.UTC), Ends: time.Date(2027, 4, 12, 22, 0, 0, 0, time.UTC),
	}
	return &policy.Policy{
		Name: "studio", Location: berlin, Buckets: []string{"promo", "monthly", "purchased"},
		Cycle: &policy.Cycle{DayOfMonth: day}, Promotions: []*policy.Promotion{launch},
		Operations: []*policy.Operation{{Name: "apply"}},
		Plans: []*policy.Plan{
			{Name: "premium", Contingents: monthly(policy.Contingent{
				Amount: policy.FixedAmount(20000 * meter.Credit), Unlimited: true, Stops: true,
			})},
			{
				Name: "plus", Contingents: monthly(policy.Contingent{Amount: policy.PerSlot(10 * meter.Credit)}),
				Promotions: []*policy.Promotion{launch},
			},
			{Name: "pro", Contingents: monthly(policy.Contingent{Amount: policy.PerSlot(5 * meter.Credit)})},
			{Name: "basic"},
		},
	}
}

// desk is a bundle with a policy, whose clock stands where the test puts it.
type desk struct {
	*bundle

	policies *policy.Catalog
	policy   *policy.Policy
}

func newDesk(t *testing.T, day int) *desk {
	t.Helper()
	s := &desk{bundle: setup(t), policy: planPolicy(t, day)}
	s.policies = policy.NewCatalog(map[string]*policy.Policy{"studio": s.policy})
	s.admin = persist.NewAdmin(s.store, s.bundle, s.policies, zerolog.New(zerolog.NewTestWriter(t)))
	s.at(t, "2027-01-10 09:00")
	return s
}

func (s *desk) time(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.ParseInLocation("2006-01-02 15:04", text, s.policy.Location)
	require.NoError(t, err)
	return at.UTC()
}

// at puts the clock to a local time. It goes on from there, which the few milliseconds of a test do not show.
func (s *desk) at(t *testing.T, text string) {
	t.Helper()
	s.clock.Set(time.Until(s.time(t, text)))
}

func (s *desk) put(t *testing.T, c persist.SubscriptionChange) persist.Subscription {
	t.Helper()
	if c.Account == "" {
		c.Account = "ada"
	}
	state, err := s.admin.PutSubscription(t.Context(), c)
	require.NoError(t, err)
	return state
}

func (s *desk) issuer() *persist.Issuer {
	return persist.NewIssuer(s.admin, persist.IssueOptions{Page: 3}, prometheus.NewRegistry(), zerolog.Nop())
}

func (s *desk) issue(t *testing.T) int {
	t.Helper()
	n, err := s.issuer().Issue(t.Context())
	require.NoError(t, err)
	return n
}

// given is what Redis has of an account, a line each: available, bucket, from and to, where a test's first minute is the
// minute.
func (s *desk) given(t *testing.T, account string) string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	grants := slices.Clone(s.account(account).Grants)
	slices.SortFunc(grants, func(a, b meter.Grant) int {
		return strings.Compare(fmt.Sprint(a.EffectiveMs, a.Rank, a.ExpiresMs, a.Available), fmt.Sprint(b.EffectiveMs, b.Rank, b.ExpiresMs, b.Available))
	})
	var b strings.Builder
	for _, g := range grants {
		if g.Available == 0 {
			continue
		}
		local := func(ms int64) string { return time.UnixMilli(ms).In(s.policy.Location).Format("06-01-02 15:04") }
		flags := ""
		if g.Unlimited && g.Stops {
			flags = " unlimited"
		}
		fmt.Fprintf(&b, "%s %s %s to %s%s\n", g.Available, g.Bucket, local(g.EffectiveMs), local(g.ExpiresMs), flags)
	}
	return b.String()
}

func (s *desk) requireGiven(t *testing.T, account, want string) {
	t.Helper()
	require.Equal(t, strings.TrimSpace(strings.ReplaceAll(want, "\t", "")), strings.TrimSpace(s.given(t, account)))
}

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
	state, err = s.admin.EndOverride(t.Context(), "ada", "deal-1")
	require.NoError(t, err)
	require.WithinDuration(t, s.time(t, "2027-01-12 09:00"), state.Until, time.Minute)
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		80 monthly 27-01-10 09:00 to 27-02-01 00:00
		20 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	_, err = s.admin.EndOverride(t.Context(), "ada", "deal-2")
	require.ErrorIs(t, err, persist.ErrNoOverride)
	ask.Credits++
	_, err = s.admin.PutOverride(t.Context(), ask)
	require.ErrorIs(t, err, persist.ErrRefConflict)
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
	f("it has premium, plus, pro, basic", invalid, persist.SubscriptionChange{Plan: "gold"})
	f("slots is missing", invalid, persist.SubscriptionChange{Plan: "plus"})
	f("1000001 slots; at most 1000000", invalid, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(1000001))})
	f("starts_at", invalid, persist.SubscriptionChange{Plan: "basic", StartsAt: s.time(t, "2031-01-01 00:00")})
	f("anchor_at", invalid, persist.SubscriptionChange{Plan: "basic", AnchorAt: s.time(t, "2027-01-20 00:00")})
	f("reference", invalid, persist.SubscriptionChange{Plan: "basic", Ref: "a b"})
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

// An account that nobody looked at for a year is given what is in force and the next cycle, and nothing of what is over.
func TestAYearAsleep(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	for i := range 7 { // more than two pages
		name := fmt.Sprintf("ada-%d", i)
		s.putAccount(t, name)
		s.put(t, persist.SubscriptionChange{Account: name, Plan: "plus", Slots: new(uint32(2))})
	}
	s.at(t, "2028-02-15 09:00")
	require.Equal(t, 14, s.issue(t))
	require.Zero(t, s.issue(t))
	s.requireGiven(t, "ada-3", `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		20 monthly 27-02-01 00:00 to 27-03-01 00:00
		20 monthly 28-02-01 00:00 to 28-03-01 00:00
		20 monthly 28-03-01 00:00 to 28-04-01 00:00`)
	s.flush(t)
	s.requireNoDrift(t)
}

func TestSeveralIssuersIssueOnce(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	for i := range 40 {
		name := fmt.Sprintf("ada-%d", i)
		s.putAccount(t, name)
		s.put(t, persist.SubscriptionChange{Account: name, Plan: "pro", Slots: new(uint32(2))})
	}
	s.at(t, "2027-02-01 00:00")
	var all sync.WaitGroup
	counts := make([]int, 4)
	errs := make([]error, 4)
	for i := range counts {
		all.Go(func() { counts[i], errs[i] = s.issuer().Issue(context.Background()) })
	}
	for i := range 10 { // changes at the same time are given once too
		all.Go(func() {
			_, err := s.admin.PutSubscription(context.Background(), persist.SubscriptionChange{Account: fmt.Sprintf("ada-%d", i), Plan: "pro", Slots: new(uint32(3))})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	s.issue(t)
	for i := range 40 {
		want := `
			10 monthly 27-01-10 09:00 to 27-02-01 00:00
			10 monthly 27-02-01 00:00 to 27-03-01 00:00
			10 monthly 27-03-01 00:00 to 27-04-01 00:00`
		if i < 10 {
			want = `
			10 monthly 27-01-10 09:00 to 27-02-01 00:00
			10 monthly 27-02-01 00:00 to 27-03-01 00:00
			5 monthly 27-02-01 00:00 to 27-03-01 00:00
			15 monthly 27-03-01 00:00 to 27-04-01 00:00`
		}
		require.Equal(t, strings.Fields(want), strings.Fields(s.given(t, fmt.Sprintf("ada-%d", i))), i)
	}
	s.flush(t)
	s.requireNoDrift(t)
}

// The gateway dies between Postgres and Redis, or Redis is away: what is pending follows by itself, once.
func TestWhatRedisDoesNotHaveIsSwept(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.down = true
	state := s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2))})
	require.False(t, state.Applied)
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(2))})
	s.requireGiven(t, "ada", ``)
	s.down = false
	s.sweep(t)
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		10 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	s.flush(t)
	s.requireNoDrift(t)

	s.at(t, "2027-02-01 00:00")
	s.lost = true // Redis does it, and its answers are lost
	require.Equal(t, 1, s.issue(t))
	s.lost = false
	s.flush(t)
	s.sweep(t)
	require.Empty(t, s.pending(t))
	s.requireNoDrift(t)
}

// Another policy is loaded: what has begun stays, what has not is given by it. A gateway that still has the old one does
// not take it back.
func TestNewPolicyIssuesAnewWhatHasNotBegun(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2))})
	old := s.issuer()
	_, err := old.Issue(t.Context())
	require.NoError(t, err)

	parsed, err := policy.Parse("other.yaml", []byte("name: studio\nbuckets: [promo, monthly, purchased]\n"+
		"operations:\n  apply: {match: POST /apply, credits: 0}\n"))
	require.NoError(t, err)
	parsed.Plans, parsed.Cycle, parsed.Location = planPolicy(t, 1).Plans, s.policy.Cycle, s.policy.Location
	parsed.Plans[1].Contingents[0].Amount = policy.PerSlot(12 * meter.Credit)
	admin := persist.NewAdmin(s.store, s.bundle, policy.NewCatalog(map[string]*policy.Policy{"studio": parsed}), zerolog.Nop())
	n, err := persist.NewIssuer(admin, persist.IssueOptions{}, prometheus.NewRegistry(), zerolog.Nop()).Issue(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n)
	want := `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		24 monthly 27-02-01 00:00 to 27-03-01 00:00`
	s.requireGiven(t, "ada", want)
	n, err = old.Issue(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	s.requireGiven(t, "ada", want)
}

func TestFullAccountIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(2))})
	s.putAccount(t, "bob")
	s.put(t, persist.SubscriptionChange{Account: "bob", Plan: "pro", Slots: new(uint32(2))})
	for i := range meter.GrantsMax - 2 {
		_, err := s.admin.Grant(t.Context(), persist.NewGrant{Account: "ada", Bucket: "promo", Credits: meter.Credit, Ref: fmt.Sprint("g-", i)})
		require.NoError(t, err)
	}
	_, err := s.admin.PutSubscription(t.Context(), persist.SubscriptionChange{Account: "ada", Plan: "pro", Slots: new(uint32(9))})
	require.ErrorIs(t, err, persist.ErrTooManyGrants)
	s.at(t, "2027-02-01 00:00")
	require.Equal(t, 1, s.issue(t), "the others are not kept waiting")
	require.Zero(t, s.issue(t))
	s.commit("ada", s.account("ada").Grants[0].ID, s.account("ada").Grants[0].Available, 0, meter.Note{})
	s.flush(t)
	s.at(t, "2027-02-01 01:01")
	require.Equal(t, 1, s.issue(t))
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

// A bucket more in front of the others: what begins from then on is drained in the new order, what was given ahead too.
func TestWhatIsGivenAheadFollowsTheDrainOrder(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2))})
	changed, err := policy.Parse("other.yaml", []byte("name: studio\nbuckets: [gift, promo, monthly, purchased]\n"+
		"operations:\n  apply: {match: POST /apply, credits: 0}\n"))
	require.NoError(t, err)
	changed.Plans, changed.Cycle, changed.Location = s.policy.Plans, s.policy.Cycle, s.policy.Location
	s.policies.Replace(map[string]*policy.Policy{"studio": changed})
	s.issue(t)
	for _, g := range s.account("ada").Grants {
		if g.EffectiveMs > s.clock.Now().UnixMilli() && g.Available > 0 {
			require.EqualValues(t, 2, g.Rank, "%s from %s", g.Bucket, time.UnixMilli(g.EffectiveMs))
		}
	}
}
