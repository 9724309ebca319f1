package policy

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func zone(tb testing.TB, name string) *time.Location {
	tb.Helper()
	loc, err := time.LoadLocation(name)
	require.NoError(tb, err)
	return loc
}

// local is a wall time of a zone, as it is written there.
func local(tb testing.TB, zoneName, wall string) time.Time {
	tb.Helper()
	t, err := time.Parse("2006-01-02 15:04:05.000 -07:00", wall)
	require.NoError(tb, err)
	require.Equal(tb, wall, t.In(zone(tb, zoneName)).Format("2006-01-02 15:04:05.000 -07:00"), "the zone has another offset then")
	return t.UTC()
}

func zones() []string {
	return []string{
		"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia",
		"UTC", "Africa/Cairo", "America/St_Johns", "Pacific/Chatham",
	}
}

func TestWallTimesThatClocksSkipOrShowTwice(t *testing.T) {
	t.Parallel()
	f := func(zoneName, wall, want string) {
		t.Helper()
		at, err := time.Parse("2006-01-02 15:04:05.000", wall)
		require.NoError(t, err)
		got := instant(at, zone(t, zoneName))
		require.Equal(t, want, got.In(zone(t, zoneName)).Format("2006-01-02 15:04:05.000 -07:00"), "%s %s", zoneName, wall)
	}
	f("Europe/Berlin", "2026-03-29 02:30:00.000", "2026-03-29 03:00:00.000 +02:00")
	f("Europe/Berlin", "2026-10-25 02:30:00.000", "2026-10-25 02:30:00.000 +02:00")
	f("Europe/Berlin", "2026-10-25 03:00:00.000", "2026-10-25 03:00:00.000 +01:00")
	f("America/New_York", "2026-03-08 02:00:00.000", "2026-03-08 03:00:00.000 -04:00")
	f("America/New_York", "2026-11-01 01:59:59.999", "2026-11-01 01:59:59.999 -04:00")
	f("Australia/Lord_Howe", "2026-10-04 02:15:00.000", "2026-10-04 02:30:00.000 +11:00") // half an hour
	f("Australia/Lord_Howe", "2026-04-05 01:45:00.000", "2026-04-05 01:45:00.000 +11:00")
	f("America/Sao_Paulo", "2018-11-04 00:00:00.000", "2018-11-04 01:00:00.000 -02:00") // midnight does not exist
	f("Pacific/Apia", "2011-12-30 00:00:00.000", "2011-12-31 00:00:00.000 +14:00")      // nor does the whole day
	f("Pacific/Apia", "2011-12-30 23:59:00.000", "2011-12-31 00:00:00.000 +14:00")
	f("Asia/Kathmandu", "2026-02-28 00:00:00.000", "2026-02-28 00:00:00.000 +05:45")
}

func TestMonthEndsClampAndComeBack(t *testing.T) {
	t.Parallel()
	a := anchor{day: 31, loc: zone(t, "Europe/Berlin")}
	at := local(t, "Europe/Berlin", "2027-12-31 00:00:00.000 +01:00")
	for _, want := range []string{"01-31", "02-29", "03-31", "04-30", "05-31", "06-30", "07-31", "08-31", "09-30", "10-31"} {
		at = a.cycle(at).To
		require.Equal(t, "2028-"+want+" 00:00", at.In(a.loc).Format("2006-01-02 15:04"))
	}
}

// slowInstant is instant, found by going minute by minute through all moments from a day before.
func slowInstant(wall time.Time, loc *time.Location) time.Time {
	for t := wall.Add(-zoneReach); ; t = t.Add(time.Minute) {
		_, offset := t.In(loc).Zone()
		if !t.Add(time.Duration(offset) * time.Second).Before(wall) {
			return t
		}
	}
}

func TestInstantIsTheFirstOneAtWhichClocksShowIt(t *testing.T) {
	t.Parallel()
	var changes []struct {
		at  time.Time
		loc *time.Location
	}
	for _, name := range zones() {
		loc := zone(t, name)
		for at := time.Date(1990, 1, 1, 0, 0, 0, 0, loc); at.Year() < 2040; {
			_, end := at.ZoneBounds()
			if end.IsZero() {
				break
			}
			changes = append(changes, struct {
				at  time.Time
				loc *time.Location
			}{end, loc})
			at = end
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom(changes).Draw(t, "change")
		_, offset := c.at.In(c.loc).Zone()
		wall := c.at.UTC().Add(time.Duration(offset)*time.Second + time.Duration(rapid.IntRange(-180, 180).Draw(t, "minutes"))*time.Minute)
		require.Equal(t, slowInstant(wall, c.loc), instant(wall, c.loc), "%s in %s", wall, c.loc)
	})
}

// Fifty years of cycles have no gap, no overlap, and begin where the calendar says, to the millisecond: all anchors of
// all zones.
func TestFiftyYearsOfCycles(t *testing.T) {
	t.Parallel()
	for _, name := range zones() {
		loc := zone(t, name)
		for day := 1; day <= 31; day++ {
			for _, clock := range []time.Duration{0, 2*time.Hour + 30*time.Minute, 24*time.Hour - time.Millisecond} {
				a := anchor{day: day, clock: clock, loc: loc}
				requireCycles(t, a, time.Date(1999, 12, 15, 12, 0, 0, 0, loc), 600)
			}
		}
	}
}

func requireCycles(t require.TestingT, a anchor, from time.Time, count int) {
	wanted := func(month int) time.Time { // on the clocks
		first := time.Date(1900, time.Month(1+month), 1, 0, 0, 0, 0, time.UTC)
		return first.AddDate(0, 0, min(a.day, daysIn(first.Year(), first.Month()))-1).Add(a.clock)
	}
	w, month := a.cycle(from), 0
	for !wanted(month + 1).After(wallOf(w.To.In(a.loc))) {
		month++
	}
	for range count {
		next := a.cycle(w.To)
		if !next.From.Equal(w.To) || a.cycle(w.To.Add(-time.Millisecond)) != w || a.cycle(w.From) != w {
			require.FailNow(t, "gap or overlap", "%s %v: %s then %s", a.loc, a, w, next)
		}
		shown, before := wallOf(w.To.In(a.loc)), wallOf(w.To.Add(-time.Millisecond).In(a.loc))
		if shown.Before(wanted(month)) || !before.Before(wanted(month)) {
			require.FailNow(t, "wrong moment", "%s %v: %s, not %s", a.loc, a, w.To.In(a.loc), wanted(month))
		}
		w = next
		month++
	}
}

func wallOf(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

func TestCyclesFromAnyStart(t *testing.T) {
	t.Parallel()
	locs := make([]*time.Location, 0, len(zones()))
	for _, name := range zones() {
		locs = append(locs, zone(t, name))
	}
	rapid.Check(t, func(t *rapid.T) {
		loc := rapid.SampledFrom(locs).Draw(t, "zone")
		at := time.UnixMilli(rapid.Int64Range(631152000000, 2524608000000).Draw(t, "start"))
		requireCycles(t, anchorAt(at, loc), at, 60)
	})
}

func TestPacksExpireAtTheEndOfTheLocalDay(t *testing.T) {
	t.Parallel()
	p := &Policy{Location: zone(t, "Europe/Berlin")}
	f := func(s Span, bought, want string) {
		t.Helper()
		at, ok := p.Expiry(Lifetime{Kind: AfterPurchase, After: s}, nil, local(t, "Europe/Berlin", bought))
		require.True(t, ok)
		require.Equal(t, local(t, "Europe/Berlin", want), at)
	}
	f(Span{Years: 1}, "2026-03-16 10:20:30.456 +01:00", "2027-03-17 00:00:00.000 +01:00")
	f(Span{Years: 1}, "2028-02-29 23:59:59.999 +01:00", "2029-03-01 00:00:00.000 +01:00") // 28 February
	f(Span{Years: 1}, "2027-02-28 00:00:00.000 +01:00", "2028-02-29 00:00:00.000 +01:00")
	f(Span{Months: 6}, "2026-08-31 12:00:00.000 +02:00", "2027-03-01 00:00:00.000 +01:00")
	f(Span{Days: 28}, "2026-03-16 00:00:00.000 +01:00", "2026-04-14 00:00:00.000 +02:00")
	f(Span{Days: 30}, "2026-12-31 23:59:59.999 +01:00", "2027-01-31 00:00:00.000 +01:00")

	never, ok := p.Expiry(Lifetime{}, nil, time.Now())
	require.True(t, ok)
	require.True(t, never.IsZero())
	_, ok = p.Expiry(Lifetime{Kind: NextRenewal}, nil, time.Now())
	require.False(t, ok, "nobody to renew anything")
}

func TestRenewal(t *testing.T) {
	t.Parallel()
	berlin := func(wall string) time.Time { return local(t, "Europe/Berlin", wall) }
	p := &Policy{Location: zone(t, "Europe/Berlin"), Cycle: &Cycle{}}
	start := berlin("2026-01-31 10:00:00.000 +01:00")
	h := History{{At: start, Plan: "pro", Anchor: start}}
	renewal := func(h History, at string, want string) {
		t.Helper()
		got, ok := p.Renewal(h, berlin(at))
		require.Equal(t, want != "", ok)
		if ok {
			require.Equal(t, berlin(want), got)
		}
	}
	renewal(h, "2026-01-31 09:59:59.999 +01:00", "")
	renewal(h, "2026-01-31 10:00:00.000 +01:00", "2026-02-28 10:00:00.000 +01:00")
	renewal(h, "2026-02-28 09:59:59.999 +01:00", "2026-02-28 10:00:00.000 +01:00")
	renewal(h, "2026-02-28 10:00:00.000 +01:00", "2026-03-31 10:00:00.000 +02:00")

	// moved to the 15th on 10 February: the cycle that would end on the 28th ends on 15 March
	fifteenth := berlin("2026-03-15 00:00:00.000 +01:00")
	moved := slices.Concat(h[:1], History{{At: berlin("2026-02-10 00:00:00.000 +01:00"), Plan: "pro", Anchor: fifteenth}})
	renewal(moved, "2026-02-01 00:00:00.000 +01:00", "2026-03-15 00:00:00.000 +01:00")
	renewal(moved, "2026-03-14 00:00:00.000 +01:00", "2026-03-15 00:00:00.000 +01:00")
	renewal(moved, "2026-03-15 00:00:00.000 +01:00", "2026-04-15 00:00:00.000 +02:00")

	// ended on 28 February, back on 20 March with an anchor of its own
	back := berlin("2026-03-20 08:00:00.000 +01:00")
	again := slices.Concat(h[:1], History{
		{At: berlin("2026-02-28 10:00:00.000 +01:00"), Anchor: start}, {At: back, Plan: "pro", Anchor: back},
	})
	renewal(again, "2026-02-27 00:00:00.000 +01:00", "2026-02-28 10:00:00.000 +01:00")
	renewal(again, "2026-02-28 10:00:00.000 +01:00", "")
	renewal(again, "2026-03-20 08:00:00.000 +01:00", "2026-04-20 08:00:00.000 +02:00")

	// ended at once on 5 February, back on the 9th: the old cycle goes on
	soon := slices.Concat(h[:1], History{
		{At: berlin("2026-02-05 00:00:00.000 +01:00"), Anchor: start},
		{At: berlin("2026-02-09 00:00:00.000 +01:00"), Plan: "pro", Anchor: start},
	})
	renewal(soon, "2026-02-06 00:00:00.000 +01:00", "")
	renewal(soon, "2026-02-10 00:00:00.000 +01:00", "2026-02-28 10:00:00.000 +01:00")

	// even when an anchor of its own is asked for, the cycle that runs is not shorter than it was
	other := slices.Concat(soon[:2], History{{At: soon[2].At, Plan: "pro", Anchor: soon[2].At}})
	renewal(other, "2026-02-10 00:00:00.000 +01:00", "2026-03-09 00:00:00.000 +01:00")

	p.Cycle = &Cycle{DayOfMonth: 15, At: 6 * time.Hour}
	renewal(h, "2026-02-01 00:00:00.000 +01:00", "2026-02-15 06:00:00.000 +01:00")
	p.Cycle = nil
	renewal(h, "2026-02-01 00:00:00.000 +01:00", "")
}

// A day of renewal that is moved every day, to the day before, lengthens a cycle once; what follows is a cycle again.
func TestManyMovesLengthenACycleOnce(t *testing.T) {
	t.Parallel()
	p := &Policy{Location: zone(t, "Europe/Berlin"), Cycle: &Cycle{}}
	start := local(t, "Europe/Berlin", "2026-01-10 10:00:00.000 +01:00")
	h := History{{At: start, Plan: "pro", Anchor: start}}
	for i := range 200 {
		at := start.AddDate(0, 0, i+1)
		h = append(h, Term{At: at, Plan: "pro", Anchor: at.Add(-time.Hour)})
	}
	resets := 0
	for at := start; at.Before(h[200].At); resets++ {
		w, _ := p.CycleAt(h, at)
		require.Equal(t, at, w.From)
		require.LessOrEqual(t, w.To.Sub(w.From), 62*24*time.Hour, "%v", w)
		at = w.To
	}
	require.GreaterOrEqual(t, resets, 3)
}
