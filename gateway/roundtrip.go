package gateway

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/valyala/fasthttp"
)

// This file is one request on a backend's connection. fasthttp keeps the pool of connections, writes the request and
// reads the answer; what stands here instead of its HostClient.Do leaves out what a proxy has no use for: parsing the
// target and writing it anew, repeating a request, and a wrapper with three closures around each body.

// carrier holds the connection that a request went out on, until its answer has been read.
type carrier struct {
	pool  *fasthttp.HostClient
	lease any // fasthttp's own name for the connection in its pool; nil when none is held
	conn  *backendConn
	br    *bufio.Reader
	resp  *fasthttp.Response
	keep  bool // the answer's head lets the connection serve again
	whole bool // the answer was read to its end
}

// roundTrip sends x.out and reads the head of the answer; the body is then read from x.carrier, which must be closed.
// sent tells of a failed one whether the backend may have got a byte of it. The deadline is for the answer's body too.
func (u *upstream) roundTrip(x *exchange, resp *fasthttp.Response, left time.Duration) (sent bool, err error) {
	cc, err := u.client.AcquireConn(left, false)
	if err != nil {
		return false, err // a dialError, or no connection was free
	}
	conn := cc.Conn()
	bc := backendOf(conn)
	failed := u.write(conn, bc, x)
	if failed != nil && !bc.mayHaveAnswered(failed, x.deadline) {
		u.client.CloseConn(cc)
		return bc.sent, failed
	}
	resp.Reset()
	resp.Header.SetNoDefaultContentType(true) // fasthttp would call an untyped answer text/plain
	resp.StreamBody = true                    // the head decides whether the body is buffered or streamed
	resp.SkipBody = x.out.Header.IsHead()
	br := u.client.AcquireReader(conn)
	if err = resp.ReadLimitBody(br, 0); err != nil {
		u.client.ReleaseReader(br)
		u.client.CloseConn(cc)
		if failed != nil {
			err = failed
		}
		return bc.sent, err
	}
	if failed != nil {
		_ = conn.SetReadDeadline(x.deadline) // the body has the usual time
	}
	x.carrier = carrier{
		pool: u.client, lease: cc, conn: bc, br: br, resp: resp, whole: resp.BodyStream() == nil,
		keep: failed == nil && !resp.ConnectionClose() && !x.out.ConnectionClose(),
	}
	return true, nil
}

// write sends x.out.
func (u *upstream) write(conn net.Conn, bc *backendConn, x *exchange) error {
	if err := bc.begin(); err != nil {
		return err
	}
	if err := conn.SetDeadline(x.deadline); err != nil {
		return err
	}
	bw := u.client.AcquireWriter(conn)
	defer u.client.ReleaseWriter(bw)
	if err := x.out.Write(bw); err != nil {
		return err
	}
	return bw.Flush()
}

// Read reads the body. fasthttp takes a chunked body that is cut between two chunks for a whole one; but a whole one is
// read to its end without ever asking the connection for more, so that its closing is not seen.
func (c *carrier) Read(b []byte) (int, error) {
	n, err := c.resp.BodyStream().Read(b)
	if errors.Is(err, io.EOF) {
		if c.resp.Header.ContentLength() == -1 && c.conn.eof {
			return n, io.ErrUnexpectedEOF
		}
		c.whole = true
	}
	return n, err
}

// close gives the connection back. It serves another request only if nothing of this answer is left on it. Closing
// twice does nothing.
func (c *carrier) close() {
	if c.lease == nil {
		return
	}
	_ = c.resp.CloseBodyStream() // in memory only
	if c.keep && c.whole && !c.conn.eof && c.br.Buffered() == 0 {
		handOver(c.pool.ReleaseConn, c.lease)
	} else {
		handOver(c.pool.CloseConn, c.lease)
	}
	c.pool.ReleaseReader(c.br)
	*c = carrier{}
}

// handOver passes a connection to a method of fasthttp's pool, whose parameter is of a type without an exported name.
func handOver[C any](method func(C), lease any) {
	if c, ok := lease.(C); ok { // always: AcquireConn gave it
		method(c)
	}
}

// backendConn knows whether a byte of the current request was sent.
type backendConn struct {
	patientConn
	idle *idleProbe
	used bool // a request was sent on it before
	sent bool
	eof  bool // the backend has closed its side
}

func newBackendConn(c net.Conn) *backendConn {
	return &backendConn{patientConn: patientConn{Conn: c}, idle: newIdleProbe(c)}
}

// backendOf finds the connection that dialPlain made under what dialTLS put around it.
func backendOf(c net.Conn) *backendConn {
	if secured, ok := c.(*tls.Conn); ok {
		c = secured.NetConn()
	}
	bc, ok := c.(*backendConn)
	if !ok {
		return &backendConn{patientConn: patientConn{Conn: c}, sent: true} // not known: assume the worst
	}
	return bc
}

// begin begins a request. A connection that the backend has closed meanwhile is refused here, before a byte is sent, so
// that the request may safely take another one.
func (c *backendConn) begin() error {
	c.sent = false
	if c.used && c.idle.hungUp() {
		return io.ErrClosedPipe
	}
	return nil
}

func (c *backendConn) Write(b []byte) (int, error) {
	write := c.patientConn.Write
	if len(b) > lookAbove {
		write = c.writeLong
	}
	n, err := write(b)
	if n > 0 {
		c.used, c.sent = true, true
	}
	return n, err
}

func (c *backendConn) Read(b []byte) (int, error) {
	n, err := c.patientConn.Read(b)
	if errors.Is(err, io.EOF) {
		c.eof = true
	}
	return n, err
}
