package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"

	"creditgate/meter"
	"creditgate/meter/outage"
	"creditgate/meter/policy"
)

// Gateway is the data plane and the control plane of one process.
type Gateway struct {
	set           Settings
	policies      *policy.Catalog
	source        PolicySource
	reloading     sync.Mutex
	refusal       atomic.Pointer[string] // why the last reload was refused; nil: it was not
	fleet         Fleet
	following     follower
	clock         *meter.Clock
	testClock     TestClock
	meter         Meter
	lookup        Lookup
	journal       Journal
	answers       Answers
	ledger        Ledger
	statements    Statements
	admin         Admin
	subscriptions Subscriptions
	purchases     Purchases
	health        Health
	feed          Feed
	webhooks      Webhooks

	exchanges sync.Pool // of *exchange
	asking    turnstile // balances that ask Postgres
	summing   turnstile // answers about usage
	auth      *authenticator
	upstreams *upstreams
	metrics   *metrics
	problems  problemWriter
	log       zerolog.Logger
	outages   *outage.Watch
	backend   *outage.Server // all of them together
	refused   *refusedTokens

	//nolint:containedctx // not a request's: the ground on which calls stand that outlive their request
	base      context.Context // of calls that must outlive their request; ends when a shutdown runs out of time
	giveUp    context.CancelFunc
	draining  atomic.Bool
	waiting   atomic.Int64 // calls that wait for events
	data      *fasthttp.Server
	control   *fasthttp.Server
	listening atomic.Pointer[listeners] // nil until Run
	routes    []controlRoute
	gatherer  metricsHandler
}

// New checks the options and makes a Gateway; it listens only when Run. Of ctx only the values are kept.
func New(ctx context.Context, o Options) (*Gateway, error) {
	o.setDefaults()
	if o.Clock == nil {
		o.Clock = new(meter.Clock)
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Registerer, o.Policies)
	if err != nil {
		return nil, fmt.Errorf("gateway: register metrics: %w", err)
	}
	us, err := newUpstreams(&o.Settings, m)
	if err != nil {
		return nil, err
	}
	peers, err := parsePeers(o.TrustedPeers)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		set: o.Settings, policies: o.Policies, source: o.Source, fleet: o.Fleet, clock: o.Clock, testClock: o.TestClock,
		meter: o.Meter, lookup: o.Lookup, journal: o.Journal, answers: o.Answers, ledger: o.Ledger,
		statements: o.Statements, admin: o.Admin, subscriptions: o.Subscriptions,
		purchases: o.Purchases, health: o.Health, feed: o.Feed, webhooks: o.Webhooks,
		asking: make(turnstile, statementsMax), summing: make(turnstile, usagesMax),
		upstreams: us, metrics: m, problems: newProblemWriter(), log: o.Log, gatherer: newMetricsHandler(o.Gatherer),
		auth: newAuthenticator(newKeyCache(o.KeyTTL, m), o.Identities, peers, canonicalName(o.AccountHeader)),
	}
	g.outages, g.backend = o.Outages, outage.New(outage.Options{
		Name: "The backend", Means: "its requests get 502 or 504, nothing is charged", Log: o.Log,
	})
	g.refused = newRefusedTokens(o.Log, refusedWindow)
	g.exchanges.New = newExchange
	g.following.begun = time.Now()
	g.base, g.giveUp = context.WithCancel(context.WithoutCancel(ctx))
	g.routes = g.controlRoutes()
	g.data = g.server(g.serve, g.set.RequestBodyMax)
	g.data.ExpectHandler = g.expect
	g.data.StreamRequestBody = true // a caller is known before its body is read
	g.control = g.server(g.serveControl, controlBodyMax)
	return g, nil
}

// canonicalName spells a header name as fasthttp does.
func canonicalName(s string) string {
	var h fasthttp.RequestHeader
	h.Set(s, "x")
	for k := range h.All() {
		return string(k)
	}
	return s
}

func (g *Gateway) server(h fasthttp.RequestHandler, bodyMax int) *fasthttp.Server {
	return &fasthttp.Server{
		Handler:                      h,
		HeaderReceived:               dropOldExpect,
		ErrorHandler:                 func(ctx *fasthttp.RequestCtx, err error) { g.malformed(ctx, err, bodyMax) },
		ReadTimeout:                  g.set.ClientTimeout,
		WriteTimeout:                 g.set.ClientTimeout,
		IdleTimeout:                  g.set.ClientIdle,
		MaxRequestBodySize:           bodyMax,
		ReadBufferSize:               g.set.HeadersMax,
		DisablePreParseMultipartForm: true, // forwarded as sent, and no temporary files
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		CloseOnShutdown:              true,
		SecureErrorLogMessage:        true, // a head that cannot be read may hold an API key
		Logger:                       serverLog{g.log},
	}
}

// dropOldExpect makes an HTTP/1.0 request's Expect count for nothing, as RFC 9110 §10.1.1 wants it. Its sender knows no
// interim answer: it would take the 100 for the answer, and the answer for that of its next request.
func dropOldExpect(h *fasthttp.RequestHeader) (unchanged fasthttp.RequestConfig) {
	if !h.IsHTTP11() {
		h.Del("Expect")
	}
	return unchanged
}

// serverLog is where fasthttp reports connections that broke.
type serverLog struct{ log zerolog.Logger }

// Printf implements fasthttp.Logger.
func (l serverLog) Printf(format string, a ...any) {
	said := slices.Clone(a)
	for i, v := range said {
		if err, ok := v.(error); ok {
			said[i] = unquoted(err)
		}
	}
	l.log.Debug().Msgf(format, said...)
}

// unquoted is an error up to where it quotes what was received: fasthttp shows the header line that it cannot read,
// whatever SecureErrorLogMessage says, and an API key may stand in it.
func unquoted(err error) string {
	text, _, _ := strings.Cut(err.Error(), `"`)
	return text
}

// malformed answers what fasthttp could not read as a request.
func (g *Gateway) malformed(ctx *fasthttp.RequestCtx, err error, bodyMax int) {
	p := &problem{code: codeInvalid, detail: "the request is not well-formed HTTP/1.1"}
	var small *fasthttp.ErrSmallBuffer
	var timeout net.Error
	switch {
	case errors.As(err, &small):
		p = &problem{
			code:   codeHeadersTooLarge,
			detail: fmt.Sprintf("the request's head is larger than %d bytes", g.set.HeadersMax),
		}
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		p = bodyTooLarge(bodyMax)
	case errors.As(err, &timeout) && timeout.Timeout():
		p.detail = "the request did not arrive within " + g.set.ClientTimeout.String()
		p.retryAfter = retrySoonSeconds
	}
	g.problems.write(&ctx.Response, p, meter.NewID(g.clock.Now()).String())
	if c, ok := ctx.Conn().(*clientConn); ok {
		c.linger = true
	}
}

// Run serves both listeners until Shutdown, also one that came before it. It returns when both have ended.
func (g *Gateway) Run(ctx context.Context, data, control net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var work sync.WaitGroup
	work.Go(func() { g.auth.cache.run(ctx) })
	ended := make(chan error, 2)
	l := &listeners{newNewcomers(data), newNewcomers(control)}
	g.listening.Store(l)
	if g.draining.Load() { // Shutdown may have come too early to find them
		_, _ = l.data.Close(), l.control.Close()
	}
	go func() { ended <- g.data.Serve(&clientListener{l.data, g.metrics.undelivered}) }()
	go func() { ended <- g.control.Serve(&clientListener{l.control, g.metrics.undelivered}) }()
	err := errors.Join(<-ended, <-ended)
	stop()
	work.Wait()
	return err
}

// shutdownGrace is how long responses whose settlement went to the journal may still take to be written.
const shutdownGrace = time.Second

// Shutdown ends the gateway so that nothing in flight is lost: /readyz fails first, then the listeners close and
// what is in flight is settled and delivered, until ctx ends. Then commits still unanswered go to the journal.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.draining.Store(true)
	if g.set.DrainDelay > 0 {
		notice := time.NewTimer(g.set.DrainDelay)
		defer notice.Stop()
		select {
		case <-notice.C:
		case <-ctx.Done():
		}
	}
	l := g.listening.Load()
	if l == nil { // it never ran
		g.giveUp()
		return nil
	}
	err := l.data.end(ctx, g.data)
	g.giveUp()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err != nil {
		l.data.left(last)
		err = fmt.Errorf("gateway: requests still in flight at the end of the shutdown: %w", err)
	}
	return errors.Join(err, l.control.end(last, g.control))
}

// listeners are those of a gateway that runs.
type listeners struct{ data, control *newcomers }

// clientListener hands out connections that linger, and that notice a charged response they could not write. The control
// plane needs the first only.
type clientListener struct {
	net.Listener
	undelivered interface{ Inc() }
}

// Accept implements net.Listener.
func (l *clientListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	cc := &clientConn{patientConn: patientConn{Conn: c}, undelivered: l.undelivered, peerText: "unknown"}
	if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		cc.peer = a.Addr().Unmap()
		cc.peerText = cc.peer.String()
	}
	return cc, nil
}

// clientConn is a client's connection. One goroutine uses it at a time.
type clientConn struct {
	patientConn
	undelivered interface{ Inc() }
	peer        netip.Addr
	peerText    string
	target      string // of the last request
	charged     bool   // the response being written was charged
	linger      bool   // the client may still be sending
	eof         bool   // the client has closed its side
}

func (c *clientConn) begin() { c.charged = false }

// targetKept is the longest target that a connection remembers, so that idle ones hold little.
const targetKept = 256

// copyTarget copies a request's target. A client mostly asks for the same again, and then the last copy serves.
func (c *clientConn) copyTarget(b []byte) string {
	if c == nil || len(b) > targetKept {
		return string(b)
	}
	if string(b) != c.target {
		c.target = string(b)
	}
	return c.target
}

func (c *clientConn) Read(b []byte) (int, error) {
	n, err := c.patientConn.Read(b)
	if errors.Is(err, io.EOF) {
		c.eof = true
	}
	return n, err
}

func (c *clientConn) Write(b []byte) (int, error) {
	n, err := c.patientConn.Write(b)
	if err != nil && c.charged {
		c.charged = false
		c.undelivered.Inc()
	}
	return n, err
}

// Bounds of a lingering close.
const (
	lingerTime = 2 * time.Second
	lingerMax  = 256 << 20
)

// Close lets a client that is still sending read its refusal: closing with unread bytes would reset the connection,
// and take the answer with it.
func (c *clientConn) Close() error {
	if c.charged && lost(c.Conn) {
		c.charged = false
		c.undelivered.Inc()
	}
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.linger && half.CloseWrite() == nil {
		_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, c.Conn, lingerMax)
	}
	return c.Conn.Close()
}

// closeAfter ends the connection with the answer to ctx, which the client may still be sending to.
func closeAfter(ctx *fasthttp.RequestCtx) {
	ctx.Response.SetConnectionClose()
	if c, ok := ctx.Conn().(*clientConn); ok {
		c.linger = true
	}
}

func (x *exchange) lingerOnClose() {
	if x.client != nil {
		x.client.linger = true
	}
}

// chargeIsFinal is called between a charge and its delivery.
func (x *exchange) chargeIsFinal(charged bool) {
	if x.client != nil {
		x.client.charged = charged
	}
}
