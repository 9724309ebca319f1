package gateway

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseAdvance(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0s": 0, "36h": 36 * time.Hour, "1d": day, "1d12h": 36 * time.Hour, "365d1ms": 365*day + time.Millisecond,
		"36600d": 36600 * day, "1.5h": 90 * time.Minute,
	} {
		got, p := parseAdvance(text)
		require.Nil(t, p, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{
		"", "d", "1", "-1d", "-1h", "1d-1h", "+1d", "1h1d", "1y", "36601d", "99999999d", "36601h1e3h", "1d1d", " 1d", "9999999h",
	} {
		_, p := parseAdvance(text)
		require.NotNil(t, p, text)
		require.Equal(t, "advance", p.param, text)
	}
}

// FuzzParseAdvance: whatever is sent, time goes on, within the bound.
func FuzzParseAdvance(f *testing.F) {
	for _, s := range []string{"1d", "36h", "1d12h", "-1h", "99999d", "1e9h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		by, p := parseAdvance(s)
		if p == nil {
			require.GreaterOrEqual(t, by, time.Duration(0))
			require.LessOrEqual(t, by, 2*advanceDaysMax*24*time.Hour)
		}
	})
}
