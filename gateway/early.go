package gateway

import (
	"errors"
	"time"
)

// A backend may refuse a request before it has read its body, and close or reset the connection: net/http does so above
// a MaxBytesReader's bound. Its answer lies in the socket then, behind a write that failed or is stuck.

const (
	// earlyWait bounds the wait for the head of an answer behind a failed write. What there is has arrived before the
	// reset that ended the write.
	earlyWait = time.Second
	// lookEvery is how often a write that is stuck looks for a refusal.
	lookEvery = 100 * time.Millisecond
	// lookAbove is the shortest write that may get stuck: socket buffers take less at once. TLS writes records below it,
	// so that it never looks; it could not tell an answer from a session ticket.
	lookAbove = 64 << 10
)

// errRefusedEarly ends the write of a body that the backend has refused already.
var errRefusedEarly = errors.New("backend answered with an error before the body was sent")

// mayHaveAnswered reports whether an answer is worth a look after the write of a request has failed, and gives it its
// time. A write that ran into the deadline has none: it looked while it was stuck.
func (c *backendConn) mayHaveAnswered(failed error, deadline time.Time) bool {
	if !c.sent || isTimeout(failed) {
		return false
	}
	until := time.Now().Add(earlyWait)
	if until.After(deadline) {
		until = deadline
	}
	return c.SetReadDeadline(until) == nil
}

// writeLong writes what the socket may not take at once, and stops when it is stuck and the backend has refused.
func (c *backendConn) writeLong(b []byte) (n int, err error) {
	until := c.write.asked
	for {
		step := time.Now().Add(lookEvery)
		if !until.IsZero() && step.After(until) {
			step = until
		}
		if err = c.Conn.SetWriteDeadline(step); err != nil {
			return n, err
		}
		c.write.armed = step
		more, err := c.Conn.Write(b[n:])
		n += more
		switch {
		case err == nil || !isTimeout(err) || (!until.IsZero() && !time.Now().Before(until)):
			return n, err
		case c.idle.refused():
			return n, errRefusedEarly
		}
	}
}
