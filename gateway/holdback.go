package gateway

import (
	"io"
	"slices"
)

// Bounds of what a streamed response keeps in memory.
const (
	// holdMax is how much of a priced stream is held back at most: enough for the last event of a chat, and for the
	// end of any image or archive to be missed.
	holdMax = 32 << 10
	// fillMax is how much of the backend's body is read at once.
	fillMax = 32 << 10
)

// holdback keeps the end of a body until it is settled: of an event stream the last event, of anything else the
// last holdMax bytes. Without its end a result is of no use, so that nobody can take it and leave the charge.
type holdback struct {
	most   int  // held back; 0 for a free response
	events bool // server-sent events: the last one is held, the ones before pass at once
	buf    []byte
	passed int // of buf, already given to the client

	last    int  // where in buf the last event begins, whole or not
	ended   bool // a blank line came since
	newLine bool // at the start of a line
	cr      bool // the last byte was \r: a \n belongs to it
}

func newHoldback(most int, events bool, begun []byte) *holdback {
	h := &holdback{most: most, events: events, buf: begun}
	h.scan(0)
	return h
}

// fill reads once from r, over what was passed on already.
func (h *holdback) fill(r io.Reader) (int, error) {
	kept := h.buf[h.passed:]
	if cap(h.buf) > 2*(holdMax+fillMax) { // the answer that exceeded the buffer
		h.buf = make([]byte, 0, holdMax+fillMax)
	}
	h.buf = append(h.buf[:0], kept...)
	h.last = max(0, h.last-h.passed)
	h.passed = 0
	n := len(h.buf)
	h.buf = slices.Grow(h.buf, fillMax)
	more, err := r.Read(h.buf[n : n+fillMax])
	h.buf = h.buf[:n+more]
	h.scan(n)
	return more, err
}

// scan finds where the last event begins. Lines end in \n, \r or both, and an event in a blank line; further blank
// lines belong to the event before them.
func (h *holdback) scan(from int) {
	if !h.events {
		return
	}
	for i := from; i < len(h.buf); i++ {
		c := h.buf[i]
		switch {
		case c == '\n' && h.cr: // the second half of a line end
		case c == '\n' || c == '\r':
			h.ended = h.ended || h.newLine
			h.newLine = true
		default:
			if h.ended {
				h.last, h.ended = i, false
			}
			h.newLine = false
		}
		h.cr = c == '\r'
	}
}

// pass moves to p what may go to the client: all if the charge is settled.
func (h *holdback) pass(p []byte, settled bool) int {
	end := len(h.buf)
	if !settled {
		keep := len(h.buf)
		if h.events {
			keep -= h.last
		}
		end -= min(keep, h.most)
	}
	if end <= h.passed {
		return 0
	}
	n := copy(p, h.buf[h.passed:end])
	h.passed += n
	return n
}

// drop gives up what is left.
func (h *holdback) drop() { h.buf, h.passed = nil, 0 }
