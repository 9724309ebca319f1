package meter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
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
	ctx, cancel := context.WithTimeout(context.Background(), flightTimeout)
	defer cancel()
	for attempt := range attemptsMax {
		if attempt > 0 && pause(ctx, attemptPause<<attempt) != nil {
			break
		}
		if ops, outcome = e.attempt(ctx, ops); len(ops) == 0 {
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

// attempt sends the operations once, in one pipeline, and returns those that still need a reply and why.
func (e *Engine) attempt(ctx context.Context, ops []*op) (again []*op, err error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	client := e.client()
	calls := e.newCalls(ops)
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

// newCalls groups operations by function, settlements first, and in Cluster by partition.
func (e *Engine) newCalls(ops []*op) []*call {
	var calls []*call
	now := e.now()
	add := func(function string, ops []*op) {
		c, _ := e.calls.Get().(*call) // the pool makes no other
		c.build(function, ops, e.partitions, now)
		calls = append(calls, c)
	}
	settles, reserves := split(ops, func(o *op) bool { return o.verb != verbReserve })
	for _, g := range [...]struct {
		function string
		ops      []*op
	}{{e.library.ApplySettle, settles}, {e.library.ApplyReserve, reserves}} {
		for len(g.ops) > 0 {
			part, rest := g.ops, []*op(nil)
			if e.cluster { // a call may not span partitions there
				part, rest = split(g.ops, func(o *op) bool { return o.partition == g.ops[0].partition })
			}
			add(g.function, part)
			g.ops = rest
		}
	}
	return calls
}

// split divides operations by whether first says so, keeping their order.
func split(ops []*op, first func(*op) bool) (yes, no []*op) {
	for i, o := range ops {
		if first(o) == first(ops[0]) {
			continue
		}
		yes, no = append(make([]*op, 0, len(ops)), ops[:i]...), make([]*op, 0, len(ops)-i) // mixed
		for _, o := range ops[i:] {
			if first(o) == first(ops[0]) {
				yes = append(yes, o)
			} else {
				no = append(no, o)
			}
		}
		break
	}
	if no == nil {
		yes = ops
	}
	if len(ops) > 0 && !first(ops[0]) {
		yes, no = no, yes
	}
	return yes, no
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
		return c.ops, fmt.Errorf("%w: %w: %w", errRefused, ErrNotSent, errors.Join(err, loadLibrary(ctx, client, e.library)))
	}
	if !strings.Contains(err.Error(), "@user_function") { // OOM, LOADING, BUSY, READONLY, MISCONF, …: it did not run
		return c.ops, fmt.Errorf("%w: %w: %w", errRefused, ErrNotSent, err)
	}
	return e.halves(ctx, c, err)
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
		left, err := e.attempt(ctx, half)
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
