package metertest

import (
	"maps"
	"slices"

	"creditgate/meter"
)

// State is one partition as values: what Redis holds, decoded, and every record its ledger ever had.
type State struct {
	Pseq           uint64 // of the newest record
	FlushedPseq    uint64
	OutcomesFromMs int64 // ids created before it may have had an outcome that is forgotten
	Accounts       map[string]meter.Account
	Open           map[meter.ID]meter.Reservation
	Done           map[meter.ID]meter.Reservation
	Keys           map[[16]byte]KeyRecord
	Ledger         []meter.Record
}

// KeyRecord is what an Idempotency-Key stands for: the reservation that has it, and for which request.
type KeyRecord struct {
	Reservation meter.ID
	Fingerprint [16]byte
	// State of that reservation. The record outlives the outcome, so it says by itself whether it was charged.
	State meter.State
}

// taken reports whether the key may not start a new attempt.
func (k KeyRecord) taken() bool {
	return k.State == meter.Held || k.State == meter.Committed || k.State == meter.Late
}

// NewState is an empty partition.
func NewState() State {
	return State{
		Accounts: map[string]meter.Account{},
		Open:     map[meter.ID]meter.Reservation{},
		Done:     map[meter.ID]meter.Reservation{},
		Keys:     map[[16]byte]KeyRecord{},
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
