// Package outage follows the servers that a gateway depends on: whether each one serves, since when not, and why.
//
// A server that is away fails each request and each retry of each loop. The log has one line when that begins, one every
// minute, and one when it is over, with the number of failures between. The failures themselves are logged at debug.
package outage

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// Timing of checks and lines. A server that stops to answer is noticed within checkEvery + checkTimeout.
const (
	checkEvery   = 250 * time.Millisecond
	checkTimeout = 500 * time.Millisecond
	remindEvery  = time.Minute
	quietFor     = time.Second // without a failure, before an outage is over for the log
)

// errSilent is the cause while a check has no answer.
var errSilent = errors.New("it does not answer")

// Options describe a server.
type Options struct {
	Name  string // as the log names it, such as Redis
	Means string // what users notice while it is away
	Is    error  // failed calls have this error in their chain when the server is the cause
	Told  bool   // the caller that notices the loss logs it, with more detail than this package has
	// Check asks the server whether it serves; nil for one that is known by its calls only.
	Check func(ctx context.Context) error
	Log   zerolog.Logger
}

// Server is one server that may be away. Its methods are safe for concurrent use.
type Server struct {
	options Options
	away    atomic.Bool // whether an outage is open; spares OK the lock

	mu    sync.Mutex
	asked time.Time // when the check under way began; zero: none is
	since time.Time // of the first failed check in a row; zero: the last one succeeded
	cause error     // of the newest failed check

	outage
}

// outage is what the log knows. It outlasts single successes, so that a server that fails now and then is one outage.
type outage struct {
	began    time.Time
	last     time.Time // failure
	served   time.Time // first success after last; zero: none yet
	reminded time.Time
	failed   int // calls
}

// New makes a server. It counts as away until its first check.
func New(o Options) *Server {
	s := &Server{options: o}
	if o.Check != nil {
		s.since, s.cause = time.Now(), errors.New("it was not asked yet")
	}
	return s
}

// Run checks the server until ctx ends.
func (s *Server) Run(ctx context.Context) {
	for ctx.Err() == nil {
		s.check(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(checkEvery):
		}
	}
}

func (s *Server) check(ctx context.Context) {
	began := time.Now()
	s.mu.Lock()
	s.asked = began
	s.mu.Unlock()
	asking, cancel := context.WithTimeout(ctx, checkTimeout)
	err := s.options.Check(asking)
	cancel()
	if ctx.Err() != nil {
		return
	}
	if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		err = errSilent
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.cause = time.Time{}, err
	if err == nil {
		s.since = time.Time{}
		s.ok(time.Now())
		return
	}
	if s.since.IsZero() {
		s.since = began
	}
	s.fail(time.Now(), err)
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

// State is how a server stands at a moment.
type State struct {
	Up    bool
	Since time.Time // of the outage
	Cause string
}

// State answers from memory.
func (s *Server) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.since.IsZero():
		return State{Since: s.since, Cause: strings.Join(strings.Fields(s.cause.Error()), " ")}
	case !s.asked.IsZero() && time.Since(s.asked) > checkTimeout:
		return State{Since: s.asked, Cause: errSilent.Error()}
	}
	return State{Up: true}
}

// Value is 1 while the server serves, else 0: the value of a gauge.
func (s *Server) Value() float64 {
	if s.State().Up {
		return 1
	}
	return 0
}

// Failed counts a call that failed because of the server.
func (s *Server) Failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail(time.Now(), err)
	s.failed++
}

// OK says that the server served a call. Only a server without a check needs it. A nil Server takes it.
func (s *Server) OK() {
	if s == nil || !s.away.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ok(time.Now())
}

func (s *Server) fail(now time.Time, err error) {
	s.last, s.served = now, time.Time{}
	switch {
	case s.began.IsZero():
		s.began, s.reminded = now, now
		s.away.Store(true)
		level := zerolog.WarnLevel
		if s.options.Told {
			level = zerolog.DebugLevel
		}
		s.options.Log.WithLevel(level).Err(err).Msg(s.options.Name + " is away: " + s.options.Means)
	case now.Sub(s.reminded) >= remindEvery:
		s.reminded = now
		s.options.Log.Warn().Err(err).Dur("for", now.Sub(s.began)).Int("failed", s.failed).
			Msg(s.options.Name + " is still away: " + s.options.Means)
	}
}

func (s *Server) ok(now time.Time) {
	if s.began.IsZero() {
		return
	}
	if s.served.IsZero() {
		s.served = now
	}
	if now.Sub(s.last) < quietFor {
		return
	}
	s.options.Log.Info().Dur("after", s.served.Sub(s.began)).Int("failed", s.failed).Msg(s.options.Name + " is back")
	s.outage = outage{}
	s.away.Store(false)
}

// Watch has the servers of one gateway. A nil Watch has none. Servers are added before it is used.
type Watch struct{ servers []*Server }

// Add makes a server. An error is laid to the first one that it fits, so one whose errors are wrapped in another one's
// comes before it.
func (w *Watch) Add(o Options) *Server {
	s := New(o)
	w.servers = append(w.servers, s)
	return s
}

// Log begins the line about a failed call: at debug when one of the servers is the cause, which then counts it, and as
// a warning otherwise.
func (w *Watch) Log(log zerolog.Logger, err error) *zerolog.Event {
	if w.Counts(err) {
		return log.Debug().Err(err) //nolint:zerologlint // the caller sends it
	}
	return log.Warn().Err(err) //nolint:zerologlint // as above
}

// Counts reports whether one of the servers is the cause of an error, and counts it there.
func (w *Watch) Counts(err error) bool {
	if w == nil || err == nil {
		return false
	}
	for _, s := range w.servers {
		if errors.Is(err, s.options.Is) {
			s.Failed(err)
			return true
		}
	}
	return false
}
