package persist_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
)

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

	p := otherVersion(t)
	p.Plans[1].Contingents[0].Amount = policy.PerSlot(12 * meter.Credit)
	require.Equal(t, 1, s.issueUnder(t, p))
	want := `
		20 monthly 27-01-10 09:00 to 27-02-01 00:00
		24 monthly 27-02-01 00:00 to 27-03-01 00:00`
	s.requireGiven(t, "ada", want)
	n, err := old.Issue(t.Context())
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

// Where there is no room for what takes its place a cap ends all the same, when its plan is made limited.
func TestAFullAccountIsUnlimitedNoMore(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, premium())
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(2))})
	s.flush(t)
	for i := range meter.GrantsMax - 2 {
		_, err := s.admin.Grant(t.Context(), persist.NewGrant{Account: "ada", Bucket: "promo", Credits: meter.Credit, Ref: fmt.Sprint("g-", i)})
		require.NoError(t, err)
	}
	s.flush(t)
	limited := otherVersion(t)
	limited.Plans[0].Contingents[0] = policy.Contingent{Bucket: "monthly", Rank: 1, Amount: policy.FixedAmount(400 * meter.Credit)}
	limited.Plans[2].Contingents[0].Unlimited = true // from the next cycle on: it does not keep the cap that is in force
	s.policies.Replace(map[string]*policy.Policy{"studio": limited})
	s.at(t, "2027-01-15 09:00")
	require.Zero(t, s.issue(t))
	require.NotRegexp(t, "27-02-01 00:00 unlimited", s.given(t, "ada"))
	s.flush(t)
	s.at(t, "2027-01-15 09:01")
	require.Equal(t, 2, s.issue(t), "what was taken back made room")
	require.Contains(t, s.given(t, "ada"), "400 monthly 27-01-15 09:01 to 27-02-01 00:00")
	s.flush(t)
	s.requireNoDrift(t)
}

// Where there is no room for the cap that takes its place a cap stays until there is.
func TestAFullAccountStaysUnlimited(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	p := otherVersion(t)
	p.Plans[2].Contingents[0] = policy.Contingent{
		Bucket: "monthly", Rank: 1, Amount: policy.FixedAmount(20000 * meter.Credit), Unlimited: true,
	}
	s.policies.Replace(map[string]*policy.Policy{"studio": p})
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "pro", Slots: new(uint32(2))})
	later := premium()
	later.StartsAt = s.time(t, "2027-01-20 00:00")
	s.put(t, later)
	s.flush(t)
	for i := range meter.GrantsMax - 2 {
		_, err := s.admin.Grant(t.Context(), persist.NewGrant{Account: "ada", Bucket: "promo", Credits: meter.Credit, Ref: fmt.Sprint("g-", i)})
		require.NoError(t, err)
	}
	s.flush(t)
	s.at(t, "2027-01-20 00:00")
	require.Zero(t, s.issue(t))
	require.Contains(t, s.given(t, "ada"), "20000 monthly 27-01-10 09:00 to 27-02-01 00:00")
	s.use(t, "ada", "promo", meter.Credit)
	s.at(t, "2027-01-20 00:30")
	require.Zero(t, s.issue(t), "it is not looked at all the time")
	s.at(t, "2027-01-20 01:01")
	require.Equal(t, 1, s.issue(t))
	require.NotContains(t, s.given(t, "ada"), "20000 monthly 27-01-10")
	require.Contains(t, s.given(t, "ada"), "0.001 monthly 27-01-20 01:01 to 27-02-01 00:00 unlimited", "the rest of it follows with the ledger")
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

	p := otherVersion(t)
	p.Promotions[0].Ends = s.time(t, "2027-05-10 00:00")
	s.issueUnder(t, p)
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
