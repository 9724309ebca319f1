package persist

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// An account is quarantined when Postgres cannot book what the ledger says of it: a grant, a change or the account itself is
// not there, as after Postgres was restored to an older copy, or its amounts do not add up. Its records are committed as
// they are, with the cursor and the hash chain, so that Redis may forget them and the other accounts go on. Its entries
// are noted in quarantined_entry, and booked in their order once the first of them can be.
//
// A partition still stops for what no single account explains: a gap in pseq, and a fork, which is another record or entry
// at a place that is taken.

// Bounds of the quarantine.
const (
	quarantineMax      = 10_000          // accounts of a partition; more are no exception any more, and stop it
	quarantineInterval = time.Second     // between looks whether a person has booked what was missing
	quarantineNamed    = 10              // accounts that a log line names
	refusedMax         = 2 * time.Minute // to find the accounts that a batch is refused for, if it is all of them
)

// errForked says that something else is booked at a place of the ledger. Another account's entries would be next.
var errForked = errors.New("something else is booked there")

// entryError is why an entry cannot be booked, and whose it is.
type entryError struct {
	account string
	err     error
}

func (e *entryError) Error() string { return e.err.Error() }

func (e *entryError) Unwrap() error { return e.err }

// quarantinedEntry is an entry that is not booked, and its place.
type quarantinedEntry struct {
	pseq       uint64
	idx        int
	occurredMs int64
	entry      *meter.Entry
}

// takes reports whether the batch books an account's entries.
func (b *flushBatch) takes(account string) bool {
	if b.only != nil {
		return b.only[account]
	}
	_, fresh := b.fresh[account]
	return !fresh && !b.except[account]
}

// quarantines reports whether the batch has entries that are quarantined.
func (b *flushBatch) quarantines() bool { return len(b.quarantined) > 0 || len(b.fresh) > 0 }

// batchOf makes a batch of the entries that some accounts have in records, to be booked without the records.
func (s *Store) batchOf(records []meter.Record, accounts map[string]bool) (*flushBatch, error) {
	b := spareBatch(&s.batches)
	b.only, b.records = accounts, records
	for i := range records {
		rec := &records[i]
		for n := range rec.Entries {
			e := &rec.Entries[n]
			if !accounts[e.Account] {
				continue
			}
			if err := b.add(e); err != nil {
				return nil, broken(rec, "entry %d (%s of %s): %w", n, e.Kind, e.Account, err)
			}
		}
	}
	return b, nil
}

// collect makes a batch of records. Accounts whose entries do not add up among themselves are quarantined.
func (w *flushWorker) collect(records []meter.Record, fresh map[string]string) (*flushBatch, error) {
	for {
		b := spareBatch(&w.flusher.store.batches)
		b.except, b.fresh = w.quarantined, fresh
		err := b.collect(w.flusher.store.layout, w.partition, w.at, records)
		bad, ok := errors.AsType[*entryError](err)
		if !ok {
			return b, err
		}
		if len(w.quarantined)+len(fresh) >= quarantineMax {
			return nil, err
		}
		if fresh == nil {
			fresh = map[string]string{}
		}
		fresh[bad.account] = err.Error()
		b.free(&w.flusher.store.batches)
	}
}

// quarantine writes a batch that Postgres refused without the accounts that it was refused for. Without one, the ledger of
// the whole partition is broken.
func (w *flushWorker) quarantine(ctx context.Context, batch *flushBatch, refused error) (*flushBatch, error) {
	before := w.at.Position
	if err := w.conn.cursor(ctx, w); err != nil {
		return nil, err
	}
	if w.at.Position != before { // what looks broken was written by another flusher
		return nil, errCursorMoved
	}
	bad, err := w.conn.refusedFor(ctx, w, batch)
	if err != nil {
		return nil, err
	}
	if len(bad) == 0 || len(w.quarantined)+len(batch.fresh)+len(bad) > quarantineMax {
		return nil, refused
	}
	maps.Copy(bad, batch.fresh)
	without, err := w.collect(batch.records, bad)
	if err != nil {
		return nil, err
	}
	return without, w.write(ctx, without)
}

// refusedFor finds the accounts whose entries Postgres does not book, and why: the batch is tried for all, then for halves
// of those it is refused for. Its writes are rolled back.
func (c *flushConn) refusedFor(ctx context.Context, w *flushWorker, b *flushBatch) (bad map[string]string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.held != c.conn || c.conn == nil {
		return nil, errLockLost
	}
	accounts := make([]string, len(b.spans))
	for i, s := range b.spans {
		accounts[i] = s.account
	}
	slices.Sort(accounts)
	bad = map[string]string{}
	err = c.use(ctx, refusedMax, func(ctx context.Context) error {
		tx, err := c.conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) // a failure closes the connection
		return c.try(ctx, tx, w.partition, b.records, accounts, bad)
	})
	return bad, storeError("find what is refused", err)
}

func (c *flushConn) try(
	ctx context.Context, tx pgx.Tx, partition uint16, records []meter.Record, accounts []string, bad map[string]string,
) error {
	if len(accounts) == 0 {
		return nil
	}
	only := make(map[string]bool, len(accounts))
	for _, a := range accounts {
		only[a] = true
	}
	inner, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	b, err := c.store.batchOf(records, only)
	if err == nil {
		err = flushError(partition, c.bookRows(ctx, inner, b))
	}
	if undone := inner.Rollback(ctx); undone != nil {
		return undone
	}
	switch {
	case err == nil:
		b.free(&c.store.batches)
		return nil
	case !quarantinable(err):
		return err
	case len(accounts) == 1:
		bad[accounts[0]] = err.Error()
		return nil
	}
	half := len(accounts) / 2
	if err := c.try(ctx, tx, partition, records, accounts[:half], bad); err != nil {
		return err
	}
	return c.try(ctx, tx, partition, records, accounts[half:], bad)
}

// quarantinable reports whether an error is about an account's own entries.
func quarantinable(err error) bool {
	_, twice := violates(err, uniqueViolation)
	return errors.Is(err, ErrLedgerBroken) && !errors.Is(err, errForked) && !twice
}

// bookRows writes entries and lines, and what they change, without their records.
func (c *flushConn) bookRows(ctx context.Context, tx pgx.Tx, b *flushBatch) error {
	if err := copyLedger(ctx, tx, c.store.layoutNumber(), b); err != nil {
		return err
	}
	return project(ctx, tx, b)
}

// storable is a text that Postgres takes: what is wrong with an entry may be its text.
func storable(s string) string { return strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?") }

// quarantineRows notes what a batch quarantines.
func (c *flushConn) quarantineRows(ctx context.Context, tx pgx.Tx, partition uint16, b *flushBatch) error {
	var accounts, reasons []string
	for account, why := range b.fresh {
		accounts, reasons = append(accounts, account), append(reasons, storable(why))
	}
	_, err := tx.Exec(ctx, `INSERT INTO creditgate.quarantined_account (account, layout, partition, reason)
		SELECT u.account, $1, $2, u.reason FROM unnest($3::text[], $4::text[]) u (account, reason)
		ON CONFLICT DO NOTHING`, c.store.layoutNumber(), int(partition), accounts, reasons)
	if err != nil {
		return err
	}
	accounts = accounts[:0]
	for i := range b.quarantined {
		accounts = append(accounts, b.quarantined[i].entry.Account)
	}
	_, err = tx.Exec(ctx, `UPDATE creditgate.quarantined_account a SET entries = a.entries + u.n
		FROM (SELECT account, count(*) n FROM unnest($1::text[]) u (account) GROUP BY account) u WHERE a.account = u.account`, accounts)
	if err != nil {
		return err
	}
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"creditgate", "quarantined_entry"}, []string{
		"layout", "partition", "pseq", "idx", "account", "seq", "kind", "subject", "amount", "reason", "actor", "occurred_at",
	}, pgx.CopyFromSlice(len(b.quarantined), func(i int) ([]any, error) {
		h := b.quarantined[i]
		e := h.entry
		return []any{
			c.store.layoutNumber(), int(partition), int64(h.pseq), h.idx, e.Account, int64(e.Seq),
			e.Kind.String(), [16]byte(e.ID), int64(e.Amount), storable(e.Note.Reason), storable(e.Note.Actor), fromMs(h.occurredMs),
		}, nil
	}))
	return err
}

// warnQuarantined says which accounts are quarantined, and how they are helped.
func (w *flushWorker) warnQuarantined() {
	if len(w.quarantined) == 0 || time.Since(w.warnedAt) < brokenInterval {
		return
	}
	w.warnedAt = time.Now()
	names := make([]string, 0, len(w.quarantined))
	for name := range w.quarantined {
		names = append(names, name)
	}
	slices.Sort(names)
	w.log.Error().Int("accounts", len(names)).Strs("named", names[:min(quarantineNamed, len(names))]).
		Msg("accounts are quarantined: Postgres lacks what their ledger names, and the others go on. " +
			"`creditgate ledger quarantine` lists what is missing and the command that books it")
}

// Quarantined counts the accounts that are quarantined in the partitions that this flusher leads.
func (f *Flusher) Quarantined() (accounts int) {
	for _, w := range f.workers {
		accounts += int(w.quarantinedAccounts.Load())
	}
	return accounts
}

// quarantinedOf reads which accounts of a partition are quarantined, and since when an entry waits. It runs with each batch
// of a partition that has some, so that it must not count their entries.
func quarantinedOf(ctx context.Context, conn *pgx.Conn, layout int, w *flushWorker) error {
	var names []string
	var oldest *time.Time
	var entries int64
	err := conn.QueryRow(ctx, `SELECT coalesce(array_agg(account), '{}'),
			(SELECT occurred_at FROM creditgate.quarantined_entry WHERE layout = $1 AND partition = $2 ORDER BY pseq, idx LIMIT 1),
			coalesce(sum(entries), 0)::bigint
		FROM creditgate.quarantined_account WHERE layout = $1 AND partition = $2`, layout, int(w.partition)).
		Scan(&names, &oldest, &entries)
	if err != nil {
		return fmt.Errorf("read quarantined accounts: %w", err)
	}
	w.quarantined = make(map[string]bool, len(names))
	for _, name := range names {
		w.quarantined[name] = true
	}
	w.quarantinedAccounts.Store(int64(len(names)))
	w.quarantinedEntries.Store(entries)
	w.quarantinedSinceMs.Store(0)
	if oldest != nil {
		w.quarantinedSinceMs.Store(oldest.UnixMilli())
	}
	return nil
}
