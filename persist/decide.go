package persist

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"creditgate/meter/policy"
)

// Bounds of when a subscription may begin, and an override.
const (
	startsAheadMax = 400 * 24 * time.Hour
	startsBackMax  = 50 * 366 * 24 * time.Hour
)

// decision is what a change makes of a history: terms that have not begun and are void now, and terms that are added.
type decision struct {
	keep policy.History // what stays, oldest first
	add  []policy.Term
}

func (d decision) history() policy.History { return append(slices.Clone(d.keep), d.add...) }

// changes reports whether the history is another one afterwards.
func (d decision) changes(h policy.History) bool {
	return !slices.EqualFunc(d.history(), h, func(a, b policy.Term) bool {
		return a.At.Equal(b.At) && a.Anchor.Equal(b.Anchor) && wanted{a}.is(b)
	})
}

// decide places a change of subscription in time. What gives at least as much in every bucket counts at once, anything
// else from the next cycle, or from starts_at if that lies ahead. What was to come is replaced.
func decide(
	p *policy.Policy, h policy.History, o []policy.Override, c SubscriptionChange, now time.Time,
) (d decision, err error) {
	current, active := h.At(now)
	if day := p.Cycle; !c.AnchorAt.IsZero() && (day == nil || day.DayOfMonth > 0) {
		return d, refuse(ErrInvalid, "anchor_at",
			"anchor_at: the cycles of %s are not counted from an account's own date; leave it out",
			p.Name)
	}
	term, err := c.term(p, current, active)
	if err != nil {
		return d, err
	}
	d.keep = h.Begun(now)
	if !active {
		return d.begin(p, c, term, now)
	}
	term.Anchor = current.Anchor
	if !c.AnchorAt.IsZero() && !c.AnchorAt.Equal(current.Anchor) {
		term.Anchor = c.AnchorAt
	}
	if term.Anchor.Equal(current.Anchor) && term.is(current) {
		return d, nil // it goes on, whatever was to come
	}
	term.At = now
	switch {
	case c.StartsAt.After(now):
		term.At = c.StartsAt
	case !counts(p, o, current, term.Term, now):
		if !term.Anchor.Equal(current.Anchor) { // the cycle that runs is the first to follow the new anchor
			moved := current
			moved.At, moved.Anchor = now, term.Anchor
			d.add = append(d.add, moved)
		}
		if at, ok := p.Renewal(d.history(), now); ok {
			term.At = at
		}
	}
	d.add = append(d.add, term.Term)
	return d, nil
}

// wanted is a term without a place in time.
type wanted struct{ policy.Term }

func (w wanted) is(t policy.Term) bool {
	return w.Plan == t.Plan && w.Slots == t.Slots && w.Yearly == t.Yearly
}

// counts reports whether a change counts at once.
func counts(p *policy.Policy, o []policy.Override, from, to policy.Term, now time.Time) bool {
	if p.Rules.SlotsUpNextCycle && to.Slots > from.Slots {
		return false
	}
	before, after := p.Gives(from, o, now), p.Gives(to, o, now)
	for i := range before {
		if after[i].Less(before[i]) {
			return false
		}
	}
	return true
}

// begin adds the first term of a subscription where there is none at now. Who comes back while the cycle of the
// subscription before still runs goes on with its anchor.
func (d decision) begin(p *policy.Policy, c SubscriptionChange, term wanted, now time.Time) (decision, error) {
	term.At = now
	if !c.StartsAt.IsZero() {
		term.At = c.StartsAt
	}
	switch n := len(d.keep); {
	case n == 0:
		term.Anchor = term.At
	case term.At.Before(d.keep[n-1].At):
		return d, refuse(ErrInvalid, "starts_at", "starts_at %s lies before the end of the subscription that was, %s",
			term.At.Format(time.RFC3339), d.keep[n-1].At.Format(time.RFC3339))
	default:
		over, ok := p.Over(d.keep)
		term.Anchor = term.At
		if ok && term.At.Before(over) {
			term.Anchor = d.keep[n-1].Anchor
		}
	}
	if !c.AnchorAt.IsZero() {
		term.Anchor = c.AnchorAt
	}
	d.add = append(d.add, term.Term)
	return d, nil
}

// term is what a change asks for, completed from what is in force.
func (c SubscriptionChange) term(p *policy.Policy, current policy.Term, active bool) (w wanted, err error) {
	plan, ok := p.Plan(c.Plan)
	if !ok {
		names := make([]string, len(p.Plans))
		for i, known := range p.Plans {
			names[i] = known.Name
		}
		return w, refuseChoice("plan", c.Plan, p.Name+" has "+listed(names))
	}
	w.Plan = c.Plan
	switch {
	case c.Slots != nil && *c.Slots > policy.SlotsMax:
		return w, refuse(ErrInvalid, "slots", "slots is %d; it is at most %d", *c.Slots, policy.SlotsMax)
	case c.Slots != nil:
		w.Slots = *c.Slots
	case active:
		w.Slots = current.Slots
	case plan.UsesSlots():
		return w, refuse(ErrInvalid, "slots", "slots is required: what plan %s gives depends on it; send a whole number such as 2",
			c.Plan)
	}
	if w.Yearly = active && current.Yearly; c.Yearly != nil {
		w.Yearly = *c.Yearly
	}
	return w, nil
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// checkTimes refuses times that are not meant.
func (c SubscriptionChange) checkTimes(now time.Time) error {
	for name, t := range map[string]time.Time{"starts_at": c.StartsAt, "anchor_at": c.AnchorAt} {
		if t.IsZero() {
			continue
		}
		if t.After(now.Add(startsAheadMax)) || t.Before(now.Add(-startsBackMax)) {
			return refuse(ErrInvalid, name, "%s %s is too far away; at most %s days ahead and 50 years back", name,
				t.Format(time.RFC3339), strconv.Itoa(int(startsAheadMax/(24*time.Hour))))
		}
	}
	return nil
}

// decideEnd places the end of a subscription; changed is false when it has the same end already. A subscription that has
// not begun does not begin.
func decideEnd(p *policy.Policy, h policy.History, atOnce bool, now time.Time) (d decision) {
	current, active := h.At(now)
	d.keep = h.Begun(now)
	if !active {
		return d
	}
	end := now
	if !atOnce {
		end, _ = p.PeriodEnd(h, now)
	}
	for _, t := range h.Future(now) { // what comes before the end still comes
		if t.At.Before(end) && t.Plan != "" {
			d.keep = append(slices.Clip(d.keep), t)
			current = t
		}
	}
	if _, ends, _ := h.Run(now); ends.Equal(end) {
		d.keep = h
		return d
	}
	d.add = []policy.Term{{At: end, Slots: current.Slots, Yearly: current.Yearly, Anchor: current.Anchor}}
	return d
}
