package gateway

import (
	"context"
	"errors"
	"time"

	"creditgate/meter"
	"creditgate/meter/outage"
	"creditgate/meter/policy"
)

// This file is what the gateway asks of the rest of the house. Package cmd introduces *meter.Engine, the journal,
// the replay store and package persist through these interfaces; none of them knows HTTP.

// Meter decides reservations. *meter.Engine is one.
type Meter interface {
	NewReservationID(account string) meter.ReservationID
	Reserve(ctx context.Context, r meter.Reserve) (meter.Decision, error)
	Commit(ctx context.Context, s meter.Settle) (meter.Decision, error)
	Release(ctx context.Context, s meter.Settle) (meter.Decision, error)
}

// Lookup reads what the meter holds, and extends a lease. *meter.Engine is one.
type Lookup interface {
	Balance(ctx context.Context, account string) (meter.Decision, error)
	Reservation(ctx context.Context, id meter.ReservationID) (meter.Decision, error)
	Extend(ctx context.Context, id meter.ReservationID, lease time.Duration) (meter.Decision, error)
}

// Journal keeps a commit whose outcome is unknown until the meter has acknowledged it. Append returns once the
// commit is on disk; an error means that it is not, and the response it pays for must not be delivered. attempted is
// when the meter was first asked.
type Journal interface {
	Append(s meter.Settle, attempted time.Time) error
}

// Answers stores the answers to requests with an Idempotency-Key by the reservation that paid for them.
// stored is false when the budget is used up; Get's ok is false when nothing is there.
type Answers interface {
	Put(ctx context.Context, id meter.ReservationID, answer []byte) (stored bool, err error)
	Get(ctx context.Context, id meter.ReservationID) (answer []byte, ok bool, err error)
}

// Identities answers who a caller is. Both return ErrUnknown for a key or an account that does not exist; a
// revoked key does not exist.
type Identities interface {
	IdentityByKey(ctx context.Context, hash [32]byte) (Identity, error)
	IdentityByAccount(ctx context.Context, account string) (Identity, error)
}

// Identity is an authenticated caller, with what was agreed with its account: enough to price a request and to name
// its plan without asking again.
type Identity struct {
	Account   string
	Product   string // the name of the policy that prices the account's requests
	KeyID     string // the API key's id, empty for a trusted account header
	Suspended bool
	Terms     policy.History     // of the subscription: the one in force when it was looked up, and those to come
	Prices    []policy.UnitPrice // negotiated and not over; of those in force for an operation the last one counts
}

// Term is the subscription at t; ok is false while there is none.
func (i *Identity) Term(t time.Time) (term policy.Term, ok bool) { return i.Terms.At(t) }

// Price is the unit price negotiated for an operation, in force at t; nil if there is none.
func (i *Identity) Price(operation string, t time.Time) *policy.UnitPrice {
	for n := len(i.Prices) - 1; n >= 0; n-- {
		if p := &i.Prices[n]; p.Operation == operation && p.Holds(t) {
			return p
		}
	}
	return nil
}

// Ledger reads what Postgres keeps of an account.
type Ledger interface {
	// Entries returns a page of an account's entries. meter.ErrNoAccount if the account does not exist.
	Entries(ctx context.Context, q HistoryQuery) ([]LedgerEntry, error)
	// Buckets names the bucket of each grant that it knows.
	Buckets(ctx context.Context, account string, grants []meter.ID) (map[meter.ID]string, error)
}

// LedgerEntry is one entry of an account's history.
type LedgerEntry struct {
	EntryID     string
	Seq         uint64 // dense per account; the cursor of the next page
	Kind        string
	Operation   string
	Units       uint32
	Reservation string // the reservation id of a settlement, else empty
	RequestID   string // the uuid in it
	OccurredAt  time.Time
	Lines       []LedgerLine
}

// LedgerLine is what an entry did to one grant, signed as the customer sees it.
type LedgerLine struct {
	Bucket  string
	Grant   meter.ID
	Credits meter.Credits
}

// PolicySource reads the policy files anew, and knows who lives by them.
type PolicySource interface {
	// Load reads and checks every file. The error has all mistakes, as policy.FileError, joined.
	Load() (map[string]*policy.Policy, error)
	// Uses counts the accounts of products, and of each plan that subscriptions to them are on now or will be.
	Uses(ctx context.Context, products []string) ([]PolicyUse, error)
	// BucketUses counts the accounts of products that hold credit, by its bucket and the place that it was granted with,
	// of the places that are wanted.
	BucketUses(ctx context.Context, products []string, wanted func(product, bucket string, rank uint8) bool) ([]BucketUse, error)
}

// Fleet is the gateways on one database, as they know each other.
type Fleet interface {
	// Renew tells the others how this gateway stands, and returns the newest request to reload and its age. It is called
	// once at a time.
	Renew(ctx context.Context, s Standing) (newest int64, age time.Duration, err error)
	// RequestReload asks every gateway to reload, and numbers the request; numbers follow each other.
	RequestReload(ctx context.Context) (number int64, err error)
	// Gateways are those that count, this one included once it was renewed.
	Gateways(ctx context.Context) ([]Standing, error)
	// Leave says that this gateway ends.
	Leave(ctx context.Context) error
}

// Standing is how a gateway stands on the policies. It knows its own name and the time by itself.
type Standing struct {
	Name     string
	Reload   int64             // the newest request to reload that it has followed; 0: none
	Policies map[string]string // version by product
	Error    string            // why its last reload was refused; empty: it was not
	SeenAt   time.Time
}

// BucketUse is how many accounts have credit in a bucket that was granted at one place of the drain order.
type BucketUse struct {
	Product  string
	Bucket   string
	Rank     uint8
	Accounts int64
}

// PolicyUse is how many accounts depend on a product, or with Plan on one of its plans.
type PolicyUse struct {
	Product  string
	Plan     string // "": all accounts of the product
	Accounts int64
}

// Statements reads from Postgres what a billing page shows beside the balance.
type Statements interface {
	// Statement adds to what Redis holds of an account at a moment; live are the account's grants there.
	Statement(ctx context.Context, account string, live []meter.ID, at time.Time) (Statement, error)
	// Usage sums what was charged.
	Usage(ctx context.Context, q UsageQuery) (Usage, error)
}

// Statement is what Redis does not keep of an account.
type Statement struct {
	Caps []FairUseCap  // in force
	Owed meter.Credits // debt of grants that are not live any more
}

// FairUseCap is a fair-use cap in force.
type FairUseCap struct {
	Grant   meter.ID
	Bucket  string
	Credits meter.Credits // that it began with, less what was taken back of it
	UsedUp  bool          // nothing is left of it; Redis may have forgotten it
}

// UsageQuery asks for what an account was charged in the spans between Bounds: by day each span by itself, else all of
// them together by operation or by API key.
type UsageQuery struct {
	Account string
	By      string      // day, operation or key
	Bounds  []time.Time // at least two, growing; the last one is not in it
	Limit   int         // of rows, the largest first; by day there are as many as spans
}

// Usage is what was charged. Total is of all rows, those beyond the limit included.
type Usage struct {
	Rows  []UsageRow
	Total UsageRow
	More  bool // there are rows beyond the limit
}

// UsageRow is one sum.
type UsageRow struct {
	Span    int    // by day: the number of the span, from 0
	Name    string // by operation or key; may be empty
	Credits meter.Credits
	Units   int64
	Charges int64 // requests that were charged
}

// Errors that an Admin answers with, besides meter.ErrNoAccount.
var (
	// ErrUnknown says that the key, account or grant does not exist.
	ErrUnknown = errors.New("unknown")
	// ErrConflict says that the reference was used before with another content.
	ErrConflict = errors.New("conflict")
	// ErrTooManyGrants says that the account has meter.GrantsMax live grants.
	ErrTooManyGrants = errors.New("too many grants")
)

// Admin changes accounts, keys and grants. Each change is durable in Postgres before it is answered, then applied
// to Redis in the same call; Applied is false when Redis could not be reached, and the change follows by itself.
// A Ref (external_ref or Idempotency-Key) seen before with the same content returns the first answer with
// Repeated set; with another content it is ErrConflict.
type Admin interface {
	Accounts
	Keys
	Grants
}

// Accounts creates, reads and suspends accounts.
type Accounts interface {
	PutAccount(ctx context.Context, c AccountChange) (AccountState, error)
	AccountState(ctx context.Context, account string) (AccountState, error) // meter.ErrNoAccount
}

// AccountChange creates an account or changes what is not nil.
type AccountChange struct {
	Account   string
	Product   *string // on creation nil means the deployment's only product
	Suspended *bool
	Actor     string
}

// AccountState is an account as Postgres has it.
type AccountState struct {
	Account   string
	Product   string
	Suspended bool
	CreatedAt time.Time
	Created   bool // by this call
	Applied   bool
}

// Keys creates and revokes API keys. The secret is made by the gateway and never leaves it but for the answer.
type Keys interface {
	CreateKey(ctx context.Context, k NewKey) (KeyCreated, error)
	// RevokeKey is idempotent; ErrUnknown if the account never had the key.
	RevokeKey(ctx context.Context, account, keyID, actor string) error
}

// NewKey is an API key to be stored: its hash, never the key.
type NewKey struct {
	Account string
	KeyID   string
	Hash    [32]byte // SHA-256 of the key
	Ref     string   // may be empty: every call then makes a new key
	Actor   string
}

// KeyCreated names the key; when Repeated, it is the one of the first call and not NewKey's.
type KeyCreated struct {
	KeyID    string
	Repeated bool
}

// Grants adds and takes back credit.
type Grants interface {
	// Grant adds a lot of credit; ErrTooManyGrants before anything is written.
	Grant(ctx context.Context, g NewGrant) (GrantState, error)
	// MoveExpiry sets the expiry of a grant.
	MoveExpiry(ctx context.Context, m ExpiryChange) (GrantState, error)
	// Revoke takes back credit of one grant, or of a purchase; a *RefusalError where the terms of the sale forbid it.
	Revoke(ctx context.Context, r NewRevocation) (RevocationState, error)
}

// NewGrant is a lot of credit to be added.
type NewGrant struct {
	Account     string
	Bucket      string
	Rank        uint8 // of the bucket in the policy's drain order
	Credits     meter.Credits
	EffectiveAt time.Time // zero: now
	ExpiresAt   time.Time // zero: never
	Ref         string
	Reason      string
	Actor       string
}

// GrantState is a grant as Postgres has it.
type GrantState struct {
	GrantID     meter.ID
	Bucket      string
	Credits     meter.Credits
	EffectiveAt time.Time
	ExpiresAt   time.Time // zero: never
	Ref         string
	Applied     bool
	Repeated    bool
}

// ExpiryChange moves the expiry of a grant.
type ExpiryChange struct {
	Account   string
	GrantID   meter.ID
	ExpiresAt time.Time // zero: never
	Ref       string
	Reason    string
	Actor     string
}

// NewRevocation takes back credit. Exactly one of GrantID and PurchaseRef is set; Credits 0 means all of it.
type NewRevocation struct {
	Account     string
	GrantID     meter.ID
	PurchaseRef string
	Credits     meter.Credits
	Ref         string
	Reason      string
	Actor       string
}

// RevocationState is a revocation as Postgres has it.
type RevocationState struct {
	RevocationID meter.ID
	GrantID      meter.ID
	Credits      meter.Credits
	Ref          string
	Booked       *Booked // nil until the ledger has it
	Applied      bool
	Repeated     bool
}

// TestClock moves time, for all gateways on a test database. Both answer when what became due by then is done, and with
// ErrRefused when time would go back, or too far.
type TestClock interface {
	Advance(ctx context.Context, by time.Duration) error
	MoveTo(ctx context.Context, now time.Time) error
}

// Health says how the servers stand that the gateway needs. It answers from memory.
type Health interface {
	Redis() outage.State
	Postgres() outage.State
	Closed() []meter.PartitionState // those that take no reservations
	Quarantined() int               // accounts that are charged, and whose ledger Postgres cannot book
}
