package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/persist"
)

// EndpointsMax is how many webhooks there may be: each event is queued for each.
const EndpointsMax = 32

// rotation is how long events are signed with the secret before the last one, too.
const rotation = 24 * time.Hour

// Errors of webhooks.
var (
	// ErrNoEndpoint says that there is no webhook of that name.
	ErrNoEndpoint = errors.New("no such webhook")
	// ErrTooManyEndpoints says that there are EndpointsMax webhooks.
	ErrTooManyEndpoints = errors.New("too many webhooks")
)

// NewEndpoint sets a webhook up, or changes it.
type NewEndpoint struct {
	Name   string
	URL    string
	Secret string // empty: the one it has, or Fresh
	Fresh  string // the secret of a new webhook that was given none
	Types  []string
	Actor  string
}

// Endpoint is a webhook as it stands, without its secret.
type Endpoint struct {
	Name           string
	URL            string
	Types          []string
	CreatedAt      time.Time
	FailingSince   time.Time // zero: the last attempt succeeded, or there was none
	LastError      string
	DisabledAt     time.Time // zero: it is enabled
	DisabledReason string
	Pending        int64 // to be posted
	Failed         int64 // given up
	Created        bool  // by this call
}

// PutEndpoint sets a webhook up, or changes it and enables it again. It is told what happens from now on; what it has
// missed is posted by Redeliver. Under a new secret the old one stays valid for a day.
func (f *Feed) PutEndpoint(ctx context.Context, e NewEndpoint) (out Endpoint, err error) {
	if e.Types == nil {
		e.Types = []string{}
	}
	created := false
	err = pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
		// Webhooks are set up one after the other, so that they can be counted.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1, 1)`, lockClass); err != nil {
			return err
		}
		var others int
		err := tx.QueryRow(ctx, `SELECT count(*) FROM creditgate.webhook WHERE name <> $1`, e.Name).Scan(&others)
		if err != nil {
			return err
		}
		if others >= EndpointsMax {
			return fmt.Errorf("%w: there are %d; delete one first", ErrTooManyEndpoints, others)
		}
		return tx.QueryRow(ctx, `INSERT INTO creditgate.webhook AS w (name, url, types, secret, actor)
			VALUES ($1, $2, $3, coalesce(nullif($4, ''), $5), $6)
			ON CONFLICT (name) DO UPDATE SET url = excluded.url, types = excluded.types, actor = excluded.actor,
				secret = coalesce(nullif($4, ''), w.secret),
				old_secret = CASE WHEN $4 NOT IN ('', w.secret) THEN w.secret ELSE w.old_secret END,
				old_secret_until = CASE WHEN $4 NOT IN ('', w.secret) THEN now() + $7 ELSE w.old_secret_until END,
				failing_since = NULL, last_error = '', disabled_at = NULL, disabled_reason = ''
			RETURNING xmax = 0`, e.Name, e.URL, e.Types, e.Secret, e.Fresh, e.Actor, rotation).Scan(&created)
	})
	if err == nil {
		out, err = f.Endpoint(ctx, e.Name)
	}
	if err != nil {
		return Endpoint{}, fmt.Errorf("put webhook: %w", err)
	}
	out.Created = created
	return out, nil
}

// Endpoint returns a webhook, or ErrNoEndpoint.
func (f *Feed) Endpoint(ctx context.Context, name string) (Endpoint, error) {
	found, err := f.endpoints(ctx, name)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%w: %q", ErrNoEndpoint, name)
	}
	if err != nil {
		return Endpoint{}, err
	}
	return found[0], nil
}

// Endpoints returns all webhooks, by name.
func (f *Feed) Endpoints(ctx context.Context) ([]Endpoint, error) { return f.endpoints(ctx, "") }

func (f *Feed) endpoints(ctx context.Context, name string) ([]Endpoint, error) {
	rows, err := f.pool.Query(ctx, `SELECT w.name, w.url, w.types, w.created_at, w.failing_since, w.last_error,
			w.disabled_at, w.disabled_reason, d.pending, d.failed
		FROM creditgate.webhook w CROSS JOIN LATERAL (
			SELECT count(*) FILTER (WHERE next_at IS NOT NULL) AS pending, count(*) FILTER (WHERE next_at IS NULL) AS failed
			FROM creditgate.webhook_delivery WHERE webhook = w.name) d
		WHERE $1 = '' OR w.name = $1 ORDER BY w.name`, name)
	if err != nil {
		return nil, fmt.Errorf("read webhooks: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Endpoint, err error) {
		var failing, disabled *time.Time
		err = row.Scan(&e.Name, &e.URL, &e.Types, &e.CreatedAt, &failing, &e.LastError, &disabled, &e.DisabledReason,
			&e.Pending, &e.Failed)
		e.CreatedAt = e.CreatedAt.UTC()
		if failing != nil {
			e.FailingSince = failing.UTC()
		}
		if disabled != nil {
			e.DisabledAt = disabled.UTC()
		}
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read webhooks: %w", err)
	}
	return out, nil
}

// DeleteEndpoint removes a webhook and what was to be posted to it. Deleting it again is no error.
func (f *Feed) DeleteEndpoint(ctx context.Context, name, actor string) error {
	err := pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
		if err := persist.NameActor(ctx, tx, actor); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM creditgate.webhook WHERE name = $1`, name)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete webhook: %w", err)
	}
	return nil
}

// redeliverMax bounds what one call queues again.
const redeliverMax = 10_000

// Redeliver queues the events after an id for a webhook once more, whether they were delivered, given up or never
// queued; at most redeliverMax of them. next is the after of the call that goes on, equal to the last event's id once
// there are no more.
func (f *Feed) Redeliver(ctx context.Context, name string, after int64) (queued, next int64, err error) {
	err = pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
		var one int
		err := tx.QueryRow(ctx, `SELECT 1 FROM creditgate.webhook WHERE name = $1 FOR SHARE`, name).Scan(&one)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%w: %q", ErrNoEndpoint, name)
		}
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, `WITH head AS (SELECT last, greatest(dropped, $2) AS from_id FROM creditgate.event_head),
			queued AS (
				INSERT INTO creditgate.webhook_delivery (webhook, event_id)
				SELECT w.name, e.id FROM head h, creditgate.webhook w, creditgate.event e
				WHERE w.name = $1 AND e.id > h.from_id AND e.id <= h.from_id + $3 AND e.id <= h.last
					AND (w.types = '{}' OR e.type = ANY (w.types))
				ON CONFLICT (webhook, event_id) DO UPDATE SET attempt = 0, next_at = now()
				RETURNING event_id)
			SELECT (SELECT count(*) FROM queued), greatest($2, least(last, from_id + $3)) FROM head`,
			name, after, redeliverMax).Scan(&queued, &next)
	})
	if err != nil {
		return 0, 0, fmt.Errorf("redeliver: %w", err)
	}
	return queued, next, nil
}
