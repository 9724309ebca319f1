package persist

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"creditgate/meter"
)

// errCursorMoved says that another flusher was faster, that an unanswered COMMIT did happen, or that the partition
// was claimed for opening. Nothing was written.
var errCursorMoved = errors.New("the flush cursor is not where it was")

// write commits one batch. After any error but errCursorMoved the connection is given up: whether COMMIT happened is
// then told by the cursor.
func (w *flushWorker) write(ctx context.Context, b *flushBatch) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	began := time.Now()
	tx, err := w.conn.Begin(ctx)
	if err != nil {
		return storeError("flush", err)
	}
	if err := w.writeRows(ctx, tx, b); err != nil {
		_ = tx.Rollback(context.WithoutCancel(ctx))
		return flushError(w.partition, err)
	}
	if err := tx.Commit(ctx); err != nil {
		return flushError(w.partition, err)
	}
	w.at = b.to
	w.flusher.metrics.written(b, time.Since(began))
	w.flusher.options.OnStep(w.partition, StepCommitted)
	return nil
}

func (w *flushWorker) writeRows(ctx context.Context, tx pgx.Tx, b *flushBatch) error {
	s := w.flusher.store
	// First of all the cursor, which takes the row's lock. Were it last, a second flusher would run into unique
	// indexes before it noticed that it is the second, and that is what an alarm looks like.
	tag, err := tx.Exec(ctx, `UPDATE creditgate.partition SET cursor_epoch = $6, cursor_pseq = $7, cursor_hash = $8
		WHERE layout = $1 AND partition = $2 AND epoch = $3 AND cursor_epoch = $4 AND cursor_pseq = $5`,
		s.layoutNumber(), int(w.partition), w.claimed, b.from.Epoch, b.from.Pseq, b.to.Epoch, b.to.Pseq, b.to.Hash[:])
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return errCursorMoved
	}
	if err := copyLedger(ctx, tx, &s.copies, s.layoutNumber(), int(w.partition), b); err != nil {
		return err
	}
	w.flusher.options.OnStep(w.partition, StepCopied)
	return project(ctx, tx, b)
}

// flushError sorts out what retrying cannot help: Postgres refused the rows themselves (class 23, integrity, and 22,
// data), which only a broken ledger can bring about.
func flushError(partition uint16, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code[:2] == "23" || pg.Code[:2] == "22") {
		return fmt.Errorf("%w: partition %d: %s (%s): %w", ErrLedgerBroken, partition, pg.Detail, pg.ConstraintName, err)
	}
	return storeError("flush", err)
}

// copyLedger writes records, entries and lines. A row that is there already fails the whole transaction.
func copyLedger(ctx context.Context, tx pgx.Tx, spare *sync.Pool, layout, partition int, b *flushBatch) error {
	tables := [...]struct {
		name    string
		columns []string
		add     func(r *copyRows, layout, partition, columns int, rec *meter.Record, hash *[32]byte)
	}{{
		"ledger_record", []string{"layout", "partition", "pseq", "epoch", "occurred_at", "body", "hash"}, addRecord,
	}, {
		"ledger_entry", []string{
			"layout", "partition", "pseq", "idx", "kind", "account", "seq", "amount", "subject", "units", "operation",
			"policy_version", "key_id", "reason", "actor", "key_hash", "key_fingerprint", "occurred_at",
		}, addEntries,
	}, {
		"ledger_line", []string{
			"layout", "partition", "pseq", "idx", "line", "kind", "grant_id", "granted", "spent", "returned", "lapsed",
			"revoked", "debt",
		}, addLines,
	}}
	source, _ := spare.Get().(*copySource)
	if source == nil {
		source = &copySource{}
	}
	for _, t := range tables {
		err := copyTo(ctx, tx, t.name, t.columns, source.begin(len(b.records), func(r *copyRows, i int) {
			t.add(r, layout, partition, len(t.columns), &b.records[i], &b.hashes[i])
		}))
		if err != nil {
			return err // without the source: pgx may still read it
		}
	}
	source.add = nil // which holds the batch
	spare.Put(source)
	return nil
}

func addRecord(r *copyRows, layout, partition, columns int, rec *meter.Record, hash *[32]byte) {
	r.row(columns)
	r.integer(layout)
	r.integer(partition)
	r.bigint(int64(rec.Pseq))
	r.bigint(int64(rec.Epoch))
	r.timestamp(rec.OccurredMs)
	r.bytea(rec.Body)
	r.bytea(hash[:])
}

func addEntries(r *copyRows, layout, partition, columns int, rec *meter.Record, _ *[32]byte) {
	for i := range rec.Entries {
		e := &rec.Entries[i]
		r.row(columns)
		r.integer(layout)
		r.integer(partition)
		r.bigint(int64(rec.Pseq))
		r.integer(i)
		r.text(e.Kind.String())
		r.text(e.Account)
		r.bigint(int64(e.Seq))
		r.credits(e.Amount)
		r.uuid(e.ID)
		r.bigint(int64(e.Units))
		r.textOrNull(e.Note.Operation, e.Note.PolicyVersion, e.Note.KeyID, e.Note.Reason, e.Note.Actor)
		if k := e.Note.Key; k != nil {
			r.bytea(k.Hash[:])
			r.bytea(k.Fingerprint[:])
		} else {
			r.null()
			r.null()
		}
		r.timestamp(rec.OccurredMs)
	}
}

func addLines(r *copyRows, layout, partition, columns int, rec *meter.Record, _ *[32]byte) {
	for i := range rec.Entries {
		e := &rec.Entries[i]
		for n := range e.Lines {
			l := &e.Lines[n]
			r.row(columns)
			r.integer(layout)
			r.integer(partition)
			r.bigint(int64(rec.Pseq))
			r.integer(i)
			r.smallint(n)
			r.text(e.Kind.String())
			r.uuid(l.Grant)
			r.credits(l.Granted, l.Spent, l.Returned, l.Lapsed, l.Revoked, l.Debt)
		}
	}
}
