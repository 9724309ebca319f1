package persist_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
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

// otherVersion is the product known under another version, to be changed by the test.
func otherVersion(t *testing.T) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("other.yaml", []byte("name: studio\nbuckets: [promo, monthly, purchased]\n"+
		"operations:\n  apply: {match: POST /apply, credits: 0}\n"))
	require.NoError(t, err)
	q := planPolicy(t, 1)
	p.Plans, p.Cycle, p.Location, p.Promotions = q.Plans, q.Cycle, q.Location, q.Promotions
	return p
}

func planned(p *policy.Policy) *policy.Catalog {
	return policy.NewCatalog(map[string]*policy.Policy{"studio": p})
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
	s.policies = planned(s.policy)
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

// issueUnder issues once as a gateway does that has another version of the policy.
func (s *desk) issueUnder(t *testing.T, p *policy.Policy) int {
	t.Helper()
	admin := persist.NewAdmin(s.store, s.bundle, planned(p), zerolog.Nop())
	n, err := persist.NewIssuer(admin, persist.IssueOptions{}, prometheus.NewRegistry(), zerolog.Nop()).Issue(t.Context())
	require.NoError(t, err)
	return n
}

// requireRefused says that err refuses something, by this sentinel, for this parameter, with these words.
func requireRefused(t *testing.T, err, sentinel error, param string, say ...string) {
	t.Helper()
	refusal, ok := errors.AsType[*persist.RefusalError](err)
	require.True(t, ok, "%v", err)
	require.ErrorIs(t, refusal, sentinel)
	require.Equal(t, param, refusal.Param)
	for _, words := range say {
		require.Contains(t, refusal.Detail, words)
	}
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
