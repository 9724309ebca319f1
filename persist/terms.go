package persist

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter/policy"
)

// earlierTerm reports whether a change was recorded before under the same reference; ErrRefConflict if it was another
// one.
func earlierTerm(ctx context.Context, tx pgx.Tx, by ref) (bool, error) {
	if by.external == "" {
		return false, nil
	}
	var same bool
	err := tx.QueryRow(ctx, `SELECT fingerprint = $2 FROM creditgate.subscription_term WHERE external_ref = $1`,
		by.external, by.content).Scan(&same)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err == nil && !same {
		err = refConflict(by.external)
	}
	return err == nil, err
}

// recordTerms makes terms void that have not begun and are not kept, and adds the new ones. A reference is recorded even
// if nothing changes, with a void term, so that it stays taken.
func recordTerms(ctx context.Context, tx pgx.Tx, account string, d decision, h policy.History, by ref) error {
	add, void := d.add, false
	if !d.changes(h) {
		if by.external == "" {
			return nil
		}
		last := policy.Term{}
		if len(h) > 0 {
			last = h[len(h)-1]
		}
		add, void = []policy.Term{last}, true
	} else {
		var gone []time.Time
		for _, t := range h {
			if !slices.Contains(d.keep, t) {
				gone = append(gone, t.At)
			}
		}
		_, err := tx.Exec(ctx, `UPDATE creditgate.subscription_term SET void = true
			WHERE account = $1 AND NOT void AND at = ANY($2)`, account, gone)
		if err != nil {
			return err
		}
	}
	for i, t := range add {
		var external, plan *string
		if i == len(add)-1 && by.external != "" {
			external = &by.external
		}
		if t.Plan != "" {
			plan = &t.Plan
		}
		_, err := tx.Exec(ctx, `INSERT INTO creditgate.subscription_term
				(account, n, at, plan, slots, yearly, anchor, void, external_ref, fingerprint, actor)
			SELECT $1::text, coalesce(max(n), 0) + 1, $2, $3, $4, $5, $6, $7, $8, $9, $10
			FROM creditgate.subscription_term WHERE account = $1::text`,
			account, t.At, plan, int32(t.Slots), t.Yearly, t.Anchor, void, external, by.content, by.actor)
		if err != nil {
			return invalid(err)
		}
	}
	return nil
}
