package persist

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// errCursorMoved says that another flusher was faster, that an unanswered COMMIT did happen, or that the partition
// was claimed for opening. Nothing was written.
var errCursorMoved = errors.New("the flush cursor is not where it was")

// flushError sorts out what retrying cannot help: Postgres refused the rows themselves (class 23, integrity, and 22,
// data), which only a broken ledger can bring about.
func flushError(partition uint16, err error) error {
	if constraint, ok := violates(err, foreignKeyViolation); ok && constraint == "quarantined_entry_account" {
		return errCursorMoved // another flusher has booked the account's quarantined entries
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code[:2] == "23" || pg.Code[:2] == "22") {
		return fmt.Errorf("%w: partition %d: %s (%s): %w", ErrLedgerBroken, partition, pg.Detail, pg.ConstraintName, err)
	}
	return storeError("flush", err)
}

// copyLedger writes records, entries and lines. A row that is there already fails the whole transaction.
func copyLedger(ctx context.Context, tx pgx.Tx, layout int, b *flushBatch) error {
	tables := [...]struct {
		name    string
		columns []string
		add     func(r *copyRows, b *flushBatch, layout, columns, i int)
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
	for n, t := range tables {
		if n == 0 && b.only != nil {
			continue // the records are there
		}
		err := copyTo(ctx, tx, t.name, t.columns, b.copies.begin(len(b.records), func(r *copyRows, i int) {
			t.add(r, b, layout, len(t.columns), i)
		}))
		if err != nil {
			return err
		}
	}
	return nil
}

func addRecord(r *copyRows, b *flushBatch, layout, columns, i int) {
	rec := &b.records[i]
	r.row(columns)
	r.integer(layout)
	r.integer(int(rec.Partition))
	r.bigint(int64(rec.Pseq))
	r.bigint(int64(rec.Epoch))
	r.timestamp(rec.OccurredMs)
	r.bytea(rec.Body)
	r.bytea(b.hashes[i][:])
}

func addEntries(r *copyRows, b *flushBatch, layout, columns, i int) {
	rec := &b.records[i]
	for i := range rec.Entries {
		e := &rec.Entries[i]
		if !b.takes(e.Account) {
			continue
		}
		r.row(columns)
		r.integer(layout)
		r.integer(int(rec.Partition))
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

func addLines(r *copyRows, b *flushBatch, layout, columns, i int) {
	rec := &b.records[i]
	for i := range rec.Entries {
		e := &rec.Entries[i]
		if !b.takes(e.Account) {
			continue
		}
		for n := range e.Lines {
			l := &e.Lines[n]
			r.row(columns)
			r.integer(layout)
			r.integer(int(rec.Partition))
			r.bigint(int64(rec.Pseq))
			r.integer(i)
			r.smallint(n)
			r.text(e.Kind.String())
			r.uuid(l.Grant)
			r.credits(l.Granted, l.Spent, l.Returned, l.Lapsed, l.Revoked, l.Debt)
		}
	}
}
