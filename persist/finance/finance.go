// Package finance reads the views that finance reads, as finance reads them: a member of finance_reader, with nothing
// but the columns of the contract. The demo and the tests look at the ledger through it.
//
// It refuses to write, and to know the tables behind the views.
package finance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// Entry is a row of finance.entries: what one ledger entry did to one grant.
type Entry struct {
	EntryID       string
	Account       string
	Seq           uint64
	Kind          string
	Bucket        string // empty when the entry touched no grant
	Credits       meter.Credits
	Operation     string
	Units         int64
	Outcome       string
	ReservationID string
	OccurredAt    time.Time
}

// Balance is a row of finance.balances: what one account has in one bucket.
type Balance struct {
	Account string
	Bucket  string
	Seq     uint64
	Granted meter.Credits
	Spent   meter.Credits
	Lapsed  meter.Credits
	Revoked meter.Credits
	Credits meter.Credits
}

// Entries reads an account's entries in the order in which they happened.
func Entries(ctx context.Context, url, account string) ([]Entry, error) {
	return query(ctx, url, `SELECT entry_id, account_id, seq, kind, coalesce(bucket, ''), (credits * 1000)::bigint,
			coalesce(operation, ''), units, coalesce(outcome, ''), coalesce(reservation_id, ''), occurred_at
		FROM finance.entries WHERE account_id = $1 ORDER BY seq, bucket`, account,
		func(row pgx.CollectableRow) (e Entry, err error) {
			err = row.Scan(&e.EntryID, &e.Account, &e.Seq, &e.Kind, &e.Bucket, (*int64)(&e.Credits), &e.Operation, &e.Units,
				&e.Outcome, &e.ReservationID, &e.OccurredAt)
			return e, err
		})
}

// Balances reads what an account has, by bucket.
func Balances(ctx context.Context, url, account string) ([]Balance, error) {
	return query(ctx, url, `SELECT account_id, bucket, seq, (granted * 1000)::bigint, (spent * 1000)::bigint,
			(lapsed * 1000)::bigint, (revoked * 1000)::bigint, (credits * 1000)::bigint
		FROM finance.balances WHERE account_id = $1 ORDER BY bucket`, account,
		func(row pgx.CollectableRow) (b Balance, err error) {
			err = row.Scan(&b.Account, &b.Bucket, &b.Seq, (*int64)(&b.Granted), (*int64)(&b.Spent), (*int64)(&b.Lapsed),
				(*int64)(&b.Revoked), (*int64)(&b.Credits))
			return b, err
		})
}

func query[T any](
	ctx context.Context, url, sql, account string, scan func(pgx.CollectableRow) (T, error),
) (_ []T, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("finance: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	rows, err := conn.Query(ctx, sql, account)
	if err != nil {
		return nil, fmt.Errorf("finance: %w", err)
	}
	out, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("finance: %w", err)
	}
	return out, nil
}
