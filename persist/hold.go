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

// An account is held back when Postgres cannot book what the ledger says of it: a grant, a change or the account itself is
// not there, as after Postgres was restored to an older copy, or its amounts do not add up. Its records are committed as
// they are, with the cursor and the hash chain, so that Redis may forget them and the other accounts go on. Its entries
// are noted in held_entry, and booked in their order once the first of them can be.
//
// A partition still stops for what no single account explains: a gap in pseq, and a fork, which is another record or entry
// at a place that is taken.

// Bounds of holding back.
const (
	heldMax      = 10_000          // accounts of a partition; more are no exception any more, and stop it
	heldInterval = time.Second     // between looks whether a person has booked what was missing
	heldNamed    = 10              // accounts that a log line names
	refusedMax   = 2 * time.Minute // to find the accounts that a batch is refused for, if it is all of them
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

// heldEntry is an entry that is not booked, and its place.
type heldEntry struct {
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

// holding reports whether the batch has entries that are held back.
func (b *flushBatch) holding() bool { return len(b.held) > 0 || len(b.fresh) > 0 }

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

// collect makes a batch of records. Accounts whose entries do not add up among themselves are held back.
func (w *flushWorker) collect(records []meter.Record, fresh map[string]string) (*flushBatch, error) {
	for {
		b := spareBatch(&w.flusher.store.batches)
		b.except, b.fresh = w.heldBack, fresh
		err := b.collect(w.flusher.store.layout, w.partition, w.at, records)
		bad, ok := errors.AsType[*entryError](err)
		if !ok {
			return b, err
		}
		if len(w.heldBack)+len(fresh) >= heldMax {
			return nil, err
		}
		if fresh == nil {
			fresh = map[string]string{}
		}
		fresh[bad.account] = err.Error()
		b.free(&w.flusher.store.batches)
	}
}

// holdBack writes a batch that Postgres refused without the accounts that it was refused for. Without one, the ledger of
// the whole partition is broken.
func (w *flushWorker) holdBack(ctx context.Context, batch *flushBatch, refused error) (*flushBatch, error) {
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
	if len(bad) == 0 || len(w.heldBack)+len(batch.fresh)+len(bad) > heldMax {
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
// of those it is refused for. Nothing of it stays.
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
	case !holdable(err):
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

// holdable reports whether an error is about an account's own entries.
func holdable(err error) bool {
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

// holdRows notes what a batch holds back.
func (c *flushConn) holdRows(ctx context.Context, tx pgx.Tx, partition uint16, b *flushBatch) error {
	var accounts, reasons []string
	for account, why := range b.fresh {
		accounts, reasons = append(accounts, account), append(reasons, storable(why))
	}
	_, err := tx.Exec(ctx, `INSERT INTO creditgate.held_account (account, layout, partition, reason)
		SELECT u.account, $1, $2, u.reason FROM unnest($3::text[], $4::text[]) u (account, reason)
		ON CONFLICT DO NOTHING`, c.store.layoutNumber(), int(partition), accounts, reasons)
	if err != nil {
		return err
	}
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"creditgate", "held_entry"}, []string{
		"layout", "partition", "pseq", "idx", "account", "seq", "kind", "subject", "amount", "reason", "actor", "occurred_at",
	}, pgx.CopyFromSlice(len(b.held), func(i int) ([]any, error) {
		h := b.held[i]
		e := h.entry
		return []any{
			c.store.layoutNumber(), int(partition), int64(h.pseq), h.idx, e.Account, int64(e.Seq),
			e.Kind.String(), [16]byte(e.ID), int64(e.Amount), storable(e.Note.Reason), storable(e.Note.Actor), fromMs(h.occurredMs),
		}, nil
	}))
	return err
}

// warnHeld says which accounts are held back, and how they are helped.
func (w *flushWorker) warnHeld() {
	if len(w.heldBack) == 0 || time.Since(w.warnedAt) < brokenInterval {
		return
	}
	w.warnedAt = time.Now()
	names := make([]string, 0, len(w.heldBack))
	for name := range w.heldBack {
		names = append(names, name)
	}
	slices.Sort(names)
	w.log.Error().Int("accounts", len(names)).Strs("named", names[:min(heldNamed, len(names))]).
		Msg("accounts are held back: Postgres lacks what their ledger names, and the others go on. " +
			"`creditgate ledger held` lists what is missing and the command that books it")
}

// Held counts the accounts that are held back in the partitions that this flusher leads.
func (f *Flusher) Held() (accounts int) {
	for _, w := range f.workers {
		accounts += int(w.heldAccounts.Load())
	}
	return accounts
}

// heldOf reads which accounts of a partition are held back, and since when an entry waits.
func heldOf(ctx context.Context, conn *pgx.Conn, layout int, w *flushWorker) error {
	var names []string
	var oldest *time.Time
	var entries int64
	err := conn.QueryRow(ctx, `SELECT coalesce(array_agg(account), '{}'),
			(SELECT min(occurred_at) FROM creditgate.held_entry WHERE layout = $1 AND partition = $2),
			(SELECT count(*) FROM creditgate.held_entry WHERE layout = $1 AND partition = $2)
		FROM creditgate.held_account WHERE layout = $1 AND partition = $2`, layout, int(w.partition)).
		Scan(&names, &oldest, &entries)
	if err != nil {
		return fmt.Errorf("read held-back accounts: %w", err)
	}
	w.heldBack = make(map[string]bool, len(names))
	for _, name := range names {
		w.heldBack[name] = true
	}
	w.heldAccounts.Store(int64(len(names)))
	w.heldEntries.Store(entries)
	w.heldSinceMs.Store(0)
	if oldest != nil {
		w.heldSinceMs.Store(oldest.UnixMilli())
	}
	return nil
}
