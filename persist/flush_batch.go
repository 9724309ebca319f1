package persist

import (
	"crypto/sha256"
	"fmt"
	"maps"

	"creditgate/meter"
)

// flushBatch is what one transaction writes: whole records, and what they change altogether.
type flushBatch struct {
	from, to meter.Cursor
	records  []meter.Record
	hashes   [][32]byte
	entries  int
	lines    int
	accounts map[string]*seqSpan
	grants   map[meter.ID]*grantDelta
	spans    []seqSpan    // what accounts points to, or did before this grew
	deltas   []grantDelta // what grants points to, likewise
	// Changes whose entry is among the records.
	granted, revoked, moved, reversed []meter.ID
	buckets                           []bucketCredits // told by Postgres, which knows the grants' buckets
}

// bucketCredits is what a batch does to one bucket, in thousandths, for the metrics: a float will do.
type bucketCredits struct {
	bucket                          string
	granted, spent, lapsed, revoked float64
}

// seqSpan is the first and last seq of an account in a batch.
type seqSpan struct{ first, last uint64 }

// grantDelta is what a batch does to a grant.
type grantDelta struct {
	account                               string
	granted, spent, lapsed, revoked, debt meter.Credits
}

// collect takes records for one transaction and checks all that can be checked without Postgres: pseq dense from
// the cursor on, epochs that do not go back, account seqs dense among themselves, amounts that add up.
func collect(layout meter.Layout, partition uint16, at meter.Cursor, records []meter.Record) (*flushBatch, error) {
	b := &flushBatch{from: at, to: at, accounts: map[string]*seqSpan{}, grants: map[meter.ID]*grantDelta{}}
	for i := range records {
		rec := &records[i]
		if b.entries >= batchEntries {
			break
		}
		if rec.Layout != layout.Number || rec.Partition != partition {
			return nil, broken(rec, "it is from layout %d, partition %d", rec.Layout, rec.Partition)
		}
		if rec.Pseq != b.to.Pseq+1 {
			return nil, broken(rec, "a gap: the record before it is %s", b.to.Position)
		}
		if rec.Epoch < b.to.Epoch {
			return nil, broken(rec, "the epoch goes back: the record before it is %s", b.to.Position)
		}
		for i := range rec.Entries {
			e := &rec.Entries[i]
			if layout.PartitionOf(e.Account) != partition {
				return nil, broken(rec, "entry %d is of account %q, which belongs to partition %d",
					i, e.Account, layout.PartitionOf(e.Account))
			}
			if err := b.add(e); err != nil {
				return nil, broken(rec, "entry %d (%s of %s): %w", i, e.Kind, e.Account, err)
			}
		}
		b.to.Position, b.to.Hash = rec.Position, chain(b.to.Hash, rec.Body)
		b.hashes = append(b.hashes, b.to.Hash)
		b.records = records[:i+1]
	}
	return b, nil
}

// merge makes one batch of several partitions'; its cursors stay with the parts. It is nil when two partitions touch
// one account or grant, which only a broken ledger does: by itself, the wrong one is found out.
func merge(writes []*flushWrite) *flushBatch {
	all := &flushBatch{accounts: map[string]*seqSpan{}, grants: map[meter.ID]*grantDelta{}}
	accounts, grants := 0, 0
	for _, w := range writes {
		b := w.batch
		all.records, all.hashes = append(all.records, b.records...), append(all.hashes, b.hashes...)
		all.granted, all.revoked = append(all.granted, b.granted...), append(all.revoked, b.revoked...)
		all.moved, all.reversed = append(all.moved, b.moved...), append(all.reversed, b.reversed...)
		all.entries, all.lines = all.entries+b.entries, all.lines+b.lines
		accounts, grants = accounts+len(b.accounts), grants+len(b.grants)
		maps.Copy(all.accounts, b.accounts)
		maps.Copy(all.grants, b.grants)
	}
	if len(all.accounts) != accounts || len(all.grants) != grants {
		return nil
	}
	return all
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
	span := b.accounts[e.Account]
	switch {
	case span == nil:
		b.spans = append(b.spans, seqSpan{e.Seq, e.Seq})
		b.accounts[e.Account] = &b.spans[len(b.spans)-1]
	case e.Seq != span.last+1:
		return fmt.Errorf("account seq %d follows %d", e.Seq, span.last)
	default:
		span.last = e.Seq
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
	d := b.grants[l.Grant]
	if d == nil {
		b.deltas = append(b.deltas, grantDelta{account: account})
		d = &b.deltas[len(b.deltas)-1]
		b.grants[l.Grant] = d
	}
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
