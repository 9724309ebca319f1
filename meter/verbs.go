package meter

import (
	"fmt"
	"time"
)

// Reserve asks for Amount to be set aside in drain order.
type Reserve struct {
	ID          ReservationID
	Account     string
	Amount      Credits // > 0
	Lease       time.Duration
	MaxInFlight uint32 // open reservations the account may have, this one included; 0 means InFlightMax
	Note        Note
	Until       time.Time // how long to wait for a decision; zero: verbBudget from now
	Brief       bool      // answer OK with the account, the state and the amounts only
}

// InFlightMax bounds the open reservations of one account.
const InFlightMax = 100_000

// Settle ends or keeps a reservation.
type Settle struct {
	ID      ReservationID
	Account string
	Amount  Credits // Commit: what to charge, ≤ Reserved
	Units   uint32  // Commit: delivered units, for the entry
	// Reserved and Note repeat the reservation, so that a commit can be booked late when Redis lost it.
	Reserved Credits
	Note     Note
	Until    time.Time // how long to wait for a decision; zero: verbBudget from now
	Brief    bool      // answer OK with the account, the state and the amounts only
}

// GrantChange adds one lot of credit to an account.
type GrantChange struct {
	Account string
	Grant   Grant // Available is the amount granted; Held and Debt are 0
	Note    Note
	// CheckedPseq is the flush cursor at which Postgres was seen to have no entry for this grant.
	CheckedPseq uint64
}

// Revocation takes credit back from a grant: what is available at once, the rest as debt that returned draws pay.
type Revocation struct {
	ID      ID
	Account string
	Grant   ID
	Amount  Credits
	Beyond  Beyond
	// Undone is the reversal of an earlier revocation of the grant that this one takes the place of, nil if of none. Both
	// are one step: what the earlier one took is never available in between. Its Amount is at most this Amount.
	Undone      *Reversal
	Note        Note
	CheckedPseq uint64
}

// Beyond says what becomes of the part of a revocation that is not available any more.
type Beyond uint8

// What can become of it.
const (
	BeyondDebt    Beyond = iota // debt: returned draws pay it
	BeyondNothing               // nothing: it is written off
	// BeyondHeld makes debt of what is held, so that nothing of the grant can be spent and nothing is owed for what is
	// spent already.
	BeyondHeld
)

// Reversal undoes a revocation that is in the ledger: what the grant still owes goes first, which forgives the debt of
// the revocation, and the rest is given back to the grant.
type Reversal struct {
	ID          ID
	Account     string
	Grant       Grant   // its terms; Debt is what Postgres has at CheckedPseq, and counts when Redis has it no more
	Amount      Credits // of the revocation's entry: taken or owed
	Note        Note
	CheckedPseq uint64
}

// ExpiryMove sets the expiry of a grant.
type ExpiryMove struct {
	ID          ID
	Account     string
	Grant       ID
	ExpiresMs   int64
	Note        Note
	CheckedPseq uint64
}

// Code is the first byte of every reply: what a script decided. The list stands once in lua/lib/codes.lua; a test
// compares the two.
type Code uint8

// The reply codes. Denials are values: only a Redis that cannot answer is an error.
const (
	CodeError         Code = 0  // one operation failed inside the script; the message follows; nothing was written for it
	CodeOK            Code = 1  // done, now or by an earlier attempt
	CodeInsufficient  Code = 2  // not enough available
	CodeSuspended     Code = 3  // the account is suspended
	CodeInFlight      Code = 4  // the account has too many open reservations
	CodeKeyInProgress Code = 5  // the Idempotency-Key's reservation is held
	CodeKeyReplay     Code = 6  // the Idempotency-Key's reservation was charged
	CodeKeyMismatch   Code = 7  // the Idempotency-Key belongs to another request
	CodeConflict      Code = 8  // the reservation has another outcome
	CodeNotLoaded     Code = 9  // the account is not in Redis
	CodeUnknown       Code = 10 // no such reservation; a commit may be sent again with its details
	CodeAskLedger     Code = 11 // too old for Redis to know: look in Postgres
	CodeStale         Code = 12 // a new reservation with an id from before the outcomes kept
	CodeTooManyGrants Code = 13 // the account has GrantsMax grants
	CodeRecheck       Code = 14 // CheckedPseq is too old to prove that the change was not applied
	CodeGone          Code = 15 // the grant holds nothing any more
	CodeNotDue        Code = 16 // the lease or the grant is not over yet
	CodeBusy          Code = 17 // too many unflushed admin changes on the account
	CodeFenced        Code = 20 // Redis restarted or failed over: the partition must be opened
	CodeEpoch         Code = 21 // another gateway opened the partition: read its meta again
	CodeRegressed     Code = 22 // Redis is behind what this gateway saw
	CodeClosed        Code = 23 // the partition was never opened
	CodeTorn          Code = 24 // a write failed half-way: a person must look
	CodeClock         Code = 25 // this host's clock is more than a minute off Redis'
)

// String is the word of the code, for logs and errors.
func (c Code) String() string {
	names := [...]string{
		CodeError: "error", CodeOK: "ok", CodeInsufficient: "insufficient", CodeSuspended: "suspended",
		CodeInFlight: "too many in flight", CodeKeyInProgress: "key in progress", CodeKeyReplay: "key replay",
		CodeKeyMismatch: "key mismatch", CodeConflict: "conflict", CodeNotLoaded: "not loaded", CodeUnknown: "unknown",
		CodeAskLedger: "ask ledger", CodeStale: "stale", CodeTooManyGrants: "too many grants", CodeRecheck: "recheck",
		CodeGone: "gone", CodeNotDue: "not due", CodeBusy: "busy", CodeFenced: "fenced", CodeEpoch: "epoch",
		CodeRegressed: "regressed", CodeClosed: "closed", CodeTorn: "torn", CodeClock: "clock",
	}
	if int(c) < len(names) && names[c] != "" {
		return names[c]
	}
	return fmt.Sprintf("code(%d)", uint8(c))
}

// Decision is the answer to a verb.
type Decision struct {
	Code Code
	// Reservation is the reservation concerned: for OK and Conflict the one named, for KeyInProgress and
	// KeyReplay the one that has the key.
	Reservation Reservation
	// HolderGone is told with KeyInProgress: the gateway that made the reservation has stopped, so that the key is free
	// only when the lease is over.
	HolderGone bool
	// Account is the account's state when the code is Insufficient, or when it was asked for.
	Account Account
	// NowMs is the partition's clock when it decided, Unix milliseconds.
	NowMs int64
}
