package policy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// PacksFor are the packs that an account on a plan may buy at t, smallest first; plan "" is no subscription. A pack that
// plans list is for those plans; one that no plan lists is for everybody, or for every subscriber if it needs a
// subscription. What would be over when it is bought is not sold.
func (p *Policy) PacksFor(plan string, t time.Time) []*Pack {
	var out []*Pack
	for _, k := range p.Packs {
		over := k.Lifetime.Kind == AtDate && !t.Before(k.Lifetime.At)
		if !over && p.MayBuy(plan, k) {
			out = append(out, k)
		}
	}
	slices.SortStableFunc(out, func(a, b *Pack) int { return cmp.Compare(a.Credits, b.Credits) })
	return out
}

// MayBuy reports whether an account on a plan may buy a pack.
func (p *Policy) MayBuy(plan string, k *Pack) bool {
	if plan == "" && (k.NeedsSubscription || k.Lifetime.Kind == NextRenewal) {
		return false
	}
	listed := false
	for _, l := range p.Plans {
		if slices.Contains(l.Packs, k) {
			if l.Name == plan {
				return true
			}
			listed = true
		}
	}
	return !listed
}

// Words say the validity as people read it: for ever, 1 year, until 2027-01-01, until the next renewal.
func (l Lifetime) Words(loc *time.Location) string {
	switch l.Kind {
	case AfterPurchase:
		return l.After.words()
	case AtDate:
		return "until " + l.At.In(loc).Format(time.DateOnly)
	case NextRenewal:
		return "until the next renewal"
	case NeverExpires:
	}
	return "for ever"
}

// words is a span in full: whole weeks as weeks.
func (s Span) words() string {
	weeks, days := s.Days/7, s.Days%7
	if days != 0 {
		weeks, days = 0, s.Days
	}
	var out []string
	for _, part := range [...]struct {
		n    int
		unit string
	}{{s.Years, "year"}, {s.Months, "month"}, {weeks, "week"}, {days, "day"}} {
		switch {
		case part.n == 1:
			out = append(out, "1 "+part.unit)
		case part.n > 1:
			out = append(out, strconv.Itoa(part.n)+" "+part.unit+"s")
		}
	}
	return strings.Join(out, " and ")
}

// DayStart is when a local day begins, day being its midnight in UTC: the first moment after midnight where clocks skip
// it, the first of two where they show it twice.
func DayStart(day time.Time, loc *time.Location) time.Time { return instant(day, loc) }
