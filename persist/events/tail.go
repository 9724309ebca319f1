package events

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// span is a stretch of one partition's ledger: after from, up to to.
type span struct {
	layout, partition int
	from, to          int64
}

// entryID is an entry's id as finance has it.
func (s span) entryID(pseq int64, idx int) string {
	return meter.Record{
		Layout: uint16(s.layout), Partition: uint16(s.partition), Position: meter.Position{Pseq: uint64(pseq)},
	}.EntryID(idx)
}

// tail looks at what a partition's ledger has after the cursor, up to a page's worth of entries, and moves the cursor.
// Records of a partition are committed in order, so what lies up to the flusher's cursor is all there.
func (p *Producer) tail(ctx context.Context, g *page, partition int) (more bool, err error) {
	s, end, err := g.span(ctx, partition)
	if err != nil {
		return false, err
	}
	p.behind.WithLabelValues(strconv.Itoa(partition)).Set(float64(end - s.to))
	if s.to == s.from {
		return false, nil
	}
	touched, err := g.touched(ctx, s)
	if err == nil {
		err = g.granted(ctx, s)
	}
	if err == nil {
		err = g.lapsed(ctx, s)
	}
	if err == nil {
		err = g.levels(ctx, touched)
	}
	if err != nil {
		return false, err
	}
	_, err = g.tx.Exec(ctx, `UPDATE creditgate.event_cursor SET pseq = $3 WHERE layout = $1 AND partition = $2`,
		s.layout, s.partition, s.to)
	return s.to < end, err
}

// span chooses how far to look: to the end, or to the last whole record within a page's entries. A record is looked at
// whole, however long it is.
func (g *page) span(ctx context.Context, partition int) (s span, end int64, err error) {
	s = span{layout: g.layout, partition: partition}
	var full *int64
	err = g.tx.QueryRow(ctx, `SELECT c.pseq, p.cursor_pseq, (
			SELECT e.pseq FROM creditgate.ledger_entry e
			WHERE e.layout = c.layout AND e.partition = c.partition AND e.pseq > c.pseq
			ORDER BY e.pseq, e.idx OFFSET $3 LIMIT 1)
		FROM creditgate.event_cursor c JOIN creditgate.partition p USING (layout, partition)
		WHERE c.layout = $1 AND c.partition = $2`, s.layout, s.partition, pageEntries).Scan(&s.from, &end, &full)
	if err != nil {
		return s, 0, fmt.Errorf("cursor of partition %d: %w", partition, err)
	}
	s.to = end
	if full != nil && *full <= end { // the entry there is one too many
		s.to = max(*full-1, s.from+1)
	}
	return s, end, nil
}

// touch is an account whose credit the ledger changed, or time did.
type touch struct {
	account string
	at      time.Time
	less    bool // something was taken, so that it may have fallen below a threshold
}

func (g *page) touched(ctx context.Context, s span) ([]touch, error) {
	rows, err := g.tx.Query(ctx, `SELECT account, max(occurred_at),
			bool_or(kind IN ('commit', 'late', 'lapse', 'revoke', 'release', 'expire'))
		FROM creditgate.ledger_entry
		WHERE layout = $1 AND partition = $2 AND pseq > $3 AND pseq <= $4 AND kind NOT IN ('uncollected', 'hold')
		GROUP BY account`, s.layout, s.partition, s.from, s.to)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t touch, err error) {
		return t, row.Scan(&t.account, &t.at, &t.less)
	})
}

// granted tells of new grants, and looks at those that begin or end so soon that the walks have passed them already; so
// does it at grants whose end was moved.
func (g *page) granted(ctx context.Context, s span) error {
	// The few entries that are meant are looked for first: Postgres takes them for many, and then joins every line.
	rows, err := g.tx.Query(ctx, `WITH e AS MATERIALIZED (
			SELECT layout, partition, pseq, idx, kind, occurred_at FROM creditgate.ledger_entry
			WHERE layout = $1 AND partition = $2 AND pseq > $3 AND pseq <= $4 AND kind IN ('grant', 'adjust'))
		SELECT e.pseq, e.idx, e.kind = 'grant', e.occurred_at, t.expires_at, `+lotColumns+`
		FROM e JOIN creditgate.ledger_line l USING (layout, partition, pseq, idx)
		JOIN creditgate.grant_lot t ON t.id = l.grant_id
		JOIN creditgate.grant_state s ON s.grant_id = t.id
		JOIN creditgate.account a ON a.id = t.account
		ORDER BY e.pseq, e.idx, l.line`, s.layout, s.partition, s.from, s.to)
	if err != nil {
		return err
	}
	var lots, news []lot
	var pseq int64
	var idx int
	var fresh bool
	var at time.Time
	var expires *time.Time // as granted
	var b lot
	_, err = pgx.ForEachRow(rows, append([]any{&pseq, &idx, &fresh, &at, &expires}, b.columns()...), func() error {
		lots = append(lots, b)
		if fresh {
			news = append(news, b)
			entry := s.entryID(pseq, idx)
			g.drafts = append(g.drafts, draft{
				account: b.account, product: b.product, kind: TypeGranted, at: at, dedupe: "granted/" + entry,
				data: Granted{
					GrantID: b.id, Bucket: b.bucket, Credits: b.credits, Unlimited: b.unlimited,
					EffectiveAt: stamp(b.effective), ExpiresAt: stampOrNull(expires), EntryID: entry,
				},
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := g.applied(ctx, news); err != nil {
		return err
	}
	if err := g.renewed(ctx, news); err != nil {
		return err
	}
	return g.notice(ctx, lots)
}

func (g *page) lapsed(ctx context.Context, s span) error {
	rows, err := g.tx.Query(ctx, `SELECT l.pseq, l.idx, l.line, e.account, a.product, e.occurred_at, l.grant_id, t.bucket, l.lapsed
		FROM creditgate.ledger_line l
		JOIN creditgate.ledger_entry e USING (layout, partition, pseq, idx)
		JOIN creditgate.grant_lot t ON t.id = l.grant_id
		JOIN creditgate.account a ON a.id = e.account
		WHERE l.layout = $1 AND l.partition = $2 AND l.pseq > $3 AND l.pseq <= $4 AND l.lapsed > 0 AND NOT t.unlimited
		ORDER BY l.pseq, l.idx, l.line`, s.layout, s.partition, s.from, s.to)
	if err != nil {
		return err
	}
	var pseq int64
	var idx, line int
	var d draft
	var lapsed Lapsed
	_, err = pgx.ForEachRow(rows, []any{
		&pseq, &idx, &line, &d.account, &d.product, &d.at, (*[16]byte)(&lapsed.GrantID), &lapsed.Bucket,
		(*int64)(&lapsed.Credits),
	}, func() error {
		lapsed.EntryID = s.entryID(pseq, idx)
		d.kind, d.dedupe, d.data = TypeLapsed, fmt.Sprintf("lapsed/%s/%d", lapsed.EntryID, line), lapsed
		g.drafts = append(g.drafts, d)
		return nil
	})
	return err
}
