package gateway

import (
	"context"
	"errors"
	"time"

	"creditgate/meter"
)

// Sentinels of a RefusalError, besides ErrConflict.
var (
	// ErrRefused says that what is recorded, or the policy, forbids the change.
	ErrRefused = errors.New("refused")
	// ErrGrantUsedUp says that the grant holds nothing any more, so that its expiry cannot move.
	ErrGrantUsedUp = errors.New("grant used up")
	// ErrExceedsGrant says that the grant has less than what is to be taken back.
	ErrExceedsGrant = errors.New("more than the grant has")
	// ErrInvalid says that a value is none that can be taken.
	ErrInvalid = errors.New("invalid")
	// ErrNotEligible says that the account may not buy this pack.
	ErrNotEligible = errors.New("pack not eligible")
	// ErrSubscriptionRequired says that the pack is sold to subscribers only.
	ErrSubscriptionRequired = errors.New("subscription required")
	// ErrNotRefundable says that the pack was sold without a right to a refund.
	ErrNotRefundable = errors.New("not refundable")
)

// RefusalError is why something that was asked for is not done. It unwraps to its sentinel.
type RefusalError struct {
	Is     error
	Param  string // what was asked for wrongly, as the request names it; may be empty
	Detail string // for whoever asked
}

// Error is the reason.
func (r *RefusalError) Error() string { return r.Is.Error() + ": " + r.Detail }

// Unwrap is the sentinel.
func (r *RefusalError) Unwrap() error { return r.Is }

// Purchases records what was bought in a shop and what became of its payment, and undoes what was taken back. A
// reference seen before with the same content is answered as the first time, with Repeated set.
type Purchases interface {
	// Purchase records that a pack was bought, and grants it unless the policy waits for the payment. A *RefusalError where
	// the policy forbids it.
	Purchase(ctx context.Context, n NewPurchase) (PurchaseState, error)
	// PurchaseState finds a purchase by its reference; ErrUnknown if there is none.
	PurchaseState(ctx context.Context, ref string) (PurchaseState, error)
	// Payment records that a purchase was paid, or was not in time.
	Payment(ctx context.Context, n NewPayment) (PurchaseState, error)
	// Reverse undoes a revocation, once.
	Reverse(ctx context.Context, r NewReversal) (ReversalState, error)
}

// NewPurchase is a pack that was bought. What is left zero is the policy's: the list price, now.
type NewPurchase struct {
	Account     string
	Pack        string
	Quantity    int // 0: 1
	Ref         string
	PurchasedAt time.Time // zero: now
	PaidAt      time.Time // zero: not yet
	InvoiceRef  string
	NetMinor    *int64 // of all of it; nil: the list price
	TaxMinor    int64
	Currency    string // "": the list price's
	Actor       string
}

// PurchaseState is a purchase and how it stands.
type PurchaseState struct {
	Ref         string
	Account     string
	Pack        string
	Quantity    int
	Credits     meter.Credits
	Bucket      string
	State       string    // awaiting_payment, pending, granted, frozen or revoked
	GrantID     meter.ID  // zero: not granted yet
	ExpiresAt   time.Time // zero: never, or not known before it is granted
	NetMinor    int64
	TaxMinor    int64
	Currency    string
	InvoiceRef  string
	PurchasedAt time.Time
	PaidAt      time.Time // zero: not paid
	Applied     bool      // Redis has all that was decided about it
	Repeated    bool
}

// NewPayment is what was reported about a purchase's payment.
type NewPayment struct {
	PurchaseRef string
	Status      string // paid or overdue
	Ref         string
	At          time.Time // zero: now
	Actor       string
}

// NewReversal undoes a revocation, named by the reference it was made under.
type NewReversal struct {
	Account       string
	RevocationRef string
	Ref           string
	Reason        string
	Actor         string
}

// ReversalState is a reversal and what became of it.
type ReversalState struct {
	ReversalID    meter.ID
	GrantID       meter.ID
	RevocationRef string
	Ref           string
	ExpiresAt     time.Time // of the grant that was given back to; zero: never
	Undone        *Undone   // nil until the ledger has it
	Applied       bool
	Repeated      bool
}

// Undone is what became of a reversal: what can be used again, what of the grant's debt is gone (forgiven, or paid
// with what came back if the grant owed more than this), and what came back to a grant that was over and lapsed.
type Undone struct{ GivenBack, Settled, Lapsed meter.Credits }

// Booked is what became of a revocation: what was taken back at once, what became debt, and what was written off.
type Booked struct{ Taken, Debt, WrittenOff meter.Credits }
