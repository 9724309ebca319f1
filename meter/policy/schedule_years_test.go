package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// Fifty years, on every day of the month and from subscriptions that began on each, in zones that move their clocks: who
// issues at each boundary gives each cycle one grant, without gap and without overlap, and finds nothing else to do.
func TestOneGrantPerCycleForFiftyYears(t *testing.T) {
	t.Parallel()
	for _, name := range zones() {
		loc := zone(t, name)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for day := 1; day <= 31; day++ {
				start := time.Date(2024, 1, day, 2, 30, 0, 0, loc).UTC() // where clocks are moved by night
				requireOneGrantPerCycle(t, studio(loc, &Cycle{DayOfMonth: day, At: 2*time.Hour + 30*time.Minute}), start)
				requireOneGrantPerCycle(t, studio(loc, &Cycle{}), start)
			}
		})
	}
}

func requireOneGrantPerCycle(t *testing.T, p *Policy, start time.Time) {
	t.Helper()
	h := History{{At: start, Plan: "pro", Slots: 2, Anchor: start}}
	var given []Given
	issue := func(now time.Time) (n int, next time.Time) {
		until, next := p.Ahead(h, now)
		for _, d := range p.Due(h, nil, given, now, until) {
			if len(given) > 0 && (d.Begun || d.Key == given[len(given)-1].Key) {
				continue
			}
			if len(given) > 0 && (!d.EffectiveAt.Equal(given[len(given)-1].ExpiresAt) || !d.EffectiveAt.Equal(d.Cycle.From)) {
				require.FailNow(t, "gap or overlap", "%s day %d: %+v after %+v", p.Location, p.Cycle.DayOfMonth, d, given)
			}
			require.Equal(t, 10*meter.Credit, d.Credits)
			given = append(given, Given{
				Key: d.Key, Bucket: d.Bucket, Credits: d.Credits, EffectiveAt: d.EffectiveAt, ExpiresAt: d.ExpiresAt,
			})
			n++
		}
		return n, next
	}
	n, now := issue(start)
	require.Equal(t, 2, n)
	for month := range 50 * 12 {
		n, next := issue(now)
		given = given[len(given)-2:]
		if month%7 == 0 {
			again, _ := issue(now)
			n += again
		}
		if n != 1 {
			require.FailNow(t, "not one grant", "%s day %d: %d at %s", p.Location, p.Cycle.DayOfMonth, n, now)
		}
		now = next
	}
	require.False(t, now.Before(start.AddDate(50, 0, 0)))
}
