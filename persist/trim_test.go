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
