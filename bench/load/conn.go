package load

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"creditgate/bench/cast"
)

// Bounds of a connection.
const (
	dialMax     = 5 * time.Second
	redialAfter = 10 * time.Millisecond // so that a server that is gone is not asked without end
	readBuffer  = 4 << 10               // an answer of 2 KB with its head arrives in one read
	imageBuffer = 64 << 10
)

// template is a request whose key is written anew each time.
type template struct {
	addr string
	head []byte // with the body, where that is small
	body []byte // shared by all connections
	key  int    // where in head the key's number stands
}

func newTemplate(o Options, addr string) template {
	body, kind := cast.Request(), "application/json"
	if o.Image {
		body, kind = cast.Image(), cast.ImageType
	}
	head := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\n"+
		"Content-Length: %d\r\nUser-Agent: creditgate-bench\r\nAccept: */*\r\n\r\n", o.Path, addr, cast.Key(0), kind, len(body))
	t := template{addr: addr, head: head, body: body, key: bytes.Index(head, []byte(cast.KeyPrefix)) + len(cast.KeyPrefix)}
	if !o.Image {
		t.head, t.body = slices.Concat(head, body), nil
	}
	return t
}

// conn is one client. It belongs to one goroutine.
type conn struct {
	ctx      context.Context //nolint:containedctx // of the run; it cuts off what the connection waits for
	addr     string
	head     []byte // own copy
	body     []byte
	key      int
	accounts rotation

	net    net.Conn // nil: to be dialled
	answer *bufio.Reader
	uncut  func() bool
}

func newConn(ctx context.Context, o Options, t template, number uint64) *conn {
	size := readBuffer
	if o.Image {
		size = imageBuffer
	}
	return &conn{
		ctx: ctx, addr: t.addr, head: bytes.Clone(t.head), body: t.body, key: t.key, accounts: newRotation(o, number),
		answer: bufio.NewReaderSize(nil, size),
	}
}

// exchange sends the next request and reads its answer. It returns the status, or what went wrong.
func (c *conn) exchange(deadline time.Time) string { return c.ask(c.accounts.next(), deadline) }

func (c *conn) ask(account int, deadline time.Time) string {
	if c.net == nil {
		if err := c.dial(deadline); err != nil {
			select {
			case <-time.After(redialAfter):
			case <-c.ctx.Done():
			}
			return "dial"
		}
	}
	cast.PutKey(c.head[c.key:], account)
	if err := c.write(); err != nil {
		c.close()
		return "write"
	}
	status, keep, err := readAnswer(c.answer)
	if err != nil || !keep {
		c.close()
	}
	switch {
	case err != nil:
		return "read"
	case status == statusOK:
		return ok
	default:
		return strconv.Itoa(status)
	}
}

func (c *conn) write() error {
	if _, err := c.net.Write(c.head); err != nil {
		return err
	}
	if c.body == nil {
		return nil
	}
	_, err := c.net.Write(c.body)
	return err
}

// dial connects. The deadline is that of the whole run, set once: one for each request would cost more than it shows.
func (c *conn) dial(deadline time.Time) error {
	dialer := net.Dialer{Timeout: dialMax, KeepAlive: -1}
	connected, err := dialer.DialContext(c.ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	if err := connected.SetDeadline(deadline); err != nil {
		_ = connected.Close()
		return err
	}
	c.net = connected
	c.uncut = context.AfterFunc(c.ctx, func() { _ = connected.Close() })
	c.answer.Reset(connected)
	return nil
}

func (c *conn) close() {
	if c.net != nil {
		c.uncut()
		_ = c.net.Close()
		c.net = nil
	}
}
