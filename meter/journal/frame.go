package journal

import (
	"encoding/binary"
	"hash/crc32"
)

// A record's payload begins with its kind and the offset up to which the file was on disk when it was written.
const (
	frameHead   = 8     // length and checksum
	payloadHead = 1 + 4 // kind and durable offset
	noteMax     = 1 + 5*(1+120) + 32
	frameMax    = frameHead + payloadHead + entryFixed + accountMax + noteMax
	markSize    = frameHead + payloadHead + 8
	sealSize    = frameHead + payloadHead
)

type kind uint8

const (
	kindEntry kind = 1 // a settlement to repeat
	kindMark  kind = 2 // the sequence number of an entry that is settled
	kindSeal  kind = 3 // the end of the segment
)

// frame is a record read back.
type frame struct {
	kind    kind
	durable int64  // the file was on disk up to here when the record was written
	body    []byte // aliases the segment's bytes
	next    int64  // offset after the record
}

// place is where a record stands; its checksum covers it, so that a record that was moved or left over from
// another file is not valid.
type place struct {
	segment uint64
	offset  int64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli) //nolint:gochecknoglobals // read-only

func (p place) checksum(length, payload []byte) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[0:], p.segment)
	binary.LittleEndian.PutUint64(b[8:], uint64(p.offset))
	c := crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, length)
	return crc32.Update(c, castagnoli, payload)
}

// appendFrame appends a record whose body is written by fill. b[0] stands at offset base of the segment.
func appendFrame(b []byte, segment uint64, base, durable int64, k kind, fill func([]byte) []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, frameHead)...)
	b = append(b, byte(k))
	b = binary.LittleEndian.AppendUint32(b, uint32(durable))
	b = fill(b)
	head, payload := b[start:start+frameHead], b[start+frameHead:]
	binary.LittleEndian.PutUint32(head, uint32(len(payload)))
	p := place{segment: segment, offset: base + int64(start)}
	binary.LittleEndian.PutUint32(head[4:], p.checksum(head[:4], payload))
	return b
}

// parseFrame reads the record at an offset of a segment's bytes; ok is false if there is no whole, undamaged one.
func parseFrame(data []byte, segment uint64, offset int64) (f frame, ok bool) {
	if int64(len(data))-offset < sealSize {
		return frame{}, false
	}
	b := data[offset:]
	n := binary.LittleEndian.Uint32(b)
	if n < payloadHead || n > frameMax-frameHead || int(n) > len(b)-frameHead {
		return frame{}, false
	}
	payload := b[frameHead : frameHead+n]
	p := place{segment: segment, offset: offset}
	if p.checksum(b[:4], payload) != binary.LittleEndian.Uint32(b[4:]) {
		return frame{}, false
	}
	return frame{
		kind:    kind(payload[0]),
		durable: int64(binary.LittleEndian.Uint32(payload[1:])),
		body:    payload[payloadHead:],
		next:    offset + frameHead + int64(n),
	}, true
}

// provenDurable looks behind a bad record at offset for one that says the file was on disk beyond it. It tries
// every byte, because the bad record's length cannot be trusted.
func provenDurable(data []byte, segment uint64, offset int64) bool {
	for at := offset + 1; at+sealSize <= int64(len(data)); at++ {
		if f, ok := parseFrame(data, segment, at); ok && f.durable > offset {
			return true
		}
	}
	return false
}
