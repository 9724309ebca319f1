package policy

import (
	"strings"
	"time"

	"creditgate/meter"
)

// keyTime is how a key writes when the cycle began.
const keyTime = "2006-01-02T15:04:05.000Z"

// Given is a grant that a subscription was given.
type Given struct {
	Key         string
	Bucket      string
	Credits     meter.Credits
	Used        meter.Credits // of one that is over: what was not left of it, what is held included
	Unsettled   bool          // it is over, and it is not known yet what was used of it
	Unlimited   bool
	Stops       bool
	EffectiveAt time.Time
	ExpiresAt   time.Time // where it was last moved to
}

// IsPromotion reports whether the grant is a promotion's: its key has four words, that of a contingent three. A bucket may
// be called promotion, too.
func (g Given) IsPromotion() bool { return strings.Count(g.Key, " ") == 3 }

// cycle is when the cycle began that gave the grant, as its key says.
func (g Given) cycle() time.Time {
	if words := strings.Fields(g.Key); len(words) > 1 {
		if at, err := time.Parse(keyTime, words[len(words)-2]); err == nil {
			return at
		}
	}
	return g.EffectiveAt
}

// Runs is the cycle that runs at now, as it was given. Where a policy's cycles begin elsewhere than they did, that is the
// one before: it is not cut short and nothing is given twice for its time, but lasts until the first new boundary at which
// it is a month old. So a day of renewal that is moved often moves that one end, and does not add up. ok is false as for
// CycleAt.
func (p *Policy) Runs(h History, given []Given, now time.Time) (w Window, ok bool) {
	w, ok = p.CycleAt(h, now)
	if !ok {
		return w, false
	}
	var from time.Time // the cycle that began last
	for _, g := range given {
		if begun := g.cycle(); !g.IsPromotion() && !g.EffectiveAt.After(now) && begun.After(from) {
			from = begun
		}
	}
	if from.IsZero() || from.Equal(w.From) {
		return w, true
	}
	if over, _ := p.CycleAt(h, from); over.From.Equal(from) { // it began where the policy has it, so it ends there, too
		return w, true
	}
	end := anchorAt(from, p.Location).cycle(from).To
	if next, _ := p.CycleAt(h, end); !next.From.Equal(end) {
		end = next.To
	}
	if end.After(now) {
		w = Window{from, end}
	}
	return w, true
}
