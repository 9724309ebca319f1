package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"creditgate/bench/cast"
	"creditgate/bench/result"
)

// Bounds of a run.
const (
	ClientsMax = 16 << 10         // connections
	drainMax   = 10 * time.Second // after the end, for what is under way
	greetMax   = 5 * time.Minute  // for asking for every account once
)

// Options say what is asked for.
type Options struct {
	Addrs    []string      `json:"addrs"` // connections are spread over them
	Path     string        `json:"path"`
	Image    bool          `json:"image"`    // upload cast.Image instead of cast.Request
	Accounts int           `json:"accounts"` // there are so many
	Active   int           `json:"active"`   // of which so many, evenly spread, are used; 0: all
	Clients  int           `json:"clients"`  // connections
	Rate     float64       `json:"rate"`     // requests per second of an open loop; 0: closed loop
	Greet    bool          `json:"greet"`    // every account that is used is asked for once, before the warm-up
	Warm     time.Duration `json:"warm"`     // asked before anything is measured
	Length   time.Duration `json:"length"`   // measured
	Seed     uint64        `json:"seed"`     // of the order of accounts
}

// Result is what was measured.
type Result struct {
	Requests int64            `json:"requests"`
	Errors   map[string]int64 `json:"errors,omitempty"` // by status, or by what went wrong with the connection
	Seconds  float64          `json:"seconds"`
	Latency  result.Latency   `json:"latency"`
}

// Moments are called when the measured time begins and ends, for those who measure something else meanwhile.
type Moments struct{ Began, Ended func() }

// generator is one run.
type generator struct {
	o        Options
	zero     time.Time
	begin    time.Duration // after zero, as all times below
	end      time.Duration
	stop     time.Duration // nothing is waited for any longer
	recorder *recorder
}

func (g *generator) now() time.Duration { return time.Since(g.zero) }

// measured reports whether something at that time belongs to the result.
func (g *generator) measured(at time.Duration) bool { return at >= g.begin && at < g.end }

// Run asks and measures. It returns early only when ctx ends.
func Run(ctx context.Context, o Options, m Moments) (Result, error) {
	if err := o.check(); err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := &generator{o: o, begin: o.Warm, end: o.Warm + o.Length, recorder: newRecorder()}
	g.stop = g.end + drainMax
	requests := make([]template, len(o.Addrs))
	for i, addr := range o.Addrs {
		requests[i] = newTemplate(o, addr)
	}
	conns := make([]*conn, o.Clients)
	for i := range conns {
		conns[i] = newConn(ctx, o, requests[i%len(requests)], uint64(i))
	}
	if o.Greet {
		g.greet(ctx, conns)
	}
	g.zero = time.Now()
	var workers sync.WaitGroup
	if o.Rate > 0 {
		g.open(ctx, conns, &workers)
	} else {
		g.closed(ctx, conns, &workers)
	}
	g.tell(ctx, m)
	workers.Wait()
	if ctx.Err() != nil {
		return Result{}, fmt.Errorf("load: %w", ctx.Err())
	}
	return g.recorder.result(o.Length)
}

func (o *Options) check() error {
	if o.Active == 0 {
		o.Active = o.Accounts
	}
	switch {
	case len(o.Addrs) == 0 || o.Path == "":
		return errors.New("load: no address or no path: nothing to ask")
	case o.Clients < 1 || o.Clients > ClientsMax:
		return fmt.Errorf("load: %d clients; it takes 1 to %d", o.Clients, ClientsMax)
	case o.Accounts < 1 || o.Accounts > cast.AccountsMax || o.Active < 1 || o.Active > o.Accounts:
		return fmt.Errorf("load: %d of %d accounts; it takes 1 to %d", o.Active, o.Accounts, cast.AccountsMax)
	case o.Length <= 0 || o.Warm < 0 || o.Rate < 0:
		return fmt.Errorf("load: %s after %s at %g/s: time and rate must not be negative", o.Length, o.Warm, o.Rate)
	}
	return nil
}

// tell calls the moments when they come.
func (g *generator) tell(ctx context.Context, m Moments) {
	for _, moment := range []struct {
		at time.Duration
		fn func()
	}{{g.begin, m.Began}, {g.end, m.Ended}} {
		select {
		case <-time.After(moment.at - g.now()):
		case <-ctx.Done():
			return
		}
		if moment.fn != nil {
			moment.fn()
		}
	}
}

// rotation chooses the account of the next request: pseudo-random, and the same again for the same seed.
type rotation struct {
	random *rand.Rand
	active int
	stride int
}

func newRotation(o Options, conn uint64) rotation {
	return rotation{random: rand.New(rand.NewPCG(o.Seed, conn)), active: o.Active, stride: o.Accounts / o.Active}
}

func (r rotation) next() int { return r.random.IntN(r.active) * r.stride }
