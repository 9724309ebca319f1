package persist

import (
	"context"
	"errors"
	"fmt"
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
	if err := copyRows(ctx, tx, s.layoutNumber(), int(w.partition), b); err != nil {
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

// copyRows writes records, entries and lines. A row that is there already fails the whole transaction.
func copyRows(ctx context.Context, tx pgx.Tx, layout, partition int, b *flushBatch) error {
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"creditgate", "ledger_record"},
		[]string{"layout", "partition", "pseq", "epoch", "occurred_at", "body", "hash"},
		pgx.CopyFromSlice(len(b.records), func(i int) ([]any, error) {
			rec := &b.records[i]
			return []any{
				layout, partition, int64(rec.Pseq), int64(rec.Epoch), fromMs(rec.OccurredMs), rec.Body, b.hashes[i][:],
			}, nil
		}))
	if err != nil {
		return err
	}
	entries, lines := make([][]any, 0, b.entries), make([][]any, 0, b.lines)
	for _, rec := range b.records {
		occurred := fromMs(rec.OccurredMs)
		for i, e := range rec.Entries {
			entries = append(entries, entryRow(layout, partition, rec.Pseq, i, e, occurred))
			for n, l := range e.Lines {
				lines = append(lines, []any{
					layout, partition, int64(rec.Pseq), i, int16(n), e.Kind.String(), [16]byte(l.Grant), int64(l.Granted),
					int64(l.Spent), int64(l.Returned), int64(l.Lapsed), int64(l.Revoked), int64(l.Debt),
				})
			}
		}
	}
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"creditgate", "ledger_entry"}, []string{
		"layout", "partition", "pseq", "idx", "kind", "account", "seq", "amount", "subject", "units", "operation",
		"policy_version", "key_id", "reason", "actor", "key_hash", "key_fingerprint", "occurred_at",
	}, pgx.CopyFromRows(entries))
	if err != nil {
		return err
	}
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"creditgate", "ledger_line"}, []string{
		"layout", "partition", "pseq", "idx", "line", "kind", "grant_id", "granted", "spent", "returned", "lapsed",
		"revoked", "debt",
	}, pgx.CopyFromRows(lines))
	return err
}

func entryRow(layout, partition int, pseq uint64, idx int, e meter.Entry, occurred time.Time) []any {
	var hash, fingerprint []byte
	if e.Note.Key != nil {
		hash, fingerprint = e.Note.Key.Hash[:], e.Note.Key.Fingerprint[:]
	}
	return []any{
		layout, partition, int64(pseq), idx, e.Kind.String(), e.Account, int64(e.Seq), int64(e.Amount),
		[16]byte(e.ID), int64(e.Units), textOrNull(e.Note.Operation), textOrNull(e.Note.PolicyVersion),
		textOrNull(e.Note.KeyID), textOrNull(e.Note.Reason), textOrNull(e.Note.Actor), hash, fingerprint, occurred,
	}
}

func textOrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
