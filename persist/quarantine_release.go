package persist

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// Bounds of releasing.
const (
	releaseAccounts = 10  // a round
	releaseRecords  = 500 // of each, in one transaction
)

// release books the quarantined entries of accounts for which a person has done something, and now and then those of others: what
// was missing may have come by itself. A round books a page of each, so that the other accounts' records do not wait for
// all that an account had in weeks.
func (w *flushWorker) release(ctx context.Context) (err error) {
	if len(w.quarantined) == 0 || !w.releasing && time.Since(w.releasedAt) < quarantineInterval {
		return nil
	}
	w.releasedAt, w.releasing = time.Now(), false
	w.warnQuarantined()
	names, err := w.conn.releasable(ctx, w)
	if err != nil {
		return err
	}
	for _, name := range names {
		more, err := w.conn.release(ctx, w, name)
		if err != nil {
			return err
		}
		w.releasing = w.releasing || more
	}
	return w.conn.cursor(ctx, w)
}

func (c *flushConn) releasable(ctx context.Context, w *flushWorker) (names []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.held != c.conn || c.conn == nil {
		return nil, errLockLost
	}
	err = c.use(ctx, writeTimeout, func(ctx context.Context) error {
		rows, err := c.conn.Query(ctx, `SELECT account FROM creditgate.quarantined_account
			WHERE layout = $1 AND partition = $2 AND (retry OR checked_at < now() - $3::interval)
			ORDER BY retry DESC, checked_at LIMIT $4`,
			c.store.layoutNumber(), int(w.partition), brokenInterval, releaseAccounts)
		if err == nil {
			names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		return err
	})
	return names, storeError("find what may be booked", err)
}

// release books a page of an account's entries, oldest first, and reports whether there are more. An account whose entries
// cannot be booked stays as it is.
func (c *flushConn) release(ctx context.Context, w *flushWorker, account string) (more bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.held != c.conn || c.conn == nil {
		return false, errLockLost
	}
	var booked *flushBatch
	began := time.Now()
	err = c.use(ctx, writeTimeout, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, c.conn, func(tx pgx.Tx) (err error) {
			booked, more, err = c.releasePage(ctx, tx, w, account)
			return err
		})
	})
	if err = flushError(w.partition, err); err == nil {
		booked.records = nil // they were counted when they were committed
		c.wrote(booked, time.Since(began))
		return more, nil
	}
	if !errors.Is(err, ErrLedgerBroken) {
		return false, err
	}
	return false, c.use(ctx, writeTimeout, func(ctx context.Context) error {
		_, failed := c.conn.Exec(ctx, `UPDATE creditgate.quarantined_account SET retry = false, checked_at = now(), reason = $2
			WHERE account = $1`, account, err.Error())
		return storeError("note what is missing", failed)
	})
}

// releasePage locks the cursor first, as a flush does: then no flusher quarantines more of the account meanwhile.
func (c *flushConn) releasePage(
	ctx context.Context, tx pgx.Tx, w *flushWorker, account string,
) (b *flushBatch, more bool, err error) {
	var at uint64
	err = tx.QueryRow(ctx, `SELECT cursor_pseq FROM creditgate.partition WHERE layout = $1 AND partition = $2
		FOR NO KEY UPDATE`, c.store.layoutNumber(), int(w.partition)).Scan(&at)
	if err != nil {
		return nil, false, err
	}
	records, err := quarantinedRecords(ctx, tx, account)
	if err != nil {
		return nil, false, err
	}
	if b, err = c.store.batchOf(records, map[string]bool{account: true}); err != nil {
		return nil, false, err
	}
	if len(records) > 0 {
		if err := c.bookRows(ctx, tx, b); err != nil {
			return nil, false, err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM creditgate.quarantined_entry WHERE account = $1 AND pseq <= $2`,
			account, int64(records[len(records)-1].Pseq))
		if err != nil {
			return nil, false, err
		}
		if wrong := unexpected("quarantined entries", tag.RowsAffected(), b.entries); wrong != nil {
			return nil, false, wrong
		}
	}
	_, err = tx.Exec(ctx, `UPDATE creditgate.quarantined_account SET entries = entries - $2 WHERE account = $1`, account, b.entries)
	if err != nil {
		return nil, false, err
	}
	tag, err := tx.Exec(ctx, `DELETE FROM creditgate.quarantined_account a WHERE account = $1
		AND NOT EXISTS (SELECT FROM creditgate.quarantined_entry e WHERE e.account = a.account)`, account)
	return b, tag.RowsAffected() == 0 && len(records) > 0, err
}

// quarantinedRecords are the first records with quarantined entries of an account.
func quarantinedRecords(ctx context.Context, tx pgx.Tx, account string) ([]meter.Record, error) {
	rows, err := tx.Query(ctx, `SELECT r.layout, r.partition, r.pseq, r.epoch, r.body FROM creditgate.ledger_record r
		JOIN (SELECT DISTINCT layout, partition, pseq FROM creditgate.quarantined_entry WHERE account = $1
			ORDER BY layout, partition, pseq LIMIT $2) h USING (layout, partition, pseq)
		ORDER BY r.layout, r.partition, r.pseq`, account, releaseRecords)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (rec meter.Record, err error) {
		var layout, partition uint16
		var at meter.Position
		var body []byte
		if err := row.Scan(&layout, &partition, &at.Pseq, &at.Epoch, &body); err != nil {
			return rec, err
		}
		if rec, err = meter.UnpackRecord(body); err != nil {
			return rec, fmt.Errorf("%w: %w", ErrLedgerBroken, err)
		}
		rec.Layout, rec.Partition, rec.Position = layout, partition, at
		return rec, nil
	})
}
