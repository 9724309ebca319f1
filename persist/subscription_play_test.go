package persist_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
)

// playedPolicies may follow one another: the promotion is prolonged or shortened, the unlimited plan limited.
func playedPolicies(t *testing.T) []*policy.Policy {
	t.Helper()
	var all []*policy.Policy
	for i, days := range []int{0, 0, 30, -20} {
		p, err := policy.Parse("studio.yaml", fmt.Appendf(nil, "name: studio\nbuckets: [promo, monthly, purchased]\n"+
			"operations:\n  apply: {match: POST /apply%d, credits: 0}\n", i))
		require.NoError(t, err)
		q := planPolicy(t, 0)
		p.Plans, p.Cycle, p.Location, p.Promotions = q.Plans, q.Cycle, q.Location, q.Promotions
		p.Promotions[0].Ends = p.Promotions[0].Ends.AddDate(0, 0, days)
		if i == 1 {
			p.Plans[0].Contingents[0] = policy.Contingent{Bucket: "monthly", Rank: 1, Amount: policy.FixedAmount(90 * meter.Credit)}
		}
		all = append(all, p)
	}
	return all
}

// An account's subscription is changed in any way and at any time, its renewal moved there and back, the policy replaced
// by one with a longer or shorter promotion, or limited where it was unlimited. Every change is recorded, none is taken
// for one before it, and Redis has each grant until the time at which Postgres lets it end: no day is left without credit.
func TestPlayOfOneSubscription(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 0)
	s.startFlusher(t, persist.FlushOptions{})
	policies := playedPolicies(t)
	account := 0
	rapid.Check(t, func(r *rapid.T) {
		account++
		name := fmt.Sprintf("play-%d", account)
		now := s.time(t, "2027-03-01 09:00")
		s.clock.Set(time.Until(now))
		replace := func() { // a product of its own: issuing goes through all accounts of one, those of the plays before too
			s.policies.Replace(map[string]*policy.Policy{name: rapid.SampledFrom(policies).Draw(r, "policy")})
		}
		replace()
		_, err := s.admin.PutAccount(t.Context(), persist.AccountChange{Account: name, Product: &name})
		require.NoError(r, err)
		for range rapid.IntRange(2, 8).Draw(r, "steps") {
			replace()
			err := s.play(t, r, name, now)
			require.NoError(r, err)
			s.requireFollowed(t, r, name)
			ahead := rapid.SampledFrom([]time.Duration{time.Minute, time.Hour, 9 * 24 * time.Hour, 33 * 24 * time.Hour})
			now = now.Add(ahead.Draw(r, "ahead"))
			s.clock.Set(time.Until(now))
		}
	})
}

// play makes one change of the account, or lets the issuer look.
func (s *desk) play(t *testing.T, r *rapid.T, name string, now time.Time) error {
	change := persist.SubscriptionChange{Account: name, Slots: new(uint32(4))}
	change.Plan = rapid.SampledFrom([]string{"plus", "plus", "pro", "premium", "basic"}).Draw(r, "plan")
	var err error
	switch rapid.SampledFrom([]string{"put", "put", "move", "plan", "end", "issue"}).Draw(r, "do") {
	case "put":
		_, err = s.admin.PutSubscription(t.Context(), change)
	case "move":
		change.AnchorAt = now.AddDate(0, 0, rapid.IntRange(1, 3).Draw(r, "days")*9).Truncate(24 * time.Hour)
		_, err = s.admin.PutSubscription(t.Context(), change)
	case "plan": // a move that the next put gives up
		change.AnchorAt = s.time(t, "2027-03-25 00:00")
		change.StartsAt = now.AddDate(0, 0, 5)
		_, err = s.admin.PutSubscription(t.Context(), change)
	case "end":
		atOnce := rapid.Bool().Draw(r, "at once")
		_, err = s.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: name, AtOnce: atOnce})
		if err != nil && len(s.given(t, name)) == 0 { // there never was one
			err = nil
		}
	case "issue":
		_, err = s.issuer().Issue(t.Context())
	}
	return err
}

// requireFollowed checks that what Redis can still spend of a subscription ends when Postgres says.
func (s *desk) requireFollowed(t *testing.T, r *rapid.T, name string) {
	ends := map[meter.ID]time.Time{}
	for _, row := range s.query(t, `SELECT grant_id, expires_at FROM creditgate.cycle_grant WHERE account = $1`, name) {
		id, _ := row[0].([16]byte)
		ends[id], _ = row[1].(time.Time)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.account(name).Grants {
		if g.Available > 0 {
			require.Equal(r, ends[g.ID].UnixMilli(), g.ExpiresMs, "%s of %s from %s", g.Available, g.Bucket,
				time.UnixMilli(g.EffectiveMs))
		}
	}
}
