package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
)

// ErrCorrupt is what every CorruptError unwraps to.
var ErrCorrupt = errors.New("journal is damaged")

// CorruptError says where a record that was once durable can no longer be read.
type CorruptError struct {
	Path   string
	Offset int64
	Reason string
}

// Error names the place and the way out.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal is damaged: %s at byte %d: %s; restore the file, or move it out of the directory to "+
		"go on without the settlements in it (their reservations will expire uncharged)", e.Path, e.Offset, e.Reason)
}

// Unwrap makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// Recovery is what Open found.
type Recovery struct {
	Entries  int // settlements to repeat
	Segments int
	// CutPath is the segment whose tail was torn by a crash, empty if none was; CutBytes were cut at CutOffset.
	// They belonged to calls of Append that never returned.
	CutPath   string
	CutOffset int64
	CutBytes  int64
}

// recover reads every segment, cuts a torn tail, and leaves all of them sealed.
func (j *Journal) recover() error {
	numbers, err := segmentNumbers(j.dir)
	if err != nil {
		return err
	}
	for i, number := range numbers {
		s := newSegment(j.dir, number)
		keep, err := j.load(s, i == len(numbers)-1)
		if err != nil {
			return err
		}
		if keep {
			j.segments = append(j.segments, s)
			j.bytes += s.size
		}
		j.nextNumber = number + 1
	}
	j.recovery.Entries, j.recovery.Segments = len(j.pending), len(j.segments)
	return nil
}

func segmentNumbers(dir string) ([]uint64, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("journal: read directory: %w", err)
	}
	var numbers []uint64
	for _, f := range files {
		if n, ok := segmentNumber(f.Name()); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// load reads one segment; keep is false if it was begun by a crashed process and never used.
func (j *Journal) load(s *segment, newest bool) (keep bool, err error) {
	data, err := readSegment(s.path)
	if err != nil {
		return false, err
	}
	firstSeq, ok := parseHeader(data, s.number)
	switch {
	case !ok && newest && len(data) <= headerSize: // nothing is written behind a header that is not on disk
		if err := j.disk.remove(s.path); err != nil {
			return false, fmt.Errorf("journal: remove unfinished segment: %w", err)
		}
		j.noteCut(s.path, 0, int64(len(data)))
		return false, nil
	case !ok:
		return false, &CorruptError{Path: s.path, Offset: 0, Reason: "its header is not that of this segment"}
	case firstSeq < j.nextSeq:
		return false, &CorruptError{Path: s.path, Offset: 0, Reason: fmt.Sprintf(
			"it begins at entry %d, but an older segment has entry %d", firstSeq, j.nextSeq-1)}
	}
	j.nextSeq = firstSeq
	end, sealed, err := j.readRecords(s, data)
	switch {
	case err != nil:
		return false, err
	case sealed:
		s.size, s.durable = end, end
		return true, nil
	case !newest:
		return false, &CorruptError{Path: s.path, Offset: end, Reason: "a record is unreadable, or the end is missing"}
	case provenDurable(data, s.number, end):
		return false, &CorruptError{Path: s.path, Offset: end, Reason: "a record is unreadable, but readable ones follow"}
	}
	return true, j.cut(s, end, int64(len(data)))
}

func readSegment(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if info.Size() > 2*bytesMaxMax {
		return nil, &CorruptError{Path: path, Offset: 2 * bytesMaxMax, Reason: "it is larger than a journal can be"}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return data, nil
}

// readRecords takes over what a segment says, up to its seal or the first bad record.
func (j *Journal) readRecords(s *segment, data []byte) (end int64, sealed bool, err error) {
	at := int64(headerSize)
	for {
		f, ok := parseFrame(data, s.number, at)
		if !ok {
			return at, false, nil
		}
		var bad string
		switch f.kind {
		case kindSeal:
			return f.next, true, nil
		case kindEntry:
			bad = j.readEntry(s, f.body)
		case kindMark:
			bad = j.readMark(s, f.body)
		default:
			bad = fmt.Sprintf("a record of unknown kind %d, perhaps written by a newer version", f.kind)
		}
		if bad != "" {
			return 0, false, &CorruptError{Path: s.path, Offset: at, Reason: bad}
		}
		at = f.next
	}
}

func (j *Journal) readEntry(s *segment, body []byte) (bad string) {
	e, err := parseEntry(body)
	if err != nil {
		return err.Error()
	}
	if e.Seq != j.nextSeq {
		return fmt.Sprintf("entry %d stands where entry %d should", e.Seq, j.nextSeq)
	}
	j.nextSeq++
	j.pending[e.Seq] = held{Entry: e, in: s}
	s.pending++
	return ""
}

func (j *Journal) readMark(s *segment, body []byte) (bad string) {
	if len(body) != 8 {
		return fmt.Sprintf("a mark of %d bytes", len(body))
	}
	seq := binary.LittleEndian.Uint64(body)
	if h, ok := j.pending[seq]; ok { // otherwise its segment is deleted
		j.settle(h)
		s.marks = append(s.marks, mark{seq: seq, of: h.in})
	}
	return ""
}

// cut ends an unsealed segment at a whole record.
func (j *Journal) cut(s *segment, end, size int64) (err error) {
	if end < size {
		j.noteCut(s.path, end, size-end)
	}
	if s.f, err = j.disk.open(s.path); err != nil {
		return fmt.Errorf("journal: cut torn tail: %w", err)
	}
	s.size, s.durable = end, end
	if err := s.giveUp(); err != nil {
		if s.f != nil {
			_ = s.f.Close()
		}
		return err
	}
	return nil
}

func (j *Journal) noteCut(path string, offset, n int64) {
	j.recovery.CutPath, j.recovery.CutOffset, j.recovery.CutBytes = path, offset, n
	j.log.Warn().Str("path", path).Int64("offset", offset).Int64("bytes", n).
		Msg("journal: cut the torn tail of a crash; it held no settlement that was acknowledged")
}
