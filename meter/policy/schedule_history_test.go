package policy

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"creditgate/meter"
)

// histories draws what people do with subscriptions, as they are recorded.
func histories(t *rapid.T, p *Policy, from time.Time) History {
	var h History
	at, anchor := from, from
	for range rapid.IntRange(1, 12).Draw(t, "terms") {
		term := Term{At: at, Anchor: anchor}
		if i := rapid.IntRange(-1, len(p.Plans)-1).Draw(t, "plan"); i >= 0 || len(h) == 0 {
			term.Plan, term.Slots = p.Plans[max(i, 0)].Name, rapid.Uint32Range(0, 50).Draw(t, "slots")
		}
		h = append(h, term)
		at = at.Add(time.Duration(rapid.Int64Range(1, 50*24*3600_000).Draw(t, "ms")) * time.Millisecond)
		if rapid.IntRange(0, 3).Draw(t, "anchor") == 0 {
			anchor = at
		}
	}
	return h
}

// Whatever the history: cycles leave no gap and do not overlap, none is shorter than the calendar's, a key is given once
// at most, whenever it is asked for it is the same, and no cycle gives a bucket more than the highest contingent and the
// highest cap that were in force in it.
func TestNobodyGainsByAnyHistory(t *testing.T) {
	t.Parallel()
	var locs []*time.Location
	for _, name := range zones() {
		locs = append(locs, zone(t, name))
	}
	rapid.Check(t, func(t *rapid.T) {
		cycle := &Cycle{DayOfMonth: rapid.IntRange(0, 31).Draw(t, "day")}
		if cycle.DayOfMonth > 0 {
			cycle.At = time.Duration(rapid.IntRange(0, 24*60-1).Draw(t, "minute")) * time.Minute
		}
		p := studio(rapid.SampledFrom(locs).Draw(t, "zone"), cycle)
		from := time.UnixMilli(rapid.Int64Range(1760000000000, 1780000000000).Draw(t, "from")).UTC()
		h := histories(t, p, from)
		to := h[len(h)-1].At.AddDate(0, 3, 0)
		all := p.Due(h, nil, nil, from, to)

		seen := map[string]bool{}
		for _, d := range all {
			require.False(t, seen[d.Key], "%s twice", d.Key)
			seen[d.Key] = true
			require.True(t, d.EffectiveAt.Before(d.ExpiresAt), d.Key)
			if d.Promotion == "" {
				require.False(t, d.ExpiresAt.After(d.Cycle.To), d.Key)
			}
		}
		requireTiled(t, p, h, from, to)
		for w, _ := p.CycleAt(h, from); w.From.Before(to); w, _ = p.CycleAt(h, w.To) {
			requireHighest(t, p, h, w, all)
		}
		asked := time.UnixMilli(rapid.Int64Range(from.UnixMilli(), to.UnixMilli()-1).Draw(t, "asked")).UTC()
		var want []Due
		var given []Given
		for _, d := range all {
			if !d.EffectiveAt.After(asked) {
				d.Begun = true
				given = append(given, Given{
					Key: d.Key, Bucket: d.Bucket, Credits: d.Credits, Used: d.Credits, Unlimited: d.Unlimited, Stops: d.Stops,
					EffectiveAt: d.EffectiveAt, ExpiresAt: d.ExpiresAt,
				})
			}
			if d.ExpiresAt.After(asked) {
				want = append(want, d)
			}
		}
		got := slices.Clip(append([]Due(nil), p.Due(h, nil, given, asked, to)...))
		for i := range got {
			if got[i].Begun { // of no importance then
				got[i].Rank, got[i].Cycle = want[i].Rank, want[i].Cycle
			}
		}
		require.Equal(t, want, got)
	})
}

func requireTiled(t *rapid.T, p *Policy, h History, from, to time.Time) {
	w, ok := p.CycleAt(h, from)
	require.True(t, ok)
	for w.From.Before(to) {
		next, ok := p.CycleAt(h, w.To)
		require.True(t, ok)
		require.Equal(t, w.To, next.From, "after %v", w)
		last, _ := p.CycleAt(h, w.To.Add(-time.Millisecond))
		require.Equal(t, w, last)
		_, before := h.At(w.From.Add(-1))
		if _, after := h.At(w.To.Add(-1)); before && after { // else a subscription begins in it, or had ended
			require.Greater(t, w.To.Sub(w.From), 27*24*time.Hour, "%v of %v", w, h)
		}
		require.LessOrEqual(t, w.To.Sub(w.From), 62*24*time.Hour+2*time.Hour, "%v of %v: two months and a changed clock", w, h)
		w = next
	}
}

// requireHighest adds up what one cycle gives, what is limited and what is unlimited apart, and finds each in force only
// while the plan gives it: a contingent after its plan, too, but not beside a cap. Each cap stops others while the plan
// gives it, however little is left of it.
func requireHighest(t *rapid.T, p *Policy, h History, w Window, all []Due) {
	var highest, given [2]meter.Credits
	for i, term := range h {
		ends := w.To
		if i+1 < len(h) {
			ends = h[i+1].At
		}
		if !term.At.Before(w.To) || !ends.After(w.From) || !ends.After(term.At) {
			continue
		}
		g := p.Gives(term, nil, term.At)[1]
		highest[side(g.Unlimited)] = max(highest[side(g.Unlimited)], g.Credits)
		at := later(term.At, w.From)
		stops := false
		for _, d := range all {
			if d.Bucket == "monthly" && (Window{d.EffectiveAt, d.ExpiresAt}).Contains(at) {
				require.Equal(t, g.Unlimited, d.Unlimited, "%+v at %s of %v", d, at, h)
				stops = stops || d.Stops
			}
		}
		require.Equal(t, g.Unlimited, stops, "at %s of %v", at, h)
	}
	for _, d := range all {
		if d.Bucket == "monthly" && w.Contains(d.EffectiveAt) && d.Credits > LeastCap {
			given[side(d.Unlimited)] += d.Credits
		}
	}
	require.Equal(t, highest, given, "cycle %v of %v", w, h)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
