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
	// Key names it within the account: what gives it, in which cycle, and its number in that cycle, after those that were
	// given before. It is the same whenever it is asked for, as long as nothing else was given.
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
	Begun       bool // it was given and is in force; at its ExpiresAt it ends, which may be at once
}

// Due is the grants that a history gives and that are in force at some time from from, before to, in the order in
// which they begin, those of given included that are in force already.
//
// In each cycle a bucket gets its contingent once, as the plan has it when the cycle begins, or when the subscription
// does, or when the cycle of another policy is over by which the time was given. When a change within the cycle brings
// more than what was given in it, the difference is granted at the change, to end with the cycle. A promotion is counted
// the same way, in each cycle that overlaps its window or once in the window, and ends with the window. What another
// policy would have given does not matter: what counts is what was given.
//
// What is limited and what is unlimited are counted apart. Where a bucket becomes unlimited its contingent ends, and the
// whole cap is granted for the rest of the cycle; where it is unlimited no more, for whatever reason, the cap ends, and
// with it what it stopped, and the contingent is granted. Who comes back to either gets what was not used of it, as soon
// as that is known: until then all of it counts as used, and of a cap that stops others LeastCap is given. So no order of
// changes, and no leaving and coming back, gives more in a cycle than the highest contingent and the highest cap that were
// in force in it, each once, and LeastCap for each coming back.
//
// A change of the policy counts from the next cycle on, whatever else begins or ends in this one, also where it says of a
// cap whether it stops others; but for what a bucket has nothing of in force: a contingent where there was none, or a cap
// where there was a contingent, is given at once; and but for who came back to either, takes another plan or negotiates.
func (p *Policy) Due(h History, o []Override, given []Given, from, to time.Time) []Due {
	s := schedule{
		policy: p, history: h, line: p.timeline(h), overrides: o, given: given, from: from, windows: map[string]*sum{},
	}
	t := s.start()
	runs, _ := p.Runs(h, given, from)
	if w, _ := s.line.cycle(from); w != runs {
		t = runs.From // before it began cycles were not those of this policy
	}
	s.former(runs)
	for range cyclesMax {
		w, ok := s.line.cycle(t)
		if runs.Contains(t) {
			w, ok = runs, true
		}
		if !ok && p.Cycle == nil && len(h) > 0 { // nothing but promotions, each once in its window
			w, ok = Window{h[0].At, to}, true
		}
		if !ok || !t.Before(to) {
			break
		}
		s.cycle(w)
		t = w.To
	}
	out := slices.DeleteFunc(s.out, func(d Due) bool {
		return !d.Begun && (!d.ExpiresAt.After(from) || !d.EffectiveAt.Before(to))
	})
	slices.SortStableFunc(out, func(a, b Due) int {
		return cmp.Or(a.EffectiveAt.Compare(b.EffectiveAt), cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.Key, b.Key))
	})
	return out
}

// former ends what is still in force of a cycle before the one that runs: a day of renewal was moved there and back.
func (s *schedule) former(runs Window) {
	for _, g := range s.given {
		if !g.IsPromotion() && !g.EffectiveAt.After(s.from) && g.ExpiresAt.After(s.from) && g.cycle().Before(runs.From) {
			s.out = append(s.out, Due{Key: g.Key, Bucket: g.Bucket, ExpiresAt: s.from, Begun: true})
		}
	}
}

// schedule is the state of one call of Due.
type schedule struct {
	policy    *Policy
	history   History
	line      timeline
	overrides []Override
	given     []Given
	from      time.Time
	cycles    map[string]*sum // of this cycle
	windows   map[string]*sum // of promotions' windows
	out       []Due
}

// start is where to begin for what is in force at from: the cycle it lies in, or that in which a promotion that is
// still open began; not before the first.
func (s *schedule) start() time.Time {
	from := s.from
	for _, m := range s.policy.Promotions {
		if m.Ends.After(s.from) && m.Starts.Before(from) {
			from = m.Starts
		}
	}
	if _, ok := s.line.cycle(from); !ok && len(s.line) > 0 {
		return s.line[0].starts
	}
	return from
}

// cycle adds what begins in one cycle.
func (s *schedule) cycle(w Window) {
	s.cycles = map[string]*sum{}
	for _, bucket := range s.policy.Buckets {
		s.cycles[bucket] = s.sum(bucket, "", w, w.To)
	}
	for _, m := range s.policy.Promotions {
		if s.perCycle(m) {
			s.cycles[m.what()] = s.sum(m.what(), m.Name, w, m.Ends)
		} else if s.windows[m.what()] == nil {
			s.windows[m.what()] = s.sum(m.what(), m.Name, Window{m.Starts, m.Ends}, m.Ends)
		}
	}
	marks := s.marks(w)
	if i, found := slices.BinarySearchFunc(marks, s.from, time.Time.Compare); !found && w.Contains(s.from) {
		marks = slices.Insert(marks, i, s.from)
	}
	for _, t := range marks {
		term, active := s.history.At(t)
		plan, known := s.policy.Plan(term.Plan)
		if active && !known {
			continue // the policy dropped it: what was granted stays, nothing is renewed
		}
		s.contingents(w, t)
		if plan == nil {
			continue
		}
		for _, m := range plan.Promotions {
			if (Window{m.Starts, m.Ends}).Contains(t) {
				s.promotion(m, w, t)
			}
		}
	}
}

// marks are the moments in a cycle at which something may begin, in order: none before what was given for its time is over.
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
	covered := s.covered(w)
	add(covered)
	marks = slices.DeleteFunc(marks, func(t time.Time) bool { return t.Before(covered) })
	slices.SortFunc(marks, time.Time.Compare)
	return slices.CompactFunc(marks, time.Time.Equal)
}

func (s *schedule) contingents(w Window, t time.Time) {
	for rank, bucket := range s.policy.Buckets {
		a := s.cycles[bucket]
		if a.begun && t.Before(s.from) {
			continue
		}
		d := Due{Bucket: bucket, Rank: uint8(rank), Cycle: w, EffectiveAt: t, ExpiresAt: w.To}
		gives := s.contingent(t, &d)
		s.join(a, &d)
		s.end(a, d, gives, t)
		before := Due{Bucket: bucket}
		s.contingent(t.Add(-1), &before)
		same := !s.replanned(t) && !s.renegotiated(d, t) && d.Credits == before.Credits
		k := side(d.Unlimited)
		if gives && (!a.begun || !same || !a.inForce[k] || a.ended[k]) {
			s.raise(a, keyOf(bucket, w.From), d)
		}
	}
}

// replanned reports whether another plan begins at t. It counts as the policy has it now, though the plan before would
// give as much now and gave less when the cycle began.
func (s *schedule) replanned(t time.Time) bool { return s.plan(t) != s.plan(t.Add(-1)) }

// renegotiated reports the same of what was negotiated.
func (s *schedule) renegotiated(due Due, t time.Time) bool {
	kind := Contingents
	if due.Unlimited {
		kind = FairUse
	}
	credits, negotiated := Overridden(s.overrides, kind, due.Bucket, t)
	before, was := Overridden(s.overrides, kind, due.Bucket, t.Add(-1))
	return credits != before || negotiated != was
}

func (s *schedule) plan(t time.Time) string {
	term, _ := s.history.At(t)
	return term.Plan
}

// contingent fills in what is renewed in d's bucket by what counts at t; false if nothing.
func (s *schedule) contingent(t time.Time, d *Due) bool {
	term, _ := s.history.At(t)
	plan, ok := s.policy.Plan(term.Plan)
	return ok && s.policy.contingent(plan, term, s.overrides, t, d)
}

// join lets what is due stop others as the cap in force of the same plan does, if there is one: only the policy says
// something else about it now, and a cap stops as a whole or not at all.
func (s *schedule) join(a *sum, due *Due) {
	for _, i := range a.out {
		if d := s.out[i]; d.Unlimited && due.Unlimited && s.plan(d.EffectiveAt) == s.plan(due.EffectiveAt) {
			due.Stops = d.Stops
		}
	}
}

// end ends at t what is in force and of another kind than what is due then; where nothing is due, what is unlimited. A cap
// that differs only in what it stops ends when somebody is there to end it.
func (s *schedule) end(a *sum, due Due, gives bool, t time.Time) {
	a.out = slices.DeleteFunc(a.out, func(i int) bool {
		d := &s.out[i]
		stays := due.Unlimited == d.Unlimited && (due.Stops == d.Stops || t.After(s.from))
		if !gives {
			stays = !d.Unlimited
		}
		if stays {
			return false
		}
		k := side(d.Unlimited)
		d.ExpiresAt, a.inForce[k] = t, false
		if !d.Begun && !t.After(s.from) { // nobody was there to give it
			a.credits[k] -= d.Credits
		}
		return true
	})
}

func (m *Promotion) what() string { return "promotion " + m.Name }

func (s *schedule) perCycle(m *Promotion) bool { return m.PerCycle && s.policy.Cycle != nil }

// promised is what a promotion gives by what counts at t.
func (s *schedule) promised(m *Promotion, t time.Time) meter.Credits {
	term, _ := s.history.At(t)
	plan, ok := s.policy.Plan(term.Plan)
	if !ok || !slices.Contains(plan.Promotions, m) || !(Window{m.Starts, m.Ends}).Contains(t) {
		return 0
	}
	return m.Amount.For(term.Slots)
}

func (s *schedule) promotion(m *Promotion, w Window, t time.Time) {
	a, begun := s.windows[m.what()], m.Starts
	if s.perCycle(m) {
		a, begun = s.cycles[m.what()], w.From
	}
	credits := s.promised(m, t)
	same := credits == s.promised(m, t.Add(-1)) && !s.replanned(t) && !t.Equal(w.From)
	if a.begun && (same || t.Before(s.from)) {
		return
	}
	s.raise(a, keyOf(m.what(), begun), Due{
		Bucket: m.Bucket, Rank: m.Rank, Promotion: m.Name, Credits: credits,
		Cycle: w, EffectiveAt: t, ExpiresAt: m.Ends,
	})
}

// LeastCap is what a cap that stops others has where nothing of it is left to be given: a grant that stops has to be
// there for what lies behind it to be stopped, and no grant is of nothing.
const LeastCap meter.Credits = 1

// raise adds what d has beyond what was given of its kind.
func (s *schedule) raise(a *sum, key string, d Due) {
	k := side(d.Unlimited)
	more := d.Credits - a.credits[k]
	if d.Stops && !slices.ContainsFunc(a.out, func(i int) bool { return s.out[i].Unlimited }) {
		more = max(more, LeastCap)
	}
	if more <= 0 {
		return
	}
	d.Key, d.Credits = key+strconv.Itoa(a.steps), more
	a.credits[k] += more
	a.inForce[k] = true
	a.steps++
	a.out = append(a.out, len(s.out))
	s.out = append(s.out, d)
}
