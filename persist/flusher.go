package persist

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"creditgate/meter"
)

// Source hands over ledger records. *meter.LedgerReader is one.
type Source interface {
	Ledger
	// Read returns records after a position, in order, at most limit, and the epoch under which the partition is open
	// at the Redis that they come from. When there are none it waits for the first, at most wait.
	Read(ctx context.Context, partition uint16, after meter.Position, limit int, wait time.Duration) (
		records *meter.Records, epoch uint64, err error)
	// Flushed tells Redis how far Postgres is, and lets it forget records before trimTo (zero: none).
	Flushed(ctx context.Context, partition uint16, at, trimTo meter.Position) error
	// Reopen says that Postgres has another epoch than Redis runs under: an opening was claimed and not finished.
	Reopen(partition uint16)
}

// ErrLedgerBroken says that the ledger is not what it must be. An account is quarantined whose grants or changes Postgres
// does not know, or whose amounts do not add up: see quarantine.go. The whole partition stays where it is after a gap in pseq, an
// entry booked twice, or a record that cannot be read, until a person has looked. Going on would hide it for ever.
var ErrLedgerBroken = errors.New("ledger is broken")

// Step is a moment in the life of a batch, for tests that end the process there.
type Step int

// The steps, in order.
const (
	StepRead Step = iota + 1
	StepCopied
	StepCommitted
	StepTrimmed
)

// FlushOptions are the flusher's settings. The zero value of each is a good one.
type FlushOptions struct {
	// TrimLag is how long records stay in Redis after they were committed to Postgres; default 15 min. It must be
	// longer than what a failover of Postgres can lose.
	TrimLag time.Duration
	// Wait bounds one blocking read; default 5 s.
	Wait time.Duration
	// Every is how often a busy partition is written, when less than a whole transaction's worth is there and nobody
	// waits for it; default 100 ms. A transaction costs Postgres about as much as 50 entries in it.
	Every time.Duration
	// OnStep is called at each step; nil in production.
	OnStep func(partition uint16, step Step)
}

// Bounds of the flusher.
const (
	batchEntries   = 2000                   // a transaction takes records until it has that many entries
	flushConns     = 8                      // to Postgres, each for several partitions
	batchReadMin   = 16                     // records a read asks for, when each carries a full batch of entries
	writeTimeout   = 30 * time.Second       // of one transaction; a frozen Postgres is noticed by it
	lockInterval   = time.Second            // between a follower's attempts to lead
	retryMin       = 50 * time.Millisecond  // after a failure, doubled each time …
	retryMax       = time.Second            // … up to this, and half of it more by chance: a failure that ends is noticed in 2 s
	connectAgain   = 250 * time.Millisecond // a failure to connect counts that long for all who share the connection
	brokenInterval = 30 * time.Second       // between looks at a broken ledger, so that repairing it is enough
	reopenGrace    = 2 * time.Second        // an opening that is under way gets this long to finish
	reportEvery    = 10                     // Every between reports of what is committed, while there is more to flush
	mismatchPause  = 100 * time.Millisecond // between looks at an epoch that does not match
)

// Flusher copies the ledger from Redis to Postgres, each record exactly once. Every gateway runs one, with a few
// connections that partitions share. Per partition an advisory lock lets one gateway work and the others wait. The
// lock is for economy. What makes it safe is the cursor in Postgres, which the first statement of each transaction
// compares and advances:
//
//   - two flushers at one partition: the second waits for the first's row lock, then finds the cursor moved;
//   - COMMIT without an answer: the next transaction, on a new connection, waits and finds out the same way;
//   - a Redis left behind by a failover: opening the other one claimed a newer epoch in the same row. Records of an
//     older epoch are still flushed, since they precede it, but only when read from a Redis that is open under the
//     claimed one. A flusher that reads from the old Redis reads under the old epoch and changes nothing.
type Flusher struct {
	store   *Store
	source  Source
	options FlushOptions
	metrics *flushMetrics
	log     zerolog.Logger
	conns   []*flushConn
	workers []*flushWorker
}

// NewFlusher makes a flusher for all partitions of the store's layout.
func NewFlusher(store *Store, source Source, options FlushOptions, reg prometheus.Registerer, log zerolog.Logger) *Flusher {
	if options.TrimLag == 0 {
		options.TrimLag = 15 * time.Minute
	}
	if options.Wait == 0 {
		options.Wait = 5 * time.Second
	}
	if options.Every == 0 {
		options.Every = 100 * time.Millisecond
	}
	if options.OnStep == nil {
		options.OnStep = func(uint16, Step) {}
	}
	f := &Flusher{store: store, source: source, options: options, metrics: newFlushMetrics(reg), log: log}
	for n := range min(flushConns, int(store.layout.Partitions)) {
		f.conns = append(f.conns, &flushConn{store: store, number: n, onStep: options.OnStep, wrote: f.metrics.written})
	}
	for p := range store.layout.Partitions {
		w := &flushWorker{
			flusher: f, partition: p, conn: f.conns[int(p)%len(f.conns)], readMax: batchEntries,
			trim: trimMarks{lag: options.TrimLag},
			log:  log.With().Uint16("partition", p).Logger(),
		}
		f.workers = append(f.workers, w)
		f.metrics.watch(reg, w)
	}
	return f
}

// Run flushes until ctx ends.
func (f *Flusher) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, w := range f.workers {
		all.Go(func() { w.run(ctx) })
	}
	all.Wait()
	for _, c := range f.conns {
		c.close(ctx)
	}
}

// run leads the partition whenever it can, and comes back after every failure with a pause.
func (w *flushWorker) run(ctx context.Context) {
	pause := retryMin
	for ctx.Err() == nil {
		flushed, err := w.lead(ctx)
		w.leave(ctx)
		if ctx.Err() != nil {
			return
		}
		if flushed {
			pause = retryMin
		}
		wait := spread(pause)
		if errors.Is(err, ErrLedgerBroken) {
			w.stop(err)
			wait = spread(brokenInterval)
		} else {
			w.flusher.store.outages.Log(w.log, err).Dur("retry_in", wait).Msg("flush interrupted")
		}
		w.observe(ctx)
		if !sleep(ctx, wait) {
			return
		}
		pause = min(2*pause, retryMax)
	}
}

// spread is a pause of that length on average, so that those who failed together do not come back together.
func spread(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// stop raises the alarm: a log line at each look, and a metric that stays up until the ledger is repaired.
func (w *flushWorker) stop(err error) {
	w.broken.Store(true)
	w.log.Error().Err(err).Stringer("cursor", w.at.Position).
		Msg("partition is not flushed until a person has looked: run `creditgate verify`")
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
