package metertest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"creditgate/meter"
)

// Book is a meter.Book and meter.RebuildSource in memory, for tests of the engine without Postgres. It folds the
// records it is given, and refuses gaps as the flusher does.
type Book struct {
	Layout meter.Layout

	mu       sync.Mutex
	epochs   map[uint16]uint64
	cursors  map[uint16]meter.Cursor
	accounts map[string]*meter.Account
	lots     map[meter.ID]meter.Grant // terms of the grants, as an admin wrote them before applying
	outcomes map[meter.ID]meter.Reservation
	entries  []meter.Entry
}

// NewBook returns an empty book.
func NewBook(layout meter.Layout) *Book {
	return &Book{
		Layout: layout, epochs: map[uint16]uint64{}, cursors: map[uint16]meter.Cursor{},
		accounts: map[string]*meter.Account{}, lots: map[meter.ID]meter.Grant{},
		outcomes: map[meter.ID]meter.Reservation{},
	}
}

// AddAccount creates an account.
func (b *Book) AddAccount(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accounts[name] = &meter.Account{}
}

// AddLot writes down the terms of a grant, as Postgres has them before the grant is applied.
func (b *Book) AddLot(g meter.Grant) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lots[g.ID] = g
}

// Lot is a grant's terms as they were last written down.
func (b *Book) Lot(id meter.ID) meter.Grant {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lots[id]
}

// SetFlags writes down an account's flags.
func (b *Book) SetFlags(name string, suspended bool, version uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accounts[name].Suspended, b.accounts[name].FlagsVersion = suspended, version
}

// Fold takes records as the flusher would.
func (b *Book) Fold(records []meter.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, rec := range records {
		at := b.cursors[rec.Partition]
		if rec.Pseq != at.Pseq+1 || rec.Epoch < at.Epoch {
			return fmt.Errorf("record %s follows %s", rec.Position, at.Position)
		}
		for _, e := range rec.Entries {
			if err := b.foldEntry(rec, e); err != nil {
				return err
			}
		}
		hash := sha256.Sum256(append(at.Hash[:], rec.Body...))
		b.cursors[rec.Partition] = meter.Cursor{Position: rec.Position, Hash: hash, Body: rec.Body}
	}
	return nil
}

func (b *Book) foldEntry(rec meter.Record, e meter.Entry) error {
	a := b.accounts[e.Account]
	if a == nil || e.Seq != a.Seq+1 {
		return fmt.Errorf("record %s: entry %s of %q has seq %d", rec.Position, e.Kind, e.Account, e.Seq)
	}
	a.Seq = e.Seq
	b.entries = append(b.entries, e)
	for _, l := range e.Lines {
		i := slices.IndexFunc(a.Grants, func(g meter.Grant) bool { return g.ID == l.Grant })
		if i < 0 {
			g, ok := b.lots[l.Grant]
			if !ok {
				return fmt.Errorf("record %s: unknown grant %s", rec.Position, l.Grant)
			}
			g.Available, g.Held, g.Debt = 0, 0, 0
			a.Grants = append(a.Grants, g)
			i = len(a.Grants) - 1
		}
		a.Grants[i].Available += l.Credits()
		a.Grants[i].Debt += l.Debt
		if e.Kind == meter.KindRevoke {
			a.Grants[i].Stops = false
		}
	}
	return b.foldOutcome(rec, e)
}

func (b *Book) foldOutcome(rec meter.Record, e meter.Entry) error {
	states := map[meter.Kind]meter.State{
		meter.KindCommit: meter.Committed, meter.KindRelease: meter.Released, meter.KindExpire: meter.Expired,
		meter.KindLate: meter.Late, meter.KindUncollected: meter.Uncollected,
	}
	state, ok := states[e.Kind]
	if !ok {
		return nil
	}
	had, again := b.outcomes[e.ID]
	if again && (had.State != meter.Expired || state != meter.Late && state != meter.Uncollected) {
		return fmt.Errorf("record %s: %s after %s of %s", rec.Position, state, had.State, e.ID)
	}
	r := meter.Reservation{
		ID:    meter.ReservationID{Layout: rec.Layout, Partition: rec.Partition, ID: e.ID},
		State: state, Account: e.Account, Amount: e.Amount, SettledMs: rec.OccurredMs, Note: e.Note,
	}
	for _, l := range e.Lines {
		r.Charged += l.Spent
		r.Draws = append(r.Draws, meter.Draw{Grant: l.Grant, Amount: l.Spent + l.Returned, Charged: l.Spent})
	}
	b.outcomes[e.ID] = r
	return nil
}

// Entries are all entries folded so far, oldest first.
func (b *Book) Entries() []meter.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.entries)
}

// Cursor implements meter.Book.
func (b *Book) Cursor(_ context.Context, partition uint16) (meter.Cursor, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cursors[partition], nil
}

// ClaimEpoch implements meter.Book.
func (b *Book) ClaimEpoch(_ context.Context, partition uint16, atLeast uint64) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.epochs[partition] = max(b.epochs[partition], atLeast) + 1
	return b.epochs[partition], nil
}

// Account implements meter.Book.
func (b *Book) Account(_ context.Context, account string) (meter.Account, meter.Cursor, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[account]
	if a == nil {
		return meter.Account{}, meter.Cursor{}, meter.ErrNoAccount
	}
	out := *a
	out.Grants = slices.DeleteFunc(slices.Clone(a.Grants), func(g meter.Grant) bool { return g.Available == 0 && !g.Stops })
	for i := range out.Grants {
		out.Grants[i].ExpiresMs = b.lots[out.Grants[i].ID].ExpiresMs // it may have been moved
	}
	slices.SortFunc(out.Grants, meter.CompareGrants)
	return out, b.cursors[b.Layout.PartitionOf(account)], nil
}

// DueLapses implements meter.Book.
func (b *Book) DueLapses(_ context.Context, after meter.Lapse, until time.Time, limit int) ([]meter.Lapse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var due []meter.Lapse
	for name, a := range b.accounts {
		for _, g := range a.Grants {
			l := meter.Lapse{Account: name, Grant: g.ID, At: time.UnixMilli(b.lots[g.ID].ExpiresMs)}
			if g.Available > 0 && !l.At.After(until) && byEnd(after, l) < 0 {
				due = append(due, l)
			}
		}
	}
	slices.SortFunc(due, byEnd)
	return due[:min(limit, len(due))], nil
}

func byEnd(a, b meter.Lapse) int {
	return cmp.Or(a.At.Compare(b.At), bytes.Compare(a.Grant[:], b.Grant[:]))
}

// Outcome implements meter.Book.
func (b *Book) Outcome(_ context.Context, id meter.ReservationID) (meter.Reservation, meter.Cursor, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.outcomes[id.ID]
	return r, b.cursors[id.Partition], ok, nil
}

// Accounts implements meter.RebuildSource.
func (b *Book) Accounts(_ context.Context, partition uint16, fn func([]string) error) error {
	b.mu.Lock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(b.accounts)) {
		if b.Layout.PartitionOf(name) == partition {
			names = append(names, name)
		}
	}
	b.mu.Unlock()
	for chunk := range slices.Chunk(names, 1000) {
		if err := fn(chunk); err != nil {
			return err
		}
	}
	return nil
}

// KeyedOutcomes implements meter.RebuildSource.
func (b *Book) KeyedOutcomes(
	_ context.Context, partition uint16, sinceMs int64, fn func([]meter.Reservation) error,
) error {
	b.mu.Lock()
	var rs []meter.Reservation
	for _, r := range b.outcomes {
		charged := r.State == meter.Committed || r.State == meter.Late
		if r.ID.Partition == partition && r.SettledMs > sinceMs && r.Note.Key != nil && charged {
			rs = append(rs, r)
		}
	}
	b.mu.Unlock()
	slices.SortFunc(rs, func(a, b meter.Reservation) int { return int(a.SettledMs - b.SettledMs) })
	for chunk := range slices.Chunk(rs, 1000) {
		if err := fn(chunk); err != nil {
			return err
		}
	}
	return nil
}
