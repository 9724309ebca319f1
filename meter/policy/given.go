package policy

import (
	"slices"
	"strconv"
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
	Used        meter.Credits // of one that is over: all but what is known not to have been used; what is held was
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
// it is a month old; unless it was over at a month before anybody was there to lengthen it. So a day of renewal that is
// moved often moves that one end, and does not add up. ok is false as for CycleAt.
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
	lengthened := slices.ContainsFunc(given, func(g Given) bool {
		return !g.IsPromotion() && g.cycle().Equal(from) && g.ExpiresAt.After(end)
	})
	if !end.After(now) && !lengthened { // it was over before anybody came back
		return w, true
	}
	if next, _ := p.CycleAt(h, end); !next.From.Equal(end) {
		end = next.To
	}
	if end.After(now) {
		w = Window{from, end}
	}
	return w, true
}

// covered is until when the time of w was given by cycles that began before it elsewhere than this policy has them: each
// counts for a month, however early what it gave was ended, and up to now at most. What w gives is what counts from then
// on, so that a plan that was over by then gives nothing once more; zero if there is no such cycle.
func (s *schedule) covered(w Window) (until time.Time) {
	for _, g := range s.given {
		begun := g.cycle()
		if g.IsPromotion() || g.EffectiveAt.After(s.from) || !begun.Before(w.From) {
			continue
		}
		if own, _ := s.line.cycle(begun); own.From.Equal(begun) {
			continue
		}
		if end := anchorAt(begun, s.policy.Location).cycle(begun).To; end.After(until) {
			until = end
		}
	}
	if until.After(s.from) {
		return s.from
	}
	return until
}

// sum is what a cycle gave of one bucket, or of one promotion.
type sum struct {
	begun   bool             // something of it was given before: only what changes from then on gives more
	steps   int              // the number of the next grant's key
	credits [2]meter.Credits // that count as given: limited, unlimited
	inForce [2]bool
	ended   [2]bool // before the cycle was over: what was not used of it may be given again
	out     []int   // which of the schedule's are in force
}

// side is where a sum counts what is unlimited or not.
func side(unlimited bool) int {
	if unlimited {
		return 1
	}
	return 0
}

// sum adds up what was given of a bucket or a promotion in a window. What of it is in force ends at ends.
func (s *schedule) sum(what, promotion string, w Window, ends time.Time) *sum {
	var a sum
	prefix := keyOf(what, w.From)
	for _, g := range s.given {
		number, ok := strings.CutPrefix(g.Key, prefix)
		if !ok || g.EffectiveAt.After(s.from) {
			continue
		}
		n, _ := strconv.Atoi(number)
		a.begun, a.steps = true, max(a.steps, n+1)
		k := side(g.Unlimited)
		if !g.ExpiresAt.After(s.from) && promotion == "" {
			a.credits[k] += g.Used
			a.ended[k] = true
			continue
		}
		a.credits[k] += g.Credits
		a.inForce[k] = true
		if g.ExpiresAt.After(s.from) {
			rank, _ := s.policy.Rank(g.Bucket)
			a.out = append(a.out, len(s.out))
			s.out = append(s.out, Due{
				Key: g.Key, Bucket: g.Bucket, Rank: rank, Promotion: promotion, Credits: g.Credits, Unlimited: g.Unlimited, Stops: g.Stops,
				Cycle: w, EffectiveAt: g.EffectiveAt, ExpiresAt: ends, Begun: true,
			})
		}
	}
	return &a
}

func keyOf(what string, begun time.Time) string {
	return what + " " + begun.UTC().Format(keyTime) + " "
}
