package policy

import (
	"slices"
	"time"

	"creditgate/meter"
)

// Gift is what a term gives in a bucket in a cycle.
type Gift struct {
	Credits   meter.Credits
	Unlimited bool
}

// Less reports whether a gift is less than another one. A cap is more than any contingent, whatever their numbers.
func (g Gift) Less(than Gift) bool {
	if g.Unlimited != than.Unlimited {
		return than.Unlimited
	}
	return g.Credits < than.Credits
}

// Gives is what a term gives in each bucket in a cycle, in drain order, promotions aside: what two terms are compared
// by.
func (p *Policy) Gives(term Term, o []Override, t time.Time) []Gift {
	out := make([]Gift, len(p.Buckets))
	plan, ok := p.Plan(term.Plan)
	if !ok {
		return out
	}
	for i, bucket := range p.Buckets {
		d := Due{Bucket: bucket}
		if p.contingent(plan, term, o, t, &d) {
			out[i] = Gift{d.Credits, d.Unlimited}
		}
	}
	return out
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
