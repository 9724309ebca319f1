package persist

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"creditgate/meter"
)

// flushWorker flushes one partition. All but the atomics belong to its goroutine.
type flushWorker struct {
	flusher   *Flusher
	partition uint16
	log       zerolog.Logger

	conn     *flushConn     // shared with other partitions
	held     *pgx.Conn      // what conn had when it took the advisory lock; nil while not leading
	claimed  uint64         // the partition's epoch in Postgres
	at       meter.Cursor   // what is committed; Body is not kept
	reported meter.Position // what Redis was told …
	// … and when
	reportedAt  time.Time
	trim        trimMarks
	readMax     int             // records to ask for
	strange     time.Time       // since when Redis' epoch is not the claimed one; zero: it is
	quarantined map[string]bool // accounts; see quarantine.go
	releasedAt  time.Time       // when it was last looked whether they can be booked
	releasing   bool            // one of them can, and has more entries
	warnedAt    time.Time

	// For the metrics, which are read from elsewhere.
	oldestMs atomic.Int64  // when the oldest record that was read and not committed happened; 0: none
	behind   atomic.Uint64 // records that Redis has and Postgres has not
	broken   atomic.Bool
	// Quarantined: accounts, their entries, and when the oldest of these happened.
	quarantinedAccounts, quarantinedEntries, quarantinedSinceMs atomic.Int64
}

// lockClass keeps our advisory locks apart from those of other programs in the database ("CG" and the layout).
const lockClass = 0x43470000

// lead waits until this worker is the one for the partition, then flushes until something fails. flushed says
// whether anything was committed.
func (w *flushWorker) lead(ctx context.Context) (flushed bool, err error) {
	for w.held == nil {
		if w.held, err = w.conn.lock(ctx, w.partition); err != nil {
			return false, err
		}
		if w.held == nil { // another gateway shows them
			w.quarantinedAccounts.Store(0)
			w.quarantinedEntries.Store(0)
			w.quarantinedSinceMs.Store(0)
			w.oldestMs.Store(0)
			w.behind.Store(0)
			w.broken.Store(false)
		}
		// Waiting inside pg_advisory_lock would keep a snapshot open and Postgres from vacuuming.
		if w.held == nil && !sleep(ctx, lockInterval) {
			return false, ctx.Err()
		}
	}
	w.reported = meter.Position{}
	if err := w.conn.cursor(ctx, w); err != nil {
		return false, err
	}
	w.log.Debug().Stringer("cursor", w.at.Position).Msg("flushing")
	for {
		n, err := w.step(ctx)
		flushed = flushed || n > 0
		if err != nil {
			return flushed, err
		}
	}
}

// leave gives the lead away.
func (w *flushWorker) leave(ctx context.Context) {
	w.conn.unlock(context.WithoutCancel(ctx), w.partition, w.held)
	w.held = nil
}

// write commits a batch, and moves on to where it ends.
func (w *flushWorker) write(ctx context.Context, b *flushBatch) error {
	err := w.conn.write(ctx, &flushWrite{partition: w.partition, held: w.held, claimed: w.claimed, batch: b})
	if err == nil {
		w.at = b.to
	}
	return err
}

// step reads once and writes what came, and returns how many records were committed.
func (w *flushWorker) step(ctx context.Context) (committed int, err error) {
	f := w.flusher
	if err := w.release(ctx); err != nil {
		return 0, err
	}
	records, epoch, err := f.source.Read(ctx, w.partition, w.at.Position, w.readMax, w.readWait())
	if err != nil {
		if errors.Is(err, meter.ErrPacked) {
			err = fmt.Errorf("%w: %w", ErrLedgerBroken, err)
		}
		return 0, err
	}
	if len(records.List) == 0 {
		records.Release()
		w.oldestMs.Store(0)
		w.behind.Store(0)
		w.broken.Store(false)
		if err := w.report(ctx, true); err != nil {
			return 0, err
		}
		return 0, w.conn.cursor(ctx, w) // Postgres may have been restored to an older copy, and nothing else would tell
	}
	f.options.OnStep(w.partition, StepRead)
	w.oldestMs.Store(records.List[0].OccurredMs)
	if ok, err := w.sameEpoch(ctx, epoch); !ok {
		return 0, err
	}
	entries := 0
	for rest := records.List; len(rest) > 0; {
		batch, err := w.book(ctx, rest)
		if err != nil {
			if errors.Is(err, errCursorMoved) {
				return committed, w.conn.cursor(ctx, w) // read again from where it is now
			}
			return committed, err
		}
		rest = rest[len(batch.records):]
		committed += len(batch.records)
		entries += batch.entries + len(batch.quarantined)
		some := batch.quarantines()
		batch.free(&f.store.batches)
		if len(rest) > 0 {
			w.oldestMs.Store(rest[0].OccurredMs)
		}
		w.trim.add(time.Now(), w.at.Position)
		if some {
			if err := w.conn.cursor(ctx, w); err != nil {
				return committed, err
			}
			w.warnQuarantined()
		}
		if err := w.report(ctx, false); err != nil {
			return committed, err
		}
	}
	w.caughtUp(ctx, committed)
	// The next read should bring about one transaction's worth, whether records carry one entry or thousands.
	w.readMax = max(batchReadMin, batchEntries*committed/entries)
	records.Release() // not after a failure: pgx may still read them then
	if entries < batchEntries && !w.releasing {
		w.gather(ctx)
	}
	return committed, nil
}

// readWait is how long to wait for a first record: something else may be due before.
func (w *flushWorker) readWait() time.Duration {
	wait := w.trim.wait(time.Now(), w.flusher.options.Wait)
	switch {
	case w.releasing:
		return 0
	case len(w.quarantined) > 0:
		return min(wait, quarantineInterval)
	}
	return wait
}

// book commits a batch of the first of records. Accounts that it is refused for are quarantined.
func (w *flushWorker) book(ctx context.Context, records []meter.Record) (*flushBatch, error) {
	batch, err := w.collect(records, nil)
	if err != nil {
		before := w.at.Position
		if moved := w.conn.cursor(ctx, w); moved == nil && w.at.Position != before {
			err = errCursorMoved // the records between were written by another flusher, and Redis has forgotten them
		}
		return nil, err
	}
	if err = w.write(ctx, batch); quarantinable(err) {
		return w.quarantine(ctx, batch, err)
	}
	return batch, err
}

// gather lets records come together until it is time, or until somebody waits for them. It is time for all partitions
// of a connection at once, so that they meet in one transaction, and for one connection after the other, so that
// Postgres' work does not come in one burst that requests would have to wait behind.
func (w *flushWorker) gather(ctx context.Context) {
	every := w.flusher.options.Every
	now := time.Now().Add(-every * time.Duration(w.conn.number) / flushConns)
	timer := time.NewTimer(now.Truncate(every).Add(every).Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.flusher.store.hurried[w.partition]:
	case <-ctx.Done():
	}
}

// sameEpoch reports whether the records were read under the epoch claimed in Postgres. When they were not, an
// opening is under way, here or elsewhere; one that does not finish is started again.
func (w *flushWorker) sameEpoch(ctx context.Context, epoch uint64) (bool, error) {
	if epoch != w.claimed {
		if err := w.conn.cursor(ctx, w); err != nil { // the opening may just be over
			return false, err
		}
	}
	switch {
	case epoch == w.claimed:
		w.strange = time.Time{}
		return true, nil
	case w.strange.IsZero():
		w.strange = time.Now()
	case time.Since(w.strange) > reopenGrace:
		w.log.Warn().Uint64("redis", epoch).Uint64("postgres", w.claimed).Msg("epochs differ: opening the partition again")
		w.flusher.source.Reopen(w.partition)
		w.strange = time.Time{}
	}
	if !sleep(ctx, mismatchPause) {
		return false, ctx.Err()
	}
	return false, nil
}

// caughtUp updates the metrics after a batch: a short read means that there is no more.
func (w *flushWorker) caughtUp(ctx context.Context, read int) {
	w.broken.Store(false)
	if read < w.readMax {
		w.oldestMs.Store(0)
		w.behind.Store(0)
		return
	}
	w.observe(ctx)
}

// observe asks Redis how far it is ahead, and since when. A failure leaves the metrics as they were.
func (w *flushWorker) observe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	head, err := w.flusher.source.Head(ctx, w.partition)
	if err != nil {
		return
	}
	w.behind.Store(max(head.Pseq, w.at.Pseq) - w.at.Pseq)
	if head.Pseq <= w.at.Pseq || w.at.Pseq == 0 || w.oldestMs.Load() > 0 {
		return
	}
	records, _, err := w.flusher.source.Read(ctx, w.partition, w.at.Position, 1, time.Second) // one is there
	if err != nil {
		return
	}
	if len(records.List) > 0 {
		w.oldestMs.Store(records.List[0].OccurredMs)
	}
	records.Release()
}

// report tells Redis what is committed, when that or what may be trimmed has changed, and not more often than
// reportEvery says while there is more to flush: it costs Redis as much as some requests, and nothing waits for it.
func (w *flushWorker) report(ctx context.Context, idle bool) error {
	trimTo := w.trim.due(time.Now())
	if w.at.Pseq == 0 || w.reported == w.at.Position && trimTo == (meter.Position{}) {
		return nil
	}
	if !idle && time.Since(w.reportedAt) < reportEvery*w.flusher.options.Every {
		return nil
	}
	if err := w.flusher.source.Flushed(ctx, w.partition, w.at.Position, trimTo); err != nil {
		return fmt.Errorf("tell Redis what is flushed: %w", err)
	}
	w.reported, w.reportedAt = w.at.Position, time.Now()
	w.flusher.options.OnStep(w.partition, StepTrimmed)
	return nil
}
