package policy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Bounds of settings.
const (
	packsPerPlanMax = packsMax
	daysMax         = 366 // that a notice or an advice looks ahead
	thresholdsMax   = 8   // of one notice
	assumptionsMax  = 256
	assumptionMax   = 200 // characters of one value
)

func (d *draft) decodeSubscriptions(i item) {
	keys, _ := i.fields("a mapping such as {slots_up: at_once}", "slots_up")
	if s, ok := keys["slots_up"]; ok {
		d.Rules.SlotsUpNextCycle = s.choice("at_once", "next_cycle") == "next_cycle"
	}
}

func (d *draft) decodePurchases(i item) {
	keys, _ := i.fields("a mapping such as {grant_on: invoice}", "grant_on", "on_overdue", "clawback", "while_credit_left",
		"packs_per_plan", "discounts", "volume_discount")
	if g, ok := keys["grant_on"]; ok {
		d.Rules.GrantOnPayment = g.choice("invoice", "payment") == "payment"
	}
	if o, ok := keys["on_overdue"]; ok {
		word := o.choice("keep", "freeze", "revoke")
		switch word {
		case "freeze":
			d.Rules.OnOverdue = FreezeOverdue
		case "revoke":
			d.Rules.OnOverdue = RevokeOverdue
		}
		if d.Rules.GrantOnPayment && d.Rules.OnOverdue != KeepOverdue {
			o.failf("has no effect with grant_on: payment, where nothing is granted before it is paid; remove it")
		}
	}
	if c, ok := keys["clawback"]; ok {
		d.Rules.WriteOff = c.choice("debt", "write_off") == "write_off"
	}
	if w, ok := keys["while_credit_left"]; ok {
		d.Rules.RefuseWhile = w.choice("allow", "refuse") == "refuse"
	}
	if n, ok := keys["packs_per_plan"]; ok {
		if d.Rules.PacksPerPlan, ok = n.whole(1, packsPerPlanMax); ok && !d.hasPlans {
			n.failf("has no effect without plans; describe plans, or remove it")
		}
	}
	if w, ok := keys["discounts"]; ok {
		d.Rules.Discounts = w.choice("none", "allowed") == "allowed"
	}
	if w, ok := keys["volume_discount"]; ok {
		d.Rules.VolumeDiscount = w.choice("optional", "required") == "required"
	}
}

func (d *draft) decodeAdvice(i item) {
	keys, _ := i.fields("a mapping such as {wait_days: 7}", "wait_days")
	if w, ok := keys["wait_days"]; ok {
		d.Rules.WaitDays, _ = w.whole(0, daysMax)
	}
}

func (d *draft) decodeNotices(i item) {
	keys, _ := i.fields("a mapping such as {low: [20, 5]}", "low", "expiring_days", "fair_use", "promotion_ending_days")
	if l, ok := keys["low"]; ok {
		d.Notices.LowPercent = decodePercents(l)
		slices.Reverse(d.Notices.LowPercent) // in the order in which they are met
	}
	if e, ok := keys["expiring_days"]; ok {
		d.Notices.ExpiringDays, _ = e.whole(1, daysMax)
	}
	if f, ok := keys["fair_use"]; ok {
		d.Notices.FairUsePercent = decodePercents(f)
	}
	if p, ok := keys["promotion_ending_days"]; ok {
		d.Notices.PromotionEnding, _ = p.whole(1, daysMax)
	}
}

// decodePercents reads thresholds, which it returns ascending.
func decodePercents(i item) []int {
	list, ok := i.list("a list of percentages, such as [20, 5]")
	switch {
	case ok && len(list) == 0:
		i.failf("is empty; write percentages such as [20, 5], or remove the key")
	case len(list) > thresholdsMax:
		i.failf("has %d thresholds; %d are the most", len(list), thresholdsMax)
	}
	var out []int
	for _, p := range list {
		n, ok := p.whole(1, 100)
		if ok && slices.Contains(out, n) {
			p.failf("%d is there twice; keep one", n)
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// decodeAssumptions reads the decisions that a policy made where its product's description leaves them open. They are
// shown to people; the rule itself stands elsewhere in the file.
func (d *draft) decodeAssumptions(i item) {
	entries, ok := i.mapping("a mapping of rules to values, such as {B15: day 1}")
	switch {
	case ok && len(entries) == 0:
		i.failf("is empty; remove the key")
	case len(entries) > assumptionsMax:
		i.failf("has %d rules; %d are the most", len(entries), assumptionsMax)
	}
	for _, e := range entries {
		if !isRuleID(e.key) {
			e.at = e.keyAt
			e.failf("is not a rule's id; write a capital letter and a number, such as B13")
			continue
		}
		if !e.plain() {
			continue
		}
		var value string
		switch n := e.node.(type) {
		case *ast.StringNode:
			value = n.Value
		case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
			value = n.GetToken().Value
		default:
			e.failf("must be a short text, not %s", kindOf(e.node))
			continue
		}
		if value = strings.TrimSpace(value); value == "" || len(value) > assumptionMax || strings.ContainsAny(value, "\n\t") {
			e.failf("must be one line of 1 to %d characters; keep longer thoughts in a comment", assumptionMax)
		}
		d.Assumptions = append(d.Assumptions, Assumption{Rule: e.key, Value: value})
	}
	slices.SortFunc(d.Assumptions, func(a, b Assumption) int {
		return cmp.Or(cmp.Compare(a.Rule[0], b.Rule[0]), cmp.Compare(len(a.Rule), len(b.Rule)), cmp.Compare(a.Rule, b.Rule))
	})
}

// isRuleID reports whether s is a capital letter and a number without leading zero, such as B13.
func isRuleID(s string) bool {
	return len(s) >= 2 && len(s) <= 5 && s[0] >= 'A' && s[0] <= 'Z' && s[1] != '0' && wholeDigits(s[1:])
}

// setting is one of Rules as a policy writes it.
type setting struct{ name, value string }

// settings are all of them, in the order of the file, for summaries, differences and the version. Advice is not among
// them: it changes no balance.
func (r Rules) settings() []setting {
	pick := func(on bool, other, usual string) string {
		if on {
			return other
		}
		return usual
	}
	packs := "any number"
	if r.PacksPerPlan > 0 {
		packs = strconv.Itoa(r.PacksPerPlan)
	}
	overdue := map[OnOverdue]string{KeepOverdue: "keep", FreezeOverdue: "freeze", RevokeOverdue: "revoke"}[r.OnOverdue]
	return []setting{
		{"subscriptions.slots_up", pick(r.SlotsUpNextCycle, "next_cycle", "at_once")},
		{"purchases.grant_on", pick(r.GrantOnPayment, "payment", "invoice")},
		{"purchases.on_overdue", overdue},
		{"purchases.clawback", pick(r.WriteOff, "write_off", "debt")},
		{"purchases.while_credit_left", pick(r.RefuseWhile, "refuse", "allow")},
		{"purchases.packs_per_plan", packs},
		{"purchases.discounts", pick(r.Discounts, "allowed", "none")},
		{"purchases.volume_discount", pick(r.VolumeDiscount, "required", "optional")},
	}
}
