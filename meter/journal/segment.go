package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strconv"
	"strings"
)

// A segment file is named by its number and begins with magic, number, the first sequence number its entries may
// have, and a CRC-32C of these. The last byte of magic is the format.
const (
	magic      = "cgjrnl\x00\x01"
	headerSize = len(magic) + 8 + 8 + 4
	nameSuffix = ".segment"
	nameDigits = 16
)

// segment is one file. Its fields are guarded by the journal's flight, pending, marks and deleted by its mutex.
type segment struct {
	number  uint64
	path    string
	f       file  // nil once sealed
	size    int64 // what was written
	durable int64 // what is known to be on disk
	pending int   // entries not settled
	marks   []mark
	deleted bool
}

// mark says that an entry of a segment is settled.
type mark struct {
	seq uint64
	of  *segment
}

func newSegment(dir string, number uint64) *segment {
	return &segment{
		number: number,
		path:   filepath.Join(dir, fmt.Sprintf("%0*d%s", nameDigits, number, nameSuffix)),
	}
}

// segmentNumber reads the number from a file's name; ok is false for names that are none of ours.
func segmentNumber(name string) (n uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, nameSuffix)
	if !ok || len(digits) != nameDigits {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil
}

func header(number, firstSeq uint64) []byte {
	b := append(make([]byte, 0, headerSize), magic...)
	b = binary.LittleEndian.AppendUint64(b, number)
	b = binary.LittleEndian.AppendUint64(b, firstSeq)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// parseHeader returns the first sequence number; ok is false if the header is not whole or not this segment's.
func parseHeader(data []byte, number uint64) (firstSeq uint64, ok bool) {
	if len(data) < headerSize {
		return 0, false
	}
	firstSeq = binary.LittleEndian.Uint64(data[len(magic)+8:])
	return firstSeq, string(data[:headerSize]) == string(header(number, firstSeq))
}

// begin creates the file and makes it and its name durable, so that no record can be lost with its file.
func (s *segment) begin(d disk, firstSeq uint64) error {
	f, err := d.create(s.path)
	if err != nil {
		return fmt.Errorf("journal: begin a segment: %w", err)
	}
	_, err = f.WriteAt(header(s.number, firstSeq), 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = d.syncDir(filepath.Dir(s.path))
	}
	if err != nil {
		_ = f.Close()
		err = fmt.Errorf("journal: begin segment %s: %w", s.path, err)
		if rm := d.remove(s.path); rm != nil {
			return &leftoverError{err: errors.Join(err, rm)}
		}
		return err
	}
	s.f, s.size, s.durable = f, int64(headerSize), int64(headerSize)
	return nil
}

// leftoverError says that a segment could neither be begun nor removed. Behind it no other may be begun: an
// unfinished header is forgiven only in the newest segment.
type leftoverError struct{ err error }

func (e *leftoverError) Error() string { return e.err.Error() }
func (e *leftoverError) Unwrap() error { return e.err }

// write adds records; sync makes them, and all before them, durable.
func (s *segment) write(b []byte, sync bool) error {
	if _, err := s.f.WriteAt(b, s.size); err != nil {
		return fmt.Errorf("journal: write %s: %w", s.path, err)
	}
	s.size += int64(len(b))
	if !sync {
		return nil
	}
	if err := s.f.Sync(); err != nil {
		return fmt.Errorf("journal: sync %s: %w", s.path, err)
	}
	s.durable = s.size
	return nil
}

// seal writes the last record and closes the file.
func (s *segment) seal() error {
	b := appendFrame(nil, s.number, s.size, s.durable, kindSeal, func(b []byte) []byte { return b })
	if err := s.write(b, true); err != nil {
		return err
	}
	_ = s.f.Close() // after a sync there is nothing that closing could lose
	s.f = nil
	return nil
}

// giveUp takes back what is not known to be on disk, and seals. After a failed sync the kernel may have dropped
// pages and will not say so again, so nothing is ever written behind them.
func (s *segment) giveUp() error {
	if err := s.f.Truncate(s.durable); err != nil {
		return fmt.Errorf("journal: cut %s at %d: %w", s.path, s.durable, err)
	}
	s.size = s.durable
	return s.seal()
}
