package events

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// Looking for purchases that wait. It goes by when they were recorded, which is the database's time.
const (
	pendingAfter = 5 * time.Second // a purchase that Redis has taken by then was never pending to anybody
	pendingBack  = time.Minute     // looked at again: a transaction that took so long has long been given up
)

// pending tells of purchases that have no credit yet: they wait for their payment, or for Redis. Purchases are looked
// at once, a little after they were recorded; what is granted later is told as applied.
func (p *Producer) pending(ctx context.Context, g *page) (more bool, err error) {
	var from, to time.Time
	err = g.tx.QueryRow(ctx, `SELECT w.at, now() - $1::interval FROM creditgate.event_walk w WHERE name = 'purchases'`,
		pendingAfter).Scan(&from, &to)
	if err != nil {
		return false, err
	}
	rows, err := g.tx.Query(ctx, `SELECT `+purchaseColumns+` FROM creditgate.purchase p
		LEFT JOIN creditgate.grant_lot t ON t.id = p.grant_id
		WHERE p.recorded_at > $1 AND p.recorded_at <= $2 AND (p.grant_id IS NULL OR t.status = 'pending')
			AND NOT EXISTS (SELECT FROM creditgate.event WHERE dedupe = 'purchase.pending/' || p.external_ref)
		ORDER BY p.recorded_at, p.id LIMIT $3`, from.Add(-pendingBack), to, pageGrants)
	if err != nil {
		return false, err
	}
	n, err := g.purchases(rows, TypePurchasePending, g.now)
	if err != nil || n == pageGrants || to.Sub(from) < pendingBack/2 {
		return n == pageGrants, err // the place is noted now and then, and not every second
	}
	_, err = g.tx.Exec(ctx, `UPDATE creditgate.event_walk SET at = $1 WHERE name = 'purchases'`, to)
	return false, err
}

// applied tells of purchases whose grants are now in the ledger.
func (g *page) applied(ctx context.Context, lots []lot) error {
	if len(lots) == 0 {
		return nil
	}
	ids := make([][16]byte, len(lots))
	for i, b := range lots {
		ids[i] = b.id
	}
	rows, err := g.tx.Query(ctx, `SELECT `+purchaseColumns+` FROM creditgate.purchase p
		JOIN creditgate.grant_lot t ON t.id = p.grant_id WHERE p.grant_id = ANY ($1) ORDER BY p.id`, ids)
	if err != nil {
		return err
	}
	_, err = g.purchases(rows, TypePurchaseApplied, g.now)
	return err
}

// purchaseColumns reads a purchase: p is purchase, t the grant_lot of it, if there is one.
const purchaseColumns = `p.account, p.product, p.external_ref, p.pack, p.quantity, p.credits, p.bucket, p.grant_id,
	coalesce(t.expires_at, p.expires_at)`

func (g *page) purchases(rows pgx.Rows, kind string, at time.Time) (n int, err error) {
	var account, product string
	var b Purchase
	var grant *[16]byte
	var expires *time.Time
	_, err = pgx.ForEachRow(rows, []any{
		&account, &product, &b.PurchaseRef, &b.Pack, &b.Quantity, (*int64)(&b.Credits), &b.Bucket, &grant, &expires,
	}, func() error {
		d := b
		d.ExpiresAt = stampOrNull(expires)
		switch {
		case grant == nil:
			d.State = "awaiting_payment"
		case kind == TypePurchasePending:
			d.State = "pending"
		default:
			d.State = "granted"
		}
		if grant != nil {
			id := meter.ID(*grant)
			d.GrantID = &id
		}
		g.drafts = append(g.drafts, draft{
			account: account, product: product, kind: kind, at: at, dedupe: fmt.Sprintf("%s/%s", kind, d.PurchaseRef), data: d,
		})
		n++
		return nil
	})
	return n, err
}
