package persist

import (
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// lives is one account's subscription with what it was given, without Postgres.
type lives struct {
	subscriber

	policy   *policy.Policy
	policies []policySince              // that were in force, oldest first
	past     []cycleGrant               // what is over, which is not read any more
	used     map[meter.ID]meter.Credits // what was spent, and what is held
	booked   map[meter.ID]bool          // the ledger has what was left of it when it ended
	ids      uint16
	looked   time.Time // when was settled last
}

type policySince struct {
	at     time.Time
	looked time.Time // before: what counts from then on is given by this policy, too
	free   [2]bool   // limited, unlimited: what was not in force then, or had ended within the cycle, is given at once
	policy *policy.Policy
}

// flush lets the ledger have what was left of all that is over.
func (l *lives) flush(now time.Time) {
	for _, g := range l.given {
		l.booked[g.grant] = l.booked[g.grant] || !g.ExpiresAt.After(now)
	}
}

// read leaves out what is over since long, and knows what was used of the rest as soon as the ledger has it, as
// readGiven does.
func (l *lives) read(now time.Time) {
	l.given = slices.DeleteFunc(l.given, func(g cycleGrant) bool {
		over := !g.ExpiresAt.After(now.Add(-givenKept))
		if over {
			l.past = append(l.past, g)
		}
		return over
	})
	for i := range l.given {
		g := &l.given[i]
		g.Used, g.unsettled = g.Credits, !g.ExpiresAt.After(now) && !l.booked[g.grant]
		if l.booked[g.grant] {
			g.Used = l.used[g.grant]
		}
	}
}

// due is what there is to do, but for what was given before and is over, as batch.number finds it.
func (l *lives) due(now time.Time) work {
	w, _, _ := l.plan(l.policy, now)
	w.issue = slices.DeleteFunc(w.issue, func(d issue) bool {
		return slices.ContainsFunc(slices.Concat(l.past, l.given), func(g cycleGrant) bool {
			return g.Key == d.Key && !slices.ContainsFunc(w.revoke, func(r cycleGrant) bool { return r.grant == g.grant })
		})
	})
	return w
}

// settle does what reconcile says, as write does, and checks that there is nothing to do then.
func (l *lives) settle(t *rapid.T, now time.Time) {
	l.read(now)
	w := l.due(now)
	for _, g := range w.revoke {
		i := l.index(t, g.grant)
		require.True(t, l.given[i].EffectiveAt.After(now), "what has begun is never superseded as if it had not")
		l.given = slices.Delete(l.given, i, i+1)
	}
	for _, g := range w.end {
		i := l.index(t, g.grant)
		require.False(t, l.given[i].EffectiveAt.After(now))
		l.given[i].ExpiresAt = now
	}
	for _, m := range w.move {
		i := l.index(t, m.grant)
		require.True(t, m.to.After(now), "credit in force does not end at once")
		l.given[i].ExpiresAt = m.to
	}
	for _, d := range w.issue {
		require.True(t, d.ExpiresAt.After(now), "nothing is given that is over")
		l.ids++
		l.given = append(l.given, cycleGrant{
			grant: meter.ID{byte(l.ids >> 8), byte(l.ids)}, rank: d.Rank,
			Given: policy.Given{
				Key: d.Key, Bucket: d.Bucket, Credits: d.Credits, Unlimited: d.Unlimited, Stops: d.Stops,
				EffectiveAt: d.EffectiveAt, ExpiresAt: d.ExpiresAt,
			},
		})
	}
	l.read(now)
	l.looked = now
	again := l.due(now)
	require.True(t, again.empty(), "done twice: %+v", again)
	cycle, _ := l.cycle(l.policy, now)
	if f := l.history.Future(now); len(f) > 0 && f[0].At.Before(cycle.To) {
		_, _, next := l.plan(l.policy, now)
		require.False(t, next.IsZero() || next.After(f[0].At), "nobody looks at %s", f[0].At)
	}
}

func (l *lives) index(t *rapid.T, id meter.ID) int {
	i := slices.IndexFunc(l.given, func(g cycleGrant) bool { return g.grant == id })
	require.GreaterOrEqual(t, i, 0, "a grant that was never given")
	return i
}

// spend uses some of what is in force.
func (l *lives) spend(t *rapid.T, now time.Time) {
	for i := range l.given {
		if g := &l.given[i]; !g.EffectiveAt.After(now) && g.ExpiresAt.After(now) {
			left := int64(g.Credits - l.used[g.grant])
			more := meter.Credits(rapid.SampledFrom([]int64{0, 1, left / 2, left}).Draw(t, "spent or held"))
			l.used[g.grant] = min(l.used[g.grant]+more, g.Credits)
		}
	}
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
	d, err := decide(l.policy, l.history, l.overrides, c, now)
	require.NoError(t, err)
	l.history = d.history()
}

// override negotiates something at now, or ends what was.
func (l *lives) override(t *rapid.T, now time.Time) {
	for i := range l.overrides {
		if o := &l.overrides[i]; (o.Until.IsZero() || o.Until.After(now)) && rapid.Bool().Draw(t, "ends") {
			o.Until = now
			if o.From.After(now) {
				o.Until = o.From
			}
			return
		}
	}
	l.overrides = append(l.overrides, policy.Override{
		Kind:   rapid.SampledFrom([]policy.OverrideKind{policy.Contingents, policy.FairUse}).Draw(t, "kind"),
		Target: "monthly", Credits: meter.Credits(rapid.Int64Range(0, 90).Draw(t, "credits")) * meter.Credit,
		From: now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "days")) * 24 * time.Hour),
	})
}

// reload puts another policy in force: amounts, kinds, the promotion's end and, where the product has one, the day of
// renewal.
func (l *lives) reload(t *rapid.T, now time.Time) {
	l.policy = drawPolicy(t, l.policy)
	since := policySince{at: now, looked: l.looked, free: [2]bool{true, true}, policy: l.policy}
	for _, g := range l.given {
		if g.Bucket == "monthly" && !g.EffectiveAt.After(now) && g.ExpiresAt.After(now) {
			since.free[side(g.Unlimited)] = false
		}
	}
	w, _ := l.cycle(l.policy, now)
	begun := false
	for _, g := range l.given {
		if g.Bucket == "monthly" && w.Contains(g.EffectiveAt) && !g.EffectiveAt.After(now) {
			begun = true
			since.free[side(g.Unlimited)] = since.free[side(g.Unlimited)] || !g.ExpiresAt.After(now)
		}
	}
	if !begun { // nobody looked until it was over
		since.looked = w.From
	}
	l.policies = append(l.policies, since)
}

// moved reports whether the day of renewal was ever another one.
func (l *lives) moved() bool {
	return slices.ContainsFunc(l.policies, func(p policySince) bool {
		return p.policy.Cycle.DayOfMonth != l.policy.Cycle.DayOfMonth
	})
}

// drawPolicy is a policy that may follow another one.
func drawPolicy(t *rapid.T, before *policy.Policy) *policy.Policy {
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	days := []int{0, 1, 15, 31}
	if before != nil && before.Cycle.DayOfMonth == 0 {
		days = []int{0}
	} else if before != nil {
		days = days[1:]
	}
	contingent := func(a policy.Amount) []policy.Contingent {
		return []policy.Contingent{{Bucket: "monthly", Rank: 1, Amount: a}}
	}
	unlimited := func(of int64, stops bool) []policy.Contingent {
		c := contingent(policy.FixedAmount(meter.Credits(of) * meter.Credit))
		c[0].Unlimited, c[0].Stops = true, stops
		return c
	}
	launch := &policy.Promotion{
		Name: "launch", Bucket: "promo", Amount: policy.FixedAmount(7 * meter.Credit), PerCycle: rapid.Bool().Draw(t, "per cycle"),
		Starts: time.Date(2027, 2, 5, 0, 0, 0, 0, time.UTC),
	}
	launch.Ends = launch.Starts.AddDate(0, 0, rapid.SampledFrom([]int{1, 20, 70}).Draw(t, "lasts"))
	if before != nil {
		launch.PerCycle = before.Promotions[0].PerCycle
	}
	premium := unlimited(rapid.Int64Range(60, 100).Draw(t, "cap"), rapid.IntRange(0, 3).Draw(t, "draws") > 0)
	if rapid.IntRange(0, 3).Draw(t, "premium is limited") == 0 {
		premium = contingent(policy.FixedAmount(30 * meter.Credit))
	}
	return &policy.Policy{
		Name: "studio", Location: berlin, Buckets: []string{"promo", "monthly"},
		Cycle:      &policy.Cycle{DayOfMonth: rapid.SampledFrom(days).Draw(t, "day")},
		Promotions: []*policy.Promotion{launch},
		Plans: []*policy.Plan{
			{
				Name: "plus", Promotions: []*policy.Promotion{launch},
				Contingents: contingent(policy.PerSlot(meter.Credits(rapid.Int64Range(8, 12).Draw(t, "plus")) * meter.Credit)),
			},
			{Name: "pro", Contingents: contingent(policy.PerSlot(5 * meter.Credit))},
			{Name: "premium", Contingents: premium},
			{Name: "team", Contingents: unlimited(70, false)},
			{Name: "basic"},
		},
		Rules: policy.Rules{SlotsUpNextCycle: rapid.Bool().Draw(t, "slots up next cycle")},
	}
}
