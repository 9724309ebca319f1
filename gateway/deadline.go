package gateway

import (
	"net"
	"os"
	"time"
)

// patientConn is a connection on which moving a deadline into the future costs nothing. Each request moves four, and
// nearly none is ever reached; telling the runtime of each takes a lock and a timer. So it is told only of one that
// comes earlier than the one it knows. When that one passes, the read or write that it ends is taken up again if the
// deadline was moved meanwhile: no earlier and no later than asked, at the price of one vain wake-up a minute.
type patientConn struct {
	net.Conn
	read, write patience
}

// patience is the deadline asked for and the one that the runtime knows of, never later; zero for none.
type patience struct{ asked, armed time.Time }

// ask reports whether the runtime must be told.
func (p *patience) ask(t time.Time) bool {
	p.asked = t
	if !t.IsZero() && !p.armed.IsZero() && !p.armed.After(t) {
		return false
	}
	p.armed = t
	return true
}

// early reports whether err is of a deadline that was moved meanwhile, and arms the present one.
func (p *patience) early(err error, arm func(time.Time) error) bool {
	if !isTimeout(err) || p.armed.Equal(p.asked) || !time.Now().Before(p.asked) {
		return false
	}
	p.armed = p.asked
	return arm(p.armed) == nil
}

// isTimeout reports whether a read or write of a net.Conn ran into its deadline.
func isTimeout(err error) bool {
	op, ok := err.(*net.OpError)                  //nolint:errorlint // as package net returns it; this is asked for every read
	return ok && op.Err == os.ErrDeadlineExceeded //nolint:errorlint // as above
}

// SetReadDeadline implements net.Conn.
func (c *patientConn) SetReadDeadline(t time.Time) error {
	if c.read.ask(t) {
		return c.Conn.SetReadDeadline(t)
	}
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *patientConn) SetWriteDeadline(t time.Time) error {
	if c.write.ask(t) {
		return c.Conn.SetWriteDeadline(t)
	}
	return nil
}

// SetDeadline implements net.Conn.
func (c *patientConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *patientConn) Read(b []byte) (n int, err error) {
	for {
		n, err = c.Conn.Read(b)
		if err == nil || n > 0 || !c.read.early(err, c.Conn.SetReadDeadline) {
			return n, err
		}
	}
}

func (c *patientConn) Write(b []byte) (n int, err error) {
	for {
		more, err := c.Conn.Write(b[n:])
		n += more
		if err == nil || !c.write.early(err, c.Conn.SetWriteDeadline) {
			return n, err
		}
	}
}
