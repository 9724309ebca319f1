package meter

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// Bounds of the release that follows a reserve of unknown outcome. Beyond them the lease frees the credit.
const (
	orphansMax      = 10_000
	orphanRetry     = 200 * time.Millisecond
	orphanLifetime  = 5 * time.Minute
	orphanReleasers = 8
)

// Run opens partitions, sweeps them, books lapses, releases orphaned reserves and checks Redis until ctx ends; then it
// closes the connections.
func (e *Engine) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, p := range e.partitions {
		g.Go(func() error { e.openLoop(ctx, p); return nil })
		g.Go(func() error { e.sweepLoop(ctx, p); return nil })
	}
	g.Go(func() error { e.lapseLoop(ctx); return nil })
	g.Go(func() error { e.server.Run(ctx); return nil })
	g.Go(func() error { e.aliveLoop(ctx); return nil })
	for range orphanReleasers {
		g.Go(func() error { e.releaseLoop(ctx); return nil })
	}
	_ = g.Wait()
	return e.client().Close()
}

// orphan queues the release of a reserve whose outcome is unknown.
func (e *Engine) orphan(s Settle) {
	select {
	case e.orphans <- s:
	default:
		e.metrics.orphans.WithLabelValues("left to the lease").Inc()
	}
}

func (e *Engine) releaseLoop(ctx context.Context) {
	for {
		select {
		case s := <-e.orphans:
			e.releaseOrphan(ctx, s)
		case <-ctx.Done():
			return
		}
	}
}

func (e *Engine) releaseOrphan(ctx context.Context, s Settle) {
	giveUp := time.Now().Add(orphanLifetime)
	for time.Now().Before(giveUp) {
		if _, err := e.Release(ctx, s); err == nil {
			e.metrics.orphans.WithLabelValues("released").Inc()
			return
		}
		if pause(ctx, orphanRetry) != nil {
			break
		}
	}
	e.metrics.orphans.WithLabelValues("left to the lease").Inc()
}
