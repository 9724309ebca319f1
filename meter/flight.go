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

	"creditgate/lua"
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
	pipe := client.Pipeline()
	calls := e.calls(ops)
	cmds := make([]*redis.Cmd, len(calls))
	for i, c := range calls {
		cmds[i] = c.queue(ctx, pipe)
	}
	_, _ = pipe.Exec(ctx) // each command carries its own error
	for i, c := range calls {
		left, callErr := e.finish(ctx, client, c, cmds[i])
		again = append(again, left...)
		err = errors.Join(err, callErr)
	}
	return again, err
}

// calls groups operations by entry script, settlements first, and in Cluster by partition.
func (e *Engine) calls(ops []*op) []*call {
	type group struct {
		script    lua.Script
		partition uint16
		ops       []*op
	}
	var groups []*group
	add := func(script lua.Script, o *op) {
		for _, g := range groups {
			if g.script.SHA == script.SHA && (!e.cluster || g.partition == o.partition) {
				g.ops = append(g.ops, o)
				return
			}
		}
		groups = append(groups, &group{script: script, partition: o.partition, ops: []*op{o}})
	}
	for _, o := range ops {
		if o.verb != verbReserve {
			add(e.scripts.ApplySettle, o)
		}
	}
	for _, o := range ops {
		if o.verb == verbReserve {
			add(e.scripts.ApplyReserve, o)
		}
	}
	now := e.now()
	calls := make([]*call, len(groups))
	for i, g := range groups {
		calls[i] = newCall(g.script, g.ops, e.layout, e.fenceOf, now)
	}
	return calls
}

// finish reads one call's reply. It returns the operations to send again, marked if this attempt may have run.
func (e *Engine) finish(ctx context.Context, client redis.UniversalClient, c *call, cmd *redis.Cmd) ([]*op, error) {
	err := cmd.Err()
	if err == nil {
		if err = c.read(cmd.Val()); err == nil {
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
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		return c.ops, fmt.Errorf("%w: %w: %w", errRefused, ErrNotSent, errors.Join(err, e.loadScripts(ctx, client)))
	}
	if !strings.Contains(err.Error(), "@user_script") { // OOM, LOADING, BUSY, READONLY, MISCONF, …: it did not run
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
