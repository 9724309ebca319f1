package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"creditgate/bench/load"
	"creditgate/bench/result"
	"creditgate/bench/stage"
)

// Bounds of a cell.
const (
	warmShare  = 5                // warm-up is at least this part of a cell
	drainMax   = 30 * time.Second // for Postgres to take what a former cell left
	drainPoll  = 50 * time.Millisecond
	watchEvery = 500 * time.Millisecond
)

// rateMin is asked for of a target that answered nearly nothing.
const rateMin = 10

// errorsShown is the share of failed requests from which on a cell is noted.
const errorsShown = 0.001

func (c *cell) warmth(length time.Duration) time.Duration { return max(length/warmShare, c.warm) }

func (c *cell) lasts(usual time.Duration) time.Duration {
	if c.length > 0 {
		return c.length
	}
	return usual
}

// load measures a cell that is asked by clients.
func (b *bench) load(ctx context.Context, c *cell, row *result.Row) error {
	target, err := b.stage.Target(ctx, c.target)
	if err != nil {
		return err
	}
	if c.share > 0 {
		if row.Rate, err = b.rate(ctx, c); err != nil {
			return err
		}
	}
	if err := b.drained(ctx); err != nil {
		return err
	}
	length := c.lasts(b.config.length)
	o := load.Options{
		Addrs: target.Addrs, Path: target.Priced, Image: c.image, Accounts: b.stage.Accounts, Active: c.active,
		Clients: c.clients, Rate: row.Rate, Greet: c.greet, Warm: c.warmth(length), Length: length, Seed: uint64(row.Round),
	}
	if c.image {
		o.Path = target.Image
	}
	watch := &watcher{bench: b, on: c.watch}
	var before, after stage.Counters
	r, err := askWith(ctx, b.hall.Self(), o, func(pid int) (err error) {
		before, err = target.Read(ctx, pid)
		watch.start(ctx)
		return err
	}, func(pid int) (err error) {
		after, err = target.Read(ctx, pid)
		return errors.Join(err, watch.stop())
	})
	if err != nil {
		return errors.Join(err, watch.stop())
	}
	row.Requests, row.Errors, row.Seconds, row.Latency = r.Requests, r.Errors, r.Seconds, r.Latency
	watch.fill(row)
	target.Fill(row, before, after)
	if failed := row.Failed(); float64(failed) > errorsShown*float64(row.Requests) {
		b.note(fmt.Sprintf("%s, %s, %d clients: %d of %d requests failed: %v", row.Suite, row.Target, row.Clients, failed,
			row.Requests, row.Errors))
	}
	return nil
}

// rate is the share of a capacity that a cell asks for. A capacity that was not measured in this run is measured now.
func (b *bench) rate(ctx context.Context, c *cell) (float64, error) {
	of := c.of
	if of == "" {
		of = c.target
	}
	if capacity := b.capacity(of); capacity >= rateMin {
		return c.share * capacity, nil
	}
	probe := &cell{target: of, clients: capacityClients}
	row := b.row("closed", probe, 1)
	if err := b.load(ctx, probe, row); err != nil {
		return 0, err
	}
	b.run.Rows = append(b.run.Rows, *row)
	if row.Throughput() < rateMin {
		b.note(fmt.Sprintf("%s answered %d requests in %g s: its open loop takes %d/s for its capacity",
			of, row.Requests, row.Seconds, rateMin))
	}
	return c.share * max(rateMin, row.Throughput()), nil
}

// capacity is the median over the rounds of a target's closed loop, 0 if there are none.
func (b *bench) capacity(target string) float64 {
	var seen []float64
	for _, row := range b.run.Rows {
		if row.Suite == "closed" && row.Target == target && row.Clients == capacityClients {
			seen = append(seen, row.Throughput())
		}
	}
	if len(seen) == 0 {
		return 0
	}
	slices.Sort(seen)
	return seen[len(seen)/2]
}

// drained waits until Postgres has what a former cell left: it must not burden the next one. What it costs to flush is
// in the cells all the same, since the flusher runs in them.
func (b *bench) drained(ctx context.Context) error {
	deadline := time.Now().Add(drainMax)
	for {
		behind, err := b.stage.Backlog.Records(ctx)
		if err != nil || behind == 0 {
			return err
		}
		if time.Now().After(deadline) {
			b.note(fmt.Sprintf("%d ledger records of a cell were not in Postgres %s after it", behind, drainMax))
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(drainPoll):
		}
	}
}

// watcher looks at the backlog while a cell is measured.
type watcher struct {
	bench  *bench
	on     bool
	cancel context.CancelFunc
	done   sync.WaitGroup
	points []result.Point
	made   []result.Point
	lag    float64
	err    error
}

func (w *watcher) start(ctx context.Context) {
	if !w.on {
		return
	}
	ctx, w.cancel = context.WithCancel(ctx)
	w.done.Go(func() {
		began, tick := time.Now(), time.NewTicker(watchEvery)
		defer tick.Stop()
		for ctx.Err() == nil && w.err == nil {
			if err := w.look(ctx, began); ctx.Err() == nil { // one that is cut off by the end is no error
				w.err = err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
}

func (w *watcher) look(ctx context.Context, began time.Time) error {
	made, behind, err := w.bench.stage.Backlog.Ledger(ctx)
	if err != nil {
		return err
	}
	w.made = append(w.made, result.Point{Second: time.Since(began).Seconds(), Value: float64(made)})
	w.points = append(w.points, result.Point{Second: time.Since(began).Seconds(), Value: float64(behind)})
	lag, err := w.bench.stage.Lag(ctx)
	w.lag = max(w.lag, lag)
	return err
}

// stop ends watching. Twice is fine.
func (w *watcher) stop() error {
	if w.cancel == nil {
		return nil
	}
	w.cancel()
	w.done.Wait()
	return w.err
}

// fill writes what was seen. The slope is that of the second half: a flusher at first always falls behind by a batch.
func (w *watcher) fill(row *result.Row) {
	if !w.on || len(w.points) == 0 {
		return
	}
	row.Series = w.points
	for _, p := range w.points {
		row.Backlog.Max = max(row.Backlog.Max, int64(p.Value))
	}
	row.Extra[result.ExtraSlope] = slope(w.points[len(w.points)/2:])
	row.Extra[result.ExtraRecords] = slope(w.made)
	row.Extra[result.ExtraLag] = w.lag
}

// slope is that of the least-squares line through the points, by second.
func slope(points []result.Point) float64 {
	n := float64(len(points))
	var x, y, xx, xy float64
	for _, p := range points {
		x, y, xx, xy = x+p.Second, y+p.Value, xx+p.Second*p.Second, xy+p.Second*p.Value
	}
	if width := n*xx - x*x; width > 0 {
		return (n*xy - x*y) / width
	}
	return 0
}
