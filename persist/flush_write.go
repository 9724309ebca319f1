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
func copyRows(ctx context.Context, tx pgx.Tx, layout int, b *flushBatch) error {
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"creditgate", "ledger_record"},
		[]string{"layout", "partition", "pseq", "epoch", "occurred_at", "body", "hash"},
		pgx.CopyFromSlice(len(b.records), func(i int) ([]any, error) {
			rec := &b.records[i]
			return []any{
				layout, int(rec.Partition), int64(rec.Pseq), int64(rec.Epoch), fromMs(rec.OccurredMs), rec.Body, b.hashes[i][:],
			}, nil
		}))
	if err != nil {
		return err
	}
	entries, lines := make([][]any, 0, b.entries), make([][]any, 0, b.lines)
	for _, rec := range b.records {
		partition, occurred := int(rec.Partition), fromMs(rec.OccurredMs)
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
