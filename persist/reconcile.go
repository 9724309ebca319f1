package persist

import (
	"slices"
	"strings"
	"time"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// cycleGrant is a grant that a subscription was given.
type cycleGrant struct {
	key         string
	grant       meter.ID
	bucket      string
	rank        uint8
	credits     meter.Credits
	unlimited   bool
	stops       bool
	effectiveAt time.Time
	expiresAt   time.Time // where it was last moved to
	superseded  bool
}

// follower is bought credit that ends with the cycle.
type follower struct {
	grant     meter.ID
	expiresAt time.Time
}

// issue is one grant to be given, of a revision that is known when it is written.
type issue struct {
	policy.Due

	revision int
}

// move is an expiry that changes.
type move struct {
	grant meter.ID
	key   string // of a cycle's grant, else empty
	to    time.Time
}

// work is what lies between what a subscription gives and what it was given.
type work struct {
	account string
	issue   []issue
	revoke  []cycleGrant
	move    []move
}

func (w work) empty() bool { return len(w.issue)+len(w.revoke)+len(w.move) == 0 }

// reconcile compares what is due from now on with what was given. Credit that is in force stays as it is, but for its
// end, which is its cycle's: it comes nearer only where an anchor that was to be moved is not moved after all, and never
// for a promotion. What has not begun is superseded where it is not what is due. What is over by now is not given any
// more: it would lapse in the moment it was granted.
func reconcile(due []policy.Due, given []cycleGrant, now time.Time) (w work) {
	valid := map[string]bool{}
	wanted := make(map[string]policy.Due, len(due))
	for _, d := range due {
		wanted[d.Key] = d
	}
	for _, g := range given {
		if g.superseded {
			continue
		}
		d, ok := wanted[g.key]
		begun := !g.effectiveAt.After(now)
		if !begun && (!ok || !g.is(d)) {
			w.revoke = append(w.revoke, g)
			continue
		}
		valid[g.key] = true
		if ok && !d.ExpiresAt.Equal(g.expiresAt) && (!begun || !g.promotion() || d.ExpiresAt.After(g.expiresAt)) {
			w.move = append(w.move, move{g.grant, g.key, d.ExpiresAt})
		}
	}
	for _, d := range due {
		if !valid[d.Key] && d.ExpiresAt.After(now) {
			w.issue = append(w.issue, issue{Due: d})
		}
	}
	return w
}

// bridge is for a policy whose cycles begin elsewhere than they did. The cycle that runs is not cut short and nothing is
// given twice for its time: what it gave lasts until the first boundary at or after its end, and what the new cycles
// would give before that is not due.
func bridge(p *policy.Policy, h policy.History, due []policy.Due, given []cycleGrant, now time.Time) []policy.Due {
	runs := bridged(p, h, due, given, now)
	if len(runs) == 0 {
		return due
	}
	var out []policy.Due
	for _, d := range due {
		if d.Promotion != "" || !d.EffectiveAt.Before(runs[d.Bucket].To) || slices.ContainsFunc(given, func(g cycleGrant) bool {
			return g.runs(now) && g.names(d)
		}) {
			out = append(out, d)
		}
	}
	for _, g := range given {
		if end := runs[g.bucket].To; g.runs(now) && !g.promotion() && end.After(g.expiresAt) {
			out = append(out, policy.Due{
				Key: g.key, Bucket: g.bucket, Credits: g.credits, Unlimited: g.unlimited, Stops: g.stops,
				EffectiveAt: g.effectiveAt, ExpiresAt: end,
			})
		}
	}
	return out
}

// bridged is the window of the cycle that is bridged, by bucket: from when it began to where the new cycles take over.
func bridged(
	p *policy.Policy, h policy.History, due []policy.Due, given []cycleGrant, now time.Time,
) map[string]policy.Window {
	runs := map[string]policy.Window{}
	for _, g := range given {
		if !g.runs(now) || g.promotion() || slices.ContainsFunc(due, g.names) {
			continue
		}
		w, ok := p.CycleAt(h, g.expiresAt)
		if !ok {
			continue
		}
		end := w.To
		if w.From.Equal(g.expiresAt) {
			end = w.From
		}
		if end.After(runs[g.bucket].To) {
			runs[g.bucket] = policy.Window{From: g.begun(), To: end}
		}
	}
	return runs
}

// runs reports whether the grant is in force.
func (g cycleGrant) runs(now time.Time) bool {
	return !g.superseded && !g.effectiveAt.After(now) && g.expiresAt.After(now)
}

func (g cycleGrant) names(d policy.Due) bool { return g.key == d.Key }

// promotion reports whether the grant is a promotion's: its key has four words, that of a contingent three. A bucket may
// be called promotion, too.
func (g cycleGrant) promotion() bool { return strings.Count(g.key, " ") == 3 }

// begun is when the cycle began that gave the grant, as its key says.
func (g cycleGrant) begun() time.Time {
	if words := strings.Fields(g.key); len(words) > 1 {
		if at, err := time.Parse(time.RFC3339, words[len(words)-2]); err == nil {
			return at
		}
	}
	return g.effectiveAt
}

// is reports whether the grant is what is due, its end aside.
func (g cycleGrant) is(d policy.Due) bool {
	return g.bucket == d.Bucket && g.rank == d.Rank && g.credits == d.Credits && g.effectiveAt.Equal(d.EffectiveAt) &&
		g.unlimited == d.Unlimited && g.stops == d.Stops
}

// follow moves bought credit to the end of the cycle that runs, and never nearer.
func follow(w policy.Window, followers []follower) (moves []move) {
	for _, f := range followers {
		if w.To.After(f.expiresAt) && w.Contains(f.expiresAt.Add(-1)) {
			moves = append(moves, move{grant: f.grant, to: w.To})
		}
	}
	return moves
}
