package events

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Bounds of posting. All of it waits for other people's servers, so it goes by the database's clock and not by the
// clock that a test may move.
const (
	attemptsMax = 10
	deadAfter   = 5 * 24 * time.Hour // of nothing but failures, a webhook is disabled
	errorMax    = 200                // bytes kept of why an attempt failed
)

// backoff is how long after an attempt the next one is made; they add up to three days. A tenth more or less is
// chance, so that events that failed together do not come back together.
func backoff(attempt int) time.Duration {
	pauses := [attemptsMax - 1]time.Duration{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour,
		20 * time.Hour, 24 * time.Hour,
	}
	return pauses[min(max(attempt, 1), len(pauses))-1]
}

// Delivery is one attempt to post an event to a webhook.
type Delivery struct {
	Webhook string
	URL     string
	Secrets []string // to sign with, newest first
	Attempt int      // from 1
	Event   Event
}

// Due names the webhooks that have something to be posted now.
func (f *Feed) Due(ctx context.Context) ([]string, error) {
	rows, err := f.pool.Query(ctx, `SELECT w.name FROM creditgate.webhook w
		WHERE w.disabled_at IS NULL AND EXISTS (
			SELECT FROM creditgate.webhook_delivery d WHERE d.webhook = w.name AND d.next_at <= now())
		ORDER BY w.name`)
	if err != nil {
		return nil, fmt.Errorf("due webhooks: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("due webhooks: %w", err)
	}
	return names, nil
}

// Claim takes up to limit deliveries of a webhook, oldest first, for so long as the lease says. Other gateways take
// others meanwhile. What is not settled by then is taken again: at least once is the promise.
func (f *Feed) Claim(ctx context.Context, webhook string, limit int, lease time.Duration) ([]Delivery, error) {
	rows, err := f.pool.Query(ctx, `WITH due AS (
			SELECT d.webhook, d.event_id FROM creditgate.webhook_delivery d
			WHERE d.webhook = $1 AND d.next_at <= now()
				AND EXISTS (SELECT FROM creditgate.webhook w WHERE w.name = $1 AND w.disabled_at IS NULL)
			ORDER BY d.next_at, d.event_id LIMIT $2 FOR UPDATE OF d SKIP LOCKED),
		taken AS (
			UPDATE creditgate.webhook_delivery d SET attempt = d.attempt + 1, next_at = now() + $3::interval
			FROM due WHERE (d.webhook, d.event_id) = (due.webhook, due.event_id)
			RETURNING d.event_id, d.attempt)
		SELECT w.url, w.secret, CASE WHEN w.old_secret_until > now() THEN w.old_secret END, t.attempt,
			e.id, e.type, e.account, e.product, e.at, e.data
		FROM taken t JOIN creditgate.event e ON e.id = t.event_id, creditgate.webhook w
		WHERE w.name = $1 ORDER BY e.id`, webhook, limit, lease)
	if err != nil {
		return nil, fmt.Errorf("claim deliveries: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Delivery, error) {
		d := Delivery{Webhook: webhook}
		var secret string
		var old *string
		err := row.Scan(&d.URL, &secret, &old, &d.Attempt, &d.Event.ID, &d.Event.Type, &d.Event.Account, &d.Event.Product,
			&d.Event.At, &d.Event.Data)
		d.Event.At, d.Secrets = d.Event.At.UTC(), []string{secret}
		if old != nil {
			d.Secrets = append(d.Secrets, *old)
		}
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("claim deliveries: %w", err)
	}
	return out, nil
}

// Delivered settles a delivery that the receiver has taken.
func (f *Feed) Delivered(ctx context.Context, webhook string, event int64) error {
	var batch pgx.Batch
	batch.Queue(`DELETE FROM creditgate.webhook_delivery WHERE webhook = $1 AND event_id = $2`, webhook, event)
	batch.Queue(`UPDATE creditgate.webhook SET failing_since = NULL, last_error = ''
		WHERE name = $1 AND failing_since IS NOT NULL`, webhook)
	return f.settle(ctx, &batch)
}

// Failed settles an attempt that was not taken: it is tried again later, up to attemptsMax times. A webhook that
// wants no more (gone), or that has taken nothing for deadAfter, is disabled; what waits for it stays.
func (f *Feed) Failed(ctx context.Context, webhook string, event int64, attempt int, why string, gone bool) error {
	if len(why) > errorMax {
		why = why[:errorMax]
	}
	var batch pgx.Batch
	batch.Queue(`UPDATE creditgate.webhook_delivery
		SET next_at = CASE WHEN attempt < $4 THEN now() + $5::interval * (0.9 + 0.2 * random()) END
		WHERE webhook = $1 AND event_id = $2 AND attempt = $3`, // else somebody has taken it again, and settles it
		webhook, event, attempt, attemptsMax, backoff(attempt))
	batch.Queue(`UPDATE creditgate.webhook SET failing_since = coalesce(failing_since, now()), last_error = $2
		WHERE name = $1`, webhook, why)
	batch.Queue(`UPDATE creditgate.webhook SET disabled_at = now(), disabled_reason = CASE WHEN $2 THEN
			'the receiver answered 410: it wants no more'
			ELSE 'nothing but failures since ' || to_char(failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') END
		WHERE name = $1 AND disabled_at IS NULL AND ($2 OR failing_since <= now() - $3::interval)`,
		webhook, gone, deadAfter)
	return f.settle(ctx, &batch)
}

func (f *Feed) settle(ctx context.Context, batch *pgx.Batch) error {
	if err := f.pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("settle delivery: %w", err)
	}
	return nil
}
