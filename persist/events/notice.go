package events

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// lot is a grant as a notice needs it.
type lot struct {
	id               meter.ID
	account, product string
	bucket           string
	credits, left    meter.Credits // left counts what is held
	effective        time.Time
	expires          *time.Time // where it was moved to; nil: never
	unlimited        bool
	live             bool // booked, and not used up
	booked           bool // in the ledger, and not taken back
}

// lotColumns reads a lot: t is grant_lot, s its grant_state, a its account.
const lotColumns = `t.id, t.account, a.product, t.bucket, t.credits,
	s.granted - s.spent - s.lapsed - s.revoked, t.effective_at, s.expires_at, t.unlimited, s.live, s.granted > s.revoked`

func (b *lot) columns() []any {
	return []any{
		(*[16]byte)(&b.id), &b.account, &b.product, &b.bucket, (*int64)(&b.credits), (*int64)(&b.left), &b.effective,
		&b.expires, &b.unlimited, &b.live, &b.booked,
	}
}

func scanLot(row pgx.CollectableRow) (b lot, err error) { return b, row.Scan(b.columns()...) }

// days is a span of notice. A day is 24 hours here: a notice is not a deadline.
func days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

// notice tells of those lots that are in force, hold credit and end soon. It may be asked about a lot as often as one
// likes: each notice is made once.
func (g *page) notice(ctx context.Context, lots []lot) error {
	var ending []promotional
	for _, b := range lots {
		if !b.live || b.unlimited || b.expires == nil || !b.expires.After(g.now) || b.effective.After(g.now) {
			continue
		}
		if n := g.notices(b.product).ExpiringDays; n > 0 && !b.expires.After(g.now.Add(days(n))) {
			g.drafts = append(g.drafts, draft{
				account: b.account, product: b.product, kind: TypeExpiring, at: g.now, keepUntil: b.expires,
				dedupe: fmt.Sprintf("expiring/%s/%d", b.id, b.expires.UnixMilli()),
				data:   Expiring{GrantID: b.id, Bucket: b.bucket, Credits: b.left, ExpiresAt: stamp(*b.expires)},
			})
		}
		if p := g.promotion(b); p != nil {
			ending = append(ending, promotional{b.account, b.product, p.Name, p.Bucket, p.Ends})
		}
	}
	return g.promotionsEnding(ctx, ending)
}

// promotional is an account with credit of a promotion that ends soon.
type promotional struct {
	account, product, name, bucket string
	ends                           time.Time
}

// promotion finds the promotion that a lot belongs to, if that ends soon enough to be told. Promotional credit ends
// with its promotion's window; that and the bucket are how it is recognised.
func (g *page) promotion(b lot) *policy.Promotion {
	p := g.policies.Policy(b.product)
	if p == nil || p.Notices.PromotionEnding == 0 {
		return nil
	}
	for _, promotion := range p.Promotions {
		if promotion.Bucket == b.bucket && promotion.Ends.Equal(*b.expires) &&
			!promotion.Ends.After(g.now.Add(days(p.Notices.PromotionEnding))) {
			return promotion
		}
	}
	return nil
}

// promotionsEnding adds up what each account has left of a promotion: it may have a grant for each cycle.
func (g *page) promotionsEnding(ctx context.Context, found []promotional) error {
	if len(found) == 0 {
		return nil
	}
	accounts, buckets := make([]string, len(found)), make([]string, len(found))
	ends := make([]time.Time, len(found))
	for i, f := range found {
		accounts[i], buckets[i], ends[i] = f.account, f.bucket, f.ends
	}
	rows, err := g.tx.Query(ctx, `SELECT u.n, sum(s.granted - s.spent - s.lapsed - s.revoked)::bigint
		FROM unnest($1::text[], $2::text[], $3::timestamptz[]) WITH ORDINALITY u (account, bucket, ends, n)
		JOIN creditgate.grant_state s ON s.account = u.account AND s.expires_at = u.ends AND s.live
		JOIN creditgate.grant_lot t ON t.id = s.grant_id AND t.bucket = u.bucket AND t.effective_at <= $4
		GROUP BY u.n`, accounts, buckets, ends, g.now)
	if err != nil {
		return err
	}
	var n, left int64
	_, err = pgx.ForEachRow(rows, []any{&n, &left}, func() error {
		f := found[n-1]
		g.drafts = append(g.drafts, draft{
			account: f.account, product: f.product, kind: TypePromotionEnding, at: g.now, keepUntil: &f.ends,
			dedupe: fmt.Sprintf("promotion.ending/%s/%s/%d", f.account, f.name, f.ends.UnixMilli()),
			data:   PromotionEnding{Promotion: f.name, Bucket: f.bucket, Credits: meter.Credits(left), EndsAt: stamp(f.ends)},
		})
		return nil
	})
	return err
}
