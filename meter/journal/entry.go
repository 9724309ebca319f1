package journal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"creditgate/meter"
)

// Verb is what is to be done to the reservation. The numbers are on disk.
type Verb uint8

// The verbs that settle.
const (
	Commit  Verb = 1
	Release Verb = 2
)

// String is the verb's word.
func (v Verb) String() string {
	switch v {
	case Commit:
		return "commit"
	case Release:
		return "release"
	}
	return fmt.Sprintf("verb(%d)", uint8(v))
}

// Entry is one settlement whose outcome is not known.
type Entry struct {
	Seq         uint64 // its number in this directory, given by Append
	Verb        Verb
	Settle      meter.Settle // without Until and Brief, which are not on disk
	AttemptedMs int64        // when it was first sent, Unix milliseconds
}

// ErrEntry says that a settlement cannot be journalled because it could not be read back.
var ErrEntry = errors.New("not a settlement that can be journalled")

// entryFixed is the size of an entry without its account and note.
const entryFixed = 8 + 1 + 6 + 2 + 2 + 16 + 8 + 8 + 4 + 1

// accountMax is the longest account name (meter.ValidName).
const accountMax = 64

func (e Entry) check() error {
	s := e.Settle
	switch {
	case e.Verb != Commit && e.Verb != Release:
		return fmt.Errorf("%w: %s", ErrEntry, e.Verb)
	case !meter.ValidName(s.Account):
		return fmt.Errorf("%w: account %q", ErrEntry, s.Account)
	case !s.Amount.Valid() || !s.Reserved.Valid() || s.Amount < 0 || s.Reserved < 0,
		e.Verb == Commit && (s.Amount == 0 || s.Amount > s.Reserved): // never accepted, and never booked late
		return fmt.Errorf("%w: %s of %s reserved of %s", ErrEntry, e.Verb, s.Amount, s.Reserved)
	case e.AttemptedMs < 0 || e.AttemptedMs >= 1<<47:
		return fmt.Errorf("%w: attempted at %d ms", ErrEntry, e.AttemptedMs)
	}
	return nil
}

func appendEntry(b []byte, e Entry) []byte {
	s := e.Settle
	b = binary.LittleEndian.AppendUint64(b, e.Seq)
	b = append(b, byte(e.Verb))
	b = binary.LittleEndian.AppendUint32(b, uint32(e.AttemptedMs))
	b = binary.LittleEndian.AppendUint16(b, uint16(e.AttemptedMs>>32))
	b = binary.LittleEndian.AppendUint16(b, s.ID.Layout)
	b = binary.LittleEndian.AppendUint16(b, s.ID.Partition)
	b = append(b, s.ID.ID[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Amount))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Reserved))
	b = binary.LittleEndian.AppendUint32(b, s.Units)
	b = append(b, byte(len(s.Account)))
	b = append(b, s.Account...)
	return meter.AppendNote(b, s.Note) // to the end of the payload; an empty note is no bytes
}

func parseEntry(b []byte) (Entry, error) {
	if len(b) < entryFixed {
		return Entry{}, fmt.Errorf("%w: %d bytes", ErrEntry, len(b))
	}
	le := binary.LittleEndian
	e := Entry{
		Seq:         le.Uint64(b),
		Verb:        Verb(b[8]),
		AttemptedMs: int64(le.Uint32(b[9:])) | int64(le.Uint16(b[13:]))<<32,
	}
	s := &e.Settle
	s.ID = meter.ReservationID{Layout: le.Uint16(b[15:]), Partition: le.Uint16(b[17:]), ID: meter.ID(b[19:35])}
	s.Amount, s.Reserved = meter.Credits(le.Uint64(b[35:])), meter.Credits(le.Uint64(b[43:]))
	s.Units = le.Uint32(b[51:])
	rest := b[entryFixed:]
	n := int(b[entryFixed-1])
	if n > len(rest) {
		return Entry{}, fmt.Errorf("%w: account of %d bytes in %d", ErrEntry, n, len(rest))
	}
	s.Account = string(rest[:n])
	note, err := meter.UnpackNote(rest[n:])
	if err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	s.Note = note
	return e, e.check()
}
