package meter

import (
	"encoding/binary"
	"fmt"
)

// Meta is a partition's head, fence and clock: one packed value, so that a call reads and writes it together with
// the accounts. lua/lib/section.lua reads and writes the same bytes.
type Meta struct {
	Loading        bool // being rebuilt from Postgres; open otherwise
	Torn           bool // a write failed half-way; a person must look
	Epoch, Pseq    uint64
	Flushed        Position // how far Postgres is, as Redis was told
	LastMs         int64    // of the newest write; the clock never goes behind it
	DownMs         int64    // how long Redis was away in all: leases do not count it
	OutcomesFromMs int64    // outcomes of ids made before may be forgotten
	Base           uint64   // the pseq it was rebuilt at; the stream begins after it
	NotedSlot      int64    // the newest outcome slot that was written, by number
	NotedMs        int64    // when that was last noted in slots
	Incarnation    string   // the replication id of the Redis that it was opened on
}

const (
	metaFormat      = 2
	metaLoading     = 1
	metaOpen        = 2
	incarnationSize = 40 // hexadecimal digits of a Redis replication id
)

// AppendMeta packs m.
func AppendMeta(b []byte, m Meta) []byte {
	state, torn := byte(metaOpen), byte(0)
	if m.Loading {
		state = metaLoading
	}
	if m.Torn {
		torn = 1
	}
	b = append(b, metaFormat, state, torn)
	for _, n := range [...]uint64{m.Epoch, m.Pseq, m.Flushed.Pseq, m.Flushed.Epoch} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	b = appendInt48(appendInt48(appendInt48(b, m.LastMs), m.DownMs), m.OutcomesFromMs)
	b = binary.LittleEndian.AppendUint64(b, m.Base)
	b = appendInt48(appendInt48(b, m.NotedSlot), m.NotedMs)
	b = append(b, byte(len(m.Incarnation)))
	return append(b, m.Incarnation...)
}

// UnpackMeta reads AppendMeta's form.
func UnpackMeta(b []byte) (Meta, error) {
	r := reader{b: b}
	r.format(metaFormat)
	state := r.u8()
	m := Meta{Loading: state == metaLoading, Torn: r.flag(), Epoch: r.u64(), Pseq: r.u64()}
	m.Flushed.Pseq, m.Flushed.Epoch = r.u64(), r.u64()
	m.LastMs, m.DownMs, m.OutcomesFromMs = r.i48(), r.i48(), r.i48()
	m.Base, m.NotedSlot, m.NotedMs = r.u64(), r.i48(), r.i48()
	m.Incarnation = r.str(int(r.u8()))
	if state != metaLoading && state != metaOpen || len(m.Incarnation) > incarnationSize {
		return Meta{}, fmt.Errorf("meta: %w", ErrPacked)
	}
	return m, r.end("meta")
}
