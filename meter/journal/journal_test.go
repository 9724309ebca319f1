package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

var epoch = time.UnixMilli(1_760_000_000_123) // a fixed time, so that ids and bytes are the same in every run

// settleOf makes a settlement that differs from others in every field; n is also its place in the id.
func settleOf(n int) meter.Settle {
	id := meter.NewID(epoch)
	id[14], id[15] = byte(n>>8), byte(n)
	return meter.Settle{
		ID:      meter.ReservationID{Layout: 1, Partition: uint16(n % 4), ID: id},
		Account: fmt.Sprintf("account-%d", n), Amount: meter.Credits(n*1000 + 1), Units: uint32(n),
		Reserved: meter.Credits(n*1000 + 500),
		Note: meter.Note{
			Operation: "apply", PolicyVersion: "v1", KeyID: "k",
			Key: &meter.IdempotencyKey{Hash: [16]byte{byte(n)}, Fingerprint: [16]byte{1}},
		},
	}
}

func entryOf(seq uint64, s meter.Settle) Entry {
	return Entry{Seq: seq, Verb: Commit, Settle: s, AttemptedMs: epoch.UnixMilli()}
}

func openTest(t *testing.T, dir string, opts Options) *Journal {
	t.Helper()
	j, err := Open(dir, opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func appendTest(t *testing.T, j *Journal, s meter.Settle) uint64 {
	t.Helper()
	seq, err := j.Append(Commit, s, epoch)
	require.NoError(t, err)
	return seq
}

func segmentFiles(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+nameSuffix))
	require.NoError(t, err)
	return names
}

func TestEntriesSurviveUntilAcked(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	j := openTest(t, dir, Options{})
	a, b := settleOf(1), settleOf(2)
	b.Note = meter.Note{}
	require.EqualValues(t, 1, appendTest(t, j, a))
	seq, err := j.Append(Release, b, epoch)
	require.NoError(t, err)
	require.EqualValues(t, 2, seq)
	want := []Entry{entryOf(1, a), entryOf(2, b)}
	want[1].Verb = Release
	require.Equal(t, want, j.Pending())
	require.NoError(t, j.Close())

	j = openTest(t, dir, Options{})
	require.Equal(t, want, j.Pending())
	require.Equal(t, Recovery{Entries: 2, Segments: 1}, j.Recovery())
	require.NoError(t, j.Ack(1))
	require.Equal(t, want[1:], j.Pending())
	require.NoError(t, j.Ack(1, 77), "a mark that is not needed is no error")
	require.NoError(t, j.Close())

	j = openTest(t, dir, Options{})
	require.Equal(t, want[1:], j.Pending())
	require.NoError(t, j.Ack(2))
	require.EqualValues(t, 3, appendTest(t, j, a), "numbers are not used again")
	require.NoError(t, j.Ack(3))
	require.NoError(t, j.Close())

	j = openTest(t, dir, Options{})
	require.Empty(t, j.Pending())
	require.EqualValues(t, 4, appendTest(t, j, a))
	require.Len(t, segmentFiles(t, dir), 1, "finished segments are deleted")
}

func TestRefusesWhatCannotBeReadBack(t *testing.T) {
	t.Parallel()
	j := openTest(t, t.TempDir(), Options{})
	for name, change := range map[string]func(*meter.Settle){
		"no account":      func(s *meter.Settle) { s.Account = "" },
		"account":         func(s *meter.Settle) { s.Account = "a b" },
		"amount":          func(s *meter.Settle) { s.Amount = meter.MaxCredits + 1 },
		"nothing":         func(s *meter.Settle) { s.Amount = 0 },
		"more than held":  func(s *meter.Settle) { s.Amount = s.Reserved + 1 },
		"amount reserved": func(s *meter.Settle) { s.Reserved = -meter.MaxCredits - 1 },
	} {
		s := settleOf(1)
		change(&s)
		_, err := j.Append(Commit, s, epoch)
		require.ErrorIs(t, err, ErrEntry, name)
	}
	_, err := j.Append(Verb(9), settleOf(1), epoch)
	require.ErrorIs(t, err, ErrEntry)
	_, err = j.Append(Commit, settleOf(1), time.UnixMilli(-1))
	require.ErrorIs(t, err, ErrEntry)
	require.Empty(t, j.Pending())
}

func TestClosed(t *testing.T) {
	t.Parallel()
	j := openTest(t, t.TempDir(), Options{})
	appendTest(t, j, settleOf(1))
	require.NoError(t, j.Close())
	require.NoError(t, j.Close())
	_, err := j.Append(Commit, settleOf(2), epoch)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, j.Ack(1), ErrClosed)
}

func TestOneProcessPerDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := openTest(t, dir, Options{})
	_, err := Open(dir, Options{})
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, fmt.Sprintf("this process (%d)", os.Getpid()))

	require.NoError(t, os.WriteFile(filepath.Join(dir, lockName), []byte("4711\n"), 0o600))
	_, err = Open(dir, Options{})
	require.ErrorContains(t, err, "process 4711")

	require.NoError(t, j.Close())
	openTest(t, dir, Options{})
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{
		{EntriesMax: -1},
		{SegmentBytes: 100},
		{SegmentBytes: 1 << 20, BytesMax: 1 << 20},
		{BytesMax: 1 << 40},
	} {
		_, err := Open(t.TempDir(), o)
		require.ErrorContains(t, err, "must be", "%+v", o)
	}
}

func TestFullByEntries(t *testing.T) {
	t.Parallel()
	j := openTest(t, t.TempDir(), Options{EntriesMax: 3})
	for n := range 3 {
		appendTest(t, j, settleOf(n))
	}
	_, err := j.Append(Commit, settleOf(3), epoch)
	require.ErrorIs(t, err, ErrFull)
	require.ErrorContains(t, err, "3 settlements of at most 3")
	require.NoError(t, j.Ack(2))
	require.EqualValues(t, 4, appendTest(t, j, settleOf(3)))
	_, err = j.Append(Commit, settleOf(5), epoch)
	require.ErrorIs(t, err, ErrFull)
}

// A journal that is full of bytes must be emptied by marks, which need bytes themselves.
func TestFullByBytesCanBeEmptied(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	opts := Options{BytesMax: 16 << 10, SegmentBytes: 2 << 10}
	j := openTest(t, dir, opts)
	for round := range 3 {
		var seqs []uint64
		for {
			seq, err := j.Append(Commit, settleOf(round), epoch)
			if err != nil {
				require.ErrorIs(t, err, ErrFull)
				break
			}
			seqs = append(seqs, seq)
		}
		require.Greater(t, len(seqs), 40)
		require.LessOrEqual(t, j.Bytes(), opts.BytesMax)
		for _, seq := range seqs {
			require.NoError(t, j.Ack(seq))
			require.LessOrEqual(t, j.Bytes(), opts.BytesMax+16*int64(headerSize+sealSize))
		}
		require.Less(t, j.Bytes(), 2*opts.SegmentBytes, "finished segments are deleted")
		require.Equal(t, j.Bytes(), diskBytes(t, dir))
	}
}

func diskBytes(t *testing.T, dir string) (n int64) {
	t.Helper()
	for _, name := range segmentFiles(t, dir) {
		info, err := os.Stat(name)
		require.NoError(t, err)
		n += info.Size()
	}
	return n
}

// An old entry that is never settled keeps its own segment and no other, and its neighbours stay settled.
func TestStuckEntryKeepsFewSegments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	opts := Options{BytesMax: 32 << 10, SegmentBytes: 2 << 10}
	j := openTest(t, dir, opts)
	stuck := appendTest(t, j, settleOf(1))
	for n := range 600 { // thrice what fits
		require.NoError(t, j.Ack(appendTest(t, j, settleOf(n))))
	}
	require.LessOrEqual(t, len(segmentFiles(t, dir)), 2)
	require.NoError(t, j.Close())
	j = openTest(t, dir, opts)
	require.Equal(t, []Entry{entryOf(stuck, settleWithID(j, settleOf(1)))}, j.Pending())
}

// settleWithID gives s the id of the only pending entry: settleOf makes a new id at each call.
func settleWithID(j *Journal, s meter.Settle) meter.Settle {
	s.ID = j.Pending()[0].Settle.ID
	return s
}

// Appends that come while the disk is busy share one sync, and none returns before it.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	d := &gateDisk{entered: make(chan struct{}), leave: make(chan struct{})}
	j, err := openOn(d, t.TempDir(), Options{})
	require.NoError(t, err)
	d.gated.Store(true)
	const callers = 50
	var returned atomic.Int32
	var wg sync.WaitGroup
	for n := range callers + 1 {
		wg.Go(func() {
			_, err := j.Append(Commit, settleOf(n), epoch)
			returned.Add(1)
			require.NoError(t, err)
		})
		if n == 0 {
			<-d.entered // the first is inside its sync: all others fill the next batch
		}
	}
	require.Eventually(t, func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return len(j.open.entries) == callers
	}, 10*time.Second, time.Millisecond)
	require.Zero(t, returned.Load(), "nobody returns before the sync")
	require.Empty(t, j.Pending(), "nothing is pending before the sync")
	d.leave <- struct{}{}
	<-d.entered
	require.Len(t, j.Pending(), 1)
	d.leave <- struct{}{}
	wg.Wait()
	require.Len(t, j.Pending(), callers+1)
	require.EqualValues(t, 2, d.syncs.Load())
	d.gated.Store(false)
	require.NoError(t, j.Close())
}

// gateDisk lets a test hold a sync.
type gateDisk struct {
	osDisk
	gated          atomic.Bool
	syncs          atomic.Int32
	entered, leave chan struct{}
}

type gateFile struct {
	file
	d *gateDisk
}

func (d *gateDisk) create(path string) (file, error) {
	f, err := d.osDisk.create(path)
	return gateFile{file: f, d: d}, err
}

func (f gateFile) Sync() error {
	if f.d.gated.Load() {
		f.d.syncs.Add(1)
		f.d.entered <- struct{}{}
		<-f.d.leave
	}
	return f.file.Sync()
}

func TestConcurrentAppendAndAck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	reg := prometheus.NewRegistry()
	j := openTest(t, dir, Options{SegmentBytes: 4 << 10, BytesMax: 8 << 20, Metrics: reg})
	const callers, each = 16, 40
	var mu sync.Mutex
	kept := map[uint64]meter.Settle{}
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := range each {
				s := settleOf(c*each + n)
				seq, err := j.Append(Commit, s, epoch)
				require.NoError(t, err)
				if n%4 != 0 {
					require.NoError(t, j.Ack(seq))
					continue
				}
				mu.Lock()
				kept[seq] = s
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	check := func(j *Journal) {
		require.Len(t, j.Pending(), callers*each/4)
		for _, e := range j.Pending() {
			require.Equal(t, entryOf(e.Seq, kept[e.Seq]), e)
		}
		require.Equal(t, diskBytes(t, dir), j.Bytes())
	}
	check(j)
	require.Equal(t, callers*each/4, gauge(t, reg, "creditgate_journal_pending"))
	require.EqualValues(t, j.Bytes(), gauge(t, reg, "creditgate_journal_bytes"))
	require.NoError(t, j.Close())
	check(openTest(t, dir, Options{SegmentBytes: 4 << 10, BytesMax: 8 << 20}))
}

func gauge(t *testing.T, reg *prometheus.Registry, name string) int {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return int(f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	require.Fail(t, "no metric", name)
	return 0
}

func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			j, err := Open(b.TempDir(), Options{})
			require.NoError(b, err)
			var n atomic.Int64
			var wg sync.WaitGroup
			s := settleOf(1)
			b.ReportAllocs()
			b.ResetTimer()
			for range callers {
				wg.Go(func() {
					for n.Add(1) <= int64(b.N) {
						seq, err := j.Append(Commit, s, epoch)
						require.NoError(b, err)
						require.NoError(b, j.Ack(seq))
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			require.NoError(b, j.Close())
		})
	}
}
