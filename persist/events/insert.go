package events

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Retention: how long events stay at least, and how they go.
const (
	retention  = 90 * 24 * time.Hour
	sweepEvery = time.Hour
	sweepPage  = 1000 // of one transaction
)

// draft is an event before it has a number.
type draft struct {
	account, product, kind string
	at                     time.Time
	data                   any
	dedupe                 string     // what happened, in words of our own
	keepUntil              *time.Time // when it cannot be found a second time any more; nil: it cannot now
}

// insert numbers the drafts that the feed does not have yet, and queues them for the webhooks that want them. It keeps
// in drafts what is new. The head's lock is held, so nobody else inserts meanwhile.
func (g *page) insert(ctx context.Context, last int64) error {
	if err := g.fresh(ctx); err != nil || len(g.drafts) == 0 {
		return err
	}
	slices.SortStableFunc(g.drafts, func(a, b draft) int { return a.at.Compare(b.at) })
	rows := make([][]any, len(g.drafts))
	for i, d := range g.drafts {
		data, err := json.Marshal(d.data)
		if err != nil {
			return fmt.Errorf("event %s: %w", d.dedupe, err)
		}
		rows[i] = []any{last + int64(i) + 1, d.account, d.product, d.kind, d.at, data, d.dedupe, d.keepUntil}
	}
	_, err := g.tx.CopyFrom(ctx, pgx.Identifier{"creditgate", "event"},
		[]string{"id", "account", "product", "type", "at", "data", "dedupe", "keep_until"}, pgx.CopyFromRows(rows))
	if err != nil {
		return err
	}
	var batch pgx.Batch
	batch.Queue(`UPDATE creditgate.event_head SET last = $1`, last+int64(len(rows)))
	batch.Queue(`INSERT INTO creditgate.webhook_delivery (webhook, event_id)
		SELECT w.name, e.id FROM creditgate.webhook w
		JOIN creditgate.event e ON e.id > $1 AND (w.types = '{}' OR e.type = ANY (w.types))
		WHERE w.disabled_at IS NULL`, last)
	return g.tx.SendBatch(ctx, &batch).Close()
}

// fresh drops drafts that the feed has, and those that stand twice in this page.
func (g *page) fresh(ctx context.Context) error {
	if len(g.drafts) == 0 {
		return nil
	}
	keys := make([]string, len(g.drafts))
	for i, d := range g.drafts {
		keys[i] = d.dedupe
	}
	rows, err := g.tx.Query(ctx, `SELECT dedupe FROM creditgate.event WHERE dedupe = ANY ($1)`, keys)
	if err != nil {
		return err
	}
	known, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	have := make(map[string]bool, len(known)+len(keys))
	for _, k := range known {
		have[k] = true
	}
	g.drafts = slices.DeleteFunc(g.drafts, func(d draft) bool {
		twice := have[d.dedupe]
		have[d.dedupe] = true
		return twice
	})
	return nil
}

// sweep removes events past their retention, a page at a time. Those that could still be found a second time stay
// longer, out of sight.
func (p *Producer) sweep(ctx context.Context, conn *pgx.Conn) error {
	for n := int64(sweepPage); n == sweepPage; {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `WITH old AS (
					SELECT id FROM creditgate.event
					WHERE recorded_at < now() - $1::interval AND (keep_until IS NULL OR keep_until < $2)
					ORDER BY recorded_at, id LIMIT $3),
				gone AS (DELETE FROM creditgate.event e USING old WHERE e.id = old.id RETURNING e.id),
				head AS (UPDATE creditgate.event_head SET dropped = greatest(dropped, (SELECT max(id) FROM gone))
					WHERE EXISTS (SELECT FROM gone))
				SELECT count(*) FROM gone`, retention, p.options.Clock.Now(), sweepPage).Scan(&n)
		})
		if err != nil {
			return fmt.Errorf("drop old events: %w", err)
		}
	}
	return nil
}
