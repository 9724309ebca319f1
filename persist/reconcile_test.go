package persist

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// Whatever is changed whenever: doing it again finds nothing to do, nothing that has begun is given up, and each cycle
// gives as much as the dearest plan that it has seen, what is limited and what is unlimited apart: not more, not less,
// and never one kind beside the other.
func TestWhatIsGivenFollowsAnyChanges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2027, 1, 10, 8, 0, 0, 0, time.UTC)
		l := &lives{policy: drawPolicy(t, nil), used: map[meter.ID]meter.Credits{}, booked: map[meter.ID]bool{}}
		l.policies = []policySince{{policy: l.policy}}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			now = l.moment(now)
			switch rapid.SampledFrom([]string{"change", "change", "change", "override", "reload", ""}).Draw(t, "what") {
			case "change":
				l.change(t, now)
			case "override":
				l.override(t, now)
			case "reload":
				l.reload(t, now)
			}
			if rapid.Bool().Draw(t, "flushed") {
				l.flush(now)
			}
			l.settle(t, now)
			l.requireOnce(t, now)
			l.requirePromotion(t)
			l.spend(t, now)
			ahead := rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Hour, 9 * 24 * time.Hour, 33 * 24 * time.Hour})
			now = now.Add(ahead.Draw(t, "ahead"))
			if next, ok := l.cycle(l.policy, now); ok && rapid.IntRange(0, 3).Draw(t, "at the boundary") == 0 {
				now = next.To
			}
		}
	})
}

// requireOnce checks what the cycle that runs gave, up to now, against what its terms give by the policies that were in
// force in it.
func (l *lives) requireOnce(t *rapid.T, now time.Time) {
	w, ok := l.cycle(l.policy, now)
	if !ok {
		return
	}
	if !l.moved() {
		regular, _ := l.policy.CycleAt(l.history, now)
		require.Equal(t, regular, w, "%v, given %+v", l.history, l.given)
	}
	story := fmt.Sprintf("at %s in %v of %v with %v, given %+v", now, w, l.history, l.overrides, l.given)
	var gave [2]meter.Credits
	var waits [2]bool // for the ledger
	var stopped bool
	var caps meter.Credits // the thousandth that a used-up cap comes back with, for each that may be one
	term, _ := l.history.At(now)
	due := l.policy.Gives(term, l.overrides, now)[1]
	plan, _ := l.policy.Plan(term.Plan)
	stops := plan != nil && len(plan.Contingents) > 0 && plan.Contingents[0].Stops
	oldest := l.policies[len(l.policies)-1].at // a cap of before has what the policy said then
	for _, g := range l.given {
		began, _ := l.history.At(g.EffectiveAt)
		if due.Unlimited && g.Unlimited && began.Plan == term.Plan && g.EffectiveAt.Before(oldest) && g.ExpiresAt.After(now) {
			oldest, stops = g.EffectiveAt, g.Stops
		}
	}
	for _, g := range l.given {
		if g.Bucket == "monthly" && !g.EffectiveAt.After(now) && g.ExpiresAt.After(now) {
			require.Equal(t, due.Unlimited, g.Unlimited, story)
			require.Equal(t, stops, g.Stops, story)
			stopped = stopped || g.Stops
		}
		if !strings.HasPrefix(g.Key, "monthly "+w.From.UTC().Format("2006-01-02T15:04:05.000Z")) || g.EffectiveAt.After(now) {
			continue
		}
		if g.Stops && g.Credits == 1 {
			caps++
		}
		of := &gave[side(g.Unlimited)]
		if !g.ExpiresAt.After(now) {
			*of += l.used[g.grant]
			waits[side(g.Unlimited)] = waits[side(g.Unlimited)] || g.unsettled
			continue
		}
		*of += g.Credits
		require.False(t, g.ExpiresAt.After(w.To), story)
	}
	require.Equal(t, stops, stopped, "what lies behind is stopped, also by a cap that is used up: %s", story)
	most, least := l.bounds(w, now, due)
	most[side(true)] += caps
	for i := range gave {
		require.LessOrEqual(t, gave[i], most[i], story)
	}
	if !waits[side(due.Unlimited)] {
		require.GreaterOrEqual(t, gave[side(due.Unlimited)], least, story)
	} else if gave[side(due.Unlimited)] < least {
		_, _, next := l.plan(l.policy, now)
		require.False(t, next.IsZero() || next.After(now.Add(settledInMax)), "nobody looks again: %s", story)
	}
}

func side(unlimited bool) int {
	if unlimited {
		return 1
	}
	return 0
}

// bounds are the most that a cycle may have given up to now, what is limited and what is unlimited, and the least of
// what is due now. An amount counts from where a term or an override begins or ends, by the policy of that moment; a new
// policy's own at once where nothing of the kind was in force.
func (l *lives) bounds(w policy.Window, now time.Time, due policy.Gift) (most [2]meter.Credits, least meter.Credits) {
	least = due.Credits
	current, _ := l.history.At(now)
	changes := l.changes(w, now)
	for n, p := range l.policies {
		until := now.Add(1)
		if n+1 < len(l.policies) {
			until = l.policies[n+1].at
		}
		if !until.After(w.From) {
			continue
		}
		if term, _ := l.history.At(p.at); w.Contains(p.at) {
			if g := p.policy.Gives(term, l.overrides, p.at)[1]; p.free[side(g.Unlimited)] {
				most[side(g.Unlimited)] = max(most[side(g.Unlimited)], g.Credits)
			}
		}
		for _, at := range changes {
			if !l.moved() && (at.Before(p.looked) || at.After(until)) {
				continue
			}
			term, _ := l.history.At(at)
			g := p.policy.Gives(term, l.overrides, at)[1]
			most[side(g.Unlimited)] = max(most[side(g.Unlimited)], g.Credits)
		}
		if g := p.policy.Gives(current, l.overrides, now)[1]; g.Unlimited == due.Unlimited {
			least = min(least, g.Credits)
		}
	}
	return most, least
}

// changes are the moments of a cycle up to now at which another amount may count: where it, a term or an override begins
// or ends.
func (l *lives) changes(w policy.Window, now time.Time) []time.Time {
	at := []time.Time{w.From}
	for _, term := range l.history {
		at = append(at, term.At)
	}
	for _, o := range l.overrides {
		at = append(at, o.From, o.Until)
	}
	return slices.DeleteFunc(at, func(at time.Time) bool { return !w.Contains(at) || at.After(now) })
}

// requirePromotion checks that a cycle, or the window, gave the promotion once.
func (l *lives) requirePromotion(t *rapid.T) {
	seen := map[string]bool{}
	for _, g := range slices.Concat(l.past, l.given) {
		if g.Bucket == "promo" {
			require.False(t, seen[g.Key], "%s twice: %+v", g.Key, l.given)
			seen[g.Key] = true
			require.Equal(t, 7*meter.Credit, g.Credits)
		}
	}
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
	var given []policy.Given
	for _, d := range p.Due(h, nil, nil, at(3, 10), at(4, 30)) {
		given = append(given, policy.Given{
			Key: d.Key, Bucket: d.Bucket, Credits: d.Credits, EffectiveAt: d.EffectiveAt, ExpiresAt: d.ExpiresAt,
		})
	}
	require.NotEmpty(t, given)
	p.Cycle = &policy.Cycle{DayOfMonth: 15}
	for _, d := range p.Due(h, nil, given, at(4, 10), at(5, 30)) {
		require.False(t, d.ExpiresAt.After(at(4, 13)), "%s ends on %s", d.Key, d.ExpiresAt)
	}
}
