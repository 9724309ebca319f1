package journal

import (
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// shortNote cuts a note's words as meter.AppendNote does.
func shortNote(e Entry) meter.Note {
	n := e.Settle.Note
	for _, s := range []*string{&n.Operation, &n.PolicyVersion, &n.KeyID, &n.Reason, &n.Actor} {
		*s = (*s)[:min(len(*s), 120)]
	}
	return n
}

// failDisk fails chosen operations; a write fails after half of its bytes, as on a full disk.
type failDisk struct {
	osDisk
	create_, write, sync, truncate, remove_ atomic.Bool
}

type failFile struct {
	file
	d *failDisk
}

var errDisk = syscall.ENOSPC

func (d *failDisk) create(path string) (file, error) {
	if d.create_.Load() {
		return nil, errDisk
	}
	f, err := d.osDisk.create(path)
	return failFile{file: f, d: d}, err
}

func (d *failDisk) remove(path string) error {
	if d.remove_.Load() {
		return errDisk
	}
	return d.osDisk.remove(path)
}

func (f failFile) WriteAt(b []byte, off int64) (int, error) {
	if f.d.write.Load() {
		n, _ := f.file.WriteAt(b[:len(b)/2], off)
		return n, errDisk
	}
	return f.file.WriteAt(b, off)
}

func (f failFile) Sync() error {
	if f.d.sync.Load() {
		return errDisk
	}
	return f.file.Sync()
}

func (f failFile) Truncate(n int64) error {
	if f.d.truncate.Load() {
		return errDisk
	}
	return f.file.Truncate(n)
}

// A disk that was full for a while costs the settlements of that while, not the journal.
func TestFullDiskPasses(t *testing.T) {
	t.Parallel()
	d := &failDisk{}
	dir := t.TempDir()
	j, err := openOn(d, dir, Options{})
	require.NoError(t, err)
	appendTest(t, j, settleOf(1))

	d.create_.Store(true)
	j.active.f = &onceFile{file: j.active.f}
	_, err = j.Append(Commit, settleOf(2), epoch)
	require.ErrorIs(t, err, errDisk)
	_, err = j.Append(Commit, settleOf(3), epoch)
	require.ErrorIs(t, err, errDisk, "no new segment yet")
	require.Len(t, j.Pending(), 1)

	d.create_.Store(false)
	seq := appendTest(t, j, settleOf(4))
	require.EqualValues(t, 4, seq, "numbers of failed appends stay unused")
	require.NoError(t, j.Ack(1))
	require.Equal(t, diskBytes(t, dir), j.Bytes())
	require.NoError(t, j.Close())
	j = openTest(t, dir, Options{})
	require.Len(t, j.Pending(), 1)
	require.EqualValues(t, 4, j.Pending()[0].Seq)
	require.Empty(t, j.Recovery().CutPath)
}

// onceFile fails its first write half-way.
type onceFile struct {
	file
	failed bool
}

func (f *onceFile) WriteAt(b []byte, off int64) (int, error) {
	if f.failed {
		return f.file.WriteAt(b, off)
	}
	f.failed = true
	n, _ := f.file.WriteAt(b[:len(b)/2], off)
	return n, errDisk
}

// After a failed sync the kernel may have dropped what was written, so nothing more is written behind it.
func TestFailedSyncStopsTheJournal(t *testing.T) {
	t.Parallel()
	d := &failDisk{}
	dir := t.TempDir()
	j, err := openOn(d, dir, Options{})
	require.NoError(t, err)
	appendTest(t, j, settleOf(1))
	appendTest(t, j, settleOf(2))
	d.sync.Store(true)
	_, err = j.Append(Commit, settleOf(2), epoch)
	require.ErrorIs(t, err, errDisk)
	d.sync.Store(false)
	_, err = j.Append(Commit, settleOf(3), epoch)
	require.ErrorContains(t, err, "takes nothing more until the process is restarted")
	require.Len(t, j.Pending(), 2)
	require.Error(t, j.Ack(1), "the mark is not written")
	require.Len(t, j.Pending(), 1, "but the entry is not repeated by this process")
	require.NoError(t, j.Close())

	j = openTest(t, dir, Options{})
	require.Len(t, j.Pending(), 2)
}

func TestFailedCutStopsTheJournal(t *testing.T) {
	t.Parallel()
	d := &failDisk{}
	dir := t.TempDir()
	j, err := openOn(d, dir, Options{})
	require.NoError(t, err)
	appendTest(t, j, settleOf(1))
	d.write.Store(true)
	d.truncate.Store(true)
	_, err = j.Append(Commit, settleOf(2), epoch)
	require.ErrorIs(t, err, errDisk)
	d.write.Store(false)
	_, err = j.Append(Commit, settleOf(3), epoch)
	require.ErrorContains(t, err, "takes nothing more")
	require.NoError(t, j.Close())

	j = openTest(t, dir, Options{})
	require.Len(t, j.Pending(), 1, "half a record is a torn tail")
	require.NotEmpty(t, j.Recovery().CutPath)
}

// A segment that could be neither begun nor removed must stay the newest.
func TestFailedBeginAndRemove(t *testing.T) {
	t.Parallel()
	d := &failDisk{}
	dir := t.TempDir()
	j, err := openOn(d, dir, Options{SegmentBytes: segmentBytesMin, BytesMax: 1 << 20})
	require.NoError(t, err)
	for j.active.size < segmentBytesMin {
		appendTest(t, j, settleOf(1))
	}
	whole := j.Len()
	d.remove_.Store(true)
	d.sync.Store(true)
	j.active.f = failFile{file: j.active.f.(failFile).file, d: &failDisk{}} // the old segment can be sealed
	_, err = j.Append(Commit, settleOf(2), epoch)
	require.ErrorIs(t, err, errDisk)
	d.sync.Store(false)
	_, err = j.Append(Commit, settleOf(2), epoch)
	require.ErrorContains(t, err, "takes nothing more")
	require.NoError(t, j.Close())
	require.Len(t, openTest(t, dir, Options{}).Pending(), whole)
}

func TestFinishedSegmentThatCannotBeDeleted(t *testing.T) {
	t.Parallel()
	d := &failDisk{}
	dir := t.TempDir()
	opts := Options{SegmentBytes: segmentBytesMin, BytesMax: 1 << 20}
	j, err := openOn(d, dir, opts)
	require.NoError(t, err)
	d.remove_.Store(true)
	for n := range 20 {
		require.NoError(t, j.Ack(appendTest(t, j, settleOf(n))))
	}
	require.Greater(t, len(segmentFiles(t, dir)), 1)
	require.NoError(t, j.Close())
	j = openTest(t, dir, opts)
	require.Empty(t, j.Pending())
	require.Len(t, segmentFiles(t, dir), 1)
	require.Equal(t, diskBytes(t, dir), j.Bytes())
}

func TestOpenReportsTheFileSystem(t *testing.T) {
	t.Parallel()
	d := &failDisk{}
	d.create_.Store(true)
	_, err := openOn(d, t.TempDir(), Options{})
	require.ErrorIs(t, err, errDisk)
	require.NotErrorIs(t, err, ErrCorrupt)
}
