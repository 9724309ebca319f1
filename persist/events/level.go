package events

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// untold is the level of an account of which nothing was told: above every threshold.
const untold = 101

// standing is what an account has at the moment of looking, and what was told of it.
type standing struct {
	touch

	product            string
	available, granted meter.Credits
	unlimited          bool
	seq                int64 // of its newest entry: tells one fall from the next
	told               int   // percent; 0: exhausted; untold
	least              meter.Credits
}

// levels looks at the accounts that were touched, as they stand now, and tells of those that fell below a threshold.
// It looks once a page, not once an entry: an account that fell and rose again between two looks was never short of
// credit in a way that anybody could have acted on.
func (g *page) levels(ctx context.Context, touched []touch) error {
	if len(touched) == 0 {
		return nil
	}
	all, err := g.stand(ctx, touched)
	if err != nil {
		return err
	}
	var batch pgx.Batch
	var capped []string
	for _, s := range all {
		if s.unlimited && s.less && len(g.notices(s.product).FairUsePercent) > 0 {
			capped = append(capped, s.account)
		}
		level, least := g.level(s)
		switch {
		case level == untold && s.told != untold:
			batch.Queue(`DELETE FROM creditgate.event_level WHERE account = $1`, s.account)
		case level != s.told || least != s.least:
			batch.Queue(`INSERT INTO creditgate.event_level (account, percent, available) VALUES ($1, $2, $3)
				ON CONFLICT (account) DO UPDATE SET percent = excluded.percent, available = excluded.available`,
				s.account, level, int64(least))
		}
	}
	if batch.Len() > 0 {
		if err := g.tx.SendBatch(ctx, &batch).Close(); err != nil {
			return err
		}
	}
	return g.fairUse(ctx, capped)
}

// level tells of what one account fell below, and returns what counts as told from now on.
//
// Thresholds are armed again when the account rose because credit was added. The share alone may also rise when a
// grant is used up and no longer counts, which is no news to anybody.
func (g *page) level(s standing) (level int, least meter.Credits) {
	if s.unlimited {
		return untold, 0
	}
	thresholds := g.notices(s.product).LowPercent
	now := untold // the lowest threshold that it is below
	for _, percent := range thresholds {
		if percent < now && int64(s.available)*100 < int64(s.granted)*int64(percent) {
			now = percent
		}
	}
	if s.available == 0 {
		now = 0
	}
	switch {
	case now < s.told && s.less:
		g.fell(s, thresholds, now)
		return now, s.available
	case now < s.told: // nothing was taken: it never had credit, or what it has begins later
		return s.told, s.least
	case now > s.told && s.available > s.least:
		return now, s.available
	}
	return s.told, min(s.least, s.available)
}

// fell makes an event for each threshold between what was told and now.
func (g *page) fell(s standing, thresholds []int, now int) {
	d := draft{account: s.account, product: s.product, at: s.at}
	for _, percent := range thresholds {
		if now <= percent && percent < s.told {
			d.kind, d.dedupe = TypeLow, fmt.Sprintf("low/%s/%d/%d", s.account, percent, s.seq)
			d.data = Low{Percent: percent, Available: s.available, Granted: s.granted}
			g.drafts = append(g.drafts, d)
		}
	}
	if now == 0 {
		d.kind, d.dedupe = TypeExhausted, fmt.Sprintf("exhausted/%s/%d", s.account, s.seq)
		d.data = Exhausted{Available: s.available, Granted: s.granted}
		g.drafts = append(g.drafts, d)
	}
}

// highest is the share below which an account of any product may have something told of it.
func (g *page) highest() (percent int) {
	for _, p := range g.policies.All() {
		for _, n := range p.Notices.LowPercent {
			percent = max(percent, n)
		}
	}
	return percent
}

// standings are of accounts $1 at times $2; $3 is untold, and below $4 percent there may be something to tell. What is
// read of the few that are left is no join: the planner takes them for as many as were touched, and would read a table.
const standings = `WITH seen AS MATERIALIZED (
	SELECT u.n, u.account, coalesce(f.available, 0) AS available, coalesce(f.granted, 0) AS granted,
		coalesce(f.unlimited, false) AS unlimited, coalesce(v.percent, $3) AS told, coalesce(v.available, 0) AS least
	FROM unnest($1::text[], $2::timestamptz[]) WITH ORDINALITY u (account, at, n)
	LEFT JOIN creditgate.event_level v ON v.account = u.account
	LEFT JOIN LATERAL (
		SELECT sum(s.granted - s.spent - s.lapsed - s.revoked)::bigint AS available,
			sum(s.granted - s.revoked)::bigint AS granted, bool_or(s.unlimited) AS unlimited
		FROM creditgate.grant_state s
		WHERE s.account = u.account AND s.granted > 0 AND s.effective_at <= u.at
			AND (s.expires_at > u.at OR s.expires_at IS NULL AND s.live)
			AND (s.live OR NOT EXISTS (SELECT FROM creditgate.cycle_grant c
				WHERE c.grant_id = s.grant_id AND c.expires_at <= u.at))) f ON true)
SELECT e.n, (SELECT a.product FROM creditgate.account a WHERE a.id = e.account), e.available, e.granted, e.unlimited,
	coalesce((SELECT st.seq FROM creditgate.account_state st WHERE st.account = e.account), 0), e.told, e.least
FROM seen e
WHERE e.unlimited OR e.told <> $3 OR e.available = 0 OR e.available * 100 < e.granted * $4::numeric`

// stand reads what accounts have in grants that are in force, and leaves out those whose level is nothing to tell
// and nothing to remember, as nearly all are: of them only the grants are read, since with a million accounts each row
// of another table is a page that is not in memory. A grant that is used up counts until it ends; one that never ends
// counts until it is used up, or what was bought years ago would make everybody low for ever. One that its plan ended when
// it was used up is over, though no ledger says so.
func (g *page) stand(ctx context.Context, touched []touch) ([]standing, error) {
	accounts, at := make([]string, len(touched)), make([]time.Time, len(touched))
	for i, t := range touched {
		accounts[i], at[i] = t.account, g.now
		if t.at.After(g.now) { // Redis' clock is ahead of ours: what it did was right then
			at[i] = t.at
		}
	}
	rows, err := g.tx.Query(ctx, standings, accounts, at, untold, g.highest())
	if err != nil {
		return nil, err
	}
	out := make([]standing, 0, len(touched))
	var n int64
	var s standing
	_, err = pgx.ForEachRow(rows, []any{
		&n, &s.product, (*int64)(&s.available), (*int64)(&s.granted), &s.unlimited, &s.seq, &s.told, (*int64)(&s.least),
	}, func() error {
		s.touch = touched[n-1]
		out = append(out, s)
		return nil
	})
	return out, err
}

// fairUse tells how far the caps of unlimited grants in force are used. Those of one bucket are one cap, under the name of
// the newest: what adds to it arms the percentages again.
func (g *page) fairUse(ctx context.Context, accounts []string) error {
	if len(accounts) == 0 {
		return nil
	}
	rows, err := g.tx.Query(ctx, `SELECT DISTINCT ON (t.account, t.bucket)
			(sum(s.spent) OVER of)::bigint, (sum(t.credits) OVER of)::bigint, `+lotColumns+` FROM creditgate.grant_state s
		JOIN creditgate.grant_lot t ON t.id = s.grant_id JOIN creditgate.account a ON a.id = t.account
		WHERE s.account = ANY ($1) AND s.granted > 0 AND t.unlimited AND t.effective_at <= $2
			AND (s.expires_at > $2 OR s.expires_at IS NULL)
			AND NOT EXISTS (SELECT FROM creditgate.cycle_grant c
				WHERE NOT s.live AND c.grant_id = s.grant_id AND c.expires_at <= $2)
		WINDOW of AS (PARTITION BY t.account, t.bucket) ORDER BY t.account, t.bucket, t.id DESC`, accounts, g.now)
	if err != nil {
		return err
	}
	var b lot
	var used, most meter.Credits
	_, err = pgx.ForEachRow(rows, append([]any{(*int64)(&used), (*int64)(&most)}, b.columns()...), func() error {
		if most <= policy.LeastCap { // what there is of it is not known yet, or it is to refuse from the beginning
			return nil
		}
		for _, percent := range g.notices(b.product).FairUsePercent {
			if int64(used)*100 < int64(most)*int64(percent) {
				continue
			}
			until := b.expires
			if until == nil {
				never := time.UnixMilli(meter.Never)
				until = &never
			}
			g.drafts = append(g.drafts, draft{
				account: b.account, product: b.product, kind: TypeFairUse, at: g.now, keepUntil: until,
				dedupe: fmt.Sprintf("fair_use/%s/%d", b.id, percent),
				data: FairUse{
					GrantID: b.id, Bucket: b.bucket, Percent: percent, Used: used, Cap: most,
					ResetsAt: stampOrNull(b.expires),
				},
			})
		}
		return nil
	})
	return err
}
