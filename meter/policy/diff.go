package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"creditgate/meter"
)

// Change is one thing that is different between two policies, and who notices.
type Change struct {
	Who  string // everybody, plan professional, operation apply; the summary's order
	What string // monthly at 10 slots, pack plus-50
	Old  string // "-" if it was not there
	New  string // "-" if it is gone
}

const absent = "-"

// changes collects differences.
type changes struct {
	who  string
	zone *time.Location // in which dates are shown
	list []Change
}

func (c *changes) add(what, old, now string) {
	if old != now {
		c.list = append(c.list, Change{Who: c.who, What: what, Old: old, New: now})
	}
}

// Diff is what changes, for whom, when now takes the place of old: first what touches everybody, then plan by plan, then
// those who use an operation. It compares what the rules come to, not how they are written.
func Diff(old, now *Policy) []Change {
	c := &changes{who: "everybody", zone: now.Location}
	c.add("product", old.Name, now.Name)
	c.add("timezone", old.Location.String(), now.Location.String())
	c.add("buckets, in drain order", strings.Join(old.Buckets, ", "), strings.Join(now.Buckets, ", "))
	c.add("cycle", cycleText(old.Cycle), cycleText(now.Cycle))
	c.add("unmatched", unmatchedText(old), unmatchedText(now))
	usual := now.Rules.settings()
	for n, s := range old.Rules.settings() {
		c.add(s.name, s.value, usual[n].value)
	}
	c.add("advice.wait_days", strconv.Itoa(old.Rules.WaitDays), strconv.Itoa(now.Rules.WaitDays))
	c.packs(openPacks(old), openPacks(now))
	for _, name := range union(old.Plans, now.Plans, (*Plan).name) {
		c.plan(name, old, now)
	}
	for _, name := range union(old.Operations, now.Operations, operationName) {
		c.operation(name, old, now)
	}
	return c.list
}

func (c *changes) plan(name string, old, now *Policy) {
	c.who = "plan " + name
	was, had := old.Plan(name)
	is, has := now.Plan(name)
	switch {
	case !had:
		was = &Plan{}
		c.add("the plan", absent, "new")
	case !has:
		is = &Plan{}
		c.add("the plan", "offered", "removed")
	}
	for _, bucket := range union(was.Contingents, is.Contingents, func(k Contingent) string { return k.Bucket }) {
		c.contingent(bucket, was.contingent(bucket), is.contingent(bucket))
	}
	for _, name := range union(was.Promotions, is.Promotions, (*Promotion).name) {
		c.promotion(name, find(was.Promotions, name, (*Promotion).name), find(is.Promotions, name, (*Promotion).name))
	}
	c.packs(was.Packs, is.Packs)
}

// contingent compares at a small, a usual and a large subscription, or once where slots make no difference.
func (c *changes) contingent(bucket string, old, now *Contingent) {
	const small, usual, large = 1, 10, 100
	flat := func(k *Contingent) bool { return contingentText(k, small) == contingentText(k, large) }
	if flat(old) && flat(now) {
		c.add(bucket, contingentText(old, small), contingentText(now, small))
		return
	}
	seen := len(c.list)
	for _, slots := range [...]uint32{small, usual, large} {
		noun := "slots"
		if slots == 1 {
			noun = "slot"
		}
		c.add(fmt.Sprintf("%s with %d %s", bucket, slots, noun), contingentText(old, slots), contingentText(now, slots))
	}
	if len(c.list) == seen && old != nil && now != nil { // it may come to something else in between
		c.add(bucket+", as written", old.String(), now.String())
	}
}

func (c *changes) packs(old, now []*Pack) {
	for _, name := range union(old, now, (*Pack).name) {
		c.pack(name, find(old, name, (*Pack).name), find(now, name, (*Pack).name))
	}
}

func (c *changes) promotion(name string, old, now *Promotion) {
	what := "promotion " + name
	switch {
	case old == nil:
		c.add(what, absent, now.gives()+", "+now.window())
	case now == nil:
		c.add(what, old.gives()+", "+old.window(), absent)
	default:
		c.add(what, old.gives(), now.gives())
		c.add(what+", bucket", old.Bucket, now.Bucket)
		c.add(what+", days", old.window(), now.window())
	}
}

func (c *changes) pack(name string, old, now *Pack) {
	what := "pack " + name
	switch {
	case old == nil:
		c.add(what, absent, now.offer())
	case now == nil:
		c.add(what, old.offer(), absent)
	default:
		c.add(what, old.offer(), now.offer())
		c.add(what+", bucket", old.Bucket, now.Bucket)
		c.add(what+", valid", old.Lifetime.Words(c.zone), now.Lifetime.Words(c.zone))
		c.add(what+", refundable", strconv.FormatBool(old.Refundable), strconv.FormatBool(now.Refundable))
		c.add(what+", needs a subscription", strconv.FormatBool(old.NeedsSubscription), strconv.FormatBool(now.NeedsSubscription))
	}
}

func (c *changes) operation(name string, old, now *Policy) {
	c.who = "operation " + name
	was, is := find(old.Operations, name, operationName), find(now.Operations, name, operationName)
	switch {
	case was == nil:
		c.add(is.Method+" "+is.Path, absent, is.priceText())
		return
	case is == nil:
		c.add(was.Method+" "+was.Path, was.priceText(), absent)
		return
	}
	c.add("route", was.Method+" "+was.Path, is.Method+" "+is.Path)
	c.add("price", was.priceText(), is.priceText())
	c.add("requires", was.requireText(), is.requireText())
	c.add("units", was.unitsText(), is.unitsText())
	c.add("units at most", strconv.Itoa(int(was.Max)), strconv.Itoa(int(is.Max)))
	c.add("delivered", was.DeliveredRule(), is.DeliveredRule())
}

// Changes is the table that `creditgate policy diff` prints.
func Changes(old, now *Policy) string {
	list := Diff(old, now)
	var b strings.Builder
	fmt.Fprintf(&b, "%s, version %s → %s\n", now.Name, old.version, now.version)
	if len(list) == 0 {
		b.WriteString("\nNo rule changes.\n")
		return b.String()
	}
	rows := [][]string{{"FOR", "WHAT", "OLD", "NEW"}}
	for n, c := range list {
		who := c.Who
		if n > 0 && list[n-1].Who == who {
			who = ""
		}
		rows = append(rows, []string{who, c.What, cmp.Or(c.Old, absent), cmp.Or(c.New, absent)})
	}
	b.WriteString("\n" + aligned(rows))
	return b.String()
}

// union is the names in either list: those of old in their order, then what is new.
func union[T any](old, now []T, name func(T) string) []string {
	var out []string
	for _, v := range slices.Concat(old, now) {
		if n := name(v); !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func cycleText(c *Cycle) string {
	if c == nil {
		return absent
	}
	return c.String()
}

func unmatchedText(p *Policy) string {
	if p.Pass {
		return "pass"
	}
	return "refuse"
}

// contingent is what a bucket gets, nil if nothing.
func (pl *Plan) contingent(bucket string) *Contingent {
	i := slices.IndexFunc(pl.Contingents, func(c Contingent) bool { return c.Bucket == bucket })
	if i < 0 {
		return nil
	}
	return &pl.Contingents[i]
}

func contingentText(c *Contingent, slots uint32) string {
	if c == nil {
		return absent
	}
	fixed := *c
	fixed.Amount = FixedAmount(c.Amount.For(slots))
	return fixed.String()
}

func (m *Promotion) window() string { return m.Starts.Format(time.DateOnly) + " to " + m.lastDay() }

func (k *Pack) offer() string { return k.Credits.String() + " for " + k.Price.String() }

// openPacks are those that no plan lists, so that no plan tells who may buy them.
func openPacks(p *Policy) []*Pack {
	return slices.DeleteFunc(slices.Clone(p.Packs), func(k *Pack) bool {
		return slices.ContainsFunc(p.Plans, func(pl *Plan) bool { return slices.Contains(pl.Packs, k) })
	})
}

func operationName(o *Operation) string { return o.Name }

// find is the one of that name, nil if there is none.
func find[T any](list []*T, name string, of func(*T) string) *T {
	i := slices.IndexFunc(list, func(v *T) bool { return of(v) == name })
	if i < 0 {
		return nil
	}
	return list[i]
}

func (o *Operation) priceText() string {
	switch {
	case o.AtZeroRefuse:
		return "free, refused at 0"
	case o.Free():
		return "free"
	case o.credits == nil && o.fixed == meter.Credit:
		return "1 credit a unit"
	}
	return o.creditsText() + " credits a unit"
}
