package load

import (
	"context"
	"sync"
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
