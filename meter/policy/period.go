package policy

import "time"

// Begun is the terms of a history that have begun by t, and Future those that have not.
func (h History) Begun(t time.Time) History {
	for i, term := range h {
		if term.At.After(t) {
			return h[:i:i]
		}
	}
	return h
}

// Future is the terms of a history that have not begun at t.
func (h History) Future(t time.Time) History { return h[len(h.Begun(t)):] }

// Run is the stretch without a break in which there is a subscription at t: when it began, and when it ends by what is
// decided at present; zero if it goes on. ok is false where there is none at t.
func (h History) Run(t time.Time) (begins, ends time.Time, ok bool) {
	for i, term := range h {
		if i+1 < len(h) && h[i+1].At.Equal(term.At) { // the newer one counts
			continue
		}
		switch {
		case term.Plan == "" && term.At.After(t):
			if ok {
				return begins, term.At, true
			}
		case term.Plan == "":
			ok = false
		case !ok && term.At.After(t):
			return begins, ends, false
		case !ok:
			begins, ok = term.At, true
		}
	}
	return begins, ends, ok
}

// PeriodEnd is the end of what is paid for at t: of the cycle, or of the paid year, which ends with the first cycle that
// is over a full year after it began. ok is false without a subscription at t.
func (p *Policy) PeriodEnd(h History, t time.Time) (end time.Time, ok bool) {
	now, ok := h.At(t)
	if !ok {
		return end, false
	}
	months, from := 1, now.Anchor
	if now.Yearly {
		months, from = 12, h.yearlySince(t)
	}
	end = anchorAt(from, p.Location).anniversary(from, months, t)
	if p.Cycle == nil {
		return end, true
	}
	if !now.Yearly {
		return p.Renewal(h, t)
	}
	if w, _ := p.CycleAt(h, end); w.From.Before(end) {
		end = w.To
	}
	return end, true
}

// yearlySince is when the subscription in force at t was first paid by the year without a break.
func (h History) yearlySince(t time.Time) (since time.Time) {
	for _, term := range h.Begun(t) {
		switch {
		case term.Plan == "" || !term.Yearly:
			since = time.Time{}
		case since.IsZero():
			since = term.At
		}
	}
	return since
}

// anniversary is the first time after t that lies a multiple of so many months from from.
func (a anchor) anniversary(from time.Time, months int, t time.Time) time.Time {
	begin := from.In(a.loc)
	now := t.In(a.loc)
	gone := (now.Year()-begin.Year())*12 + int(now.Month()-begin.Month())
	for n := gone/months - 1; ; n++ {
		if at := a.boundary(begin.Year(), begin.Month()+time.Month(n*months)); at.After(t) {
			return at
		}
	}
}

// Ahead says how far grants are issued at now: those that begin before until, which is the end of the next cycle, so
// that a reset finds its credit waiting. At next the following cycle is to be issued; zero: there is nothing to come.
func (p *Policy) Ahead(h History, now time.Time) (until, next time.Time) {
	if p.Cycle == nil { // promotions only, which have an end
		for _, m := range p.Promotions {
			if m.Ends.After(until) {
				until = m.Ends
			}
		}
		return until, time.Time{}
	}
	base := now
	if _, ok := h.At(now); !ok {
		future := h.Future(now)
		if len(future) == 0 { // what an ended subscription gave to the cycle that runs
			return now.Add(time.Millisecond), time.Time{}
		}
		base = future[0].At // an account without a subscription has no term but a new one ahead
	}
	w, ok := p.CycleAt(h, base)
	if !ok {
		return now, time.Time{}
	}
	following, _ := p.CycleAt(h, w.To)
	if _, ok := h.At(w.To); !ok {
		return following.To, time.Time{}
	}
	return following.To, w.To
}
