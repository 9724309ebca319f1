package rivals

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/bench/cast"
)

// Bounds of the backend and of the proxies before it.
const (
	requestMax   = 16 << 20 // bytes of a body
	connsMax     = 16 << 10 // towards the backend: four times the clients of the longest delay
	idleMax      = time.Minute
	drainTimeout = 2 * time.Second
)

// price is what a request costs, in milli-credits.
const price = 1000

// errInsufficient says that the account cannot pay. It is an answer, not a failure.
var errInsufficient = errors.New("not enough credits")

// metering is the step in which the metered proxies differ. A hold that reserve gave is settled exactly once: with
// the price, or with 0 where the backend delivered nothing.
type metering interface {
	reserve(ctx context.Context, account string, amount int64) (hold string, err error)
	settle(ctx context.Context, account, hold string, charged int64) error
	close()
}

// proxy forwards every request of a known key.
type proxy struct {
	accounts map[string]string // by API key
	backend  *fasthttp.HostClient
	meter    metering // nil: nothing is metered
}

// directory returns the account of every API key.
func directory(accounts int) map[string]string {
	d := make(map[string]string, accounts)
	for i := range accounts {
		d[cast.Key(i)] = cast.Account(i)
	}
	return d
}

func newProxy(backendAddr string, accounts int, m metering) *proxy {
	return &proxy{
		accounts: directory(accounts),
		meter:    m,
		backend: &fasthttp.HostClient{
			Addr:                      backendAddr,
			MaxConns:                  connsMax,
			MaxIdleConnDuration:       idleMax,
			MaxIdemponentCallAttempts: 1, // a second attempt would be a second job at the backend
			NoDefaultUserAgentHeader:  true,
			DisablePathNormalizing:    true,
		},
	}
}

// serve is the life of a request. Calls to the meter get a context that nothing cancels: a client that hangs up must
// not leave a hold behind, and both clients have timeouts of their own.
func (p *proxy) serve(ctx *fasthttp.RequestCtx) {
	account, ok := p.accounts[bearer(ctx)]
	if !ok {
		ctx.Error(`{"error":"unknown API key"}`, fasthttp.StatusUnauthorized)
		return
	}
	if p.meter == nil {
		p.forward(ctx)
		return
	}
	hold, err := p.meter.reserve(context.Background(), account, price)
	if errors.Is(err, errInsufficient) {
		ctx.Error(`{"error":"not enough credits"}`, fasthttp.StatusPaymentRequired)
		return
	}
	if err != nil {
		ctx.Error(`{"error":"metering is not available"}`, fasthttp.StatusServiceUnavailable)
		return
	}
	p.forward(ctx)
	charged := int64(price)
	if ctx.Response.StatusCode() >= fasthttp.StatusBadRequest {
		charged = 0
	}
	if err := p.meter.settle(context.Background(), account, hold, charged); err != nil {
		ctx.Error(`{"error":"metering is not available"}`, fasthttp.StatusServiceUnavailable)
	}
}

func bearer(ctx *fasthttp.RequestCtx) string {
	const scheme = "Bearer "
	v := ctx.Request.Header.Peek(fasthttp.HeaderAuthorization)
	if len(v) < len(scheme) || string(v[:len(scheme)]) != scheme {
		return ""
	}
	return string(v[len(scheme):])
}

// forward sends the request as it came, and leaves the answer in ctx. Headers of the connection are not passed on.
func (p *proxy) forward(ctx *fasthttp.RequestCtx) {
	for _, name := range [...]string{
		fasthttp.HeaderConnection, "Keep-Alive", fasthttp.HeaderProxyAuthorization, fasthttp.HeaderTE, fasthttp.HeaderUpgrade,
	} {
		ctx.Request.Header.Del(name)
	}
	if err := p.backend.Do(&ctx.Request, &ctx.Response); err != nil {
		ctx.Error(`{"error":"the backend did not answer"}`, fasthttp.StatusBadGateway)
		return
	}
	ctx.Response.Header.Del(fasthttp.HeaderConnection)
}

// serveHTTP serves h until ctx ends. What is in flight then may end within drainTimeout.
func serveHTTP(ctx context.Context, l net.Listener, h fasthttp.RequestHandler) error {
	server := &fasthttp.Server{
		Handler:                      h,
		MaxRequestBodySize:           requestMax,
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		CloseOnShutdown:              true,
		SecureErrorLogMessage:        true,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := server.ShutdownWithContext(last)
	_ = l.Close() // of a server that had not begun to serve
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // idle clients that keep their connection are no failure
	}
	return errors.Join(err, <-ended)
}
