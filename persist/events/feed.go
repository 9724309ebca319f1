package events

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Feed reads events, and keeps the webhooks and their queue. Its methods may be called concurrently.
type Feed struct{ pool *pgxpool.Pool }

// NewFeed makes a feed on a store's pool.
func NewFeed(pool *pgxpool.Pool) *Feed { return &Feed{pool: pool} }

// Bounds of one page of the feed.
const (
	PageMax = 1000
	scanMax = 10_000 // events looked at for a page that only some match
)

// Query says which events are wanted. Empty Types and Account match all.
type Query struct {
	After   int64
	Limit   int
	Types   []string
	Account string
}

// Page is a stretch of the feed. Next is the After of the page that follows, also when nothing matched.
type Page struct {
	Events []Event
	Next   int64
}

// Events returns what comes after an id, oldest first. Reading after 0 begins with the oldest that is kept; after an
// id whose successors were dropped for their age it goes on with the oldest that is kept, too.
func (f *Feed) Events(ctx context.Context, q Query) (p Page, err error) {
	q.Limit = min(max(q.Limit, 1), PageMax)
	if q.Types == nil {
		q.Types = []string{}
	}
	var batch pgx.Batch
	batch.Queue(`SELECT last, dropped FROM creditgate.event_head`)
	batch.Queue(`SELECT e.id, e.type, e.account, e.product, e.at, e.data
		FROM creditgate.event e, creditgate.event_head h
		WHERE e.id > greatest($1, h.dropped) AND e.id <= greatest($1, h.dropped) + $2 AND e.id <= h.last
			AND ($3::text[] = '{}' OR e.type = ANY ($3)) AND ($4 = '' OR e.account = $4)
		ORDER BY e.id LIMIT $5`, q.After, scanMax, q.Types, q.Account, q.Limit)
	var last, dropped int64
	err = pgx.BeginTxFunc(ctx, f.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly},
		func(tx pgx.Tx) error {
			results := tx.SendBatch(ctx, &batch)
			defer func() { _ = results.Close() }() // an error of a query was returned before
			if err := results.QueryRow().Scan(&last, &dropped); err != nil {
				return err
			}
			rows, err := results.Query()
			if err == nil {
				p.Events, err = pgx.CollectRows(rows, scanEvent)
			}
			return err
		})
	if err != nil {
		return Page{}, fmt.Errorf("read events: %w", err)
	}
	if n := len(p.Events); n == q.Limit {
		p.Next = p.Events[n-1].ID
	} else { // everything up to here was looked at; an After beyond the end stays
		from := max(q.After, dropped)
		p.Next = max(q.After, min(last, from+scanMax))
	}
	return p, nil
}

func scanEvent(row pgx.CollectableRow) (e Event, err error) {
	var at time.Time
	err = row.Scan(&e.ID, &e.Type, &e.Account, &e.Product, &at, &e.Data)
	e.At = at.UTC()
	return e, err
}
