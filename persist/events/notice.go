package events

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
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
		if len(g.promotions(b.product, b.bucket, *b.expires)) > 0 {
			ending = append(ending, promotional{b.account, b.product, b.bucket, *b.expires})
		}
	}
	return g.promotionsEnding(ctx, ending)
}

// promotional is an account with credit in a bucket that ends soon, together with a promotion of that bucket.
type promotional struct {
	account, product, bucket string
	ends                     time.Time
}

// promotions are the names of a bucket's promotions that end at a moment, if that is soon enough to be told.
// Promotional credit ends with its promotion's window.
func (g *page) promotions(product, bucket string, ends time.Time) (names []string) {
	p := g.policies.Policy(product)
	if p == nil || p.Notices.PromotionEnding == 0 || ends.After(g.now.Add(days(p.Notices.PromotionEnding))) {
		return nil
	}
	for _, promotion := range p.Promotions {
		if promotion.Bucket == bucket && promotion.Ends.Equal(ends) {
			names = append(names, promotion.Name)
		}
	}
	return names
}

// endingSums are of accounts $1 with credit in buckets $2 that ends at $3: what each has left at $4, by the promotion
// that gave it. A promotion's key is "promotion <name> <cycle> <step>", a contingent's has three words. Credit that a
// person granted has no key, and no name here.
const endingSums = `SELECT u.n, coalesce(split_part(c.key, ' ', 2), ''), sum(s.granted - s.spent - s.lapsed - s.revoked)::bigint
	FROM unnest($1::text[], $2::text[], $3::timestamptz[]) WITH ORDINALITY u (account, bucket, ends, n)
	JOIN creditgate.grant_state s ON s.account = u.account AND s.expires_at = u.ends AND s.live
	JOIN creditgate.grant_lot t ON t.id = s.grant_id AND t.bucket = u.bucket AND t.effective_at <= $4
	LEFT JOIN creditgate.cycle_grant c ON c.grant_id = s.grant_id AND split_part(c.key, ' ', 4) <> ''
	GROUP BY 1, 2 ORDER BY 1, 2`

// promotionsEnding adds up what each account has left of a promotion: it may have a grant for each cycle. What a person
// granted counts with the promotion that ends then; of two, it may belong to either, and is told as expiring only.
func (g *page) promotionsEnding(ctx context.Context, found []promotional) error {
	if len(found) == 0 {
		return nil
	}
	accounts, buckets := make([]string, len(found)), make([]string, len(found))
	ends := make([]time.Time, len(found))
	for i, f := range found {
		accounts[i], buckets[i], ends[i] = f.account, f.bucket, f.ends
	}
	rows, err := g.tx.Query(ctx, endingSums, accounts, buckets, ends, g.now)
	if err != nil {
		return err
	}
	type key struct {
		n    int64
		name string
	}
	left, seen := map[key]int64{}, []key{}
	var k key
	var credits int64
	_, err = pgx.ForEachRow(rows, []any{&k.n, &k.name, &credits}, func() error {
		f := found[k.n-1]
		switch names := g.promotions(f.product, f.bucket, f.ends); {
		case k.name == "" && len(names) == 1:
			k.name = names[0]
		case !slices.Contains(names, k.name):
			return nil
		}
		if _, ok := left[k]; !ok {
			seen = append(seen, k)
		}
		left[k] += credits
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range seen {
		g.promotionEnding(found[k.n-1], k.name, meter.Credits(left[k]))
	}
	return nil
}

// promotionEnding tells of one promotion of one account.
func (g *page) promotionEnding(f promotional, name string, left meter.Credits) {
	g.drafts = append(g.drafts, draft{
		account: f.account, product: f.product, kind: TypePromotionEnding, at: g.now, keepUntil: &f.ends,
		dedupe: fmt.Sprintf("promotion.ending/%s/%s/%d", f.account, name, f.ends.UnixMilli()),
		data:   PromotionEnding{Promotion: name, Bucket: f.bucket, Credits: left, EndsAt: stamp(f.ends)},
	})
}
