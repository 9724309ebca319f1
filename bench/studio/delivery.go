package studio

import (
	"fmt"
	"io"
	"net"
	"time"

	"github.com/valyala/fasthttp"
)

// deliver sends an answer as steering wants it sent.
func (s *Studio) deliver(ctx *fasthttp.RequestCtx, r reply, steer steering) {
	switch {
	case steer.reset != cutNowhere:
		s.cut(ctx, r, steer.reset, reset)
	case steer.hang != cutNowhere:
		s.cut(ctx, r, steer.hang, s.hang)
	default:
		r.send(ctx)
	}
}

func (r reply) send(ctx *fasthttp.RequestCtx) {
	ctx.SetStatusCode(r.status)
	ctx.SetContentType(r.contentType)
	ctx.Response.SetBodyRaw(r.body)
}

// cut takes the connection away from the server, sends what is to be sent of the answer, and ends it.
func (s *Studio) cut(ctx *fasthttp.RequestCtx, r reply, at cutPoint, end func(net.Conn)) {
	var part []byte
	if at == cutBody {
		part = fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n",
			r.status, fasthttp.StatusMessage(r.status), r.contentType, len(r.body))
		part = append(part, r.body[:len(r.body)/2]...)
	}
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(c net.Conn) {
		// fasthttp's wrapper ignores Close until this function returns, and hides the TCP connection.
		if h, ok := c.(interface{ UnsafeConn() net.Conn }); ok {
			c = h.UnsafeConn()
		}
		if _, err := c.Write(part); err == nil {
			end(c)
		}
	})
}

// reset closes with RST instead of FIN: with a linger of zero the kernel throws away what is unsent and says so.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// hang keeps the connection open, silent, until the client goes away, the studio closes, or hangMax is over.
func (s *Studio) hang(c net.Conn) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.hung[c] = struct{}{}
	s.mu.Unlock()
	_ = c.SetReadDeadline(time.Now().Add(hangMax))
	_, _ = io.Copy(io.Discard, c) // returns when the client closes; what it sends meanwhile is of no interest
	s.mu.Lock()
	delete(s.hung, c)
	s.mu.Unlock()
}
