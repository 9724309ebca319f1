package meter

import (
	"bytes"
	"cmp"
	"context"
	"time"
)

// Book is what the engine needs to know from Postgres, the record that Redis projects. It is used to open a
// partition, to load an account, to find what expires, and to answer for outcomes that Redis no longer keeps; never on
// the path of a priced request whose account is loaded.
type Book interface {
	// Cursor is the place up to which a partition's ledger is in Postgres.
	Cursor(ctx context.Context, partition uint16) (Cursor, error)
	// ClaimEpoch raises the partition's epoch above both its own and atLeast, and returns it. Flushers of older
	// epochs are locked out from then on.
	ClaimEpoch(ctx context.Context, partition uint16, atLeast uint64) (uint64, error)
	// Account is an account's state as of the cursor returned with it: available is what no entry up to the
	// cursor took; nothing is held. ErrNoAccount if it does not exist. Many are asked for at a time.
	Account(ctx context.Context, account string) (Account, Cursor, error)
	// DueLapses are the grants that have something left by the ledger up to the cursor and end at `until` or before, in
	// the order of their ends and ids, at most limit of them, and only those behind the place `after`. Redis may know
	// better: it is ahead of the cursor.
	DueLapses(ctx context.Context, after Lapse, until time.Time, limit int) ([]Lapse, error)
	// Outcome is the outcome of a reservation as of the cursor returned with it; ok is false if it has none.
	Outcome(ctx context.Context, id ReservationID) (r Reservation, at Cursor, ok bool, err error)
}

// RebuildSource is what else opening needs when Redis is empty.
type RebuildSource interface {
	// Accounts calls fn with the names of the partition's accounts in order, at most a thousand at a time.
	Accounts(ctx context.Context, partition uint16, fn func(names []string) error) error
	// KeyedOutcomes calls fn with every charged reservation of the partition that carried an Idempotency-Key
	// and was settled after sinceMs, oldest first, at most a thousand at a time.
	KeyedOutcomes(ctx context.Context, partition uint16, sinceMs int64, fn func([]Reservation) error) error
}

// Lapse names a grant that ends. Its end and id are its place among all; the zero value stands before the first.
type Lapse struct {
	Account string
	Grant   ID
	At      time.Time // exactly as Postgres has it
}

// behind reports whether l comes after another.
func (l Lapse) behind(other Lapse) bool {
	return cmp.Or(l.At.Compare(other.At), bytes.Compare(l.Grant[:], other.Grant[:])) > 0
}

// Cursor is how far a partition's ledger is flushed. Hash chains the record bodies: it is SHA-256 of the previous
// hash and the body of the record at Position, 32 zero bytes before the first.
type Cursor struct {
	Position
	Hash [32]byte
	// Body is the record at Position, nil before the first: opening compares it with what Redis has there.
	Body []byte
}
