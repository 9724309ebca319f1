package persist

import (
	"context"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// Bounds of a purchase.
const (
	quantityMax   = 1000
	invoiceRefMax = 120
	clockSkewMax  = time.Minute // by which the clocks of a shop, or of Redis, may be off this one
)

// order is a purchase as the policy in force prices it.
type order struct {
	product string
	version string // of the policy
	pack    *policy.Pack
	credits meter.Credits
	list    int64 // of all of it, net, in the minor unit of the pack's currency
	net     int64
	bought  time.Time
	expires time.Time // zero: never, or not known before it is granted
	due     bool      // it is granted now

	writeOff bool // what is spent when it is taken back
}

// check refuses what no policy allows.
func (n NewPurchase) check(now time.Time) error {
	switch {
	case !meter.ValidName(n.Ref):
		return refuse(ErrInvalid, "external_ref", "external_ref %q must match [A-Za-z0-9._-]{1,64}", n.Ref)
	case n.Quantity < 1 || n.Quantity > quantityMax:
		return refuse(ErrInvalid, "quantity", "quantity %d must lie between 1 and %d", n.Quantity, quantityMax)
	case len(n.InvoiceRef) > invoiceRefMax:
		return refuse(ErrInvalid, "invoice_ref", "invoice_ref must be at most %d bytes long", invoiceRefMax)
	case n.NetMinor != nil && *n.NetMinor < 0:
		return refuse(ErrInvalid, "net_minor", "net_minor must not be negative")
	case n.TaxMinor < 0:
		return refuse(ErrInvalid, "tax_minor", "tax_minor must not be negative")
	case n.PurchasedAt.After(now.Add(clockSkewMax)):
		return refuse(ErrInvalid, "purchased_at", "purchased_at lies in the future; it is %s now", now.UTC().Format(time.RFC3339))
	case n.PaidAt.After(now.Add(clockSkewMax)):
		return refuse(ErrInvalid, "paid_at", "paid_at lies in the future; it is %s now", now.UTC().Format(time.RFC3339))
	}
	return nil
}

// price applies the policy in force to a purchase: whether the account may buy it, what it costs, how long it lasts.
// The account's lock is held.
func (a *Admin) price(ctx context.Context, tx pgx.Tx, n NewPurchase, now time.Time) (o order, err error) {
	err = tx.QueryRow(ctx, `SELECT product FROM creditgate.account WHERE id = $1`, n.Account).Scan(&o.product)
	if err != nil {
		return o, err
	}
	rules := a.policies.Policy(o.product)
	if rules == nil {
		return o, refuse(ErrInvalid, "", "no policy is loaded for product %q", o.product)
	}
	o.version, o.writeOff = rules.Version(), rules.Rules.WriteOff
	if o.bought = n.PurchasedAt; o.bought.IsZero() {
		o.bought = now
	}
	o.bought = o.bought.UTC().Truncate(time.Millisecond)
	all, err := subscribers(ctx, tx, []string{n.Account}, now)
	if err != nil {
		return o, err
	}
	s := all[n.Account]
	term, _ := s.history.At(o.bought)
	if o.pack, err = choose(rules, n.Pack, term.Plan, o.bought); err != nil {
		return o, err
	}
	if err := o.charge(rules, n); err != nil {
		return o, err
	}
	if rules.Rules.RefuseWhile {
		if err := a.refuseWhileLeft(ctx, tx, n.Account, now); err != nil {
			return o, err
		}
	}
	o.due = !rules.Rules.GrantOnPayment || !n.PaidAt.IsZero()
	return o, o.expire(rules, s, now)
}

// choose finds the pack and whether an account on a plan may buy it; plan "" is no subscription.
func choose(rules *policy.Policy, name, plan string, at time.Time) (*policy.Pack, error) {
	var names []string
	for _, k := range rules.PacksFor(plan, at) {
		names = append(names, k.Name)
	}
	offer := "this account may buy " + strings.Join(names, ", ")
	if len(names) == 0 {
		offer = "this account may buy none"
	}
	pack, ok := rules.Pack(name)
	switch {
	case !ok:
		return nil, refuseChoice("pack", name, offer)
	case rules.MayBuy(plan, pack):
		return pack, nil
	case plan == "":
		return nil, refuse(ErrSubscriptionRequired, "pack", "pack %q is sold with an active subscription only; %s", name, offer)
	}
	return nil, refuse(ErrNotEligible, "pack", "pack %q is not sold to plan %q; %s", name, plan, offer)
}

// charge sets credits and price. Money is integers all the way.
func (o *order) charge(rules *policy.Policy, n NewPurchase) error {
	quantity := int64(n.Quantity)
	if o.pack.Price.Minor > math.MaxInt64/quantity || int64(o.pack.Credits) > int64(policy.AmountMax)/quantity {
		return refuse(ErrInvalid, "quantity", "%d of %s are more than the %s credits that one grant may have", n.Quantity,
			o.pack.Name, policy.AmountMax)
	}
	o.credits = o.pack.Credits * meter.Credits(quantity)
	o.list = o.pack.Price.Minor * quantity
	o.net = o.list
	if n.NetMinor != nil {
		o.net = *n.NetMinor
	}
	switch {
	case n.Currency != "" && n.Currency != o.pack.Price.Currency:
		return refuse(ErrInvalid, "currency", "pack %s is sold in %s, not in %s", o.pack.Name, o.pack.Price.Currency, n.Currency)
	case o.net < o.list && !rules.Rules.Discounts:
		return refuse(ErrInvalid, "net_minor", "net_minor %d is below the list price %d of %d × %s, and this product gives no "+
			"discounts", o.net, o.list, n.Quantity, o.pack.Name)
	}
	return nil
}

// expire sets when the credit ends. What is granted later and lasts until the next renewal ends at the one that follows
// its grant.
func (o *order) expire(rules *policy.Policy, s *subscriber, now time.Time) error {
	if o.pack.Lifetime.Kind == policy.NextRenewal && !o.due {
		return nil
	}
	at, ok := s.expiry(rules, o.pack.Lifetime, o.bought, now)
	switch {
	case !ok:
		return refuse(ErrSubscriptionRequired, "pack", "pack %q lasts until the next renewal, and this account has none",
			o.pack.Name)
	case !at.IsZero() && !at.After(now):
		return refuse(ErrInvalid, "purchased_at", "pack %q, bought %s, was over at %s; nothing could be spent of it",
			o.pack.Name, o.bought.Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	}
	o.expires = at
	return nil
}

// refuseWhileLeft refuses a purchase while the account has credit, as far as the ledger is in Postgres. What is held,
// and what is granted and not in Redis yet, is left too.
func (s *Store) refuseWhileLeft(ctx context.Context, tx pgx.Tx, account string, now time.Time) error {
	var left int64
	err := tx.QueryRow(ctx, `SELECT coalesce(sum(CASE WHEN g.status = 'pending' THEN g.credits
				ELSE t.granted - t.spent - t.lapsed - t.revoked END), 0)::bigint
		FROM creditgate.grant_lot g JOIN creditgate.grant_state t ON t.grant_id = g.id
		WHERE g.account = $1 AND (t.live OR g.status = 'pending') AND g.effective_at <= $2
			AND coalesce(t.expires_at > $2, true)`, account, now).Scan(&left)
	if err == nil && left > 0 {
		err = refuse(ErrRefused, "", "the account has %s credits left, and this product sells packs only when none are",
			meter.Credits(left))
	}
	return err
}
