package meter

import (
	"fmt"
	"time"
)

// State is where a reservation stands. Only the scripts change it.
type State uint8

// The states of a reservation. Held is the only one that holds credit; Expired is left only for Late or
// Uncollected; all others are final.
const (
	Held State = iota + 1
	Committed
	Released
	Expired
	Late        // committed after its lease was over, and charged from what was then available
	Uncollected // committed after its lease was over, and nothing could be charged
)

// String is the word used in JSON, SQL and metrics.
func (s State) String() string {
	switch s {
	case Held:
		return "held"
	case Committed:
		return "committed"
	case Released:
		return "released"
	case Expired:
		return "expired"
	case Late:
		return "late"
	case Uncollected:
		return "uncollected"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Reservation is credit set aside for one request, and after settlement its outcome.
type Reservation struct {
	ID         ReservationID
	State      State
	Account    string
	Amount     Credits
	Charged    Credits
	Available  Credits // of the account, right after the last change of this reservation
	Unlimited  bool    // a fair-use cap was in force then: what the customer sees is no number
	DeadlineMs int64   // end of the lease, Unix milliseconds
	SettledMs  int64   // 0 while held
	Note       Note    // empty once nothing can follow: the ledger entry has it
	Draws      []Draw  // in drain order
}

// Returned is what the settlement gave back; 0 while held.
func (r Reservation) Returned() Credits {
	if r.State == Held {
		return 0
	}
	return r.Amount - r.Charged
}

// Lease bounds. A lease shorter than a second would expire on a slow flight; one longer than a day would outlive
// the Idempotency-Key records that guard its late commit.
const (
	LeaseMin = time.Second
	LeaseMax = 24 * time.Hour
)

// Note is what the ledger entry will say about a request besides amounts. It is frozen when the reservation is
// made: a settlement, or an expiry by another gateway, books at the price version of the request.
type Note struct {
	Operation     string
	PolicyVersion string
	KeyID         string // the API key, not the secret
	Reason        string
	Actor         string
	Key           *IdempotencyKey
}

// IdempotencyKey is a caller's Idempotency-Key, reduced to what is compared: a hash of account and key, and a
// fingerprint of the request.
type IdempotencyKey struct {
	Hash        [16]byte
	Fingerprint [16]byte
}
