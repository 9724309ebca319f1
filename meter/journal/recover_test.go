package journal

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

// crashed returns the bytes of a segment as a killed process leaves it (no seal), with three entries each synced
// alone, and the offsets where records end.
func crashed(t *testing.T) (data []byte, entries []Entry, ends []int64) {
	t.Helper()
	dir := t.TempDir()
	j := openTest(t, dir, Options{})
	ends = []int64{j.active.size}
	for n := range 3 {
		appendTest(t, j, settleOf(n))
		ends = append(ends, j.active.size)
	}
	entries = j.Pending()
	data, err := os.ReadFile(segmentFiles(t, dir)[0])
	require.NoError(t, err)
	require.Len(t, data, int(ends[3]))
	return data, entries, ends
}

func dirWith(t *testing.T, segments ...[]byte) string {
	t.Helper()
	dir := t.TempDir()
	for i, data := range segments {
		require.NoError(t, os.WriteFile(newSegment(dir, uint64(i+1)).path, data, 0o600))
	}
	return dir
}

// A file that ends at any byte is read up to its last whole record, and goes on from there.
func TestTornTailAtEveryByte(t *testing.T) {
	t.Parallel()
	data, entries, ends := crashed(t)
	for size := range len(data) + 1 {
		dir := dirWith(t, data[:size])
		var log bytes.Buffer
		j, err := Open(dir, Options{Log: zerolog.New(&log)})
		require.NoError(t, err, size)
		whole := 0
		for whole < 3 && ends[whole+1] <= int64(size) {
			whole++
		}
		require.Equal(t, entries[:whole], append([]Entry{}, j.Pending()...), size)
		r := j.Recovery()
		if onEdge := slices.Contains(ends, int64(size)); onEdge {
			require.Empty(t, r.CutPath, size)
		} else {
			require.Equal(t, newSegment(dir, 1).path, r.CutPath, size)
			require.EqualValues(t, size, r.CutOffset+r.CutBytes, size)
			require.Contains(t, log.String(), "cut the torn tail", size)
		}
		appendTest(t, j, settleOf(9))
		require.NoError(t, j.Close())

		j, err = Open(dir, Options{})
		require.NoError(t, err, size)
		require.Len(t, j.Pending(), whole+1, size)
		require.Empty(t, j.Recovery().CutPath, "the cut was made for good")
		require.NoError(t, j.Close())
	}
}

// After a power cut the tail may also be long enough and hold anything.
func TestTornTailOfZerosAndRubbish(t *testing.T) {
	t.Parallel()
	data, entries, ends := crashed(t)
	for _, fill := range [][]byte{{0}, {0xff}, {1, 0, 0, 0}, []byte("rubbish")} {
		torn := append(slices.Clone(data[:ends[2]]), bytes.Repeat(fill, 3000/len(fill))...)
		j := openTest(t, dirWith(t, torn), Options{})
		require.Equal(t, entries[:2], j.Pending())
		require.Equal(t, ends[2], j.Recovery().CutOffset)
	}
}

// A record whose neighbour in the same unsynced batch survived is torn, not damaged: neither was acknowledged.
func TestTornInsideABatch(t *testing.T) {
	t.Parallel()
	data, entries, ends := crashed(t)
	base := ends[2]
	batch := slices.Clone(data[:base])
	var first int
	for n, e := range []Entry{entryOf(3, settleOf(7)), entryOf(4, settleOf(8))} {
		batch = append(batch, appendFrame(nil, 1, int64(len(batch)), base, kindEntry,
			func(b []byte) []byte { return appendEntry(b, e) })...)
		if n == 0 {
			first = len(batch)
		}
	}
	j := openTest(t, dirWith(t, batch), Options{})
	require.Len(t, j.Pending(), 4)
	clear(batch[base+10 : first]) // a sector that was not written
	j = openTest(t, dirWith(t, batch), Options{})
	require.Equal(t, entries[:2], j.Pending())
	require.Equal(t, base, j.Recovery().CutOffset)
}

// Every byte of what a later record calls durable is guarded: a flip is an error that names file and offset.
func TestBitFlipIsNeverSkipped(t *testing.T) {
	t.Parallel()
	data, entries, ends := crashed(t)
	bad := slices.Clone(data)
	for at := range int64(len(data)) { // one bit of each byte: the checksum knows no difference between bits
		bit := at*8 + at%8
		bad[at] ^= 1 << (at % 8)
		dir := dirWith(t, bad)
		bad[at] = data[at]
		j, err := Open(dir, Options{})
		if at < ends[2] {
			var corrupt *CorruptError
			require.ErrorAs(t, err, &corrupt, "bit %d", bit)
			require.ErrorIs(t, err, ErrCorrupt)
			require.Equal(t, newSegment(dir, 1).path, corrupt.Path)
			require.LessOrEqual(t, corrupt.Offset, at)
			continue
		}
		// Nothing stands behind the last record that could say that it was durable: it is cut and reported.
		require.NoError(t, err, "bit %d", bit)
		require.Equal(t, entries[:2], j.Pending())
		require.Equal(t, ends[2], j.Recovery().CutOffset)
		require.NoError(t, j.Close())
	}
}

// Once sealed (closed, or not the newest) a segment is guarded to its last byte.
func TestSealedSegmentIsGuardedWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := openTest(t, dir, Options{})
	for n := range 3 {
		appendTest(t, j, settleOf(n))
	}
	require.NoError(t, j.Close())
	sealed, err := os.ReadFile(segmentFiles(t, dir)[0])
	require.NoError(t, err)
	newest := header(2, 4)

	entriesEnd := len(sealed) - sealSize
	for at := range sealed {
		bad := slices.Clone(sealed)
		bad[at] ^= 0x10
		_, err := Open(dirWith(t, bad, newest), Options{})
		require.ErrorIs(t, err, ErrCorrupt, at)
		if at%4 == 0 && at < entriesEnd {
			_, err = Open(dirWith(t, bad), Options{})
			require.ErrorIs(t, err, ErrCorrupt, at)
		}
		if at%4 == 1 {
			_, err = Open(dirWith(t, sealed[:at], newest), Options{})
			require.ErrorIs(t, err, ErrCorrupt, "cut at %d", at)
		}
	}
	require.Len(t, openTest(t, dirWith(t, sealed, newest), Options{}).Pending(), 3)
	require.Len(t, openTest(t, dirWith(t, sealed, newest[:7]), Options{}).Pending(), 3, "an unfinished header")
}

func TestStrangeSegments(t *testing.T) {
	t.Parallel()
	data, _, ends := crashed(t)
	unknown := append(slices.Clone(data), appendFrame(nil, 1, ends[3], ends[3], kind(9),
		func(b []byte) []byte { return b })...)
	_, err := Open(dirWith(t, unknown), Options{})
	require.ErrorContains(t, err, "unknown kind 9, perhaps written by a newer version")

	gap := append(slices.Clone(data), appendFrame(nil, 1, ends[3], ends[3], kindEntry,
		func(b []byte) []byte { return appendEntry(b, entryOf(9, settleOf(1))) })...)
	_, err = Open(dirWith(t, gap), Options{})
	require.ErrorContains(t, err, "entry 9 stands where entry 4 should")

	sealed := append(slices.Clone(data), appendFrame(nil, 1, ends[3], ends[3], kindSeal,
		func(b []byte) []byte { return b })...)
	_, err = Open(dirWith(t, sealed, header(2, 2)), Options{})
	require.ErrorContains(t, err, "an older segment has entry 3")

	_, err = Open(dirWith(t, sealed, sealed), Options{})
	require.ErrorIs(t, err, ErrCorrupt, "a copy under another number")

	dir := dirWith(t, data)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("x"), 0o600))
	require.Len(t, openTest(t, dir, Options{}).Pending(), 3, "other files are left alone")
}

func FuzzRecover(f *testing.F) {
	j, err := Open(f.TempDir(), Options{})
	require.NoError(f, err)
	_, err = j.Append(Commit, settleOf(1), epoch)
	require.NoError(f, err)
	require.NoError(f, j.Ack(1))
	data, err := os.ReadFile(j.active.path)
	require.NoError(f, err)
	require.NoError(f, j.Close())
	f.Add(data, uint16(0), byte(0))
	f.Add(data[:40], uint16(30), byte(1))
	f.Fuzz(func(t *testing.T, data []byte, at uint16, change byte) {
		if len(data) > 0 {
			data = slices.Clone(data)
			data[int(at)%len(data)] ^= change
		}
		dir := dirWith(t, data)
		j, err := Open(dir, Options{})
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			return
		}
		first := j.Pending()
		require.NoError(t, j.Close())
		j, err = Open(dir, Options{})
		require.NoError(t, err, "what was opened once can be opened again")
		require.Equal(t, first, j.Pending())
		require.NoError(t, j.Close())
	})
}

func FuzzEntry(f *testing.F) {
	f.Add(appendEntry(nil, entryOf(7, settleOf(3))))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEntry(b)
		if err != nil {
			require.ErrorIs(t, err, ErrEntry)
			return
		}
		again, err := parseEntry(appendEntry(nil, e))
		require.NoError(t, err)
		require.LessOrEqual(t, len(appendEntry(nil, e)), frameMax-frameHead-payloadHead)
		e.Settle.Note, again.Settle.Note = shortNote(e), shortNote(again)
		require.Equal(t, e, again)
	})
}
