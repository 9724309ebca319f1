package policy

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// every is a policy that uses each key, most of them away from their default.
const every = `
name: every
timezone: America/New_York
buckets: [promo, monthly, purchased]
cycle: {anchor: {day_of_month: 31}, at: "06:30"}
plans:
  all:  {monthly: {unlimited: true, fair_use: slots * 500, after_cap: draw}, promo: [launch, spring], packs: [small, large]}
  some: {purchased: {credits: 7}, monthly: {credits: "min(slots * 2.5, 100)"}, packs: [small]}
  cap:  {monthly: {unlimited: true, fair_use: 9}}
promotions:
  launch: {bucket: promo, starts: 2026-01-31, lasts: 1mo, credits: slots * 10, per: cycle}
  spring: {bucket: promo, starts: 2026-03-01, lasts: 30d, credits: 5, per: window}
packs:
  small: {bucket: purchased, credits: 12.5, price: 10 JPY, expires: {at: 2030-01-01}, refundable: true}
  large: {bucket: monthly, credits: 50, price: 30 JPY, expires: next_renewal, needs_subscription: true, buy_url: https://x.example/a}
subscriptions: {slots_up: next_cycle}
purchases: {grant_on: invoice, on_overdue: freeze, clawback: write_off, while_credit_left: refuse, discounts: allowed}
advice: {wait_days: 7}
events: {low: [5, 20], expiring_days: 14, fair_use: [100, 80], promotion_ending_days: 3}
operations:
  apply: {match: POST /apply, credits: 1}
  report: {match: POST /report, credits: 0, at_zero: refuse}
assumptions: {B15: day 31, A2: 3, B3: true}
`

func TestParseReadsEveryKey(t *testing.T) {
	t.Parallel()
	p, err := Parse("every.yaml", []byte(every))
	require.NoError(t, err)
	newYork := p.Location
	require.Equal(t, "America/New_York", newYork.String())
	require.Equal(t, &Cycle{DayOfMonth: 31, At: 6*time.Hour + 30*time.Minute}, p.Cycle)

	small, large, launch, spring := p.Packs[0], p.Packs[1], p.Promotions[0], p.Promotions[1]
	require.Equal(t, &Pack{
		Name: "small", Bucket: "purchased", Rank: 2, Credits: 12_500, Price: Money{10, "JPY"}, Refundable: true,
		Lifetime: Lifetime{Kind: AtDate, At: time.Date(2030, 1, 1, 0, 0, 0, 0, newYork)},
	}, small)
	require.Equal(t, &Pack{
		Name: "large", Bucket: "monthly", Rank: 1, Credits: 50_000, Price: Money{30, "JPY"}, Lifetime: Lifetime{Kind: NextRenewal},
		NeedsSubscription: true, BuyURL: "https://x.example/a",
	}, large)
	require.Equal(t, time.Date(2026, 1, 31, 0, 0, 0, 0, newYork), launch.Starts)
	require.Equal(t, time.Date(2026, 2, 28, 0, 0, 0, 0, newYork), launch.Ends)
	require.True(t, launch.PerCycle)
	require.Equal(t, time.Date(2026, 3, 31, 0, 0, 0, 0, newYork), spring.Ends, "days are local days, one of them of 23 hours")
	require.False(t, spring.PerCycle)

	all, some, capped := p.Plans[0], p.Plans[1], p.Plans[2]
	require.Equal(t, []*Promotion{launch, spring}, all.Promotions)
	require.Equal(t, []*Pack{small, large}, all.Packs)
	require.True(t, all.Contingents[0].Unlimited)
	require.False(t, all.Contingents[0].Stops)
	require.True(t, capped.Contingents[0].Stops)
	require.Equal(t, 5000*meter.Credit, all.Contingents[0].Amount.For(10))
	require.Equal(t, []string{"monthly", "purchased"}, []string{some.Contingents[0].Bucket, some.Contingents[1].Bucket},
		"contingents come in drain order")
	require.Equal(t, uint8(2), some.Contingents[1].Rank)
	require.Equal(t, meter.Credits(2500), some.Contingents[0].Amount.For(1))
	require.Equal(t, 100*meter.Credit, some.Contingents[0].Amount.For(SlotsMax))

	require.Equal(t, Rules{
		SlotsUpNextCycle: true, OnOverdue: FreezeOverdue, WriteOff: true, RefuseWhile: true, Discounts: true, WaitDays: 7,
	}, p.Rules)
	require.Equal(t, Notices{
		LowPercent: []int{20, 5}, ExpiringDays: 14, FairUsePercent: []int{80, 100}, PromotionEnding: 3,
	}, p.Notices)
	require.Equal(t, []Assumption{{"A2", "3"}, {"B3", "true"}, {"B15", "day 31"}}, p.Assumptions)
	require.True(t, p.Operations[1].AtZeroRefuse)
	require.False(t, p.Operations[0].AtZeroRefuse)
}

// The version changes with each rule and with nothing else, and diff sees what the version sees.
func TestVersionCoversRules(t *testing.T) {
	t.Parallel()
	read := func(src string) *Policy {
		p, err := Parse("p.yaml", []byte(src))
		require.NoError(t, err)
		return p
	}
	base := read(every)
	edit := func(changes ...string) string {
		for i := 0; i < len(changes); i += 2 {
			require.Equal(t, 1, strings.Count(every, changes[i]), "%q must be one place", changes[i])
		}
		return strings.NewReplacer(changes...).Replace(every)
	}
	seen := map[string]bool{base.Version(): true}
	for _, rule := range [][]string{
		{"name: every", "name: other"},
		{"America/New_York", "America/Chicago"},
		{"[promo, monthly, purchased]", "[monthly, promo, purchased]"},
		{"operations:", "unmatched: pass\noperations:"},
		{"POST /apply, credits: 1", "POST /apply, credits: 2"},
		{"day_of_month: 31", "day_of_month: 30"},
		{"06:30", "06:31"},
		{`{anchor: {day_of_month: 31}, at: "06:30"}`, "{anchor: subscription_start}"},
		{"slots * 500", "slots * 501"},
		{"fair_use: 9}", "fair_use: 9, after_cap: draw}"},
		{"min(slots * 2.5, 100)", "slots > 10 && slots < 30 ? 1 : min(slots * 2.5, 100)"},
		{"packs: [small]}", "packs: [small, large]}"},
		{"credits: 7", "credits: 8"},
		{"{purchased: {credits: 7}, ", "{"},
		{"2026-01-31", "2026-01-30"},
		{"1mo", "2mo"},
		{"credits: slots * 10", "credits: slots * 11"},
		{"per: window", "per: cycle"},
		{"credits: 12.5", "credits: 12.501"},
		{"10 JPY", "11 JPY"},
		{"2030-01-01", "2030-01-02"},
		{"refundable: true", "refundable: false"},
		{"refundable: true}", "refundable: true, needs_subscription: true}"},
		{"{unlimited: true, fair_use: slots * 500, after_cap: draw}", "{credits: slots * 500}"},
		{"large: {bucket: monthly", "large: {bucket: purchased"},
		{"slots_up: next_cycle", "slots_up: at_once"},
		{"on_overdue: freeze", "on_overdue: revoke"},
		{"clawback: write_off", "clawback: debt"},
		{"while_credit_left: refuse", "while_credit_left: allow"},
		{"discounts: allowed", "discounts: none"},
		{"grant_on: invoice, on_overdue: freeze", "grant_on: payment"},
		{"at_zero: refuse", "at_zero: pass"},
		{"  cap: ", "  other: "},
	} {
		p := read(edit(rule...))
		require.NotContains(t, seen, p.Version(), rule)
		seen[p.Version()] = true
		require.NotEmpty(t, Diff(base, p), "a rule changes, and diff does not say so: %v", rule)
	}
	for _, other := range [][]string{
		{"wait_days: 7", "wait_days: 3"},
		{"expiring_days: 14", "expiring_days: 3"},
		{"low: [5, 20]", "low: [50]"},
		{"x.example/a", "x.example/b"},
		{"B15: day 31", "B15: day 30"},
		{", A2: 3, B3: true", ""},
		{"slots * 500, ", "slots * 500,    "},
		{"[launch, spring]", "[spring, launch]"},
		{"price: 10 JPY, ", "", "refundable: true}", "refundable: true, price: 10 JPY}"},
	} {
		require.Equal(t, base.Version(), read(edit(other...)).Version(), other)
	}
}

// The parts of a policy that has none of them leave its version as it was before they existed.
func TestVersionOfPricesAloneStays(t *testing.T) {
	t.Parallel()
	require.Equal(t, "2e8aaf44a8c5", parse(t, "  x: {match: POST /x, credits: 1}\n").Version())
}

func TestAmounts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[uint32]meter.Credits{
		"500":                           {0: 500_000, 7: 500_000},
		"0.001":                         {7: 1},
		"slots * 10":                    {0: 0, 1: 10_000, SlotsMax: 10_000_000_000, SlotsMax + 1: 10_000_000_000},
		"slots * 0.1":                   {3: 300, 7: 700},
		"slots / 3":                     {1: 333, 2: 667, 3: 1000},
		"slots > 100 ? 5 : slots * 10":  {100: 1_000_000, 101: 5000},
		"max(0, slots - 5)":             {4: 0, 6: 1000},
		"ceil(slots / 7) * 2":           {1: 2000, 8: 4000},
		"let x = slots * 2; min(x, 10)": {4: 8000, 50: 10_000},
	} {
		value := "'" + text + "'"
		if wholeDigits(strings.Replace(text, ".", "", 1)) { // numbers stand without quotes
			value = text
		}
		p, err := Parse("p.yaml", []byte("name: p\nbuckets: [a]\ncycle: {anchor: subscription_start}\nplans: {x: {a: {credits: "+
			value+"}}}\noperations: {o: {match: POST /o, credits: 1}}\n"))
		require.NoError(t, err, text)
		a := p.Plans[0].Contingents[0].Amount
		require.Equal(t, text, a.String())
		for slots, credits := range want {
			require.Equal(t, credits, a.For(slots), "%s of %d slots", text, slots)
		}
	}
	require.Equal(t, PerSlot(10*meter.Credit).For(7), FixedAmount(70*meter.Credit).For(3))
	require.Zero(t, Amount{}.For(7))
	read, err := Parse("every.yaml", []byte(strings.Replace(every, "min(slots * 2.5, 100)", "max(0, slots - 5)", 1)))
	require.NoError(t, err)
	require.True(t, read.Plans[1].UsesSlots(), "also where none and one slot give the same")
	require.False(t, read.Plans[2].UsesSlots())
	require.Equal(t, "slots * 10", PerSlot(10*meter.Credit).String())
}

// One amount serves every account of a plan at once.
func TestAmountsAreShared(t *testing.T) {
	t.Parallel()
	p, err := Parse("every.yaml", []byte(every))
	require.NoError(t, err)
	amount := p.Plans[1].Contingents[0].Amount
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for slots := range uint32(200) {
				if want := min(meter.Credits(slots)*2500, 100*meter.Credit); amount.For(slots) != want {
					t.Errorf("%s of %d slots is %s", amount, slots, amount.For(slots))
				}
			}
		})
	}
	group.Wait()
}

func TestUnitPriceAndDiscount(t *testing.T) {
	t.Parallel()
	pack := func(credits meter.Credits, minor int64, currency string) *Pack {
		return &Pack{Credits: credits, Price: Money{Minor: minor, Currency: currency}}
	}
	base := pack(50*meter.Credit, 4500, "EUR")
	for _, c := range []struct {
		pack    *Pack
		price   string
		unit    string
		percent int
	}{
		{base, "45.00 EUR", "0.90", 0},
		{pack(200*meter.Credit, 16000, "EUR"), "160.00 EUR", "0.80", 11},
		{pack(7*meter.Credit, 500, "EUR"), "5.00 EUR", "0.714286", 20},
		{pack(500, 1, "EUR"), "0.01 EUR", "0.02", 97},
		{pack(50*meter.Credit, 9000, "EUR"), "90.00 EUR", "1.80", 0}, // dearer: no discount, and no negative one
		{pack(1000*meter.Credit, 25, "JPY"), "25 JPY", "0.025", 0},   // of another currency
		{pack(meter.Credit, 1500, "KWD"), "1.500 KWD", "1.500", 0},
		{pack(amountMax*meter.Credit, priceMax, "EUR"), "10000000000.00 EUR", "0.10", 88},
	} {
		require.Equal(t, c.price, c.pack.Price.String())
		require.Equal(t, c.unit, c.pack.UnitPrice(), c.price)
		require.Equal(t, c.percent, c.pack.DiscountPercent(base), c.price)
	}
	require.Negative(t, pack(200*meter.Credit, 16000, "EUR").dearer(base))
	require.Zero(t, pack(100*meter.Credit, 9000, "EUR").dearer(base))
}

func TestSpans(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from string
		span Span
		want string
		text string
	}{
		{"2026-03-16", Span{Days: 28}, "2026-04-13", "4w"},
		{"2026-03-16", Span{Days: 30}, "2026-04-15", "30d"},
		{"2028-02-29", Span{Years: 1}, "2029-02-28", "1y"},
		{"2028-02-29", Span{Years: 4}, "2032-02-29", "4y"},
		{"2026-01-31", Span{Months: 1}, "2026-02-28", "1mo"},
		{"2026-08-31", Span{Months: 6}, "2027-02-28", "6mo"},
		{"2026-12-31", Span{Years: 1, Months: 2, Days: 1}, "2028-03-01", "1y2mo1d"},
	} {
		from, err := time.Parse(time.DateOnly, c.from)
		require.NoError(t, err)
		require.Equal(t, c.want, c.span.after(from).Format(time.DateOnly))
		require.Equal(t, c.text, c.span.String())
	}
}

// A pack that no plan lists is for everybody, or for every subscriber.
func TestPacksBesideThePlans(t *testing.T) {
	t.Parallel()
	p, err := Parse("studio.yaml", []byte(`
name: studio
buckets: [purchased]
plans:
  plus:  {packs: [mine]}
  basic: {packs: [other]}
packs:
  mine:  {bucket: purchased, credits: 50, price: 45.00 EUR}
  other: {bucket: purchased, credits: 60, price: 45.00 EUR}
  open:  {bucket: purchased, credits: 10, price: 10.00 EUR, needs_subscription: false}
  any:   {bucket: purchased, credits: 20, price: 20.00 EUR, needs_subscription: true}
operations:
  apply: {match: POST /apply, credits: 1}
`))
	require.NoError(t, err)
	for plan, want := range map[string][]string{"": {"open"}, "plus": {"open", "any", "mine"}, "basic": {"open", "any", "other"}} {
		require.Equal(t, want, packNames(p.PacksFor(plan, time.Now())), "plan %q", plan)
	}
	require.Regexp(t, `(?m)^open .* everybody$`, p.Summary())
	require.Regexp(t, `(?m)^any .* every subscriber$`, p.Summary())
	without := *p
	without.Packs = p.Packs[:2]
	require.Contains(t, Changes(&without, p), "pack open  -    10 for 10.00 EUR")
}
