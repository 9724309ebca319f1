package stage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"creditgate/meter"
)

// Bounds of filling a Redis.
const (
	fillMax  = 10 * time.Minute
	fillPoll = 20 * time.Millisecond
)

// Engine is a running engine on a Redis that was filled through it.
type Engine struct {
	*meter.Engine

	stop context.CancelFunc
	done chan error
}

// startEngine runs an engine whose accounts are b's. An empty Redis is rebuilt from them, as it would be from Postgres
// after a loss: by the product's own verbs, whatever its packed values look like.
func startEngine(ctx context.Context, redisURL string, b book, clock *meter.Clock) (*Engine, error) {
	engine, err := meter.New(meter.Options{
		RedisURL: redisURL, Layout: b.layout, Book: b, Rebuild: b, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(), Clock: clock,
	})
	if err != nil {
		return nil, fmt.Errorf("fill Redis: %w", err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	e := &Engine{Engine: engine, stop: stop, done: make(chan error, 1)}
	go func() { e.done <- engine.Run(running) }()
	if err := e.await(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// await returns when every partition is open.
func (e *Engine) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fillMax)
	defer cancel()
	for {
		waiting := ""
		for _, p := range e.Ready() {
			if p.State != "open" {
				waiting = fmt.Sprintf("partition %d: %s", p.Partition, p.Reason)
				break
			}
		}
		if waiting == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("fill Redis: %s: %w", waiting, ctx.Err())
		case <-time.After(fillPoll):
		}
	}
}

// Close ends the engine and its connections.
func (e *Engine) Close() error {
	e.stop()
	return <-e.done
}
