package report

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v           float64
		want, limit string
	}{
		{0, "0", "0"},
		{0.004, "0.004", "0.004"},
		{0.5, "0.50", "0.5"},
		{1.234, "1.23", "1.23"},
		{12.34, "12.3", "12.3"},
		{20, "20", "20"},
		{123.4, "123", "123"},
		{1234567.8, "1,234,568", "1,234,568"},
		{-1234.5, "−1,234", "−1,234"},
		{1000, "1,000", "1,000"},
	} {
		require.Equal(t, c.want, number(c.v))
		require.Equal(t, c.limit, limit(c.v))
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	require.Equal(t, "–", figureOf(nil).text("B"))
	require.Equal(t, "5 B", figureOf([]float64{5}).text("B"))
	require.Equal(t, "6 (5 to 9)", figureOf([]float64{9, 5, 6}).text(""))
	require.Equal(t, "5.50 (5 to 6)", figureOf([]float64{6, 5}).text(""))
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]string{
		"go1.26.8": "1.26.8", "Redis server v=7.0.15 sha=00000000:0": "7.0.15", "postgres (PostgreSQL) 15.18 (Debian 15.18-0)": "15.18",
		"nginx version: nginx/1.22.1": "1.22.1", "unknown": "unknown",
	} {
		require.Equal(t, want, version(said))
	}
}

func TestAxes(t *testing.T) {
	t.Parallel()
	texts := func(a axis) (out []string) {
		for _, tick := range a.ticks {
			out = append(out, tick.text)
		}
		return out
	}
	var a axis
	a.spanZero(0, 43_000)
	require.Equal(t, []string{"0", "10,000", "20,000", "30,000", "40,000", "50,000"}, texts(a))
	a.spanZero(0, 0)
	require.Equal(t, []string{"0", "0.2", "0.4", "0.6", "0.8", "1"}, texts(a))
	a = axis{}
	a.spanLog(0.3, 40)
	require.Equal(t, []string{"0.2", "0.5", "1", "2", "5", "10", "20", "50"}, texts(a))
	a = axis{}
	a.spanLog(3, 40_000)
	require.Equal(t, []string{"1", "10", "100", "1,000", "10,000", "100,000"}, texts(a))
	a = axis{}
	a.spanLog(1, 1)
	require.Less(t, a.low, a.top)
	a = axis{from: 100, to: 200}
	a.spanValues([]float64{1, 16, 256})
	require.InDelta(t, 150, a.place(16), 0.001)
	require.InDelta(t, 100, a.place(a.low), 0.001)
}
