package persist

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// Outcome is the outcome of a reservation as of the cursor returned with it; ok is false if the ledger has none. An
// expired reservation that was committed late has two entries: the later one says how it ended, the expiry what was
// reserved.
func (s *Store) Outcome(
	ctx context.Context, id meter.ReservationID,
) (r meter.Reservation, at meter.Cursor, ok bool, err error) {
	if id.Partition < s.layout.Partitions {
		s.hurry(int(id.Partition))
	}
	err = s.snapshot(ctx, "look up reservation "+id.String(), func(tx pgx.Tx) error {
		if at, err = s.cursor(ctx, tx, int(id.Partition)); err != nil {
			return err
		}
		// Two branches, because each has the partial index that answers it.
		rows, err := tx.Query(ctx, `SELECT `+settledColumns+` FROM creditgate.ledger_entry e
			WHERE subject = $1 AND layout = $2 AND partition = $3 AND kind IN ('commit', 'release', 'expire')
			UNION ALL SELECT `+settledColumns+` FROM creditgate.ledger_entry e
			WHERE subject = $1 AND layout = $2 AND partition = $3 AND kind IN ('late', 'uncollected')`,
			[16]byte(id.ID), int(id.Layout), int(id.Partition))
		if err != nil {
			return err
		}
		entries, err := pgx.CollectRows(rows, scanSettled)
		if err == nil && len(entries) < 2 { // what is quarantined would follow an expiry
			err = outcomeQuarantined(ctx, tx, id)
		}
		if err != nil || len(entries) == 0 {
			return err
		}
		last := entries[len(entries)-1] // the branches come in order: late or uncollected is the last word
		r, ok = last.reservation(id.Layout, id.Partition), true
		if len(entries) > 1 {
			r.Amount = entries[0].amount
		}
		draws, err := s.draws(ctx, tx, []settled{last})
		r.Draws = draws[id.ID]
		return err
	})
	return r, at, ok, err
}

// outcomeQuarantined is ErrQuarantined if an entry of the reservation is quarantined: that the ledger has none says nothing then.
func outcomeQuarantined(ctx context.Context, tx pgx.Tx, id meter.ReservationID) error {
	var account string
	err := tx.QueryRow(ctx, `SELECT account FROM creditgate.quarantined_entry WHERE subject = $1 AND layout = $2 AND partition = $3`,
		[16]byte(id.ID), int(id.Layout), int(id.Partition)).Scan(&account)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = quarantineError(account)
	}
	return err
}

// KeyedOutcomes calls fn with every charged reservation of the partition that carried an Idempotency-Key and was
// settled after sinceMs: those whose entries are quarantined, then the others, oldest first.
func (s *Store) KeyedOutcomes(
	ctx context.Context, partition uint16, sinceMs int64, fn func([]meter.Reservation) error,
) error {
	from, pseq, idx := fromMs(sinceMs+1), int64(0), -1
	if err := s.quarantinedOutcomes(ctx, partition, from, fn); err != nil {
		return err
	}
	for {
		var page []settled
		var draws map[meter.ID][]meter.Draw
		err := s.snapshot(ctx, "read keyed outcomes", func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, `SELECT `+settledColumns+` FROM creditgate.ledger_entry e
				WHERE layout = $1 AND partition = $2 AND key_hash IS NOT NULL AND kind IN ('commit', 'late')
					AND (occurred_at, pseq, idx) > ($3, $4, $5)
				ORDER BY occurred_at, pseq, idx LIMIT $6`,
				s.layoutNumber(), int(partition), from, pseq, idx, pageRows)
			if err != nil {
				return err
			}
			if page, err = pgx.CollectRows(rows, scanSettled); err != nil {
				return err
			}
			draws, err = s.draws(ctx, tx, page)
			return err
		})
		if err != nil || len(page) == 0 {
			return err
		}
		out := make([]meter.Reservation, len(page))
		for i, e := range page {
			out[i] = e.reservation(s.layout.Number, partition)
			out[i].Draws = draws[e.subject]
		}
		if err := fn(out); err != nil {
			return err
		}
		last := page[len(page)-1]
		from, pseq, idx = last.occurredAt, last.pseq, last.idx
	}
}

// settled is an entry that ended a reservation.
type settled struct {
	partition, idx int
	pseq           int64
	kind, account  string
	amount         meter.Credits
	charged        meter.Credits
	subject        meter.ID
	note           meter.Note
	occurredAt     time.Time
}

const settledColumns = `e.partition, e.pseq, e.idx, e.kind, e.account, e.amount, e.subject, e.occurred_at,
	coalesce(e.operation, ''), coalesce(e.policy_version, ''), coalesce(e.key_id, ''), coalesce(e.reason, ''),
	coalesce(e.actor, ''), e.key_hash, e.key_fingerprint,
	(SELECT coalesce(sum(l.spent), 0)::bigint FROM creditgate.ledger_line l
		WHERE (l.layout, l.partition, l.pseq, l.idx) = (e.layout, e.partition, e.pseq, e.idx))`

func scanSettled(row pgx.CollectableRow) (e settled, err error) {
	var hash, fingerprint []byte
	err = row.Scan(&e.partition, &e.pseq, &e.idx, &e.kind, &e.account, (*int64)(&e.amount),
		(*[16]byte)(&e.subject), &e.occurredAt, &e.note.Operation, &e.note.PolicyVersion, &e.note.KeyID,
		&e.note.Reason, &e.note.Actor, &hash, &fingerprint, (*int64)(&e.charged))
	if hash != nil {
		e.note.Key = &meter.IdempotencyKey{}
		copy(e.note.Key.Hash[:], hash)
		copy(e.note.Key.Fingerprint[:], fingerprint)
	}
	return e, err
}

// reservation is the entry as the outcome it booked. What was available right after it is not in the ledger.
func (e settled) reservation(layout, partition uint16) meter.Reservation {
	states := map[string]meter.State{
		"commit": meter.Committed, "release": meter.Released, "expire": meter.Expired,
		"late": meter.Late, "uncollected": meter.Uncollected,
	}
	return meter.Reservation{
		ID:    meter.ReservationID{Layout: layout, Partition: partition, ID: e.subject},
		State: states[e.kind], Account: e.account, Amount: e.amount, Charged: e.charged,
		SettledMs: e.occurredAt.UnixMilli(), Note: e.note,
	}
}

// draws reads what the entries drew from each grant, in drain order.
func (s *Store) draws(ctx context.Context, tx pgx.Tx, entries []settled) (map[meter.ID][]meter.Draw, error) {
	partitions, pseqs, idxs := make([]int, len(entries)), make([]int64, len(entries)), make([]int, len(entries))
	for i, e := range entries {
		partitions[i], pseqs[i], idxs[i] = e.partition, e.pseq, e.idx
	}
	rows, err := tx.Query(ctx, `SELECT u.i, l.grant_id, l.spent + l.returned, l.spent
		FROM unnest($2::int[], $3::bigint[], $4::int[]) WITH ORDINALITY AS u (partition, pseq, idx, i)
		JOIN creditgate.ledger_line l ON l.layout = $1 AND (l.partition, l.pseq, l.idx) = (u.partition, u.pseq, u.idx)
		ORDER BY u.i, l.line`, s.layoutNumber(), partitions, pseqs, idxs)
	if err != nil {
		return nil, err
	}
	out := make(map[meter.ID][]meter.Draw, len(entries))
	var i int
	var grant [16]byte
	var amount, charged int64
	_, err = pgx.ForEachRow(rows, []any{&i, &grant, &amount, &charged}, func() error {
		subject := entries[i-1].subject
		out[subject] = append(out[subject], meter.Draw{
			Grant: grant, Amount: meter.Credits(amount), Charged: meter.Credits(charged),
		})
		return nil
	})
	return out, err
}
