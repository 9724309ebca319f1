package measure

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"creditgate/meter"
	"creditgate/persist"
)

// Backlog reads how many ledger records Redis has that Postgres has not.
type Backlog struct {
	layout meter.Layout
	store  *persist.Store
	engine *meter.Engine
}

// NewBacklog watches the ledger of a layout. It uses the engine's reader and never runs the engine.
func NewBacklog(layout meter.Layout, redisURL string, store *persist.Store) (*Backlog, error) {
	engine, err := meter.New(meter.Options{
		RedisURL: redisURL, Layout: layout, Book: store, Rebuild: store, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		return nil, fmt.Errorf("measure: backlog: %w", err)
	}
	return &Backlog{layout: layout, store: store, engine: engine}, nil
}

// Records counts them, over all partitions.
func (b *Backlog) Records(ctx context.Context) (int64, error) {
	_, behind, err := b.Ledger(ctx)
	return behind, err
}

// Ledger counts the records ever made, and those of them that Postgres has not. A record holds the entries of one call
// to Redis, so there are fewer records than requests. The cursors are read first, so that neither is negative.
func (b *Backlog) Ledger(ctx context.Context) (made, behind int64, err error) {
	for p := range b.layout.Partitions {
		at, err := b.store.Cursor(ctx, p)
		head, headErr := b.engine.Ledger().Head(ctx, p)
		if err = errors.Join(err, headErr); err != nil {
			return 0, 0, fmt.Errorf("measure: backlog of partition %d: %w", p, err)
		}
		made += int64(head.Pseq)
		behind += int64(head.Pseq - at.Pseq)
	}
	return made, behind, nil
}

// Close closes the connections to Redis, which is what an engine does when it ends.
func (b *Backlog) Close() error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return b.engine.Run(ended)
}
