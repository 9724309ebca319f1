package policy

import "time"

// Window is a stretch of time: from From, before To.
type Window struct{ From, To time.Time }

// Contains reports whether t lies in the window.
func (w Window) Contains(t time.Time) bool { return !t.Before(w.From) && t.Before(w.To) }

// zoneReach is further than any zone has ever been from UTC.
const zoneReach = 16 * time.Hour

// instant is the first moment at which clocks in loc show the wall time or a later one. A wall time that clocks skip
// is thereby the first moment after the gap, one that they show twice is the first of the two. wall is in UTC. No zone
// has moved its clocks twice within the hours that are looked at.
func instant(wall time.Time, loc *time.Location) time.Time {
	low := wall.Add(-zoneReach) // clocks show less than wall
	before := offset(low, loc)
	if at := wall.Add(-before); offset(at, loc) == before { // not moved until then
		return at
	}
	low, high := low.Truncate(time.Second), wall.Add(-before).Truncate(time.Second)
	for high.Sub(low) > time.Second { // find the moment when clocks were moved; it is a whole second
		mid := low.Add(high.Sub(low) / 2).Truncate(time.Second)
		if offset(mid, loc) == before {
			low = mid
		} else {
			high = mid
		}
	}
	if at := wall.Add(-offset(high, loc)); at.After(high) {
		return at
	}
	return high
}

func offset(t time.Time, loc *time.Location) time.Duration {
	_, seconds := t.In(loc).Zone()
	return time.Duration(seconds) * time.Second
}

// daysIn is the number of days in a month; months beyond 12 run on into the years after.
func daysIn(year int, month time.Month) int {
	return time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// anchor is what cycles are counted from: a day of the month, or the last one of shorter months, at a time of day.
type anchor struct {
	day   int
	clock time.Duration // since midnight, on the clocks of loc
	loc   *time.Location
}

// anchorAt is the anchor of cycles that begin on the same day and at the same time of day as at.
func anchorAt(at time.Time, loc *time.Location) anchor {
	at = at.In(loc)
	h, m, s := at.Clock()
	clock := time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second
	return anchor{day: at.Day(), clock: clock + time.Duration(at.Nanosecond()), loc: loc}
}

// boundary is where the cycle of a month begins. It grows strictly with the month.
func (a anchor) boundary(year int, month time.Month) time.Time {
	day := min(a.day, daysIn(year, month))
	return instant(time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Add(a.clock), a.loc)
}

// cycle is the window between two boundaries that t lies in.
func (a anchor) cycle(t time.Time) Window {
	local := t.In(a.loc)
	year, month := local.Year(), local.Month()
	for a.boundary(year, month).After(t) {
		month--
	}
	for !a.boundary(year, month+1).After(t) {
		month++
	}
	return Window{a.boundary(year, month), a.boundary(year, month+1)}
}

// from is the first boundary at or after t.
func (a anchor) from(t time.Time) time.Time {
	w := a.cycle(t)
	if w.From.Equal(t) {
		return t
	}
	return w.To
}

// stretch is a part of an account's time with one anchor. Its first cycle is window; the others follow by the anchor.
type stretch struct {
	starts  time.Time // when the anchor was chosen, or the cycle begins that it counts in
	window  Window
	regular time.Time // where the window would end by the anchor before
	anchor  anchor
	fresh   bool // nothing before counts: the cycle before ends here
}

// timeline is where an account's cycles lie, as its history says. With a day of month it needs no history: cycles are
// those of the calendar, so that leaving and coming back changes nothing about them.
type timeline []stretch

func (p *Policy) timeline(h History) timeline {
	if p.Cycle == nil {
		return nil
	}
	if day := p.Cycle.DayOfMonth; day > 0 {
		if len(h) == 0 {
			return nil
		}
		a := anchor{day: day, clock: p.Cycle.At, loc: p.Location}
		w := a.cycle(h[0].At)
		return timeline{{starts: h[0].At, window: w, regular: w.To, anchor: a, fresh: true}}
	}
	var line timeline
	var begun, over time.Time // of the subscription before: its anchor, and the end of the cycle it ended in
	active := false
	for i, t := range h {
		if i+1 < len(h) && h[i+1].At.Equal(t.At) { // the newer one counts
			continue
		}
		switch a := anchorAt(t.Anchor, p.Location); {
		case t.Plan == "":
			if active {
				over = line.rest(t.At)
			}
			active = false
			continue
		case len(line) == 0, !active && !over.After(t.At) && !t.Anchor.Equal(begun):
			w := Window{t.At, a.cycle(t.At).To}
			line = append(line, stretch{t.At, w, w.To, a, true})
		case !t.Anchor.Equal(begun):
			line = append(line, line.moved(t.At, a))
		}
		begun, active = t.Anchor, true
	}
	return line
}

// moved is the stretch that begins with a move of the anchor at t. The cycle that runs is lengthened to the first boundary
// of the new anchor at or after its regular end, which is that of no move in it: so any number of moves lengthens it by
// less than a month. In what a move has added to it another one cannot: that one counts in the cycle that follows.
func (l timeline) moved(t time.Time, a anchor) stretch {
	last := l[len(l)-1]
	if last.starts.After(t) { // an earlier move waits for its cycle; this one replaces it
		t = last.starts
	}
	w, _ := l.cycle(t)
	regular := w.To
	if last.window.Contains(t) {
		regular = last.regular
	}
	if !t.Before(regular) {
		t = w.To
		w = last.anchor.cycle(t)
		regular = w.To
	}
	return stretch{t, Window{w.From, a.from(regular)}, regular, a, false}
}

// rest is when the cycle is over in which a subscription ends at t.
func (l timeline) rest(t time.Time) time.Time {
	if w, _ := l.cycle(t); w.From.Before(t) {
		return w.To
	}
	return t
}

// cycle is the cycle that t lies in; ok is false before the first.
func (l timeline) cycle(t time.Time) (w Window, ok bool) {
	at := -1
	for at+1 < len(l) && (!l[at+1].starts.After(t) || at < 0 && l[0].window.Contains(t)) {
		at++
	}
	if at < 0 {
		return w, false
	}
	if w = l[at].window; !t.Before(w.To) {
		w = l[at].anchor.cycle(t)
	}
	for _, next := range l[at+1:] { // chosen while this cycle runs
		switch {
		case !next.starts.Before(w.To):
			return w, true
		case next.fresh:
			w.To = next.starts
		default:
			w.To = next.window.To
		}
	}
	return w, true
}

// CycleAt is the cycle in which t lies, whether or not there is a subscription at t; ok is false before the first
// subscription and where the policy renews nothing.
func (p *Policy) CycleAt(h History, t time.Time) (w Window, ok bool) { return p.timeline(h).cycle(t) }

// Renewal is the end of the cycle in which after lies, the next boundary strictly later. It is where credit that lasts
// until the next renewal ends, also when the subscription is not renewed there. ok is false without a subscription at
// after, and where the policy renews nothing.
func (p *Policy) Renewal(h History, after time.Time) (at time.Time, ok bool) {
	if _, ok := h.At(after); !ok {
		return at, false
	}
	w, ok := p.CycleAt(h, after)
	return w.To, ok
}

// Expiry is when credit of a pack bought at that time ends, the first moment at which it is gone; zero for never. ok is
// false where it lasts until the next renewal and there is none.
func (p *Policy) Expiry(l Lifetime, h History, bought time.Time) (at time.Time, ok bool) {
	switch l.Kind {
	case AfterPurchase:
		return l.After.end(bought, p.Location), true
	case AtDate:
		return l.At, true
	case NextRenewal:
		return p.Renewal(h, bought)
	case NeverExpires:
	}
	return time.Time{}, true
}

// end is the end of the local day that lies the span after from.
func (s Span) end(from time.Time, loc *time.Location) time.Time {
	year, month, day := from.In(loc).Date()
	return instant(s.after(time.Date(year, month, day, 0, 0, 0, 0, time.UTC)).AddDate(0, 0, 1), loc)
}

// Over is when the cycle is over in which a history's last subscription ended; ok is false if it goes on.
func (p *Policy) Over(h History) (at time.Time, ok bool) {
	if len(h) == 0 || h[len(h)-1].Plan != "" {
		return at, false
	}
	end := h[len(h)-1].At
	if line := p.timeline(h); len(line) > 0 {
		end = line.rest(end)
	}
	return end, true
}
