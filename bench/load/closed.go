package load

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// closed starts a worker for each connection. They begin one after the other over the first half of the warm-up:
// clients that start together would ask in step for as long as the backend takes equally long for each.
func (g *generator) closed(ctx context.Context, conns []*conn, workers *sync.WaitGroup) {
	spread := g.o.Warm / 2 / time.Duration(len(conns))
	for i, c := range conns {
		workers.Go(func() {
			defer c.close()
			select {
			case <-time.After(time.Duration(i) * spread):
			case <-ctx.Done():
			}
			g.repeat(ctx, c)
		})
	}
}

// greet asks for every account that is used once, so that what a first request costs is over however many there are. A
// time that is long enough for some would be too short for others. Connections begin anew afterwards: their deadline is
// that of the run. Who was not greeted within greetMax is met as a stranger.
func (g *generator) greet(ctx context.Context, conns []*conn) {
	var workers sync.WaitGroup
	var next atomic.Int64
	deadline := time.Now().Add(greetMax)
	for _, c := range conns {
		workers.Go(func() {
			defer c.close()
			for ctx.Err() == nil && time.Now().Before(deadline) {
				i := int(next.Add(1)) - 1
				if i >= c.accounts.active {
					return
				}
				c.ask(i*c.accounts.stride, deadline)
			}
		})
	}
	workers.Wait()
}

// repeat asks again and again. What counts is an answer within the measured time, whenever it was asked for: else a
// slow backend's first answers would be missing and nothing would make up for them.
func (g *generator) repeat(ctx context.Context, c *conn) {
	for ctx.Err() == nil {
		sent := g.now()
		if sent >= g.end {
			return
		}
		outcome := c.exchange(g.zero.Add(g.stop))
		if done := g.now(); g.measured(done) {
			g.recorder.add(outcome, done-sent)
		}
	}
}
