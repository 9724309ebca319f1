package meter

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// recordsKept bounds the memory of a read that is kept for the next ones, in bytes of Redis' reply. A transaction's worth
// of records, 2,000 entries, is some 500 KB.
const recordsKept = 1 << 20

// Records is what one read of a ledger brings: the reply as Redis sent it, and what it says. The memory is used again
// once they are released. Texts are parts of a string of the read's own, and stay what they are.
type Records struct {
	List []Record

	reply   bytes.Buffer // the records' bodies are parts of it
	entries []Entry
	lines   []Line
	spare   *sync.Pool // nil: the memory is nobody's
}

func newRecords() *sync.Pool {
	spare := &sync.Pool{}
	spare.New = func() any { return &Records{spare: spare} }
	return spare
}

// Release says that nothing of the records is used any more. What they were is wiped, so that whoever still looks finds
// nothing, and not what another read brought.
func (r *Records) Release() {
	if r.spare == nil {
		return
	}
	reply := r.reply.Bytes()
	clear(reply)
	clear(r.List)
	clear(r.entries)
	clear(r.lines)
	if len(reply) <= recordsKept { // its buffer has up to twice that
		r.spare.Put(r)
	}
}

// begin makes them ready for a reply, of which there may have been the half already.
func (r *Records) begin() *bytes.Buffer {
	r.reply.Reset()
	r.List, r.entries, r.lines = r.List[:0], r.entries[:0], r.lines[:0]
	return &r.reply
}

// unpack reads the reply to XRANGE: of each record its id, and one field with its body.
func (r *Records) unpack(layout, partition uint16) error {
	w := reply{b: r.reply.Bytes(), text: r.reply.String()}
	if strings.HasPrefix(w.text, "-") {
		return fmt.Errorf("%w: %s", errRefused, strings.TrimSpace(w.text[1:]))
	}
	n := w.count('*')
	r.List = slices.Grow(r.List, min(n, len(w.b)/entrySizeMin))
	for range n {
		w.expect("*2")
		_, id := w.bulk()
		w.expect("*2")
		w.expect("$1")
		w.expect("e")
		body, text := w.bulk()
		if w.bad {
			break
		}
		rec := Record{Layout: layout, Partition: partition}
		var err error
		if rec.Position, err = parsePosition(id); err != nil {
			return err
		}
		if r.entries, r.lines, err = unpackRecord(&rec, body, text, r.entries, r.lines); err != nil {
			return fmt.Errorf("record %s: %w", id, err)
		}
		r.List = append(r.List, rec)
	}
	if w.bad || len(w.b) > 0 {
		return fmt.Errorf("%w: in the reply, after %d of %d records", ErrPacked, len(r.List), n)
	}
	return nil
}

// reply walks what Redis answered, as RESP has it, and remembers that something was not as expected.
type reply struct {
	b    []byte
	text string // that ends with what b has
	bad  bool
}

// crlf ends each line and each string.
const crlf = "\r\n"

func (r *reply) line() []byte {
	line, rest, ok := bytes.Cut(r.b, []byte(crlf))
	if r.bad || !ok {
		r.bad = true
		return nil
	}
	r.b = rest
	return line
}

func (r *reply) expect(line string) {
	if string(r.line()) != line {
		r.bad = true
	}
}

// count reads how many elements an array '*', or bytes a string '$' has.
func (r *reply) count(kind byte) int {
	line := r.line()
	if len(line) == 0 || line[0] != kind {
		r.bad = true
		return 0
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || n < 0 {
		r.bad = true
		return 0
	}
	return n
}

// bulk reads a string of any bytes, as bytes and as a part of the text.
func (r *reply) bulk() ([]byte, string) {
	n := r.count('$')
	if r.bad || n > len(r.b)-len(crlf) || string(r.b[n:n+len(crlf)]) != crlf {
		r.bad = true
		return nil, ""
	}
	v, text := r.b[:n:n], r.text[len(r.text)-len(r.b):]
	r.b = r.b[n+len(crlf):]
	return v, text[:n]
}
