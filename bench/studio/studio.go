package studio

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
)

// Bounds of the server. The gateway in front refuses bodies above 32 MiB by default; twice that leaves the answer
// to it.
const (
	bodyMax     = 64 << 20
	idleMax     = 2 * time.Minute
	bodyReadMax = time.Minute
)

// Options of a studio; the zero value of each field means its default.
type Options struct {
	// Workers bounds the pictures worked on at once, whatever the requests they belong to; default GOMAXPROCS.
	// Others wait, so memory is bounded by Workers × the largest photo.
	Workers int
	// Log gets what went wrong on connections.
	Log zerolog.Logger
}

// Studio is a stand-in image service.
type Studio struct {
	server  *fasthttp.Server
	workers chan struct{}
	encoder encoder
	routes  map[string]route
	other   atomic.Int64 // calls to anything that is no route

	closing chan struct{} // closed by Shutdown: ends waits
	mu      sync.Mutex
	closed  bool
	serving []net.Listener
	hung    map[net.Conn]struct{} // connections that get no answer, closed by Shutdown
}

// route is one endpoint and how often it was called.
type route struct {
	handle func(*fasthttp.RequestCtx, steering) reply
	calls  *atomic.Int64
}

// New makes a studio; Serve runs it.
func New(o Options) *Studio {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	s := &Studio{
		workers: make(chan struct{}, o.Workers),
		closing: make(chan struct{}),
		hung:    map[net.Conn]struct{}{},
	}
	s.routes = map[string]route{}
	for name, handle := range map[string]func(*fasthttp.RequestCtx, steering) reply{
		"POST /studio/apply":          s.apply,
		"POST /studio/revert":         s.revert,
		"POST /studio/report":         s.report,
		"POST /v1/images/generations": s.generate,
		"POST /3d/trial":              s.trial,
		"POST /3d/generations":        s.mesh,
		"POST /3d/background-removal": s.removeBackground,
		"POST /3d/style-transfer":     s.transferStyle,
	} {
		s.routes[name] = route{handle: handle, calls: new(atomic.Int64)}
	}
	s.server = &fasthttp.Server{
		Handler:            s.serve,
		Name:               "creditgate-studio",
		MaxRequestBodySize: bodyMax,
		ReadTimeout:        bodyReadMax,
		IdleTimeout:        idleMax,
		Logger:             &o.Log,
		CloseOnShutdown:    true,
		ErrorHandler:       badRequest,
		// A form that cannot be read is answered by its route, like any other bad body.
		DisablePreParseMultipartForm: true,
	}
	return s
}

// badRequest answers what the server cannot read as a request at all.
func badRequest(ctx *fasthttp.RequestCtx, err error) {
	r := failure(fasthttp.StatusBadRequest, "invalid_request", "", err.Error())
	if errors.Is(err, fasthttp.ErrBodyTooLarge) {
		r = failure(fasthttp.StatusRequestEntityTooLarge, "payload_too_large", "",
			fmt.Sprintf("the body has more than %d bytes", bodyMax))
	}
	r.send(ctx)
}

// Serve answers on ln until Shutdown, also one that came before it.
func (s *Studio) Serve(ln net.Listener) error {
	s.mu.Lock()
	s.serving = append(s.serving, ln)
	if s.closed {
		_ = ln.Close()
	}
	s.mu.Unlock()
	if err := s.server.Serve(ln); err != nil {
		return fmt.Errorf("studio: serve %s: %w", ln.Addr(), err)
	}
	return nil
}

// Shutdown stops listening, cuts short what waits or hangs on purpose, and lets real work finish until ctx is done.
func (s *Studio) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	for c := range s.hung {
		_ = c.Close()
	}
	serving := s.serving
	s.mu.Unlock()
	err := s.server.ShutdownWithContext(ctx)
	for _, ln := range serving {
		_ = ln.Close() // one that the server had not begun to serve is still open
	}
	if err != nil {
		return fmt.Errorf("studio: shutdown: %w", err)
	}
	return nil
}

// Calls is how often a route was called, steered failures included; route is written as in the package comment,
// such as "POST /studio/apply". "other" counts calls to anything else. Tests use it to show that a refused request
// never reached the backend.
func (s *Studio) Calls(route string) int64 { return s.Stats()[route] }

// Stats is Calls for all routes.
func (s *Studio) Stats() map[string]int64 {
	counts := map[string]int64{"other": s.other.Load()}
	for name, r := range maps.All(s.routes) {
		counts[name] = r.calls.Load()
	}
	return counts
}

func (s *Studio) serve(ctx *fasthttp.RequestCtx) {
	name := string(ctx.Method()) + " " + string(ctx.Path())
	if name == "GET /studio/stats" {
		s.deliver(ctx, jsonReply(fasthttp.StatusOK, map[string]any{"calls": s.Stats()}), steering{})
		return
	}
	r, ok := s.routes[name]
	if !ok {
		s.other.Add(1)
		s.deliver(ctx, failure(fasthttp.StatusNotFound, "not_found", "", "no route "+name), steering{})
		return
	}
	r.calls.Add(1)
	steer, err := parseSteering(&ctx.Request.Header)
	if err != nil {
		s.deliver(ctx, failure(fasthttp.StatusBadRequest, "bad_steering", err.header, err.Error()), steering{})
		return
	}
	if !s.wait(steer.latency) {
		s.deliver(ctx, failure(fasthttp.StatusServiceUnavailable, "closing", "", "the studio is closing"), steering{})
		return
	}
	switch {
	case steer.hang == cutBefore, steer.reset == cutBefore:
		s.deliver(ctx, reply{}, steer) // no answer is made that nobody gets
	case steer.fails():
		s.deliver(ctx, failure(fasthttp.StatusInternalServerError, "steered_failure", "",
			"failed because "+headerFailRate+" asked for it"), steer)
	default:
		s.deliver(ctx, r.handle(ctx, steer), steer)
	}
}

// wait returns false if the studio closes meanwhile.
func (s *Studio) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.closing:
		return false
	}
}

// work runs f when one of the workers is free.
func (s *Studio) work(f func()) {
	s.workers <- struct{}{}
	defer func() { <-s.workers }()
	f()
}

// each runs f for every i below n, as many at once as there are free workers, and returns when all are done.
func (s *Studio) each(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n { // n is bounded by photosMax and picturesMax
		wg.Go(func() { s.work(func() { f(i) }) })
	}
	wg.Wait()
}
