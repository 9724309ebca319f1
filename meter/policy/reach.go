package policy

import (
	"cmp"
	"slices"
)

// What is wrong only between the parts of a file: price lists, and what nobody can reach.

// draft is a policy while it is read.
type draft struct {
	*Policy
	hasPlans, hasCycle bool            // the file has these keys, whatever is in them
	cycleMissed        bool            // and that has been reported
	packAt             map[string]item // packs, each until a plan names it
	buyersSaid         map[string]bool // packs that have needs_subscription, whatever it says
	promotionAt        map[string]item // promotions, the same
}

// checkPriceList: from the smallest pack to the largest, each credit costs less than before, in one currency. If the
// policy requires no volume discount, it may cost as much.
func (d *draft) checkPriceList(i item, pl *Plan) {
	for n, k := range pl.Packs[:max(0, len(pl.Packs)-1)] {
		next := pl.Packs[n+1]
		if k.Credits == 0 || next.Credits == 0 || k.Price.Minor == 0 || next.Price.Minor == 0 {
			continue // their own mistake is reported
		}
		switch {
		case k.Price.Currency != next.Price.Currency:
			i.failf("%s costs %s and %s %s; a plan's packs have one currency", k.Name, k.Price, next.Name, next.Price)
		case k.Credits == next.Credits:
			i.failf("%s and %s both hold %s credits; a plan's packs differ in size", k.Name, next.Name, k.Credits)
		case k.Credits > next.Credits:
			i.failf("%s (%s credits) stands before %s (%s); list packs from the smallest to the largest",
				k.Name, k.Credits, next.Name, next.Credits)
		default:
			d.checkDiscount(i, k, next, next.dearer(k) > 0)
		}
	}
	if want := d.Rules.PacksPerPlan; want > 0 && len(pl.Packs) != want {
		i.failf("has %s packs; packs_per_plan says that each plan that may buy has exactly %s", count(len(pl.Packs)), count(want))
	}
	for _, c := range pl.Contingents {
		for _, k := range pl.Packs {
			if c.Stops && k.Rank > c.Rank {
				i.failf("%s could never be spent: %s comes first, is unlimited, and refuses what is beyond its cap; "+
					"write after_cap: draw there, or sell no packs to this plan", k.Name, c.Bucket)
				break
			}
		}
	}
}

// checkDiscount: a credit of the larger pack costs less. If no volume discount is required, that it does not is a warning,
// or a mistake all the same.
func (d *draft) checkDiscount(i item, small, large *Pack, mistake bool) {
	switch {
	case large.dearer(small) < 0:
	case mistake || d.Rules.VolumeDiscount:
		i.failf("a credit of %s costs %s and one of %s %s; the larger pack's must cost less",
			large.Name, large.UnitPrice(), small.Name, small.UnitPrice())
	default:
		i.warnf("a credit of %s costs %s and one of %s %s: the larger pack gives no discount; "+
			"write purchases: {volume_discount: required} to have that refused",
			large.Name, large.UnitPrice(), small.Name, small.UnitPrice())
	}
}

// checkOpenList: packs on no plan's list are a list too, of each currency, in any order.
func (d *draft) checkOpenList() {
	smaller := map[string]*Pack{}
	bySize := func(a, b *Pack) int { return cmp.Compare(a.Credits, b.Credits) }
	for _, k := range slices.SortedStableFunc(slices.Values(d.Packs), bySize) {
		i, open := d.packAt[k.Name]
		if !open || k.Credits == 0 || k.Price.Minor == 0 {
			continue
		}
		before := smaller[k.Price.Currency]
		smaller[k.Price.Currency] = k
		if before != nil && before.Credits < k.Credits {
			d.checkDiscount(i, before, k, false)
		}
	}
}

// checkReached: what is offered must be offered to somebody.
func (d *draft) checkReached() {
	for _, m := range d.Promotions {
		if i, unnamed := d.promotionAt[m.Name]; unnamed {
			i.failf("is on no plan, so nobody gets it; name it in a plan under its bucket, or remove it")
		}
	}
	for _, k := range d.Packs {
		i, unnamed := d.packAt[k.Name]
		switch {
		case !unnamed || !d.hasPlans: // without plans everybody may buy every pack
		case d.Rules.PacksPerPlan > 0:
			i.failf("is on no plan's list, and packs_per_plan lets nothing be sold beside those; " +
				"add it to the packs of a plan, or remove it")
		case !d.buyersSaid[k.Name]: // forgotten in a list, it would be sold to everybody
			i.failf("is on no plan's list, so nobody can buy it; add it to the packs of a plan, or say who else may: " +
				"needs_subscription: true for every subscriber, false for everybody")
		}
	}
}
