package meter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
)

// errRefused says that Redis answered, and did not run the call.
var errRefused = errors.New("refused")

// errPanicked is what the breaker is told of a flight that never came back.
var errPanicked = errors.New("the flight panicked")

// errMispaired says that a reply belongs to another command: the connection it came on must not be used again.
var errMispaired = errors.New("mispaired reply")

// Timing of a flight. Three attempts and their pauses stay below the settle budget of 2 s, after which a settlement
// goes to the journal.
const (
	attemptTimeout = 500 * time.Millisecond
	attemptsMax    = 3
	attemptPause   = 20 * time.Millisecond
	flightTimeout  = 1800 * time.Millisecond // of all attempts, and of the halves of a batch that raised
	breakerTrips   = 3                       // flights in a row
	breakerOpenFor = 500 * time.Millisecond  // then one flight tries
	fullFor        = time.Second             // settlements go by themselves for so long after Redis said that it is full
)

// fly sends operations until each has a reply, or until Redis has not answered in attemptsMax attempts. Every verb
// is idempotent by id, so an operation whose outcome is unknown is simply sent again.
func (e *Engine) fly(ops []*op) {
	done, err := e.breaker.Allow()
	if err != nil {
		fail(ops, fmt.Errorf("%w: Redis has not answered lately", ErrNotSent))
		return
	}
	outcome := errPanicked
	defer func() { done(outcome) }()
	e.metrics.flights.Inc()
	e.metrics.flightOps.Observe(float64(len(ops)))
	until := time.Now().Add(flightTimeout)
	for attempt := range attemptsMax {
		if attempt > 0 {
			if time.Until(until) <= attemptPause<<attempt || pause(context.Background(), attemptPause<<attempt) != nil {
				break
			}
		}
		if ops, outcome = e.attempt(until, ops); len(ops) == 0 {
			outcome = nil
			return
		}
		e.metrics.retries.Inc()
	}
	fail(ops, outcome)
}

// fail gives each operation its error: unknown if any attempt of it may have run, whatever the last one says.
func fail(ops []*op, why error) {
	for _, o := range ops {
		o.err = fmt.Errorf("meter: %w: %w", ErrUnavailable, why)
		if o.maybe {
			o.err = fmt.Errorf("meter: %w: outcome unknown: %w", ErrUnavailable, withoutNotSent(why))
		}
	}
}

// withoutNotSent keeps the text of err but not the claim that nothing was sent: a later attempt that was not sent
// says nothing about an earlier one that was.
func withoutNotSent(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return fmt.Errorf("%w: %s", ErrUnavailable, err.Error())
	}
	return errors.New(err.Error())
}

// untilContext bounds a call by its deadline, which go-redis puts on the connection, and by nothing else: dialing and
// waiting for a connection have bounds of their own, and what is in flight is not interrupted. A context that ends
// would cost every flight two timers and seven allocations.
type untilContext struct {
	context.Context //nolint:containedctx // of which it is one

	until time.Time
}

// Deadline implements context.Context.
func (c *untilContext) Deadline() (time.Time, bool) { return c.until, true }

// attempt sends the operations once, in one pipeline, and returns those that still need a reply and why.
func (e *Engine) attempt(until time.Time, ops []*op) (again []*op, err error) {
	if soon := time.Now().Add(attemptTimeout); soon.Before(until) {
		until = soon
	}
	ctx := &untilContext{context.Background(), until}
	client := e.client()
	var usual [2]*call // more only in Cluster
	calls := e.newCalls(usual[:0], ops)
	send(ctx, client, calls)
	for _, c := range calls {
		left, callErr := e.finish(ctx, client, c)
		again = append(again, left...)
		err = errors.Join(err, callErr)
		e.calls.Put(c)
	}
	return again, err
}

// send sends the calls. Each then has its reply or its own error.
func send(ctx context.Context, client redis.UniversalClient, calls []*call) {
	if len(calls) == 1 {
		_ = client.Process(ctx, calls[0].command(ctx))
		return
	}
	pipe := client.Pipeline()
	for _, c := range calls {
		_ = pipe.Process(ctx, c.command(ctx)) // a pipeline only queues
	}
	_, _ = pipe.Exec(ctx)
}

// newCalls groups operations by partition in Cluster, where a call may not span partitions, and settlements go first.
// They and reservations share a call, since each costs Redis as much as some operations in it, but for a while after
// Redis said that it is full: it refuses a call with reservations then, and would refuse what settles along with them.
func (e *Engine) newCalls(calls []*call, ops []*op) []*call {
	now, offset := e.read()
	ms := time.Now().UnixMilli()
	apart := ms < e.fullUntilMs.Load()
	first := 0
	for _, reserves := range [...]bool{false, true} {
		for _, o := range ops {
			if (o.verb == verbReserve) != reserves {
				continue
			}
			at := first
			for at < len(calls) && e.cluster && calls[at].ops[0].partition != o.partition {
				at++
			}
			if at == len(calls) {
				c, _ := e.calls.Get().(*call) // the pool makes no other
				c.ops = c.ops[:0]
				calls = append(calls, c)
			}
			calls[at].ops = append(calls[at].ops, o)
		}
		if apart {
			first = len(calls)
		}
	}
	for _, c := range calls {
		function, script := e.library.ApplySettle, ""
		switch {
		case c.reserves():
			function = e.library.ApplyReserve
		case ms < e.scriptUntilMs.Load():
			script = e.library.Script
		}
		c.build(function, script, e.partitions, now, offset)
	}
	return calls
}

// finish reads one call's reply. It returns the operations to send again, marked if this attempt may have run.
func (e *Engine) finish(ctx context.Context, client redis.UniversalClient, c *call) ([]*op, error) {
	err := c.reply.Err()
	if err == nil {
		if err = c.read(); err == nil {
			return nil, nil
		}
		e.reconnect(client, err)
		c.maybe()
		return c.ops, err
	}
	if _, answered := errors.AsType[redis.Error](err); !answered {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" && !e.cluster {
			return c.ops, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		c.maybe() // a Cluster client may itself have sent it before the dial that failed
		return c.ops, err
	}
	if isUnloaded(err) {
		loaded := loadLibrary(ctx, client, e.library)
		if isFull(loaded) && c.settles() {
			e.noteFull(&e.fullUntilMs, &e.scriptUntilMs)
			return e.attempt(until(ctx), c.ops)
		}
		return c.ops, fmt.Errorf("%w: %w: %w", errRefused, ErrNotSent, errors.Join(err, loaded))
	}
	if isFull(err) && c.settles() && c.reserves() {
		e.noteFull(&e.fullUntilMs)
		return e.attempt(until(ctx), c.ops)
	}
	if !strings.Contains(err.Error(), "@user_") { // OOM, LOADING, BUSY, READONLY, MISCONF, …: it did not run
		return c.ops, fmt.Errorf("%w: %w: %w", errRefused, ErrNotSent, err)
	}
	return e.halves(ctx, c, err)
}

// noteFull remembers for a while what a Redis that is full refuses.
func (e *Engine) noteFull(untilMs ...*atomic.Int64) {
	for _, u := range untilMs {
		u.Store(time.Now().Add(fullFor).UnixMilli())
	}
}

// until is when a flight must be over.
func until(ctx context.Context) time.Time {
	t, _ := ctx.Deadline()
	return t
}

// halves answers a call that raised: a script raises before it writes, so the operations may be sent again, in
// halves, until the one that raises is alone.
func (e *Engine) halves(ctx context.Context, c *call, raised error) ([]*op, error) {
	if len(c.ops) == 1 {
		c.ops[0].err = fmt.Errorf("meter: %s: script: %w", c.ops[0].verb, raised)
		return nil, nil
	}
	e.log.Error().Err(raised).Int("ops", len(c.ops)).Msg("a script raised; sending the batch again in halves")
	var again []*op
	var errs error
	for _, half := range [][]*op{c.ops[:len(c.ops)/2], c.ops[len(c.ops)/2:]} {
		left, err := e.attempt(until(ctx), half)
		again = append(again, left...)
		errs = errors.Join(errs, err)
	}
	return again, errs
}

func newBreaker() *gobreaker.TwoStepCircuitBreaker[any] {
	return gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Name:        "redis",
		Timeout:     breakerOpenFor,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerTrips },
		// A refusal such as OOM or LOADING is an answer: it is told to the callers, not hidden behind a breaker.
		IsSuccessful: func(err error) bool { return err == nil || errors.Is(err, errRefused) },
	})
}
