package policy

import "strconv"

// decided is how a policy settles a question that descriptions of products leave open. Each has a default; where a
// setting changes it, the setting is named.
func (p *Policy) decided() [][]string {
	rows := p.decidedRequests()
	for _, rest := range [][][]string{p.decidedCycles(), p.decidedFairUse(), p.decidedEnds()} {
		rows = append(rows, rest...)
	}
	return rows
}

// decidedRequests is about single requests.
func (p *Policy) decidedRequests() (rows [][]string) {
	batches, priced := false, false
	for _, o := range p.Operations {
		switch at := "operations." + o.Name; {
		case o.AtZeroRefuse:
			rows = append(rows, []string{at + ".at_zero", "refuse: free, and 402 at a balance of 0"})
		case o.Free():
			rows = append(rows, []string{at + ".at_zero", "pass: free, also at a balance of 0; 403 while suspended"})
		default:
			priced = true
			if o.units != nil {
				batches = true
				rows = append(rows, []string{at + ".max", strconv.Itoa(int(o.Max)) + " in one request; more is 400"})
			}
		}
	}
	if batches {
		rows = append(rows, []string{"a batch larger than the balance", "402 for the whole batch, with affordable_units"})
	}
	if priced {
		rows = append(rows, []string{"a failed or partial request", "is charged for what was delivered"})
	}
	return rows
}

// decidedCycles is about who joins, or changes slots, within a cycle or a promotion.
func (p *Policy) decidedCycles() (rows [][]string) {
	contingents, slots := false, false
	for _, pl := range p.Plans {
		for _, c := range pl.Contingents {
			contingents, slots = true, slots || c.Amount.varies
		}
	}
	if contingents && p.Cycle != nil && p.Cycle.DayOfMonth > 0 {
		rows = append(rows, []string{"a subscription that begins within a cycle", "gets the whole contingent of that cycle"})
	}
	if slots {
		up := "count at once: the cycle gives what exceeds its highest contingent so far"
		if p.Rules.SlotsUpNextCycle {
			up = "count from the next cycle on"
		}
		rows = append(rows, []string{"more slots (subscriptions.slots_up)", up})
		rows = append(rows, []string{"fewer slots", "count from the next cycle on"})
	}
	if len(p.Promotions) > 0 {
		rows = append(rows, []string{"an account that joins a promotion late", "gets the whole amount, for the days that are left"})
	}
	return rows
}

// decidedFairUse is about caps that are reached.
func (p *Policy) decidedFairUse() (rows [][]string) {
	stops, draws := false, false
	for _, pl := range p.Plans {
		for _, c := range pl.Contingents {
			stops, draws = stops || c.Stops, draws || c.Unlimited && !c.Stops
		}
	}
	if stops {
		rows = append(rows, []string{"a fair-use cap that is reached (after_cap)", "refuse: 429 until the next cycle"})
	}
	if draws {
		rows = append(rows, []string{"a fair-use cap that is reached (after_cap)", "draw: the next bucket pays"})
	}
	return rows
}

// decidedEnds is about what ends while it is used, or with its subscription.
func (p *Policy) decidedEnds() (rows [][]string) {
	ends, renewal, dated := len(p.Promotions) > 0 || p.Cycle != nil, false, false
	for _, k := range p.Packs {
		kind := k.Lifetime.Kind
		renewal, dated = renewal || kind == NextRenewal, dated || kind == AfterPurchase || kind == AtDate
		ends = ends || kind != NeverExpires
	}
	if ends {
		rows = append(rows, []string{
			"a request in flight while its credit ends", "is charged to it all the same; what it gives back lapses",
		})
	}
	if renewal {
		rows = append(rows, []string{"packs until the next renewal, after the subscription", "lapse at the end of its period"})
	}
	if dated && len(p.Plans) > 0 {
		rows = append(rows, []string{"packs with an end of their own, after the subscription", "stay until that end"})
	}
	return rows
}
