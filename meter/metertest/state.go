package metertest

import (
	"maps"
	"slices"
	"time"

	"creditgate/meter"
)

// State is one partition as values: what Redis holds, decoded, and every record its ledger ever had.
type State struct {
	Layout         meter.Layout
	Partition      uint16
	Epoch          uint64
	Pseq           uint64 // of the newest record
	FlushedPseq    uint64
	OutcomesFromMs int64 // ids created before it may have had an outcome that is forgotten
	NowMs          int64 // the partition's clock: of Redis, when it last wrote
	Accounts       map[string]meter.Account
	Open           map[meter.ID]meter.Reservation // deadlines in wall time
	Done           map[meter.ID]meter.Reservation
	Keys           map[KeySlot]KeyRecord
	Slots          map[string]int64 // outcome slots and key days in use → their last write, as noted
	NotedSlot      int64            // the newest outcome slot written
	NotedMs        int64            // when its last write was noted in Slots
	Ledger         []meter.Record
}

// KeySlot is where a key's record lies: an attempt writes it in the day of its own id, so one key may have several.
type KeySlot struct {
	Day  int64
	Hash [16]byte
}

// KeyRecord is one attempt under an Idempotency-Key, the newest of its day, and for which request.
type KeyRecord struct {
	Reservation meter.ID
	Fingerprint [16]byte
	// Outcome is the charged reservation, kept here because the key outlives the outcome slots. While it is empty
	// the key is taken only if the reservation is open.
	Outcome meter.Reservation
}

// Charged reports whether the attempt was paid for.
func (k KeyRecord) Charged() bool { return k.Outcome.State != 0 }

func keySlot(hash [16]byte, id meter.ID) KeySlot {
	return KeySlot{Day: id.CreatedMs() / (24 * time.Hour).Milliseconds(), Hash: hash}
}

// NewState is an empty partition.
func NewState(layout meter.Layout, partition uint16) State {
	return State{
		Layout: layout, Partition: partition,
		Accounts: map[string]meter.Account{},
		Open:     map[meter.ID]meter.Reservation{},
		Done:     map[meter.ID]meter.Reservation{},
		Keys:     map[KeySlot]KeyRecord{},
		Slots:    map[string]int64{},
	}
}

// Entries is the ledger without the bounds of its records: how verbs were batched is no part of the rules.
func (s State) Entries() []meter.Entry {
	var out []meter.Entry
	for _, rec := range s.Ledger {
		out = append(out, rec.Entries...)
	}
	return out
}

// sortedIDs are the keys of m, oldest first.
func sortedIDs[V any](m map[meter.ID]V) []meter.ID {
	return slices.SortedFunc(maps.Keys(m), func(a, b meter.ID) int { return slices.Compare(a[:], b[:]) })
}

// Equal reports whether two partitions are the same but for the clock, and whether a list is nil or empty.
func (s State) Equal(o State) bool {
	return s.Epoch == o.Epoch && s.Pseq == o.Pseq && s.FlushedPseq == o.FlushedPseq &&
		s.OutcomesFromMs == o.OutcomesFromMs && maps.EqualFunc(s.Accounts, o.Accounts, equalAccounts) &&
		maps.EqualFunc(s.Open, o.Open, equalReservations) && maps.EqualFunc(s.Done, o.Done, equalReservations) &&
		maps.EqualFunc(s.Keys, o.Keys, func(a, b KeyRecord) bool {
			return a.Reservation == b.Reservation && a.Fingerprint == b.Fingerprint && equalReservations(a.Outcome, b.Outcome)
		}) && maps.Equal(s.Slots, o.Slots) && s.NotedSlot == o.NotedSlot && s.NotedMs == o.NotedMs &&
		slices.EqualFunc(s.Ledger, o.Ledger, equalRecords)
}

// EqualDecisions reports whether two answers are the same, whether a list is nil or empty.
func EqualDecisions(a, b meter.Decision) bool {
	return a.Code == b.Code && a.NowMs == b.NowMs && equalAccounts(a.Account, b.Account) &&
		equalReservations(a.Reservation, b.Reservation)
}

func equalAccounts(a, b meter.Account) bool {
	return a.Seq == b.Seq && a.Suspended == b.Suspended && a.FlagsVersion == b.FlagsVersion && a.Holds == b.Holds &&
		a.PrunedPseq == b.PrunedPseq && slices.Equal(a.Applied, b.Applied) && slices.Equal(a.Grants, b.Grants)
}

func equalReservations(a, b meter.Reservation) bool {
	return a.ID == b.ID && a.State == b.State && a.Account == b.Account && a.Amount == b.Amount &&
		a.Charged == b.Charged && a.Available == b.Available && a.Unlimited == b.Unlimited && a.DeadlineMs == b.DeadlineMs &&
		a.SettledMs == b.SettledMs && equalNotes(a.Note, b.Note) && slices.Equal(a.Draws, b.Draws)
}

func equalNotes(a, b meter.Note) bool {
	if a.Key != nil && b.Key != nil && *a.Key == *b.Key {
		a.Key, b.Key = nil, nil
	}
	return a == b
}

func equalRecords(a, b meter.Record) bool {
	return a.Position == b.Position && a.OccurredMs == b.OccurredMs &&
		slices.EqualFunc(a.Entries, b.Entries, func(a, b meter.Entry) bool {
			return a.Kind == b.Kind && a.Seq == b.Seq && a.Amount == b.Amount && a.Account == b.Account && a.ID == b.ID &&
				a.Units == b.Units && equalNotes(a.Note, b.Note) && slices.Equal(a.Lines, b.Lines)
		})
}
