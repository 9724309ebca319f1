package persist

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// NewPurchase is a pack that was bought in a shop. What is left zero is the policy's: the list price, now.
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

// The states of a purchase.
const (
	PurchaseAwaiting = "awaiting_payment" // is granted when it is paid
	PurchasePending  = "pending"          // granted, and Redis may not have it yet
	PurchaseGranted  = "granted"
	PurchaseFrozen   = "frozen"  // overdue: what is left cannot be spent until it is paid
	PurchaseRevoked  = "revoked" // all of it was taken back
)

// PurchaseState is a purchase as Postgres has it.
type PurchaseState struct {
	Ref         string
	Account     string
	Pack        string
	Quantity    int
	Credits     meter.Credits
	Bucket      string
	State       string
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

// purchased is a purchase's row in the transaction that made or found it.
type purchased struct {
	recorded
	account string
	grant   meter.ID // zero: it waits for its payment
}

// Purchase records that a pack was bought and grants it, unless the policy waits for the payment. It is durable in
// Postgres before it is answered, and the same reference is granted once, whatever dies.
func (a *Admin) Purchase(ctx context.Context, n NewPurchase) (PurchaseState, error) {
	if n.Quantity == 0 {
		n.Quantity = 1
	}
	if err := n.check(a.clock.Now()); err != nil {
		return PurchaseState{}, err
	}
	var p purchased
	err := a.tx(ctx, "record purchase "+n.Ref, func(tx pgx.Tx) (err error) {
		p, err = a.recordPurchase(ctx, tx, n)
		return err
	})
	if err := refRace(err, n.Ref); err != nil {
		return PurchaseState{}, err
	}
	return a.purchaseState(ctx, p)
}

// PurchaseState returns a purchase, or ErrNoPurchase.
func (a *Admin) PurchaseState(ctx context.Context, ref string) (PurchaseState, error) {
	p := purchased{}
	err := a.pool.QueryRow(ctx, `SELECT id, account, coalesce(grant_id, '00000000-0000-0000-0000-000000000000')
		FROM creditgate.purchase WHERE external_ref = $1`, ref).
		Scan((*[16]byte)(&p.id), &p.account, (*[16]byte)(&p.grant))
	if errors.Is(err, pgx.ErrNoRows) {
		return PurchaseState{}, fmt.Errorf("%w: %q", ErrNoPurchase, ref)
	}
	if err != nil {
		return PurchaseState{}, storeError("read purchase "+ref, err)
	}
	return a.purchaseState(ctx, p)
}

// purchaseState brings to Redis what may not be there yet, and reads how the purchase stands.
func (a *Admin) purchaseState(ctx context.Context, p purchased) (s PurchaseState, err error) {
	settled := a.settlePurchase(ctx, p)
	var expires, paid *time.Time
	err = a.pool.QueryRow(ctx, `SELECT external_ref, account, pack, quantity, credits, bucket, state,
			coalesce(ends_at, expires_at), net_minor, tax_minor, currency, invoice_ref, purchased_at, paid_at
		FROM creditgate.purchase_now WHERE id = $1`, [16]byte(p.id)).
		Scan(&s.Ref, &s.Account, &s.Pack, &s.Quantity, (*int64)(&s.Credits), &s.Bucket, &s.State,
			&expires, &s.NetMinor, &s.TaxMinor, &s.Currency, &s.InvoiceRef, &s.PurchasedAt, &paid)
	if err != nil {
		return s, storeError("read purchase", err)
	}
	if settled && s.State == PurchasePending { // Redis has it; only the ledger is not flushed yet
		s.State = PurchaseGranted
	}
	s.GrantID, s.Applied, s.Repeated = p.grant, settled && s.State != PurchaseAwaiting, p.repeated
	s.PurchasedAt, s.ExpiresAt, s.PaidAt = s.PurchasedAt.UTC(), timeOrZero(expires), timeOrZero(paid)
	return s, nil
}

// settlePurchase applies what of a purchase is still pending, oldest first, and reports whether nothing is left.
func (a *Admin) settlePurchase(ctx context.Context, p purchased) bool {
	if p.grant == (meter.ID{}) {
		return true
	}
	rows, err := a.pool.Query(ctx, `SELECT kind, id FROM (
			SELECT 'grant' AS kind, id FROM creditgate.grant_lot WHERE id = $1 AND status = 'pending'
			UNION ALL SELECT 'revocation', id FROM creditgate.revocation WHERE grant_id = $1 AND status = 'pending'
			UNION ALL SELECT 'reversal', id FROM creditgate.reversal WHERE grant_id = $1 AND status = 'pending') c
		ORDER BY id`, [16]byte(p.grant))
	if err != nil {
		return false
	}
	pending, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c PendingChange, err error) {
		return c, row.Scan(&c.Kind, (*[16]byte)(&c.ID))
	})
	for _, c := range pending {
		if err != nil || a.apply(ctx, changeKind(c.Kind), c.ID) == notApplied {
			return false
		}
	}
	return err == nil
}

// recordPurchase records a purchase and its grant, both or neither.
func (a *Admin) recordPurchase(ctx context.Context, tx pgx.Tx, n NewPurchase) (p purchased, err error) {
	if err := lockAccount(ctx, tx, n.Account); err != nil {
		return p, err
	}
	p.account = n.Account
	content := n.content()
	if p.recorded, _, err = earlier(ctx, tx, "purchase", n.Ref, content); err != nil {
		return p, err
	}
	if p.repeated {
		p.grant, err = grantOfPurchase(ctx, tx, p.id)
		return p, err
	}
	if err := bookedByHand(ctx, tx, n.Ref); err != nil {
		return p, err
	}
	now := a.clock.Now()
	order, err := a.price(ctx, tx, n, now)
	if err != nil {
		return p, err
	}
	p.id = meter.NewID(now)
	if order.due {
		r, err := a.recordGrant(ctx, tx, order.grant(p.id, n))
		if err != nil {
			return p, err
		}
		p.grant = r.id
	}
	return p, order.insert(ctx, tx, p, n, content)
}

func grantOfPurchase(ctx context.Context, tx pgx.Tx, id meter.ID) (grant meter.ID, err error) {
	err = tx.QueryRow(ctx, `SELECT coalesce(grant_id, '00000000-0000-0000-0000-000000000000')
		FROM creditgate.purchase WHERE id = $1`, [16]byte(id)).Scan((*[16]byte)(&grant))
	return grant, err
}

// content is the fingerprint of what was asked for, before the policy filled in what was left out: a repeat is one
// whatever the policy has become.
func (n NewPurchase) content() []byte {
	net := "list"
	if n.NetMinor != nil {
		net = strconv.FormatInt(*n.NetMinor, 10)
	}
	return fingerprint(n.Account, n.Pack, n.Quantity, stamp(n.PurchasedAt), stamp(n.PaidAt), n.InvoiceRef, net, n.TaxMinor,
		n.Currency)
}

func (o *order) insert(ctx context.Context, tx pgx.Tx, p purchased, n NewPurchase, content []byte) error {
	var grant *[16]byte
	if p.grant != (meter.ID{}) {
		grant = (*[16]byte)(&p.grant)
	}
	_, err := tx.Exec(ctx, `INSERT INTO creditgate.purchase (id, external_ref, account, product, policy_version, pack,
			quantity, bucket, rank, credits, list_minor, net_minor, tax_minor, currency, invoice_ref, refundable,
			write_off, follows_renewal, purchased_at, expires_at, paid_at, grant_id, fingerprint, actor)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)`,
		[16]byte(p.id), n.Ref, n.Account, o.product, o.version, o.pack.Name, n.Quantity, o.pack.Bucket, int16(o.pack.Rank),
		int64(o.credits), o.list, o.net, n.TaxMinor, o.pack.Price.Currency, n.InvoiceRef, o.pack.Refundable,
		o.writeOff, o.pack.Lifetime.Kind == policy.NextRenewal, o.bought, optionalTime(o.expires), optionalTime(n.PaidAt), grant,
		content, n.Actor)
	return invalid(err)
}

// grantRef is the reference of a purchase's grant. It begins with the purchase's own id, which nobody else can know.
func grantRef(purchase meter.ID) string { return "purchase-" + purchase.String() }

func (o *order) grant(purchase meter.ID, n NewPurchase) NewGrant {
	return NewGrant{
		Account: n.Account, Bucket: o.pack.Bucket, Rank: o.pack.Rank, Credits: o.credits, ExpiresAt: o.expires,
		Ref: grantRef(purchase), Reason: "purchase", Actor: n.Actor, Follows: o.pack.Lifetime.Kind == policy.NextRenewal,
		Price: &Price{Minor: o.net, Currency: o.pack.Price.Currency},
	}
}
