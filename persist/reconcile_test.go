package persist

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// lives is one account's subscription with what it was given, without Postgres.
type lives struct {
	subscriber

	policy *policy.Policy
	past   []cycleGrant // what is over, which is not read any more
	ids    byte
}

// read leaves out what is over, as readGiven does.
func (l *lives) read(now time.Time) {
	l.given = slices.DeleteFunc(l.given, func(g cycleGrant) bool {
		over := !g.expiresAt.After(now)
		if over {
			l.past = append(l.past, g)
		}
		return over
	})
}

// due is what there is to do, but for what was given before and is over, as batch.number finds it.
func (l *lives) due(now time.Time) work {
	w, _, _ := l.plan(l.policy, now)
	w.issue = slices.DeleteFunc(w.issue, func(d issue) bool {
		return slices.ContainsFunc(l.past, func(g cycleGrant) bool { return g.names(d.Due) && !g.superseded })
	})
	return w
}

// settle does what reconcile says, as write does, and checks that there is nothing to do then.
func (l *lives) settle(t *rapid.T, now time.Time) {
	l.read(now)
	w := l.due(now)
	for _, g := range w.revoke {
		i := l.index(t, g.grant)
		require.True(t, l.given[i].effectiveAt.After(now), "what has begun is never taken back")
		l.given[i].superseded = true
	}
	for _, m := range w.move {
		i := l.index(t, m.grant)
		require.True(t, m.to.After(now), "credit in force does not end at once")
		l.given[i].expiresAt = m.to
	}
	for _, d := range w.issue {
		require.True(t, d.ExpiresAt.After(now), "nothing is given that is over")
		l.ids++
		l.given = append(l.given, cycleGrant{
			key: d.Key, grant: meter.ID{l.ids}, bucket: d.Bucket, rank: d.Rank, credits: d.Credits,
			unlimited: d.Unlimited, stops: d.Stops, effectiveAt: d.EffectiveAt, expiresAt: d.ExpiresAt,
		})
	}
	again := l.due(now)
	require.True(t, again.empty(), "done twice: %+v", again)
}

func (l *lives) index(t *rapid.T, id meter.ID) int {
	for i, g := range l.given {
		if g.grant == id {
			require.False(t, g.superseded)
			return i
		}
	}
	require.Fail(t, "a grant that was never given")
	return 0
}

// inForce is what the grants of a bucket in force at a moment were granted with.
func (l *lives) inForce(bucket string, at time.Time) (sum meter.Credits) {
	for _, g := range l.given {
		if !g.superseded && g.bucket == bucket && !g.effectiveAt.After(at) && g.expiresAt.After(at) {
			sum += g.credits
		}
	}
	return sum
}

// change makes one change as a caller may, at now.
func (l *lives) change(t *rapid.T, now time.Time) {
	if rapid.IntRange(0, 3).Draw(t, "end") == 0 && len(l.history) > 0 {
		l.history = decideEnd(l.policy, l.history, rapid.Bool().Draw(t, "at once"), now).history()
		return
	}
	n := rapid.Uint32Range(0, 5).Draw(t, "slots")
	yearly := rapid.IntRange(0, 4).Draw(t, "yearly") == 0
	c := SubscriptionChange{
		Plan: rapid.SampledFrom(l.policy.Plans).Draw(t, "plan").Name, Slots: &n, Yearly: &yearly,
	}
	if rapid.IntRange(0, 5).Draw(t, "moves anchor") == 0 && l.policy.Cycle.DayOfMonth == 0 {
		c.AnchorAt = now.Add(time.Duration(rapid.IntRange(0, 40*24).Draw(t, "hours")) * time.Hour)
	}
	if rapid.IntRange(0, 5).Draw(t, "later") == 0 {
		c.StartsAt = now.Add(time.Duration(rapid.IntRange(0, 40*24).Draw(t, "hours")) * time.Hour)
	}
	d, err := decide(l.policy, l.history, nil, c, now)
	require.NoError(t, err)
	l.history = d.history()
}

// Whatever is changed whenever: doing it again finds nothing to do, nothing that has begun is taken back, and at each
// moment as much is in force as the dearest plan gives that the cycle has seen until then: not more, not less.
func TestWhatIsGivenFollowsAnyChanges(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		contingent := func(a policy.Amount) []policy.Contingent { return []policy.Contingent{{Bucket: "monthly", Amount: a}} }
		p := &policy.Policy{
			Name: "studio", Location: berlin, Buckets: []string{"monthly"},
			Cycle: &policy.Cycle{DayOfMonth: rapid.SampledFrom([]int{0, 1, 15, 31}).Draw(t, "day")},
			Plans: []*policy.Plan{
				{Name: "plus", Contingents: contingent(policy.PerSlot(10 * meter.Credit))},
				{Name: "pro", Contingents: contingent(policy.PerSlot(5 * meter.Credit))},
				{Name: "basic"},
			},
			Rules: policy.Rules{SlotsUpNextCycle: rapid.Bool().Draw(t, "slots up next cycle")},
		}
		l := &lives{policy: p}
		now := time.Date(2027, 1, 10, 8, 0, 0, 0, time.UTC)
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			now = l.moment(now)
			if rapid.IntRange(0, 2).Draw(t, "change") > 0 {
				l.change(t, now)
			}
			l.settle(t, now)
			l.requireOnce(t, now)
			ahead := rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Hour, 9 * 24 * time.Hour, 33 * 24 * time.Hour})
			now = now.Add(ahead.Draw(t, "ahead"))
			if next, ok := p.Renewal(l.history, now); ok && rapid.IntRange(0, 3).Draw(t, "at the boundary") == 0 {
				now = next
			}
		}
	})
}

// requireOnce checks what is in force now against what the cycle that runs may have given.
func (l *lives) requireOnce(t *rapid.T, now time.Time) {
	w, ok := l.policy.CycleAt(l.history, now)
	if !ok {
		return
	}
	var most meter.Credits
	for i, term := range l.history {
		ends := w.To
		if i+1 < len(l.history) {
			ends = l.history[i+1].At
		}
		if !term.At.After(now) && ends.After(w.From) {
			most = max(most, l.policy.Gives(term, nil, now)[0])
		}
	}
	require.Equal(t, most, l.inForce("monthly", now), "at %s of %v, given %+v", now, l.history, l.given)
}

// A bucket may be called promotion. What a promotion gave there ends with its window all the same, also when the cycles
// of a new policy begin elsewhere.
func TestPromotionInABucketOfThatName(t *testing.T) {
	t.Parallel()
	at := func(month time.Month, day int) time.Time { return time.Date(2027, month, day, 0, 0, 0, 0, time.UTC) }
	launch := &policy.Promotion{
		Name: "launch", Bucket: "promotion", Amount: policy.FixedAmount(7 * meter.Credit), Starts: at(3, 1), Ends: at(4, 13),
		PerCycle: true,
	}
	p := &policy.Policy{
		Name: "studio", Location: time.UTC, Buckets: []string{"promotion"}, Cycle: &policy.Cycle{DayOfMonth: 1},
		Promotions: []*policy.Promotion{launch},
		Plans:      []*policy.Plan{{Name: "plus", Promotions: []*policy.Promotion{launch}}},
	}
	h := policy.History{{At: at(3, 10), Plan: "plus", Anchor: at(3, 10)}}
	given := []cycleGrant{}
	for _, d := range p.Due(h, nil, at(3, 10), at(4, 30)) {
		given = append(given, cycleGrant{key: d.Key, bucket: d.Bucket, credits: d.Credits, effectiveAt: d.EffectiveAt, expiresAt: d.ExpiresAt})
	}
	require.NotEmpty(t, given)
	p.Cycle = &policy.Cycle{DayOfMonth: 15}
	for _, d := range bridge(p, h, p.Due(h, nil, at(4, 10), at(5, 30)), given, at(4, 10)) {
		require.False(t, d.ExpiresAt.After(at(4, 13)), "%s ends on %s", d.Key, d.ExpiresAt)
	}
}
