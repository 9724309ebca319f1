package gateway

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"github.com/valyala/fasthttp"
)

// Bounds towards a backend.
const (
	dialTimeout = 3 * time.Second
	// attemptsMax bounds the tries of one request. Only a try that sent no byte is followed by another.
	attemptsMax = 3
	// halfOpenRequests is how many requests may try a backend that its breaker still distrusts.
	halfOpenRequests = 3
	breakerBuckets   = 10
)

// upstreams are the backends of the gateway.
type upstreams struct {
	list []*upstream
	next atomic.Uint32
}

// upstream is one backend with its connections and its breaker.
type upstream struct {
	name    string // host:port, the metric label
	host    string // the Host header
	scheme  string
	client  *fasthttp.HostClient
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
}

// route is a backend that agreed to take a request. done must be called exactly once.
type route struct {
	*upstream
	done func(error)
}

// errNotTried tells the breaker that a request says nothing about the backend.
var errNotTried = errors.New("not tried")

// errNoTimeLeft says that the reservation took the time that was the backend's.
var errNoTimeLeft = errors.New("no time left for the backend")

// errAnswered5xx tells the breaker that the backend answered, with a failure.
var errAnswered5xx = errors.New("answered 5xx")

func newUpstreams(s *Settings, m *metrics) (*upstreams, error) {
	us := &upstreams{}
	for _, raw := range s.Upstreams {
		u, err := parseUpstream(raw)
		if err != nil {
			return nil, err
		}
		us.list = append(us.list, newUpstream(s, m, u))
	}
	return us, nil
}

func newUpstream(s *Settings, m *metrics, u *url.URL) *upstream {
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	up := &upstream{name: addr, host: u.Host, scheme: u.Scheme}
	dialBackend := dialPlain
	if up.scheme == "https" {
		dialBackend = dialTLS(&tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12})
	}
	up.client = &fasthttp.HostClient{
		Addr:        addr,
		IsTLS:       u.Scheme == "https",
		DialTimeout: dialBackend,
		MaxConns:    s.UpstreamConns,
		// Every retry is decided in send: fasthttp would repeat a GET or PUT five times, each a job at the backend.
		MaxIdemponentCallAttempts: 1,
		RetryIfErr:                func(*fasthttp.Request, int, error) (reset, retry bool) { return false, false },
		MaxIdleConnDuration:       s.UpstreamIdle,
		ReadBufferSize:            s.HeadersMax,
		StreamResponseBody:        true, // the head decides whether the body is buffered or streamed
		NoDefaultUserAgentHeader:  true,
		SecureErrorLogMessage:     true, // errors are logged, and answers are nobody's business
		DisablePathNormalizing:    true, // the backend gets the bytes that were checked and priced
	}
	state := m.breaker.WithLabelValues(addr)
	state.Set(breakerValue(gobreaker.StateClosed))
	up.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         addr,
		MaxRequests:  halfOpenRequests,
		Interval:     s.BreakerWindow,
		BucketPeriod: s.BreakerWindow / breakerBuckets,
		Timeout:      s.BreakerPause,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			ended := c.TotalSuccesses + c.TotalFailures
			return ended >= s.BreakerRequests && float64(c.TotalFailures) >= s.BreakerRatio*float64(ended)
		},
		OnStateChange: func(_ string, _, to gobreaker.State) { state.Set(breakerValue(to)) },
		IsExcluded:    func(err error) bool { return errors.Is(err, errNotTried) },
	})
	return up
}

// pick finds a backend whose breaker lets a request through, in turn, the one named last.
func (us *upstreams) pick(last *upstream) (route, bool) {
	n := uint32(len(us.list))
	start := us.next.Add(1)
	var spare *upstream
	for i := range n {
		u := us.list[(start+i)%n]
		if u == last {
			spare = u
			continue
		}
		if done, err := u.breaker.Allow(); err == nil {
			return route{u, done}, true
		}
	}
	if spare != nil {
		if done, err := spare.breaker.Allow(); err == nil {
			return route{spare, done}, true
		}
	}
	return route{}, false
}

// dialError says that no connection was made, so that nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func dialPlain(addr string, timeout time.Duration) (net.Conn, error) {
	if timeout <= 0 || timeout > dialTimeout {
		timeout = dialTimeout
	}
	c, err := net.DialTimeout("tcp", addr, timeout) //nolint:noctx // fasthttp has a timeout to give, and no context
	if err != nil {
		return nil, &dialError{err}
	}
	bc := &backendConn{Conn: c}
	bc.addr = backendAddr{c.RemoteAddr(), bc}
	return bc, nil
}

// dialTLS makes the handshake part of dialling: one that fails has sent bytes, but no request.
func dialTLS(config *tls.Config) fasthttp.DialFuncWithTimeout {
	return func(addr string, timeout time.Duration) (net.Conn, error) {
		c, err := dialPlain(addr, timeout)
		if err != nil {
			return nil, err
		}
		secured := tls.Client(c, config)
		err = errors.Join(secured.SetDeadline(time.Now().Add(dialTimeout)), secured.Handshake(), //nolint:noctx // see above
			secured.SetDeadline(time.Time{}))
		if err != nil {
			_ = c.Close()
			return nil, &dialError{err}
		}
		return secured, nil
	}
}

// backendConn knows whether a byte of the current request was sent. fasthttp sets the write deadline at the start
// of each request, and hands out the connection's remote address even when the request fails.
type backendConn struct {
	net.Conn
	used bool // a request was sent on it before
	sent bool
	eof  bool // the backend has closed its side
	addr backendAddr
}

// SetWriteDeadline begins a request. A connection that the backend has closed meanwhile is refused here, before a
// byte is sent, so that the request may safely take another one.
func (c *backendConn) SetWriteDeadline(t time.Time) error {
	c.sent = false
	if c.used && hungUp(c.Conn) {
		return io.ErrClosedPipe
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *backendConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if n > 0 {
		c.used, c.sent = true, true
	}
	return n, err
}

func (c *backendConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		c.eof = true
	}
	return n, err
}

// answerBody reads a backend's body. fasthttp takes a chunked body that is cut between two chunks for a whole one;
// but a whole one is read to its end without ever asking the connection for more, so that its closing is not seen.
type answerBody struct{ resp *fasthttp.Response }

func (a answerBody) Read(b []byte) (int, error) {
	n, err := a.resp.BodyStream().Read(b)
	if errors.Is(err, io.EOF) && a.resp.Header.ContentLength() == -1 {
		if addr, ok := a.resp.RemoteAddr().(*backendAddr); ok && addr.conn.eof {
			return n, io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// RemoteAddr is how a failed request finds its connection again.
func (c *backendConn) RemoteAddr() net.Addr { return &c.addr }

type backendAddr struct {
	net.Addr
	conn *backendConn
}

// bytesSent reports whether any byte of the failed request may have reached the backend.
func bytesSent(err error, resp *fasthttp.Response) bool {
	var dial *dialError
	if errors.As(err, &dial) || errors.Is(err, fasthttp.ErrNoFreeConns) {
		return false
	}
	if a, ok := resp.RemoteAddr().(*backendAddr); ok {
		return a.conn.sent
	}
	return true // not known: assume the worst
}

// send forwards once. A try that sent nothing may be followed by one on another connection or backend; after the
// first byte there is none. sent tells whether the backend may have done the work.
func (us *upstreams) send(x *exchange, resp *fasthttp.Response) (sent bool, err error) {
	for try := 1; ; try++ {
		left := time.Until(x.deadline)
		if left <= 0 {
			return false, errNoTimeLeft
		}
		x.out.URI().SetScheme(x.route.scheme)
		x.out.SetHost(x.route.host)
		x.out.SetTimeout(left)
		err = x.route.client.Do(x.out, resp)
		if err == nil {
			return true, nil
		}
		sent = bytesSent(err, resp)
		if sent || try >= attemptsMax {
			return sent, err
		}
		if _, ok := errors.AsType[*dialError](err); !ok {
			continue // a connection of the pool was dead: the same backend, another connection
		}
		other, ok := us.pick(x.route.upstream)
		if !ok {
			return false, err
		}
		x.route.done(err)
		x.route = other
	}
}

// upstreamProblem classifies a request that got no whole answer.
func upstreamProblem(err error, sent bool) *problem {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, fasthttp.ErrNoFreeConns):
		return &problem{
			code: codeUpstreamUnavailable, retryAfter: 1,
			detail: "all connections to the backend are in use; nothing was charged",
		}
	case errors.Is(err, errNoTimeLeft):
		return &problem{
			code: codeUpstreamTimeout, retryAfter: 1,
			detail: "the time for the request was over before the backend was asked; nothing was charged",
		}
	case !sent:
		return &problem{
			code:   codeUpstreamUnreachable,
			detail: "the backend does not accept connections; nothing was charged",
		}
	case errors.As(err, &timeout) && timeout.Timeout():
		return &problem{
			code: codeUpstreamTimeout, final: true,
			detail: "the backend did not answer in time; nothing was charged",
		}
	}
	return &problem{
		code: codeUpstreamFailed, final: true,
		detail: "the backend broke off before its answer was whole; nothing was charged",
	}
}
