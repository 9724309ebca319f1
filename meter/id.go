package meter

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrID says that an identifier is malformed.
var ErrID = errors.New("malformed id")

// ID is a UUIDv7 (RFC 9562 §5.7): its first 48 bits are its creation time in milliseconds, so an id tells which
// outcome slot it belongs to. Redis keeps the 16 bytes, everything else the usual text.
type ID [16]byte

// NewID makes an id created at now. The random part is 74 bits of crypto/rand.
func NewID(now time.Time) ID {
	var id ID
	_, _ = rand.Read(id[6:]) // crypto/rand.Read never fails: it ends the program if the system has no randomness
	binary.BigEndian.PutUint16(id[0:], uint16(now.UnixMilli()>>32))
	binary.BigEndian.PutUint32(id[2:], uint32(now.UnixMilli()))
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// CreatedMs is the creation time in Unix milliseconds.
func (id ID) CreatedMs() int64 {
	return int64(binary.BigEndian.Uint16(id[0:]))<<32 | int64(binary.BigEndian.Uint32(id[2:]))
}

// IsZero reports whether the id was never set.
func (id ID) IsZero() bool { return id == ID{} }

// String writes the usual 36 characters.
func (id ID) String() string { return string(id.Append(make([]byte, 0, 36))) }

// Append is String into a buffer.
func (id ID) Append(to []byte) []byte {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return append(to, b[:]...)
}

// MarshalText writes String's form.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads String's form.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}

// ParseID reads String's form and nothing else: lower case, with its hyphens.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' || strings.ToLower(s) != s {
		return ID{}, fmt.Errorf("%w: %q is not a lower-case UUID", ErrID, s)
	}
	if _, err := hex.Decode(id[:], []byte(s[0:8]+s[9:13]+s[14:18]+s[19:23]+s[24:36])); err != nil {
		return ID{}, fmt.Errorf("%w: %q is not a lower-case UUID", ErrID, s)
	}
	return id, nil
}

// ReservationID names a reservation and says where it lives: layout, partition and creation time. Its text is
// "<layout>-<partition>-<uuid>", such as 1-03-01932f6e-7b8c-7abc-8123-456789abcdef.
type ReservationID struct {
	Layout    uint16
	Partition uint16
	ID        ID
}

// String writes the text form.
func (r ReservationID) String() string { return string(r.Append(make([]byte, 0, 48))) }

// Append is String into a buffer.
func (r ReservationID) Append(to []byte) []byte {
	b := strconv.AppendUint(to, uint64(r.Layout), 10)
	b = append(b, '-')
	if r.Partition < 10 {
		b = append(b, '0')
	}
	b = strconv.AppendUint(b, uint64(r.Partition), 10)
	return r.ID.Append(append(b, '-'))
}

// MarshalText writes String's form.
func (r ReservationID) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads String's form.
func (r *ReservationID) UnmarshalText(b []byte) (err error) {
	*r, err = ParseReservationID(string(b))
	return err
}

// ParseReservationID reads String's form. Only the one canonical spelling is accepted.
func ParseReservationID(s string) (ReservationID, error) {
	layout, rest, ok1 := strings.Cut(s, "-")
	part, uuid, ok2 := strings.Cut(rest, "-")
	l, err1 := strconv.ParseUint(layout, 10, 16)
	p, err2 := strconv.ParseUint(part, 10, 16)
	id, err3 := ParseID(uuid)
	r := ReservationID{Layout: uint16(l), Partition: uint16(p), ID: id}
	if !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil || r.String() != s {
		return ReservationID{}, fmt.Errorf("%w: %q is not a reservation id", ErrID, s)
	}
	return r, nil
}

// nameMax bounds names that callers choose: accounts, buckets, references.
const nameMax = 64

// ValidName reports whether s may name an account, a key, a bucket or an external reference:
// [A-Za-z0-9._-]{1,64}.
func ValidName(s string) bool {
	if s == "" || len(s) > nameMax {
		return false
	}
	for i := range len(s) {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
		if !ok {
			return false
		}
	}
	return true
}
