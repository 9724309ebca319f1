package events

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// renewed tells of subscriptions whose next cycle has begun, by the contingents among these lots. What a cycle brings
// is granted ahead of it, so all of it is there when the first of it begins. A cycle with which a subscription begins
// is no renewal, nor is what a change brings in the middle of one.
func (g *page) renewed(ctx context.Context, lots []lot) error {
	ids := make([][16]byte, 0, len(lots))
	for _, b := range lots {
		if b.booked && !b.effective.After(g.now) {
			ids = append(ids, b.id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	// A contingent's key is "<bucket> <start of the cycle> <step>"; a promotion's has a fourth word. A cycle that is
	// told twice, by two of its buckets, is one event.
	rows, err := g.tx.Query(ctx, `SELECT a.id, a.product, begun.at, t.plan, t.slots,
			o.id, o.bucket, o.credits, o.unlimited, s.expires_at
		FROM (
			SELECT DISTINCT c.account, l.effective_at AS at FROM creditgate.cycle_grant c
			JOIN creditgate.grant_lot l ON l.id = c.grant_id
			WHERE c.grant_id = ANY ($1) AND NOT c.superseded AND split_part(c.key, ' ', 4) = ''
				AND split_part(c.key, ' ', 2)::timestamptz = l.effective_at) begun
		JOIN creditgate.account a ON a.id = begun.account
		JOIN LATERAL (
			SELECT plan FROM creditgate.subscription_term
			WHERE account = a.id AND NOT void AND at < begun.at ORDER BY at DESC, n DESC LIMIT 1) before ON before.plan IS NOT NULL
		JOIN LATERAL (
			SELECT plan, slots FROM creditgate.subscription_term
			WHERE account = a.id AND NOT void AND at <= begun.at ORDER BY at DESC, n DESC LIMIT 1) t ON t.plan IS NOT NULL
		JOIN creditgate.cycle_grant c ON c.account = a.id AND NOT c.superseded AND split_part(c.key, ' ', 4) = ''
		JOIN creditgate.grant_lot o ON o.id = c.grant_id AND o.effective_at = begun.at
		JOIN creditgate.grant_state s ON s.grant_id = o.id AND s.granted > s.revoked
		ORDER BY begun.at, a.id, o.rank, o.id`, ids)
	if err != nil {
		return err
	}
	var d draft
	var r Renewed
	var one Contingent
	var starts time.Time
	var ends *time.Time
	var last *Renewed
	_, err = pgx.ForEachRow(rows, []any{
		&d.account, &d.product, &starts, &r.Plan, &r.Slots, (*[16]byte)(&one.GrantID), &one.Bucket,
		(*int64)(&one.Credits), &one.Unlimited, &ends,
	}, func() error {
		key := fmt.Sprintf("renewed/%s/%d", d.account, starts.UnixMilli())
		if last == nil || g.drafts[len(g.drafts)-1].dedupe != key {
			last = &Renewed{Plan: r.Plan, Slots: r.Slots, Cycle: Cycle{StartsAt: stamp(starts), EndsAt: stampOrNull(ends)}}
			g.drafts = append(g.drafts, draft{
				account: d.account, product: d.product, kind: TypeRenewed, at: starts, dedupe: key, data: last,
			})
		}
		last.Grants = append(last.Grants, one)
		return nil
	})
	return err
}
