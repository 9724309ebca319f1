package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// studio is a product with everything that a schedule can contain.
func studio(loc *time.Location, cycle *Cycle) *Policy {
	p := &Policy{Name: "studio", Location: loc, Buckets: []string{"promo", "monthly", "purchased"}, Cycle: cycle}
	p.Promotions = []*Promotion{
		{
			Name: "launch", Bucket: "promo", Amount: PerSlot(10 * meter.Credit), PerCycle: true,
			Starts: time.Date(2026, 3, 15, 23, 0, 0, 0, time.UTC), Ends: time.Date(2026, 4, 12, 22, 0, 0, 0, time.UTC),
		}, {
			Name: "party", Bucket: "promo", Amount: FixedAmount(7 * meter.Credit),
			Starts: time.Date(2026, 3, 15, 23, 0, 0, 0, time.UTC), Ends: time.Date(2026, 4, 12, 22, 0, 0, 0, time.UTC),
		},
	}
	p.Plans = []*Plan{
		{Name: "premium", Contingents: []Contingent{
			{Bucket: "monthly", Rank: 1, Amount: FixedAmount(20000 * meter.Credit), Unlimited: true, Stops: true},
		}},
		{
			Name: "plus", Contingents: []Contingent{{Bucket: "monthly", Rank: 1, Amount: PerSlot(10 * meter.Credit)}},
			Promotions: p.Promotions,
		},
		{Name: "pro", Contingents: []Contingent{{Bucket: "monthly", Rank: 1, Amount: PerSlot(5 * meter.Credit)}}},
		{Name: "basic"},
	}
	return p
}

// dues writes what is due from now on in a line each: credits, bucket, from and to on the policy's clocks.
func dues(p *Policy, due []Due) string {
	var b strings.Builder
	for _, d := range due {
		name, _, _ := strings.Cut(d.Key, " 2")
		flags := ""
		if d.Unlimited {
			flags = " unlimited"
		}
		fmt.Fprintf(&b, "%s %s %s to %s%s\n", d.Credits, name, d.EffectiveAt.In(p.Location).Format("06-01-02 15:04"),
			d.ExpiresAt.In(p.Location).Format("06-01-02 15:04"), flags)
	}
	return b.String()
}

func TestDue(t *testing.T) {
	t.Parallel()
	berlin := zone(t, "Europe/Berlin")
	day := func(text string) time.Time {
		at, err := time.ParseInLocation("2006-01-02 15:04", text, berlin)
		require.NoError(t, err)
		return at.UTC()
	}
	p := studio(berlin, &Cycle{DayOfMonth: 1})
	f := func(name string, h History, o []Override, from, to, want string) {
		t.Helper()
		require.Equal(t, strings.TrimSpace(strings.ReplaceAll(want, "\t", "")), strings.TrimSpace(dues(p, p.Due(h, o, nil, day(from), day(to)))), name)
	}
	start := day("2026-01-10 09:00")
	plus := Term{At: start, Plan: "plus", Slots: 2, Anchor: start}
	then := func(h History, at, plan string, slots uint32) History {
		return append(slices.Clone(h), Term{At: day(at), Plan: plan, Slots: slots, Anchor: start})
	}
	h := History{plus}
	f("three cycles", h, nil, "2026-01-10 09:00", "2026-03-02 00:00", `
		20 monthly 26-01-10 09:00 to 26-02-01 00:00
		20 monthly 26-02-01 00:00 to 26-03-01 00:00
		20 monthly 26-03-01 00:00 to 26-04-01 00:00`)
	f("a promotion overlaps two cycles, and summer time begins", h, nil, "2026-03-01 00:00", "2026-05-01 00:00", `
		20 monthly 26-03-01 00:00 to 26-04-01 00:00
		20 promotion launch 26-03-16 00:00 to 26-04-13 00:00
		7 promotion party 26-03-16 00:00 to 26-04-13 00:00
		20 promotion launch 26-04-01 00:00 to 26-04-13 00:00
		20 monthly 26-04-01 00:00 to 26-05-01 00:00`)
	late := History{{At: day("2026-04-10 12:00"), Plan: "plus", Slots: 3, Anchor: start}}
	f("who joins late gets all of it for fewer days", late, nil, "2026-04-10 12:00", "2026-05-01 00:00", `
		30 promotion launch 26-04-10 12:00 to 26-04-13 00:00
		7 promotion party 26-04-10 12:00 to 26-04-13 00:00
		30 monthly 26-04-10 12:00 to 26-05-01 00:00`)
	f("asked later: the same, as far as it is in force", late, nil, "2026-04-12 23:59", "2026-05-01 00:00", `
		30 promotion launch 26-04-10 12:00 to 26-04-13 00:00
		7 promotion party 26-04-10 12:00 to 26-04-13 00:00
		30 monthly 26-04-10 12:00 to 26-05-01 00:00`)
	f("more slots bring the difference", then(h, "2026-01-20 10:00", "plus", 5), nil, "2026-01-10 09:00", "2026-02-02 00:00", `
		20 monthly 26-01-10 09:00 to 26-02-01 00:00
		30 monthly 26-01-20 10:00 to 26-02-01 00:00
		50 monthly 26-02-01 00:00 to 26-03-01 00:00`)
	upDownUp := then(then(then(h, "2026-01-20 10:00", "plus", 5), "2026-01-21 10:00", "plus", 1), "2026-01-22 10:00", "plus", 6)
	f("up, down and up", upDownUp, nil, "2026-01-10 09:00", "2026-02-01 00:00", `
		20 monthly 26-01-10 09:00 to 26-02-01 00:00
		30 monthly 26-01-20 10:00 to 26-02-01 00:00
		10 monthly 26-01-22 10:00 to 26-02-01 00:00`)
	back := then(then(h, "2026-01-20 10:00", "", 0), "2026-01-25 10:00", "plus", 3)
	f("gone and back inside a cycle", back, nil, "2026-01-10 09:00", "2026-02-01 00:00", `
		20 monthly 26-01-10 09:00 to 26-02-01 00:00
		10 monthly 26-01-25 10:00 to 26-02-01 00:00`)
	f("the end", then(h, "2026-02-01 00:00", "", 0), nil, "2026-01-10 09:00", "2026-04-01 00:00", `
		20 monthly 26-01-10 09:00 to 26-02-01 00:00`)
	f("unlimited", then(h, "2026-02-10 00:00", "premium", 2), nil, "2026-02-01 00:00", "2026-03-02 00:00", `
		20 monthly 26-02-01 00:00 to 26-02-10 00:00
		20000 monthly 26-02-10 00:00 to 26-03-01 00:00 unlimited
		20000 monthly 26-03-01 00:00 to 26-04-01 00:00 unlimited`)
	f("a plan that the policy dropped", then(h, "2026-02-10 00:00", "gold", 2), nil, "2026-02-01 00:00", "2026-04-02 00:00", `
		20 monthly 26-02-01 00:00 to 26-03-01 00:00`)
	f("overrides", h, []Override{
		{Kind: Contingents, Target: "monthly", Credits: 100 * meter.Credit, From: day("2026-01-20 00:00"), Until: day("2026-03-01 00:00")},
		{Kind: FairUse, Target: "monthly", Credits: 500 * meter.Credit, From: day("2026-01-20 00:00")},
		{Kind: UnitCredits, Target: "monthly", Credits: 600 * meter.Credit, From: day("2026-01-20 00:00")},
	}, "2026-01-10 09:00", "2026-03-02 00:00", `
		20 monthly 26-01-10 09:00 to 26-02-01 00:00
		80 monthly 26-01-20 00:00 to 26-02-01 00:00
		100 monthly 26-02-01 00:00 to 26-03-01 00:00
		20 monthly 26-03-01 00:00 to 26-04-01 00:00`)

	p = studio(berlin, nil)
	p.Plans[1].Contingents = nil
	f("nothing but promotions", h, nil, "2026-01-01 00:00", "2026-06-01 00:00", `
		20 promotion launch 26-03-16 00:00 to 26-04-13 00:00
		7 promotion party 26-03-16 00:00 to 26-04-13 00:00`)
	f("no subscription", nil, nil, "2026-01-01 00:00", "2026-06-01 00:00", ``)
}

// A first cycle that the anchor cuts short ends there, also for who comes back within a month of its beginning: what it
// gave counts in no other one.
func TestACycleThatIsOverIsNotBridged(t *testing.T) {
	t.Parallel()
	at := func(month time.Month, day int) time.Time { return time.Date(2026, month, day, 0, 0, 0, 0, time.UTC) }
	p := studio(time.UTC, &Cycle{})
	h := History{{At: at(1, 10), Plan: "pro", Slots: 2, Anchor: at(1, 25)}}
	first := p.Due(h, nil, nil, at(1, 10), at(1, 11))
	require.Equal(t, "10 monthly 26-01-10 00:00 to 26-01-25 00:00\n", dues(p, first))
	given := []Given{{
		Key: first[0].Key, Bucket: "monthly", Credits: first[0].Credits, Used: first[0].Credits,
		EffectiveAt: at(1, 10), ExpiresAt: at(1, 25),
	}}
	h = append(h, Term{At: at(1, 25), Anchor: at(1, 25)}, Term{At: at(2, 1), Plan: "pro", Slots: 2, Anchor: at(2, 1)})
	runs, ok := p.Runs(h, given, at(2, 1))
	require.True(t, ok)
	require.Equal(t, Window{at(2, 1), at(3, 1)}, runs)
	for _, day := range []int{1, 15} {
		require.Equal(t, "10 monthly 26-02-01 00:00 to 26-03-01 00:00\n", dues(p, p.Due(h, nil, given, at(2, day), at(3, 1))))
	}
}

// Nor is a cycle bridged that was over before anybody came back, where the day of renewal was moved meanwhile. One that was
// lengthened by the move is, also when it was ended since.
func TestACycleThatNobodyLengthenedIsOver(t *testing.T) {
	t.Parallel()
	at := func(month time.Month, day int) time.Time { return time.Date(2026, month, day, 0, 0, 0, 0, time.UTC) }
	p := studio(time.UTC, &Cycle{DayOfMonth: 1})
	h := History{{At: at(1, 1), Plan: "pro", Slots: 2}, {At: at(2, 1)}, {At: at(2, 5), Plan: "pro", Slots: 2}}
	was := given(p.Due(h[:2], nil, nil, at(1, 1), at(1, 2)))
	require.Len(t, was, 1)
	p.Cycle.DayOfMonth = 15
	runs, _ := p.Runs(h, was, at(1, 20))
	require.Equal(t, Window{at(1, 1), at(2, 15)}, runs)
	runs, _ = p.Runs(h, was, at(2, 5))
	require.Equal(t, Window{at(1, 15), at(2, 15)}, runs)
	back := p.Due(h, nil, was, at(2, 5), at(2, 10))
	require.Equal(t, "10 monthly 26-02-05 00:00 to 26-02-15 00:00\n", dues(p, back))
	both := slices.Concat(was, given(back))
	require.Equal(t, dues(p, back), dues(p, p.Due(h, nil, both, at(2, 7), at(2, 10))), "once")
	was[0].ExpiresAt = at(2, 3)
	runs, _ = p.Runs(h, was, at(2, 5))
	require.Equal(t, Window{at(1, 1), at(2, 15)}, runs)
}

// Whose plan was over with its cycle is given nothing more of it, where the day of renewal is moved after that: the first
// cycle of the new day begins in time that was given. Nor does a promotion come once more.
func TestAPlanThatIsOverGivesNothingWhenTheDayIsMoved(t *testing.T) {
	t.Parallel()
	at := func(month time.Month, day int) time.Time { return time.Date(2026, month, day, 0, 0, 0, 0, time.UTC) }
	for what, then := range map[string]Term{
		"went to basic":                {At: at(4, 1), Plan: "basic"},
		"did not come back":            {At: at(4, 1)},
		"ended at once":                {At: at(3, 20)},
		"went to basic within a cycle": {At: at(3, 20), Plan: "basic"},
	} {
		p := studio(time.UTC, &Cycle{DayOfMonth: 1})
		h := History{{At: at(3, 1), Plan: "plus", Slots: 50}, then}
		was := given(p.Due(h, nil, nil, at(3, 1), at(3, 18)))
		require.Len(t, was, 3, what)
		p.Cycle.DayOfMonth = 15
		for _, day := range []int{3, 10, 14} {
			due := p.Due(h, nil, was, at(4, day), at(4, day+1))
			require.False(t, slices.ContainsFunc(due, func(d Due) bool { return !d.Begun }), "%s: %s", what, dues(p, due))
		}
		up := slices.Concat(h, History{{At: at(4, 10), Plan: "pro", Slots: 50}})
		require.Contains(t, dues(p, p.Due(up, nil, was, at(4, 10), at(4, 11))), "250 monthly 26-04-10 00:00 to 26-04-15 00:00")
	}
}

// An account that nobody looked at while its plan went on is given it from where what was given ended.
func TestAPlanThatGoesOnIsGivenWhenTheDayIsMoved(t *testing.T) {
	t.Parallel()
	at := func(month time.Month, day int) time.Time { return time.Date(2026, month, day, 0, 0, 0, 0, time.UTC) }
	p := studio(time.UTC, &Cycle{DayOfMonth: 1})
	h := History{{At: at(1, 1), Plan: "pro", Slots: 2}}
	was := given(p.Due(h, nil, nil, at(1, 1), at(1, 2)))
	p.Cycle.DayOfMonth = 15
	require.Equal(t, "10 monthly 26-02-01 00:00 to 26-02-15 00:00\n", dues(p, p.Due(h, nil, was, at(2, 3), at(2, 10))))
}

// given is what was due, as it was given, and used up.
func given(due []Due) []Given {
	out := make([]Given, len(due))
	for i, d := range due {
		out[i] = Given{
			Key: d.Key, Bucket: d.Bucket, Credits: d.Credits, Used: d.Credits, Unlimited: d.Unlimited, Stops: d.Stops,
			EffectiveAt: d.EffectiveAt, ExpiresAt: d.ExpiresAt,
		}
	}
	return out
}

// Who comes back to a cap that was used up is refused by it as before, and what was bought is not spent for that. A cap
// of nothing refuses, too. One that does not stop others gives nothing.
func TestAUsedUpCapStops(t *testing.T) {
	t.Parallel()
	at := func(day int) time.Time { return time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC) }
	p := studio(time.UTC, &Cycle{DayOfMonth: 1})
	h := History{{At: at(10), Plan: "premium"}, {At: at(15)}, {At: at(20), Plan: "premium"}}
	first := given(p.Due(h[:1], nil, nil, at(10), at(11)))
	first[0].ExpiresAt = at(15)
	back := p.Due(h, nil, first, at(20), at(21))
	require.Equal(t, "0.001 monthly 26-01-20 00:00 to 26-02-01 00:00 unlimited\n", dues(p, back))
	require.True(t, back[0].Stops)
	both := slices.Concat(first, given(back))
	require.Equal(t, dues(p, back), dues(p, p.Due(h, nil, both, at(21), at(22))), "once")
	more := []Override{{Kind: FairUse, Target: "monthly", Credits: 20100 * meter.Credit, From: at(22)}}
	require.Contains(t, dues(p, p.Due(h, more, both, at(22), at(23))), "99.999 monthly 26-01-22")

	none := []Override{{Kind: FairUse, Target: "monthly", From: at(1)}}
	require.Contains(t, dues(p, p.Due(h[:1], none, nil, at(10), at(11))), "0.001 monthly 26-01-10")
	p.Plans[0].Contingents[0].Stops, first[0].Stops = false, false
	require.Empty(t, p.Due(h, nil, first, at(20), at(21)))
}

// A reload that only says whether a used-up cap stops others leaves the caps in force as they are, until another plan
// begins.
func TestWhatACapStopsIsThePlansWhenItBegan(t *testing.T) {
	t.Parallel()
	at := func(day int) time.Time { return time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC) }
	for _, stops := range []bool{true, false} {
		p := studio(time.UTC, &Cycle{DayOfMonth: 1})
		p.Plans = append(p.Plans, &Plan{Name: "team", Contingents: slices.Clone(p.Plans[0].Contingents)})
		p.Plans[0].Contingents[0].Stops, p.Plans[len(p.Plans)-1].Contingents[0].Stops = stops, !stops
		h := History{{At: at(1), Plan: "premium"}}
		was := given(p.Due(h, nil, nil, at(1), at(2)))
		p.Plans[0].Contingents[0].Stops = !stops
		for _, day := range []int{5, 6} {
			due := p.Due(h, nil, was, at(day), at(day+1))
			require.Len(t, due, 1)
			require.True(t, due[0].Begun)
			require.Equal(t, at(32), due[0].ExpiresAt)
		}
		require.Equal(t, !stops, p.Due(h, nil, was, at(32), at(33))[0].Stops, "the next cycle's")
		due := p.Due(append(h, Term{At: at(7), Plan: "team"}), nil, was, at(7), at(8))
		require.Equal(t, at(7), due[0].ExpiresAt, "the plan that it was of is over")
	}
}

// A new amount of the policy counts from the next cycle on, whatever begins or ends in this one that leaves the amount as
// it is: a promotion, the price of an operation, payment by the year.
func TestANewAmountWaitsForTheNextCycle(t *testing.T) {
	t.Parallel()
	at := func(month time.Month, day int) time.Time { return time.Date(2026, month, day, 0, 0, 0, 0, time.UTC) }
	p := studio(time.UTC, &Cycle{DayOfMonth: 1})
	h := History{{At: at(3, 1), Plan: "plus", Slots: 2}, {At: at(3, 25), Plan: "plus", Slots: 2, Yearly: true}}
	was := given(p.Due(h[:1], nil, nil, at(3, 1), at(3, 20)))
	before := dues(p, p.Due(h[:1], nil, was, at(3, 20), at(3, 31)))
	require.Contains(t, before, "20 promotion launch")
	p.Plans[1].Contingents[0].Amount, p.Promotions[0].Amount = PerSlot(12*meter.Credit), PerSlot(12*meter.Credit)
	price := []Override{{Kind: UnitCredits, Target: "monthly", Credits: 1, From: at(3, 26), Until: at(3, 27)}}
	for _, day := range []int{20, 25, 26} {
		require.Equal(t, before, dues(p, p.Due(h, price, was, at(3, day), at(3, 31))), "on day %d", day)
	}
	h[1].Slots = 3
	require.Contains(t, dues(p, p.Due(h, price, was, at(3, 25), at(3, 31))), "16 monthly 26-03-25")
	require.Contains(t, dues(p, p.Due(h[:1], price, was, at(3, 20), at(4, 2))), "24 monthly 26-04-01")
}

// Who takes another plan, or agrees on another contingent, gets what that gives, though a reload has made the plan before as large.
func TestAnotherPlanCountsAtOnceAfterAReload(t *testing.T) {
	t.Parallel()
	at := func(day int) time.Time { return time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC) }
	p := studio(time.UTC, &Cycle{DayOfMonth: 1})
	h := History{{At: at(1), Plan: "plus", Slots: 3}, {At: at(20), Plan: "pro", Slots: 6}}
	was := given(p.Due(h[:1], nil, nil, at(1), at(10)))
	require.Contains(t, dues(p, p.Due(h[:1], nil, was, at(1), at(10))), "30 monthly 26-01-01")
	p.Plans[1].Contingents[0].Amount, p.Plans[2].Contingents[0].Amount = PerSlot(12*meter.Credit), PerSlot(6*meter.Credit)
	require.NotContains(t, dues(p, p.Due(h[:1], nil, was, at(20), at(21))), "26-01-20")
	require.Contains(t, dues(p, p.Due(h, nil, was, at(20), at(21))), "6 monthly 26-01-20")
	agreed := []Override{{Kind: Contingents, Target: "monthly", Credits: 36 * meter.Credit, From: at(20)}}
	require.Contains(t, dues(p, p.Due(h[:1], agreed, was, at(20), at(21))), "6 monthly 26-01-20")
}
