package journal

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// fakeSettler answers as its function says, and counts the calls of each reservation.
type fakeSettler struct {
	mu     sync.Mutex
	answer func(verb Verb, s meter.Settle, attempt int) (meter.Decision, error)
	calls  map[meter.ReservationID]int
	order  []meter.ReservationID
}

func (f *fakeSettler) call(verb Verb, s meter.Settle) (meter.Decision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls == nil {
		f.calls = map[meter.ReservationID]int{}
	}
	f.calls[s.ID]++
	f.order = append(f.order, s.ID)
	return f.answer(verb, s, f.calls[s.ID])
}

func (f *fakeSettler) Commit(_ context.Context, s meter.Settle) (meter.Decision, error) {
	return f.call(Commit, s)
}

func (f *fakeSettler) Release(_ context.Context, s meter.Settle) (meter.Decision, error) {
	return f.call(Release, s)
}

func (f *fakeSettler) total() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.order)
}

var (
	codeOK  = meter.Decision{Code: meter.CodeOK}
	errAway = fmt.Errorf("commit: %w", meter.ErrUnavailable)
)

// replay runs a replayer in a bubble of fake time until the test function returns.
func replay(t *testing.T, opts Options, f *fakeSettler, test func(j *Journal)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		j, err := Open(dir, opts)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { NewReplayer(j, f).Run(ctx) })
		test(j)
		cancel()
		run.Wait()
		require.NoError(t, j.Close())
	})
}

func inPartition(s meter.Settle, p uint16) meter.Settle {
	s.ID.Partition = p
	return s
}

func TestReplayAtOnceAfterAppend(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	var verbs []Verb
	f := &fakeSettler{answer: func(verb Verb, s meter.Settle, _ int) (meter.Decision, error) {
		verbs = append(verbs, verb)
		require.Equal(t, "account-7", s.Account)
		return codeOK, nil
	}}
	replay(t, Options{Metrics: reg}, f, func(j *Journal) {
		start := time.Now()
		appendTest(t, j, settleOf(7))
		synctest.Wait()
		require.Empty(t, j.Pending())
		_, err := j.Append(Release, settleOf(7), epoch)
		require.NoError(t, err)
		synctest.Wait()
		require.Empty(t, j.Pending())
		require.Zero(t, time.Since(start), "nothing waited for a timer")
	})
	require.Equal(t, []Verb{Commit, Release}, verbs)
	require.Equal(t, map[string]float64{"settled": 2, "conflict": 0, "refused": 0}, replayed(t, reg))
}

func replayed(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	counts := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "creditgate_journal_replayed_total" {
			for _, m := range f.GetMetric() {
				counts[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	return counts
}

func TestWhatIsFinal(t *testing.T) {
	t.Parallel()
	for code := range meter.Code(30) {
		want := map[meter.Code]outcome{meter.CodeOK: settled, meter.CodeConflict: conflict}[code]
		require.Equal(t, want, outcomeOf(meter.Decision{Code: code}, nil), "code %d", code)
		require.Equal(t, open, outcomeOf(meter.Decision{Code: code}, errAway))
	}
	require.Equal(t, refused, outcomeOf(meter.Decision{}, fmt.Errorf("x: %w", meter.ErrNoReservation)))
	require.Equal(t, refused, outcomeOf(meter.Decision{}, fmt.Errorf("x: %w", meter.ErrNoAccount)))
	require.Equal(t, open, outcomeOf(meter.Decision{}, context.DeadlineExceeded))
}

func TestReplayAtStartUntilAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := openTest(t, dir, Options{})
	for n := range 200 {
		appendTest(t, j, settleOf(n))
	}
	require.NoError(t, j.Close())
	away := true
	f := &fakeSettler{answer: func(Verb, meter.Settle, int) (meter.Decision, error) {
		if away {
			return meter.Decision{}, errAway
		}
		return codeOK, nil
	}}
	synctest.Test(t, func(t *testing.T) {
		j, err := Open(dir, Options{})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { NewReplayer(j, f).Run(ctx) })
		<-time.After(time.Minute) // of the bubble
		synctest.Wait()
		require.Len(t, j.Pending(), 200)
		// Four partitions: a full group each at first, then one probe per pause, which is at most a second.
		require.Less(t, f.total(), 4*(width+6+2*60))
		require.Greater(t, f.total(), 4*(width+60))
		f.mu.Lock()
		away = false
		f.mu.Unlock()
		<-time.After(pauseMax)
		synctest.Wait()
		require.Empty(t, j.Pending())
		cancel()
		run.Wait()
		require.NoError(t, j.Close())
	})
	require.Empty(t, openTest(t, dir, Options{}).Pending())
}

// A fenced partition does not hold up another, nor an entry that only its own account holds up its neighbours.
func TestReplayGoesAroundWhatIsStuck(t *testing.T) {
	t.Parallel()
	stuck := map[string]bool{}
	for n := range 40 {
		stuck[fmt.Sprintf("account-%d", n)] = n%2 == 0
	}
	f := &fakeSettler{answer: func(_ Verb, s meter.Settle, _ int) (meter.Decision, error) {
		switch {
		case s.ID.Partition == 9, stuck[s.Account]:
			return meter.Decision{}, errAway
		}
		return codeOK, nil
	}}
	replay(t, Options{}, f, func(j *Journal) {
		for n := range 300 {
			appendTest(t, j, inPartition(settleOf(n), 1))
			appendTest(t, j, inPartition(settleOf(n), 9))
		}
		<-time.After(time.Minute) // of the bubble
		synctest.Wait()
		require.Len(t, j.Pending(), 300+20)
		f.mu.Lock()
		clear(stuck)
		f.mu.Unlock()
		<-time.After(2 * pauseMax)
		synctest.Wait()
		require.Len(t, j.Pending(), 300)
	})
}

func TestReplayKeepsWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	f := &fakeSettler{answer: func(_ Verb, s meter.Settle, attempt int) (meter.Decision, error) {
		switch {
		case s.Account == "account-1":
			return meter.Decision{Code: meter.CodeConflict}, nil
		case s.Account == "account-2":
			return meter.Decision{}, meter.ErrNoReservation
		case attempt < 5:
			return meter.Decision{Code: meter.CodeError}, nil
		}
		return codeOK, nil
	}}
	replay(t, Options{}, f, func(j *Journal) {
		for n := 1; n <= 3; n++ {
			appendTest(t, j, inPartition(settleOf(n), 1))
		}
		synctest.Wait()
		require.Len(t, j.Pending(), 1)
		<-time.After(5 * pauseMax)
		synctest.Wait()
		require.Empty(t, j.Pending())
	})
}

func TestPauses(t *testing.T) {
	t.Parallel()
	for failures := 1; failures < 200; failures++ {
		d := pauseAfter(failures)
		require.GreaterOrEqual(t, d, pauseMin/2)
		require.LessOrEqual(t, d, pauseMax)
	}
	require.GreaterOrEqual(t, pauseAfter(100), pauseMax/2)
}

// A repeat is a new attempt: it has its own time, and not what was left of the first one's.
func TestReplayCarriesNoDeadlineOfTheFirstAttempt(t *testing.T) {
	t.Parallel()
	first := settleOf(7)
	want := first
	first.Until, first.Brief = epoch, true
	var repeated []meter.Settle
	f := &fakeSettler{answer: func(_ Verb, s meter.Settle, _ int) (meter.Decision, error) {
		repeated = append(repeated, s)
		return codeOK, nil
	}}
	replay(t, Options{}, f, func(j *Journal) {
		appendTest(t, j, first)
		synctest.Wait()
		require.Empty(t, j.Pending())
	})
	require.Equal(t, []meter.Settle{want}, repeated, "what a restart would read from disk")
}
