package persist

import (
	"crypto/sha256"
	"fmt"
	"sync"

	"creditgate/meter"
)

// flushBatch is what one transaction writes: whole records, and what they change altogether. Its memory is used again:
// what it takes from records is theirs, so it must be freed before they are released.
type flushBatch struct {
	from, to    meter.Cursor
	records     []meter.Record
	merged      []meter.Record // what records is of, if they are several partitions'
	hashes      [][32]byte
	entries     int
	lines       int
	only        map[string]bool   // accounts that are booked; nil: all but …
	except      map[string]bool   // … those that were quarantined before,
	fresh       map[string]string // and those that are from now on, with the reason
	quarantined []quarantinedEntry
	accounts    map[string]int   // index in spans
	grants      map[meter.ID]int // index in deltas
	spans       []seqSpan
	deltas      []grantDelta
	// Changes whose entry is among the records.
	granted, revoked, moved, reversed []meter.ID
	buckets                           []bucketCredits // told by Postgres, which knows the grants' buckets
	// What is sent, encoded.
	copies copySource
	args   arrays
}

// bucketCredits is what a batch does to one bucket, in thousandths, for the metrics: a float will do.
type bucketCredits struct {
	bucket                          string
	granted, spent, lapsed, revoked float64
}

// seqSpan is the first and last seq of an account in a batch.
type seqSpan struct {
	account     string
	first, last uint64
}

// grantDelta is what a batch does to a grant.
type grantDelta struct {
	grant                                 meter.ID
	account                               string
	granted, spent, lapsed, revoked, debt meter.Credits
}

// batchKept bounds the batches whose memory is kept, by their entries: a full one, and what its last record had too many.
// linesKept bounds it by what entries say of grants: most say it of one, some of dozens.
const (
	batchKept = 2 * batchEntries
	linesKept = 2 * batchKept
)

// spareBatch is an empty one, in memory that a former one may have had.
func spareBatch(spare *sync.Pool) *flushBatch {
	b, _ := spare.Get().(*flushBatch)
	if b == nil {
		b = &flushBatch{accounts: map[string]int{}, grants: map[meter.ID]int{}}
	}
	return b
}

// free gives the memory to the next batch. Not after a failure: pgx may still read it then.
func (b *flushBatch) free(spare *sync.Pool) {
	if b.entries > batchKept || b.lines > linesKept {
		return
	}
	// Texts and records are not kept alive.
	clear(b.accounts)
	clear(b.grants)
	clear(b.spans)
	clear(b.deltas)
	clear(b.merged)
	clear(b.quarantined)
	b.copies.add = nil
	*b = flushBatch{
		merged: b.merged[:0], hashes: b.hashes[:0], accounts: b.accounts, grants: b.grants, spans: b.spans[:0],
		deltas: b.deltas[:0], granted: b.granted[:0], revoked: b.revoked[:0], moved: b.moved[:0],
		reversed: b.reversed[:0], buckets: b.buckets[:0], quarantined: b.quarantined[:0], copies: b.copies, args: b.args,
	}
	spare.Put(b)
}

// collect takes records for one transaction and checks all that can be checked without Postgres: pseq dense from
// the cursor on, epochs that do not go back, account seqs dense among themselves, amounts that add up.
func (b *flushBatch) collect(layout meter.Layout, partition uint16, at meter.Cursor, records []meter.Record) error {
	b.from, b.to = at, at
	for i := range records {
		rec := &records[i]
		if b.entries+len(b.quarantined) >= batchEntries {
			break
		}
		if rec.Layout != layout.Number || rec.Partition != partition {
			return broken(rec, "it is from layout %d, partition %d", rec.Layout, rec.Partition)
		}
		if rec.Pseq != b.to.Pseq+1 {
			return broken(rec, "a gap: the record before it is %s", b.to.Position)
		}
		if rec.Epoch < b.to.Epoch {
			return broken(rec, "the epoch goes back: the record before it is %s", b.to.Position)
		}
		for i := range rec.Entries {
			e := &rec.Entries[i]
			if layout.PartitionOf(e.Account) != partition {
				return broken(rec, "entry %d is of account %q, which belongs to partition %d",
					i, e.Account, layout.PartitionOf(e.Account))
			}
			if !b.takes(e.Account) {
				b.quarantined = append(b.quarantined, quarantinedEntry{rec.Pseq, i, rec.OccurredMs, e})
				continue
			}
			if err := b.add(e); err != nil {
				return &entryError{e.Account, broken(rec, "entry %d (%s of %s): %w", i, e.Kind, e.Account, err)}
			}
		}
		b.to.Position, b.to.Hash = rec.Position, chain(b.to.Hash, rec.Body)
		b.hashes = append(b.hashes, b.to.Hash)
		b.records = records[:i+1]
	}
	return nil
}

// merge takes what batches of several partitions have; their cursors stay with them. It reports false when two
// partitions touch one account or grant, which only a broken ledger does: by itself, the wrong one is found out. So it
// does when accounts are quarantined.
func (b *flushBatch) merge(writes []*flushWrite) bool {
	for _, w := range writes {
		part := w.batch
		if part.quarantines() {
			return false
		}
		b.merged, b.hashes = append(b.merged, part.records...), append(b.hashes, part.hashes...)
		b.granted, b.revoked = append(b.granted, part.granted...), append(b.revoked, part.revoked...)
		b.moved, b.reversed = append(b.moved, part.moved...), append(b.reversed, part.reversed...)
		b.entries, b.lines = b.entries+part.entries, b.lines+part.lines
		for _, s := range part.spans {
			b.accounts[s.account] = len(b.spans)
			b.spans = append(b.spans, s)
		}
		for _, d := range part.deltas {
			b.grants[d.grant] = len(b.deltas)
			b.deltas = append(b.deltas, d)
		}
	}
	b.records = b.merged
	return len(b.accounts) == len(b.spans) && len(b.grants) == len(b.deltas)
}

func broken(rec *meter.Record, format string, args ...any) error {
	return fmt.Errorf("%w: record %s of partition %d: %w", ErrLedgerBroken, rec.Position, rec.Partition,
		fmt.Errorf(format, args...))
}

// chain is the hash of a record: over the hash before it and its body, so that no record can be changed, dropped or
// put in without changing every hash after it.
func chain(before [32]byte, body []byte) (hash [32]byte) {
	h := sha256.New()
	h.Write(before[:])
	h.Write(body)
	h.Sum(hash[:0])
	return hash
}

func (b *flushBatch) add(e *meter.Entry) error {
	n, ok := b.accounts[e.Account]
	switch {
	case !ok:
		b.accounts[e.Account] = len(b.spans)
		b.spans = append(b.spans, seqSpan{e.Account, e.Seq, e.Seq})
	case e.Seq != b.spans[n].last+1:
		return fmt.Errorf("account seq %d follows %d", e.Seq, b.spans[n].last)
	default:
		b.spans[n].last = e.Seq
	}
	if err := balanced(e); err != nil {
		return err
	}
	switch e.Kind {
	case meter.KindGrant:
		b.granted = append(b.granted, e.ID)
	case meter.KindRevoke:
		b.revoked = append(b.revoked, e.ID)
	case meter.KindAdjust:
		if reverses(e) {
			b.reversed = append(b.reversed, e.ID)
		} else {
			b.moved = append(b.moved, e.ID)
		}
	default: // nothing here knows of it yet
	}
	for i := range e.Lines {
		if err := b.addLine(e.Account, &e.Lines[i]); err != nil {
			return err
		}
	}
	b.entries++
	b.lines += len(e.Lines)
	return nil
}

// reverses reports whether an adjustment undoes a revocation; one that moves no credit moves an expiry.
func reverses(e *meter.Entry) bool { return e.Amount != 0 }

// balanced checks that an entry's lines account for its amount.
func balanced(e *meter.Entry) error {
	var sum meter.Credits
	for _, l := range e.Lines {
		var part meter.Credits
		switch e.Kind {
		case meter.KindGrant:
			part = l.Granted
		case meter.KindCommit, meter.KindRelease, meter.KindExpire:
			part = l.Spent + l.Returned
		case meter.KindLate:
			part = l.Spent
		case meter.KindLapse:
			part = l.Lapsed
		case meter.KindRevoke:
			part = l.Revoked + l.Debt
		case meter.KindAdjust:
			part = -l.Revoked - l.Debt
		default: // they move no credit
		}
		var err error
		if sum, err = sum.Add(part); err != nil {
			return err
		}
	}
	want := e.Amount
	switch e.Kind {
	case meter.KindUncollected, meter.KindHold:
		want = 0
	default:
	}
	if sum != want {
		return fmt.Errorf("its lines account for %s of %s credits", sum, want)
	}
	return nil
}

func (b *flushBatch) addLine(account string, l *meter.Line) error {
	if (*l == meter.Line{Grant: l.Grant, Returned: l.Returned}) {
		return nil // what is only returned changes nothing that the ledger sums
	}
	n, ok := b.grants[l.Grant]
	if !ok {
		n = len(b.deltas)
		b.grants[l.Grant] = n
		b.deltas = append(b.deltas, grantDelta{grant: l.Grant, account: account})
	}
	d := &b.deltas[n]
	if d.account != account {
		return fmt.Errorf("grant %s is used by %s and %s", l.Grant, d.account, account)
	}
	for _, sum := range [...]struct {
		to   *meter.Credits
		part meter.Credits
	}{{&d.granted, l.Granted}, {&d.spent, l.Spent}, {&d.lapsed, l.Lapsed}, {&d.revoked, l.Revoked}, {&d.debt, l.Debt}} {
		var err error
		if *sum.to, err = sum.to.Add(sum.part); err != nil {
			return fmt.Errorf("grant %s: %w", l.Grant, err)
		}
	}
	return nil
}
