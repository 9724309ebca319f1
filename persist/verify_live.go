package persist

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// Redis is ahead of Postgres by what is not flushed yet; Postgres gets this long to follow.
const (
	followMax   = 10 * time.Second
	followPause = 20 * time.Millisecond
)

// verifyAccount compares one account in Redis with what Postgres had at the same seq, so that traffic may go on.
func verifyAccount(
	ctx context.Context, s *Store, report *Report, name string,
	live func(ctx context.Context, account string) (meter.Decision, error),
) error {
	least, err := s.seq(ctx, name)
	if err != nil {
		return err
	}
	d, err := live(ctx, name)
	if err != nil {
		return err
	}
	if d.Code != meter.CodeOK {
		return fmt.Errorf("%w: Redis answers with code %d", ErrUnavailable, d.Code)
	}
	have := d.Account
	if have.Seq < least { // Postgres was asked first, so Redis has lost what is flushed
		report.Add(Drift{
			Kind: DriftRedis, Account: name, Where: "account", What: "Redis is behind Postgres",
			Want: fmt.Sprintf("seq %d", least), Have: fmt.Sprintf("seq %d", have.Seq),
		})
		return nil
	}
	deadline := time.Now().Add(followMax)
	for {
		at, err := s.seq(ctx, name)
		if err != nil {
			return err
		}
		if at >= have.Seq {
			break
		}
		if time.Now().After(deadline) {
			report.Add(Drift{
				Kind: DriftRedis, Account: name, Where: "account", What: "Postgres does not follow: is a flusher running?",
				Want: fmt.Sprintf("seq %d", have.Seq), Have: fmt.Sprintf("seq %d", at),
			})
			return nil
		}
		if !sleep(ctx, followPause) {
			return ctx.Err()
		}
	}
	want, err := s.grantsAt(ctx, name, have.Seq)
	if err != nil {
		return err
	}
	compareGrants(report, name, want, have.Grants)
	return nil
}

func (s *Store) seq(ctx context.Context, account string) (seq uint64, err error) {
	err = s.pool.QueryRow(ctx, `SELECT seq FROM creditgate.account_state WHERE account = $1`, account).Scan(&seq)
	if errors.Is(err, pgx.ErrNoRows) {
		err = meter.ErrNoAccount
	}
	return seq, storeError("read account seq", err)
}

// owned is what an account has of a grant, available and held, and what of it is debt.
type owned struct {
	credits, debt meter.Credits
}

// grantsAt is what the account had of each grant at seq: what it has now, less what later entries did.
func (s *Store) grantsAt(ctx context.Context, account string, seq uint64) (map[meter.ID]owned, error) {
	rows, err := s.pool.Query(ctx, `SELECT t.grant_id,
			t.granted - t.spent - t.lapsed - t.revoked - coalesce(later.credits, 0)::bigint,
			t.debt - coalesce(later.debt, 0)::bigint
		FROM creditgate.grant_state t
		LEFT JOIN (SELECT l.grant_id, sum(l.granted - l.spent - l.lapsed - l.revoked) AS credits, sum(l.debt) AS debt
			FROM creditgate.ledger_entry e JOIN creditgate.ledger_line l
				ON (l.layout, l.partition, l.pseq, l.idx) = (e.layout, e.partition, e.pseq, e.idx)
			WHERE e.account = $1 AND e.seq > $2 GROUP BY l.grant_id) later USING (grant_id)
		WHERE t.account = $1 AND (t.live OR later.grant_id IS NOT NULL)`, account, seq)
	if err != nil {
		return nil, storeError("read grants", err)
	}
	out := map[meter.ID]owned{}
	var id [16]byte
	var credits, debt int64
	_, err = pgx.ForEachRow(rows, []any{&id, &credits, &debt}, func() error {
		out[id] = owned{credits: meter.Credits(credits), debt: meter.Credits(debt)}
		return nil
	})
	return out, storeError("read grants", err)
}

// compareGrants compares two states at one seq. Redis drops a grant that holds nothing, with what debt it had: nothing
// can come back to it to pay with.
func compareGrants(report *Report, account string, want map[meter.ID]owned, have []meter.Grant) {
	drift := func(id meter.ID, what, want, have string) {
		report.Add(Drift{Kind: DriftRedis, Account: account, Where: "grant " + id.String(), What: what, Want: want, Have: have})
	}
	for _, h := range have {
		w := want[h.ID]
		delete(want, h.ID)
		if h.Available < 0 || h.Held < 0 || h.Debt < 0 {
			drift(h.ID, "below zero in Redis", "≥ 0",
				fmt.Sprintf("available %s, held %s, debt %s", h.Available, h.Held, h.Debt))
		}
		if total := h.Available + h.Held; total != w.credits {
			drift(h.ID, "available + held", w.credits.String(), total.String())
		} else if total != 0 && h.Debt != w.debt {
			drift(h.ID, "debt", w.debt.String(), h.Debt.String())
		}
	}
	for id, w := range want {
		if w.credits != 0 {
			drift(id, "is not in Redis", w.credits.String(), "0")
		}
	}
}
