package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Summary is what `creditgate policy check` prints: all that a policy says, in tables.
func (p *Policy) Summary() string {
	var b strings.Builder
	unmatched := "refuse"
	if p.Pass {
		unmatched = "pass"
	}
	cycle := "none"
	if p.Cycle != nil {
		cycle = p.Cycle.String()
	}
	fmt.Fprintf(&b, "policy     %s, version %s\n", p.Name, p.version)
	fmt.Fprintf(&b, "timezone   %s\n", p.Location)
	fmt.Fprintf(&b, "buckets    %s (drained in this order)\n", strings.Join(p.Buckets, ", "))
	fmt.Fprintf(&b, "cycle      %s\n", cycle)
	fmt.Fprintf(&b, "unmatched  %s\n", unmatched)
	for _, rows := range [][][]string{
		p.planRows(), p.promotionRows(), p.packRows(), p.operationRows(), p.requireRows(), p.settingRows(), p.assumptionRows(),
	} {
		if len(rows) > 1 {
			b.WriteString("\n" + aligned(rows))
		}
	}
	return b.String()
}

// aligned is rows in columns.
func aligned(rows [][]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t")) // neither w nor b can fail: both write to memory
	}
	_ = w.Flush()
	return b.String()
}

func (p *Policy) planRows() [][]string {
	rows := [][]string{{"PLAN", "EVERY CYCLE", "PROMOTIONS", "MAY BUY"}}
	for _, pl := range p.Plans {
		var every []string
		for _, c := range pl.Contingents {
			every = append(every, c.Bucket+" "+c.String())
		}
		rows = append(rows, []string{
			pl.Name, listed(every), listed(promotionNames(pl.Promotions)), listed(packNames(pl.Packs)),
		})
	}
	return rows
}

// String says what every cycle brings.
func (c Contingent) String() string {
	switch {
	case c.Stops:
		return "unlimited, refused beyond " + c.Amount.String()
	case c.Unlimited:
		return "unlimited, beyond " + c.Amount.String() + " the next bucket pays"
	}
	return c.Amount.String()
}

func (p *Policy) promotionRows() [][]string {
	rows := [][]string{{"PROMOTION", "BUCKET", "CREDITS", "FROM", "LAST DAY"}}
	for _, m := range p.Promotions {
		rows = append(rows, []string{m.Name, m.Bucket, m.gives(), m.Starts.Format(time.DateOnly), m.lastDay()})
	}
	return rows
}

func (m *Promotion) gives() string {
	if m.PerCycle {
		return m.Amount.String() + " in each cycle"
	}
	return m.Amount.String() + " once"
}

// lastDay is the day before Ends.
func (m *Promotion) lastDay() string { return m.Ends.Add(-time.Nanosecond).Format(time.DateOnly) }

func (p *Policy) packRows() [][]string {
	rows := [][]string{{"PACK", "BUCKET", "CREDITS", "PRICE", "A CREDIT", "DISCOUNT", "VALID", "REFUND", "FOR"}}
	for _, k := range p.Packs {
		discount, refund := "-", "no"
		if percent := k.DiscountPercent(p.smallest(k)); percent > 0 {
			discount = strconv.Itoa(percent) + " %"
		}
		if k.Refundable {
			refund = "yes"
		}
		rows = append(rows, []string{
			k.Name, k.Bucket, k.Credits.String(), k.Price.String(), k.UnitPrice(), discount,
			k.Lifetime.Words(p.Location), refund, p.buyers(k),
		})
	}
	return rows
}

// buyers are the plans that have k on their list; with it on none, whoever it is sold to.
func (p *Policy) buyers(k *Pack) string {
	var out []string
	for _, pl := range p.Plans {
		if slices.Contains(pl.Packs, k) {
			out = append(out, pl.Name)
		}
	}
	switch {
	case len(out) > 0:
		return listed(out)
	case k.NeedsSubscription:
		return "every subscriber"
	}
	return "everybody"
}

// smallest is the pack that k's discount is measured by: the first of the first list that has it.
func (p *Policy) smallest(k *Pack) *Pack {
	for _, pl := range p.Plans {
		if slices.Contains(pl.Packs, k) {
			return pl.Packs[0]
		}
	}
	return slices.MinFunc(p.Packs, func(a, b *Pack) int { return int(a.Credits - b.Credits) })
}

func (p *Policy) operationRows() [][]string {
	rows := [][]string{{"OPERATION", "MATCH", "UNITS", "MAX", "CREDITS PER UNIT", "AT MOST", "DELIVERED"}}
	for _, o := range p.Operations {
		units, most, limit, delivered := o.unitsText(), o.MaxQuote().Credits.String(), strconv.Itoa(int(o.Max)), o.DeliveredRule()
		switch {
		case o.AtZeroRefuse:
			units, most, limit, delivered = "-", "free, refused at 0", "-", "-"
		case o.Free():
			units, most, limit, delivered = "-", "free", "-", "-"
		case delivered == "":
			delivered = "all on 2xx"
		}
		rows = append(rows, []string{o.Name, o.Method + " " + o.Path, units, limit, o.creditsText(), most, delivered})
	}
	return rows
}

func (p *Policy) requireRows() [][]string {
	rows := [][]string{{"OPERATION", "REQUIRES", "OR 400, WHICH SAYS"}}
	for _, o := range p.Operations {
		for _, r := range o.require {
			rows = append(rows, []string{o.Name, r.that.source, r.orElse})
		}
	}
	return rows
}

// settingRows are the settings that have a meaning for what the policy has, and what people are told and when.
func (p *Policy) settingRows() [][]string {
	rows := [][]string{{"SETTING", "VALUE", "NOTE"}}
	for n, s := range p.Rules.settings() {
		if usual := (Rules{}).settings()[n].value; len(p.Packs) > 0 && strings.HasPrefix(s.name, "purchases.") ||
			len(p.Plans) > 0 && strings.HasPrefix(s.name, "subscriptions.") {
			note := "default"
			if usual != s.value {
				note = "default: " + usual
			}
			rows = append(rows, []string{s.name, s.value, note})
		}
	}
	days := func(name string, n int, note string) {
		if n > 0 {
			rows = append(rows, []string{name, strconv.Itoa(n), note})
		}
	}
	percents := func(name string, list []int, note string) {
		if len(list) > 0 {
			rows = append(rows, []string{name, strings.Trim(fmt.Sprint(list), "[]"), note})
		}
	}
	days("advice.wait_days", p.Rules.WaitDays, "days: a reset that near is worth waiting for")
	percents("events.low", p.Notices.LowPercent, "percent left")
	days("events.expiring_days", p.Notices.ExpiringDays, "days ahead")
	percents("events.fair_use", p.Notices.FairUsePercent, "percent of the cap used")
	days("events.promotion_ending_days", p.Notices.PromotionEnding, "days ahead")
	return rows
}

// assumptionRows are what the file says it assumes, and then what its settings, or their defaults, decide.
func (p *Policy) assumptionRows() [][]string {
	rows := [][]string{{"ASSUMPTION", "VALUE"}}
	for _, a := range p.Assumptions {
		rows = append(rows, []string{a.Rule, a.Value})
	}
	return append(rows, p.decided()...)
}

func listed(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ", ")
}
