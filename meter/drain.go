package meter

import "slices"

// This file is the pure burn-down: which grants pay, and which get back. lua/lib decides in production; these
// functions price quotes and serve as the rule that the scripts are tested against.

// PlanDraws takes amount from the live grants in drain order, up to the first that stops. It returns nil when they do
// not suffice.
func PlanDraws(grants []Grant, amount Credits, nowMs int64) []Draw {
	var draws []Draw
	for _, g := range grants {
		if amount == 0 {
			break
		}
		if take := min(amount, g.Available); take > 0 && g.Live(nowMs) {
			draws = append(draws, Draw{Grant: g.ID, Amount: take})
			amount -= take
		}
		if g.Stops && g.Live(nowMs) {
			break
		}
	}
	if amount > 0 {
		return nil
	}
	return draws
}

// PlanCharge splits draws (in drain order) so that charged is kept and the rest returned. Returned first: draws on
// grants that have not expired, since a return to an expired grant lapses; among those, draws with a price paid;
// then the last drained.
func PlanCharge(draws []Draw, grants []Grant, charged Credits, nowMs int64) []Draw {
	out := slices.Clone(draws)
	back := -charged
	for i := range out {
		out[i].Charged = out[i].Amount
		back += out[i].Amount
	}
	for _, i := range returnOrder(out, grants, nowMs) {
		give := min(back, out[i].Amount)
		out[i].Charged -= give
		back -= give
	}
	return out
}

func returnOrder(draws []Draw, grants []Grant, nowMs int64) []int {
	weight := func(i int) int {
		g := grants[slices.IndexFunc(grants, func(g Grant) bool { return g.ID == draws[i].Grant })]
		w := i
		if g.Paid {
			w += GrantsMax
		}
		if nowMs < g.ExpiresMs {
			w += 2 * GrantsMax
		}
		return w
	}
	order := make([]int, len(draws))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return weight(b) - weight(a) })
	return order
}
