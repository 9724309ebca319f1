package load

import (
	"context"
	"sync"
	"time"
)

// lateMax is how many requests may be due and not sent yet before the pacer waits. Waiting changes nothing that is
// measured: a request's due time follows from its number alone.
const lateMax = 64 << 10

// unsent is the outcome of a request that was due and found no connection until the run was given up.
const unsent = "unsent"

// open starts the pacer and a worker for each connection. A request is due at a time that depends on nothing but its
// number, goes out on the first connection that is free, and its latency counts from the due time. So a server that
// stalls is charged for everybody who would have asked meanwhile (no coordinated omission).
func (g *generator) open(ctx context.Context, conns []*conn, workers *sync.WaitGroup) {
	due := make(chan time.Duration, lateMax)
	workers.Go(func() {
		defer close(due)
		p := newPacer()
		defer p.close()
		for k := 0; ; k++ {
			at := time.Duration(float64(k) / g.o.Rate * float64(time.Second))
			if at >= g.end {
				return
			}
			p.wait(at - g.now())
			select {
			case due <- at:
			case <-ctx.Done():
				return
			}
		}
	})
	for _, c := range conns {
		workers.Go(func() {
			defer c.close()
			for at := range due {
				g.send(ctx, c, at)
			}
		})
	}
}

func (g *generator) send(ctx context.Context, c *conn, at time.Duration) {
	outcome := unsent
	if ctx.Err() == nil && g.now() < g.stop {
		outcome = c.exchange(g.zero.Add(g.stop))
	}
	if g.measured(at) {
		g.recorder.add(outcome, g.now()-at)
	}
}
