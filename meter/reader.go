package meter

import (
	"encoding/binary"
	"fmt"
)

// reader walks a packed value. It remembers the first short read instead of returning an error from every field;
// end reports it.
type reader struct {
	b    []byte
	text string // the value as a string, if there is one: texts are then parts of it and no copies
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

// fixed is take for the integer readers: never shorter than n.
func (r *reader) fixed(n int) []byte {
	if v := r.take(n); v != nil {
		return v
	}
	return make([]byte, n)
}

func (r *reader) u8() byte         { return r.fixed(1)[0] }
func (r *reader) u16() uint16      { return binary.LittleEndian.Uint16(r.fixed(2)) }
func (r *reader) u32() uint32      { return binary.LittleEndian.Uint32(r.fixed(4)) }
func (r *reader) u64() uint64      { return binary.LittleEndian.Uint64(r.fixed(8)) }
func (r *reader) id() (id ID)      { copy(id[:], r.take(len(id))); return id }
func (r *reader) str(n int) string { return string(r.take(n)) }

// strLike is str for a text that is probably `like`, which is then used instead of a copy.
func (r *reader) strLike(n int, like string) string {
	b := r.take(n)
	switch {
	case string(b) == like:
		return like
	case r.text != "" && !r.bad:
		return r.taken(n)
	default:
		return string(b)
	}
}

// taken is what was just taken, n bytes, as a part of the text; "" without a text.
func (r *reader) taken(n int) string {
	if r.text == "" || r.bad {
		return ""
	}
	end := len(r.text) - len(r.b)
	return r.text[end-n : end]
}

func (r *reader) credits() Credits {
	c := Credits(r.u64())
	if !c.Valid() {
		r.bad = true
	}
	return c
}

// flag reads a byte of one flag. A set bit that this binary does not know is damage: a new flag is a new format.
func (r *reader) flag() bool {
	v := r.u8()
	if v > 1 {
		r.bad = true
	}
	return v == 1
}

// flags reads a byte of flags of which only the known ones may be set.
func (r *reader) flags(known byte) byte {
	v := r.u8()
	if v&^known != 0 {
		r.bad = true
	}
	return v
}

// i48 reads a time: Unix milliseconds from 0 to Never.
func (r *reader) i48() int64 {
	b := r.fixed(6)
	v := int64(binary.LittleEndian.Uint32(b)) | int64(binary.LittleEndian.Uint16(b[4:]))<<32
	if v > Never {
		r.bad = true
	}
	return v
}

func appendInt48(b []byte, v int64) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(v))
	return binary.LittleEndian.AppendUint16(b, uint16(v>>32))
}

func (r *reader) format(want byte) {
	if r.u8() != want {
		r.bad = true
	}
}

func (r *reader) end(what string) error {
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("%s: %w", what, ErrPacked)
	}
	return nil
}
