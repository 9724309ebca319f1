package gateway

import (
	"crypto/tls"
	"errors"
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
		addr = net.JoinHostPort(u.Hostname(), defaultPort(u.Scheme))
	}
	up := &upstream{name: addr, host: u.Host, scheme: u.Scheme}
	dialBackend := dialPlain
	if u.Scheme == "https" {
		dialBackend = dialTLS(&tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12})
	}
	up.client = &fasthttp.HostClient{ // of which only the pool of connections is used
		Addr:                addr,
		DialTimeout:         dialBackend,
		MaxConns:            s.UpstreamConns,
		MaxIdleConnDuration: s.UpstreamIdle,
		ReadBufferSize:      s.HeadersMax,
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
	return newBackendConn(c), nil
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

// send forwards once. A try that sent nothing may be followed by one on another connection or backend; after the
// first byte there is none. sent tells whether the backend may have done the work.
func (us *upstreams) send(x *exchange, resp *fasthttp.Response) (sent bool, err error) {
	for try := 1; ; try++ {
		left := time.Until(x.deadline)
		if left <= 0 {
			return false, errNoTimeLeft
		}
		x.out.Header.SetHost(x.route.host)
		sent, err = x.route.roundTrip(x, resp, left)
		if err == nil || sent || try >= attemptsMax {
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
	var small *fasthttp.ErrSmallBuffer
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
			code:   codeUpstreamTimeout,
			detail: "the backend did not answer in time; nothing was charged",
		}
	case errors.As(err, &small):
		return &problem{
			code: codeUpstreamFailed, final: true,
			detail: "the head of the backend's answer is larger than headers_max; nothing was charged",
		}
	}
	return &problem{
		code:   codeUpstreamFailed,
		detail: "the backend broke off before its answer was whole; nothing was charged",
	}
}
