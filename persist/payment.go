package persist

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// NewPayment is what was reported about the payment of a purchase.
type NewPayment struct {
	PurchaseRef string
	Status      string // PaymentPaid or PaymentOverdue
	Ref         string
	At          time.Time // zero: now; see Payment
	Actor       string
}

// What can be reported.
const (
	PaymentPaid    = "paid"
	PaymentOverdue = "overdue"
)

func (n NewPayment) check(now time.Time) error {
	switch {
	case !meter.ValidName(n.Ref):
		return refuse(ErrInvalid, "external_ref", "external_ref %q must match [A-Za-z0-9._-]{1,64}", n.Ref)
	case n.Status != PaymentPaid && n.Status != PaymentOverdue:
		return refuseChoice("status", n.Status, "it is "+PaymentPaid+" or "+PaymentOverdue)
	case n.At.After(now.Add(clockSkewMax)):
		return refuse(ErrInvalid, "at", "at lies in the future; it is %s now", now.UTC().Format(time.RFC3339))
	}
	return nil
}

// Payment records what was reported, and does what the policy says: a pack that waited for its payment is granted, one
// that is overdue is kept, frozen or taken back, and one that was frozen or taken back is given back when it is paid.
// That it is overdue has no effect if it was paid since; a report that does not say of when it is comes after any
// payment by the clock, yet may have been on its way before it, so it has none on what was ever paid.
func (a *Admin) Payment(ctx context.Context, n NewPayment) (PurchaseState, error) {
	now := a.clock.Now()
	if err := n.check(now); err != nil {
		return PurchaseState{}, err
	}
	var p purchased
	err := a.tx(ctx, "record payment "+n.Ref, func(tx pgx.Tx) error {
		row, err := lockPurchase(ctx, tx, n.PurchaseRef)
		if err != nil {
			return err
		}
		p = row.purchased
		content := fingerprint(n.PurchaseRef, n.Status, stamp(n.At))
		r, found, err := earlier(ctx, tx, "purchase_payment", n.Ref, content)
		if p.repeated = found; found || err != nil {
			return err
		}
		r.id = meter.NewID(now)
		stale := n.Status == PaymentOverdue && n.At.IsZero() && !row.paid.IsZero()
		if n.At.IsZero() {
			n.At = now
		}
		n.At = n.At.UTC().Truncate(time.Millisecond)
		_, err = tx.Exec(ctx, `INSERT INTO creditgate.purchase_payment (id, external_ref, purchase_id, status, at, fingerprint,
				actor) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			[16]byte(r.id), n.Ref, [16]byte(p.id), n.Status, n.At, content, n.Actor)
		if err != nil {
			return invalid(err)
		}
		if stale {
			return nil
		}
		if n.Status == PaymentPaid {
			p.grant, err = a.recordPaid(ctx, tx, row, n)
			return err
		}
		return a.recordOverdue(ctx, tx, row, r.id, n)
	})
	if err := refRace(err, n.Ref); err != nil {
		return PurchaseState{}, err
	}
	return a.purchaseState(ctx, p)
}

// purchaseRow is what deciding about a recorded purchase needs.
type purchaseRow struct {
	purchased
	ref, product, bucket, currency, pack, state string
	rank                                        uint8
	credits                                     meter.Credits
	net                                         int64
	refundable, writeOff, followsRenewal        bool
	expires, paid                               time.Time
}

// lockPurchase finds a purchase by its reference and locks its account.
func lockPurchase(ctx context.Context, tx pgx.Tx, ref string) (p purchaseRow, err error) {
	err = tx.QueryRow(ctx, `SELECT account FROM creditgate.purchase WHERE external_ref = $1`, ref).Scan(&p.account)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, fmt.Errorf("%w: %q", ErrNoPurchase, ref)
	}
	if err == nil {
		err = lockAccount(ctx, tx, p.account)
	}
	if err != nil {
		return p, err
	}
	return readPurchase(ctx, tx, ref)
}

// readPurchase reads a purchase, or ErrNoPurchase. The account's lock is held.
func readPurchase(ctx context.Context, tx pgx.Tx, ref string) (p purchaseRow, err error) {
	var expires, paid *time.Time
	err = tx.QueryRow(ctx, `SELECT id, account, external_ref, product, bucket, currency, pack, state, rank, credits, net_minor,
			refundable, write_off, follows_renewal, expires_at, paid_at, coalesce(grant_id, '00000000-0000-0000-0000-000000000000')
		FROM creditgate.purchase_now WHERE external_ref = $1`, ref).
		Scan((*[16]byte)(&p.id), &p.account, &p.ref, &p.product, &p.bucket, &p.currency, &p.pack, &p.state, &p.rank,
			(*int64)(&p.credits), &p.net, &p.refundable, &p.writeOff, &p.followsRenewal, &expires, &paid, (*[16]byte)(&p.grant))
	if errors.Is(err, pgx.ErrNoRows) {
		err = fmt.Errorf("%w: %q", ErrNoPurchase, ref)
	}
	p.expires, p.paid = timeOrZero(expires), timeOrZero(paid)
	return p, err
}

// recordPaid notes the payment, grants what waited for it, and undoes what was done because it was missing.
func (a *Admin) recordPaid(ctx context.Context, tx pgx.Tx, p purchaseRow, n NewPayment) (meter.ID, error) {
	if p.grant == (meter.ID{}) {
		return a.grantPaid(ctx, tx, p, n)
	}
	_, err := tx.Exec(ctx, `UPDATE creditgate.purchase SET paid_at = greatest(paid_at, $2) WHERE id = $1`, [16]byte(p.id), n.At)
	if err != nil {
		return p.grant, err
	}
	return p.grant, a.unfreeze(ctx, tx, p, n.Actor)
}

// unfreeze undoes what was done because a payment was missing.
func (s *Store) unfreeze(ctx context.Context, tx pgx.Tx, p purchaseRow, actor string) error {
	taken, err := standing(ctx, tx, p.id, reasonFrozen, reasonOverdue)
	for _, revocation := range taken {
		if err != nil {
			break
		}
		_, err = s.recordReversal(ctx, tx, revocation, unfreezing(revocation, p.account, actor))
	}
	return err
}

// standing are the revocations of a purchase for these reasons that were not undone, oldest first.
func standing(ctx context.Context, tx pgx.Tx, purchase meter.ID, reasons ...string) ([]meter.ID, error) {
	rows, err := tx.Query(ctx, `SELECT id FROM creditgate.revocation c WHERE purchase_id = $1 AND reason = ANY ($2)
		AND NOT EXISTS (SELECT FROM creditgate.reversal v WHERE v.revocation_id = c.id) ORDER BY id`,
		[16]byte(purchase), reasons)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (id meter.ID, err error) {
		return id, row.Scan((*[16]byte)(&id))
	})
}

// unfreezing is the reversal of a revocation that was made because a payment was missing.
func unfreezing(revocation meter.ID, account, actor string) NewReversal {
	return NewReversal{
		Account: account, Ref: reasonUnfrozen + "-" + revocation.String(), Reason: reasonUnfrozen, Actor: actor,
	}
}

// grantPaid grants a purchase that waited for its payment.
func (a *Admin) grantPaid(ctx context.Context, tx pgx.Tx, p purchaseRow, n NewPayment) (grant meter.ID, err error) {
	now := a.clock.Now()
	if p.followsRenewal {
		all, err := subscribers(ctx, tx, []string{p.account}, now)
		if err != nil {
			return grant, err
		}
		rules := a.policies.Policy(p.product)
		if rules == nil {
			return grant, refuse(ErrRefused, "", "no policy is loaded for product %q", p.product)
		}
		at, ok := all[p.account].expiry(rules, policy.Lifetime{Kind: policy.NextRenewal}, now, now)
		if !ok {
			return grant, refuse(ErrRefused, "", "pack %s lasts until the next renewal, and the subscription has ended; give the "+
				"money back", p.pack)
		}
		p.expires = at
	}
	if !p.expires.IsZero() && !p.expires.After(now) {
		return grant, refuse(ErrRefused, "", "pack %s was over at %s, before it was paid; give the money back", p.pack,
			p.expires.Format(time.RFC3339))
	}
	r, err := a.recordGrant(ctx, tx, NewGrant{
		Account: p.account, Bucket: p.bucket, Rank: p.rank, Credits: p.credits, ExpiresAt: p.expires, Ref: grantRef(p.id),
		Reason: "purchase", Actor: n.Actor, Follows: p.followsRenewal, Price: &Price{Minor: p.net, Currency: p.currency},
	})
	if err != nil {
		return grant, err
	}
	_, err = tx.Exec(ctx, `UPDATE creditgate.purchase SET paid_at = $2, grant_id = $3, expires_at = $4 WHERE id = $1`,
		[16]byte(p.id), n.At, [16]byte(r.id), optionalTime(p.expires))
	return r.id, invalid(err)
}

// recordOverdue notes that the payment is missing, and freezes or takes back what was granted, if the policy says so
// and nothing was paid since.
func (a *Admin) recordOverdue(ctx context.Context, tx pgx.Tx, p purchaseRow, report meter.ID, n NewPayment) error {
	_, err := tx.Exec(ctx, `UPDATE creditgate.purchase SET overdue_at = greatest(overdue_at, $2) WHERE id = $1`,
		[16]byte(p.id), n.At)
	if err != nil || p.grant == (meter.ID{}) || !p.paid.IsZero() && !n.At.After(p.paid) {
		return err
	}
	rules := a.policies.Policy(p.product)
	if rules == nil || rules.Rules.OnOverdue == policy.KeepOverdue {
		return nil
	}
	v := NewRevocation{
		Account: p.account, GrantID: p.grant, Reason: reasonFrozen, Beyond: meter.BeyondHeld, Actor: n.Actor, purchase: &p.id,
	}
	if rules.Rules.OnOverdue == policy.RevokeOverdue {
		v.Reason, v.Beyond = reasonOverdue, p.beyond()
	}
	v.Ref = v.Reason + "-" + report.String()
	if _, left, err := revocable(ctx, tx, v); err != nil || left == 0 { // all of it was taken back before
		return err
	}
	if p.state == PurchaseFrozen { // and part of it was given back since
		if err := a.insteadOfFreezing(ctx, tx, &v); err != nil {
			return err
		}
	}
	_, err = a.recordRevocation(ctx, tx, v)
	return err
}

// beyond is what becomes of what was spent of a pack that is taken back.
func (p purchaseRow) beyond() meter.Beyond {
	if p.writeOff {
		return meter.BeyondNothing
	}
	return meter.BeyondDebt
}
