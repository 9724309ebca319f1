package policy

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"creditgate/meter"
)

// cyclesMax bounds the cycles that one call goes through: those of a hundred years.
const cyclesMax = 1200

// Due is a grant that a subscription gives.
type Due struct {
	// Key names it within the account: what gives it, in which cycle, and which step in that cycle it is. It is the
	// same whenever it is asked for.
	Key         string
	Bucket      string
	Rank        uint8
	Promotion   string // empty: it is a contingent
	Credits     meter.Credits
	Unlimited   bool
	Stops       bool
	Cycle       Window
	EffectiveAt time.Time
	ExpiresAt   time.Time
}

// Due is the grants that a history gives and that are in force at some time from from, before to, in the order in
// which they begin.
//
// In each cycle a bucket gets its contingent once, as the plan has it when the cycle begins, or when the subscription
// does. When a change within the cycle brings more than the most it had until then, the difference is granted at the
// change, to end with the cycle. So no order of changes, and no leaving and coming back, gives more in a cycle than the
// highest contingent that was in force in it. A promotion is counted the same way, in each cycle that overlaps its
// window or once in the window, and ends with the window.
func (p *Policy) Due(h History, o []Override, from, to time.Time) []Due {
	s := schedule{policy: p, history: h, overrides: o, windows: map[string]*high{}}
	line := p.timeline(h)
	t := s.start(from, line)
	for range cyclesMax {
		w, ok := line.cycle(t)
		if !ok && p.Cycle == nil && len(h) > 0 { // nothing but promotions, each once in its window
			w, ok = Window{h[0].At, to}, true
		}
		if !ok || !t.Before(to) {
			break
		}
		s.cycle(w)
		t = w.To
	}
	out := slices.DeleteFunc(s.out, func(d Due) bool { return !d.ExpiresAt.After(from) || !d.EffectiveAt.Before(to) })
	slices.SortStableFunc(out, func(a, b Due) int {
		return cmp.Or(a.EffectiveAt.Compare(b.EffectiveAt), cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.Key, b.Key))
	})
	return out
}

// NextReset is the end of the cycle in which after lies and the credits that begin then; ok is false when the
// subscription does not go on there.
func (p *Policy) NextReset(h History, o []Override, after time.Time) (at time.Time, brings meter.Credits, ok bool) {
	at, ok = p.Renewal(h, after)
	if ok {
		_, ok = h.At(at)
	}
	if !ok {
		return at, 0, false
	}
	for _, d := range p.Due(h, o, at, at.Add(1)) {
		if d.EffectiveAt.Equal(at) {
			brings += d.Credits
		}
	}
	return at, brings, true
}

// high is the most that was given so far, in how many steps.
type high struct {
	credits meter.Credits
	steps   int
}

// schedule is the state of one call of Due.
type schedule struct {
	policy    *Policy
	history   History
	overrides []Override
	cycles    map[string]*high // of this cycle
	windows   map[string]*high // of promotions' windows
	out       []Due
}

// start is where to begin for what is in force at from: the cycle it lies in, or that in which a promotion that is
// still open began; not before the first.
func (s *schedule) start(from time.Time, line timeline) time.Time {
	for _, m := range s.policy.Promotions {
		if m.Ends.After(from) && m.Starts.Before(from) {
			from = m.Starts
		}
	}
	if _, ok := line.cycle(from); !ok && len(line) > 0 {
		return line[0].starts
	}
	return from
}

// cycle adds what begins in one cycle.
func (s *schedule) cycle(w Window) {
	s.cycles = map[string]*high{}
	for _, t := range s.marks(w) {
		term, ok := s.history.At(t)
		if !ok {
			continue
		}
		plan, ok := s.policy.Plan(term.Plan)
		if !ok {
			continue // the policy dropped it: what was granted stays, nothing is renewed
		}
		s.contingents(plan, term, w, t)
		for _, m := range plan.Promotions {
			if (Window{m.Starts, m.Ends}).Contains(t) {
				s.promotion(m, term, w, t)
			}
		}
	}
}

// marks are the moments in a cycle at which something may begin, in order.
func (s *schedule) marks(w Window) []time.Time {
	marks := []time.Time{w.From}
	add := func(t time.Time) {
		if t.After(w.From) && t.Before(w.To) {
			marks = append(marks, t)
		}
	}
	for _, t := range s.history {
		add(t.At)
	}
	for _, o := range s.overrides {
		add(o.From)
		add(o.Until)
	}
	for _, m := range s.policy.Promotions {
		add(m.Starts)
	}
	slices.SortFunc(marks, time.Time.Compare)
	return slices.CompactFunc(marks, time.Time.Equal)
}

func (s *schedule) contingents(plan *Plan, term Term, w Window, t time.Time) {
	for rank, bucket := range s.policy.Buckets {
		d := Due{Bucket: bucket, Rank: uint8(rank), Cycle: w, EffectiveAt: t, ExpiresAt: w.To}
		if !s.policy.contingent(plan, term, s.overrides, t, &d) {
			continue
		}
		s.raise(s.cycles, bucket, w.From, d)
	}
}

// contingent fills in what a plan renews in d's bucket; false if nothing.
func (p *Policy) contingent(plan *Plan, term Term, overrides []Override, t time.Time, d *Due) bool {
	kind := Contingents
	i := slices.IndexFunc(plan.Contingents, func(c Contingent) bool { return c.Bucket == d.Bucket })
	if i >= 0 {
		c := plan.Contingents[i]
		d.Credits, d.Unlimited, d.Stops = c.Amount.For(term.Slots), c.Unlimited, c.Stops
		if c.Unlimited {
			kind = FairUse
		}
	}
	credits, negotiated := Overridden(overrides, kind, d.Bucket, t)
	if negotiated {
		d.Credits = credits
	}
	return i >= 0 || negotiated
}

func (s *schedule) promotion(m *Promotion, term Term, w Window, t time.Time) {
	seen, begun := s.windows, m.Starts
	if m.PerCycle && s.policy.Cycle != nil {
		seen, begun = s.cycles, w.From
	}
	s.raise(seen, "promotion "+m.Name, begun, Due{
		Bucket: m.Bucket, Rank: m.Rank, Promotion: m.Name, Credits: m.Amount.For(term.Slots),
		Cycle: w, EffectiveAt: t, ExpiresAt: m.Ends,
	})
}

// raise adds what d has beyond the highest so far, unlimited or not. So a change between limited and unlimited within a
// cycle brings no more than the difference in credits: of a larger cap, a grant of the difference with the cap's flags;
// of one that is no larger than what was given, nothing until the next cycle. What was given before keeps its flags, so
// a cap that stopped others goes on stopping them until its cycle ends.
func (s *schedule) raise(seen map[string]*high, what string, begun time.Time, d Due) {
	top := seen[what]
	if top == nil {
		top = new(high)
		seen[what] = top
	}
	if d.Credits <= top.credits {
		return
	}
	d.Key = what + " " + begun.UTC().Format("2006-01-02T15:04:05.000Z") + " " + strconv.Itoa(top.steps)
	top.credits, d.Credits = d.Credits, d.Credits-top.credits
	top.steps++
	s.out = append(s.out, d)
}

// Gives is what a term gives in each bucket in a cycle, in drain order, promotions aside: what two terms are compared
// by.
func (p *Policy) Gives(term Term, o []Override, t time.Time) []meter.Credits {
	out := make([]meter.Credits, len(p.Buckets))
	plan, ok := p.Plan(term.Plan)
	if !ok {
		return out
	}
	for i, bucket := range p.Buckets {
		d := Due{Bucket: bucket}
		if p.contingent(plan, term, o, t, &d) {
			out[i] = d.Credits
		}
	}
	return out
}
