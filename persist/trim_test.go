package persist

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

func TestTrimWaitsForTheLag(t *testing.T) {
	t.Parallel()
	trim := trimMarks{lag: time.Minute}
	start := time.Unix(1_790_000_000, 0)
	at := func(pseq uint64) meter.Position { return meter.Position{Epoch: 1, Pseq: pseq} }
	trim.add(start, at(1))
	trim.add(start.Add(time.Millisecond), at(2)) // too close to the first for a mark of its own
	trim.add(start.Add(30*time.Second), at(3))
	require.Zero(t, trim.due(start.Add(59*time.Second)))
	require.Equal(t, at(1), trim.due(start.Add(time.Minute)))
	require.Zero(t, trim.due(start.Add(time.Minute)), "once")
	require.Equal(t, at(3), trim.due(start.Add(2*time.Minute)))

	for i := range 10_000 {
		trim.add(start.Add(time.Duration(i)*10*time.Millisecond), at(uint64(i)))
		trim.due(start.Add(time.Duration(i) * 10 * time.Millisecond))
		require.LessOrEqual(t, len(trim.marks), trimMarksMax+1)
	}
}

// An idle ledger is trimmed when it is time, and not when the next record comes.
func TestFlusherWaitsNoLongerThanForTheNextTrim(t *testing.T) {
	t.Parallel()
	const most = 5 * time.Second
	trim := trimMarks{lag: 3 * time.Second}
	start := time.Unix(1_790_000_000, 0)
	require.Equal(t, most, trim.wait(start, most), "nothing to trim")
	trim.add(start, meter.Position{Epoch: 1, Pseq: 1})
	require.Equal(t, 3*time.Second, trim.wait(start, most))
	require.Equal(t, 2*time.Second, trim.wait(start.Add(time.Second), most))
	require.Equal(t, trimEvery, trim.wait(start.Add(10*time.Second), most), "not more often")
	trim.lag = time.Hour
	require.Equal(t, most, trim.wait(start, most))
}
