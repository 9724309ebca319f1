package stage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/bench/cast"
	"creditgate/meter"
)

// seed writes accounts, keys and grants to Postgres as they are after the grants were applied and flushed. Through the
// control plane a million accounts would take hours. Foreign keys are not checked meanwhile: what refers to what
// follows from the same numbers.
func seed(ctx context.Context, ownerURL string, layout meter.Layout, a accounts) (err error) {
	conn, err := pgx.Connect(ctx, ownerURL)
	if err != nil {
		return fmt.Errorf("seed accounts: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if _, err := conn.Exec(ctx, "SET session_replication_role = replica"); err != nil {
		return fmt.Errorf("seed accounts: %w", err)
	}
	for _, t := range append(a.tables(layout), a.renewal.tables(a)...) {
		n := a.n * max(1, t.each)
		at := -1
		rows := pgx.CopyFromFunc(func() ([]any, error) {
			if at++; at == n {
				return nil, nil
			}
			return t.row(at/max(1, t.each), at%max(1, t.each)), nil
		})
		if _, err := conn.CopyFrom(ctx, pgx.Identifier{"creditgate", t.name}, t.columns, rows); err != nil {
			return fmt.Errorf("seed %s: %w", t.name, err)
		}
	}
	// The planner would take the tables for empty.
	if _, err := conn.Exec(ctx, "VACUUM ANALYZE"); err != nil {
		return fmt.Errorf("seed accounts: %w", err)
	}
	return nil
}

// table is what goes into one table: each rows for an account, 0 being 1.
type table struct {
	name    string
	columns []string
	each    int
	row     func(account, part int) []any
}

func (a accounts) tables(layout meter.Layout) []table {
	return []table{{
		name: "account", columns: []string{"id", "layout", "partition", "product", "actor", "created_at", "agreed"},
		row: func(i, _ int) []any {
			name := cast.Account(i)
			return []any{name, int32(layout.Number), int32(layout.PartitionOf(name)), cast.Product, "bench", a.made, a.renewal != nil}
		},
	}, {
		name: "api_key", columns: []string{"id", "account", "hash", "created_at"},
		row: func(i, _ int) []any {
			hash := sha256.Sum256([]byte(cast.Key(i)))
			return []any{[16]byte(a.id(idKey, i, 0)), cast.Account(i), hash[:], a.made}
		},
	}, {
		name: "account_state", columns: []string{"account", "seq"},
		row: func(i, _ int) []any { return []any{cast.Account(i), int64(a.grants)} },
	}, {
		name: "grant_lot", each: a.grants,
		columns: []string{
			"id", "account", "bucket", "rank", "credits", "paid", "effective_at", "expires_at", "external_ref",
			"fingerprint", "created_at", "status", "applied_at",
		},
		row: func(i, g int) []any {
			l, name := a.lot(g), cast.Account(i)
			return []any{
				[16]byte(a.id(idGrant, i, g)), name, l.bucket, int16(l.rank), int64(l.credits), l.expires.IsZero(),
				l.effective, orNull(l.expires), fmt.Sprintf("%s-%d", name, g), make([]byte, sha256.Size), a.made, "applied", a.made,
			}
		},
	}, {
		name: "grant_state", each: a.grants,
		columns: []string{
			"grant_id", "account", "product", "bucket", "rank", "effective_at", "credits", "granted", "expires_at",
		},
		row: func(i, g int) []any {
			l := a.lot(g)
			return []any{
				[16]byte(a.id(idGrant, i, g)), cast.Account(i), cast.Product, l.bucket, int16(l.rank), l.effective,
				int64(l.credits), int64(l.credits), orNull(l.expires),
			}
		},
	}}
}

func orNull(at time.Time) any {
	if at.IsZero() {
		return nil
	}
	return at
}
