package persist

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// Statement is what Redis does not keep of an account.
type Statement struct {
	Caps []FairUseCap  // in force
	Owed meter.Credits // debt of grants that are not live any more
}

// FairUseCap is a fair-use cap in force.
type FairUseCap struct {
	Grant   meter.ID
	Bucket  string
	Credits meter.Credits // that it began with, less what was taken back of it
	UsedUp  bool          // nothing is left of it; Redis may have forgotten it
}

// uuids are ids as an argument.
func uuids(ids []meter.ID) [][16]byte {
	out := make([][16]byte, len(ids))
	for i, id := range ids {
		out[i] = id
	}
	return out
}

// Statement reads the fair-use caps in force at a moment, and what is owed of grants other than live. It reads the
// account's grants by their index, of which a year has some dozens. A cap that was used up and forgotten by Redis is no
// more in force when its plan ended it, though no ledger says where it was moved to.
func (s *Store) Statement(ctx context.Context, account string, live []meter.ID, at time.Time) (out Statement, err error) {
	rows, err := s.pool.Query(ctx, `SELECT g.id, g.bucket::text, t.credits - t.revoked - t.debt, t.granted > 0 AND NOT t.live,
			g.unlimited AND g.effective_at <= $3 AND (t.expires_at IS NULL OR t.expires_at > $3)
				AND NOT EXISTS (SELECT FROM creditgate.cycle_grant c WHERE c.grant_id = g.id AND c.expires_at <= $3),
			CASE WHEN g.id = ANY ($2::uuid[]) THEN 0 ELSE t.debt END
		FROM creditgate.grant_lot g JOIN creditgate.grant_state t ON t.grant_id = g.id
		WHERE g.account = $1 AND (g.unlimited OR t.debt > 0) ORDER BY g.id`, account, uuids(live), at)
	if err != nil {
		return out, storeError("read statement of "+account, err)
	}
	var c FairUseCap
	var inForce bool
	var owed int64
	_, err = pgx.ForEachRow(rows, []any{
		(*[16]byte)(&c.Grant), &c.Bucket, (*int64)(&c.Credits), &c.UsedUp, &inForce, &owed,
	}, func() error {
		out.Owed += meter.Credits(owed)
		if inForce && c.Credits > 0 {
			out.Caps = append(out.Caps, c)
		}
		return nil
	})
	return out, storeError("read statement of "+account, err)
}

// Bounds of one usage query.
const (
	UsageSpansMax = 370
	UsageRowsMax  = 1000
	// usageSlack is how far an account's entries may be out of the order of their times: Redis' clock never goes back
	// within an epoch, and after a failover by no more than two servers' clocks differ.
	usageSlack = 10 * time.Minute
)

// UsageQuery asks for what an account was charged in the spans between Bounds: by day each span by itself, else all of
// them together by operation or by API key.
type UsageQuery struct {
	Account string
	By      string      // day, operation or key
	Bounds  []time.Time // at least two, growing; the last one is not in it
	Limit   int         // of rows, the largest first; by day there are as many as spans
}

// Usage is what was charged. Total is of all rows, those beyond the limit included.
type Usage struct {
	Rows  []UsageRow
	Total UsageRow
	More  bool // there are rows beyond the limit
}

// UsageRow is one sum.
type UsageRow struct {
	Span    int    // by day: the number of the span, from 0
	Name    string // by operation or key; may be empty
	Credits meter.Credits
	Units   int64
	Charges int64 // requests that were charged
}

// firstEntry finds the seq of an account's first entry at or after a moment. seqs are dense and grow with time, so a
// search by halves finds it on the index (account, seq) in as many steps as the number has bits, instead of a second
// index that every flush would pay for. seq 0 stands before all, hi behind all.
const firstEntry = `WITH RECURSIVE search (lo, hi) AS (
	SELECT 0::bigint, coalesce(max(seq), 0) + 1 FROM creditgate.ledger_entry WHERE account = $1
	UNION ALL
	SELECT CASE WHEN before THEN mid ELSE lo END, CASE WHEN before THEN hi ELSE mid END
	FROM (SELECT lo, hi, (lo + hi) / 2 AS mid FROM search WHERE hi - lo > 1) s,
	LATERAL (SELECT coalesce((SELECT occurred_at < $2 FROM creditgate.ledger_entry WHERE account = $1 AND seq = mid), true)
		AS before) b
) SELECT hi FROM search ORDER BY hi - lo LIMIT 1`

// usageSums adds up the charges of the entries with seqs from $2 to before $3, in the spans between $4.
const usageSums = `WITH charge AS MATERIALIZED (
	SELECT CASE $5::text WHEN 'day' THEN width_bucket(e.occurred_at, $4::timestamptz[]) - 1 ELSE 0 END AS span,
		CASE $5::text WHEN 'operation' THEN coalesce(e.operation, '') WHEN 'key' THEN coalesce(e.key_id, '') ELSE '' END AS name,
		e.units, l.spent
	FROM creditgate.ledger_entry e, LATERAL (
		SELECT coalesce(sum(spent), 0)::bigint AS spent FROM creditgate.ledger_line
		WHERE (layout, partition, pseq, idx) = (e.layout, e.partition, e.pseq, e.idx)) l
	WHERE e.account = $1 AND e.seq >= $2 AND e.seq < $3 AND e.kind IN ('commit', 'late')
		AND e.occurred_at >= ($4::timestamptz[])[1] AND e.occurred_at < ($4::timestamptz[])[array_length($4::timestamptz[], 1)]
), summed AS (
	SELECT span, name, sum(spent)::bigint AS credits, sum(units)::bigint AS units, count(*) AS charges
	FROM charge GROUP BY span, name
)
SELECT span, name, credits, units, charges, sum(credits) OVER ()::bigint, sum(units) OVER ()::bigint,
	sum(charges) OVER ()::bigint, count(*) OVER ()
FROM summed ORDER BY credits DESC, name, span LIMIT $6`

// Usage sums what an account was charged. meter.ErrNoAccount if it does not exist.
func (s *Store) Usage(ctx context.Context, q UsageQuery) (u Usage, err error) {
	if err := q.check(); err != nil {
		return u, err
	}
	err = s.snapshot(ctx, "read usage of "+q.Account, func(tx pgx.Tx) error {
		var from, to int64
		var exists bool
		first, last := q.Bounds[0].Add(-usageSlack), q.Bounds[len(q.Bounds)-1].Add(usageSlack)
		if err := tx.QueryRow(ctx, firstEntry, q.Account, first).Scan(&from); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, firstEntry, q.Account, last).Scan(&to); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM creditgate.account WHERE id = $1)`, q.Account).Scan(&exists)
		if err == nil && !exists {
			err = meter.ErrNoAccount
		}
		if err != nil || from == to {
			return err
		}
		rows, err := tx.Query(ctx, usageSums, q.Account, from, to, q.Bounds, q.By, q.Limit)
		if err != nil {
			return err
		}
		return u.collect(rows)
	})
	return u, err
}

func (q UsageQuery) check() error {
	switch {
	case q.By != "day" && q.By != "operation" && q.By != "key":
		return fmt.Errorf("%w: usage by %q; day, operation and key are known", ErrInvalid, q.By)
	case len(q.Bounds) < 2 || len(q.Bounds) > UsageSpansMax+1:
		return fmt.Errorf("%w: usage of %d spans; 1 to %d are possible", ErrInvalid, len(q.Bounds)-1, UsageSpansMax)
	case q.Limit < 1 || q.Limit > UsageRowsMax:
		return fmt.Errorf("%w: limit %d is not between 1 and %d", ErrInvalid, q.Limit, UsageRowsMax)
	}
	for i := range q.Bounds[1:] {
		if !q.Bounds[i].Before(q.Bounds[i+1]) {
			return errors.Join(ErrInvalid, errors.New("usage: the bounds do not grow"))
		}
	}
	return nil
}

func (u *Usage) collect(rows pgx.Rows) error {
	var r UsageRow
	var groups int
	_, err := pgx.ForEachRow(rows, []any{
		&r.Span, &r.Name, (*int64)(&r.Credits), &r.Units, &r.Charges,
		(*int64)(&u.Total.Credits), &u.Total.Units, &u.Total.Charges, &groups,
	}, func() error {
		u.Rows = append(u.Rows, r)
		return nil
	})
	u.More = groups > len(u.Rows)
	return err
}
