package persist

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// HistoryEntry is one entry of an account's history.
type HistoryEntry struct {
	EntryID     string
	Seq         uint64 // dense per account; the cursor of the next page
	Kind        string
	Operation   string
	Units       uint32
	Reservation string // the reservation id of a settlement, else empty
	RequestID   string // the uuid in it
	OccurredAt  time.Time
	Lines       []HistoryLine
}

// HistoryLine is what an entry did to one grant, signed as the customer sees it.
type HistoryLine struct {
	Bucket  string
	Grant   meter.ID
	Credits meter.Credits
}

// HistoryMax bounds one page of history.
const HistoryMax = 1000

// HistoryQuery asks for a page of an account's history, newest first.
type HistoryQuery struct {
	Account string
	Before  uint64    // strictly older than this seq; 0 starts at the newest
	Limit   int       // at most so many
	From    time.Time // not older than this; zero for no bound
	Kind    string    // of this kind only; empty for each
}

// Entries returns a page of an account's entries. meter.ErrNoAccount if the account does not exist.
func (s *Store) Entries(ctx context.Context, q HistoryQuery) (out []HistoryEntry, err error) {
	if q.Limit < 1 || q.Limit > HistoryMax {
		return nil, fmt.Errorf("%w: limit %d is not between 1 and %d", ErrInvalid, q.Limit, HistoryMax)
	}
	if q.Before == 0 || q.Before > math.MaxInt64 {
		q.Before = math.MaxInt64
	}
	err = s.snapshot(ctx, "read history of "+q.Account, func(tx pgx.Tx) error {
		var exists bool
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM creditgate.account WHERE id = $1)`, q.Account).Scan(&exists)
		if err != nil {
			return err
		}
		if !exists {
			return meter.ErrNoAccount
		}
		first := int64(0)
		if !q.From.IsZero() {
			if err := tx.QueryRow(ctx, firstSince, q.Account, q.From).Scan(&first); err != nil {
				return err
			}
		}
		query, args := q.page(first)
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		out, err = collectHistory(rows)
		return err
	})
	return out, err
}

// firstSince finds the seq of an account's first entry that is not older than a time, by halving: seqs are dense and
// times do not fall, so that a million entries cost twenty looks at the key (account, seq). It is 0 where a seq is
// missing, and then the time alone decides.
const firstSince = `WITH RECURSIVE span (lo, hi) AS (
		SELECT min(seq), max(seq) + 1 FROM creditgate.ledger_entry WHERE account = $1
		UNION ALL
		SELECT CASE WHEN e.occurred_at >= $2 THEN s.lo ELSE e.seq + 1 END,
			CASE WHEN e.occurred_at >= $2 THEN e.seq ELSE s.hi END
		FROM span s JOIN creditgate.ledger_entry e ON e.account = $1 AND e.seq = (s.lo + s.hi) / 2
		WHERE s.lo < s.hi)
	SELECT coalesce((SELECT lo FROM span WHERE lo = hi), 0)`

// page is the query of one page, from seq first on. The predicate of ledger_entry_kind stands in it in its own words.
func (q *HistoryQuery) page(first int64) (query string, args []any) {
	args = []any{q.Account, int64(q.Before), q.Limit, first}
	where := ""
	if !q.From.IsZero() {
		args = append(args, q.From)
		where += fmt.Sprintf(" AND occurred_at >= $%d", len(args))
	}
	if q.Kind != "" {
		args = append(args, q.Kind)
		where += fmt.Sprintf(" AND kind = $%d", len(args))
		if q.Kind != meter.KindCommit.String() {
			where += " AND kind <> 'commit'"
		}
	}
	return `WITH page AS MATERIALIZED (
			SELECT layout, partition, pseq, idx, seq, kind, operation, units, subject, occurred_at
			FROM creditgate.ledger_entry
			WHERE account = $1 AND seq < $2 AND seq >= $4` + where + ` ORDER BY seq DESC LIMIT $3)
		SELECT e.layout, e.partition, e.pseq, e.idx, e.seq, e.kind, coalesce(e.operation, ''), e.units, e.subject,
			e.occurred_at, g.bucket::text, l.grant_id, l.granted - l.spent - l.lapsed - l.revoked
		FROM page e
		LEFT JOIN creditgate.ledger_line l USING (layout, partition, pseq, idx)
		LEFT JOIN creditgate.grant_lot g ON g.id = l.grant_id
		ORDER BY e.seq DESC, l.line`, args
}

func collectHistory(rows pgx.Rows) (out []HistoryEntry, err error) {
	var e HistoryEntry
	var rec meter.Record
	var idx int
	var subject [16]byte
	var bucket *string
	var grant *[16]byte
	var credits *int64
	_, err = pgx.ForEachRow(rows, []any{
		&rec.Layout, &rec.Partition, &rec.Pseq, &idx, &e.Seq, &e.Kind, &e.Operation, &e.Units, &subject,
		&e.OccurredAt, &bucket, &grant, &credits,
	}, func() error {
		if len(out) == 0 || out[len(out)-1].Seq != e.Seq {
			e.EntryID, e.OccurredAt = rec.EntryID(idx), e.OccurredAt.UTC()
			e.Reservation, e.RequestID = "", ""
			if settles(e.Kind) {
				id := meter.ReservationID{Layout: rec.Layout, Partition: rec.Partition, ID: subject}
				e.Reservation, e.RequestID = id.String(), id.ID.String()
			}
			out = append(out, e)
		}
		if grant != nil && bucket != nil {
			last := &out[len(out)-1]
			last.Lines = append(last.Lines, HistoryLine{Bucket: *bucket, Grant: *grant, Credits: meter.Credits(*credits)})
		}
		return nil
	})
	return out, err
}

// settles reports whether entries of this kind name a reservation.
func settles(kind string) bool {
	switch kind {
	case "commit", "release", "expire", "late", "uncollected", "hold":
		return true
	}
	return false
}

// Buckets names the bucket of each of the account's grants that it knows.
func (s *Store) Buckets(ctx context.Context, account string, grants []meter.ID) (map[meter.ID]string, error) {
	ids := make([][16]byte, len(grants))
	for i, g := range grants {
		ids[i] = g
	}
	rows, err := s.pool.Query(ctx,
		`SELECT id, bucket::text FROM creditgate.grant_lot WHERE account = $1 AND id = ANY ($2::uuid[])`, account, ids)
	if err != nil {
		return nil, storeError("read buckets", err)
	}
	out := make(map[meter.ID]string, len(grants))
	var id [16]byte
	var bucket string
	_, err = pgx.ForEachRow(rows, []any{&id, &bucket}, func() error {
		out[id] = bucket
		return nil
	})
	return out, storeError("read buckets", err)
}
