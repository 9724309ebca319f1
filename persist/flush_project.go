package persist

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// expectation is a statement that must change so many rows; anything else means that Postgres does not know what
// Redis decided about.
type expectation struct {
	what string
	rows int
	sql  string
	args []any
}

// project brings the projections and the statuses of changes up to the batch: one statement each, whatever the
// batch holds, and all of them in one round trip.
func project(ctx context.Context, tx pgx.Tx, b *flushBatch) error {
	expected := append([]expectation{b.seqs()}, b.statuses()...)
	var batch pgx.Batch
	for _, e := range expected {
		batch.Queue(e.sql, e.args...)
	}
	b.queueGrants(&batch)
	results := tx.SendBatch(ctx, &batch)
	var wrong error
	for _, e := range expected {
		tag, err := results.Exec()
		if err != nil {
			_ = results.Close() // reports the same error
			return err
		}
		wrong = cmp.Or(wrong, unexpected(e.what, tag.RowsAffected(), e.rows))
	}
	changed, err := b.readGrants(results)
	if err != nil {
		return err
	}
	if wrong = cmp.Or(wrong, unexpected("grants", changed, len(b.grants))); wrong != nil {
		return fmt.Errorf("%w%s", wrong, b.explain(ctx, tx))
	}
	return nil
}

// unexpected is the alarm of a statement that changed another number of rows than the ledger names, else nil.
func unexpected(what string, got int64, want int) error {
	if got == int64(want) {
		return nil
	}
	return fmt.Errorf("%w: %d of %d %s are as the ledger says", ErrLedgerBroken, got, want, what)
}

// queueGrants adds to each grant what the batch did to it. The answer is that by bucket, which is told as a metric once
// it is committed; it comes from the same statement because the amounts would have to be sent twice otherwise.
func (b *flushBatch) queueGrants(batch *pgx.Batch) {
	ids, owners := make(array[uuid], 0, len(b.grants)), make(array[text], 0, len(b.grants))
	var sums [5]array[bigint]
	for i := range sums {
		sums[i] = make(array[bigint], 0, len(b.grants))
	}
	for id, d := range b.grants {
		ids, owners = append(ids, uuid(id)), append(owners, text(d.account))
		for i, v := range [...]meter.Credits{d.granted, d.spent, d.lapsed, d.revoked, d.debt} {
			sums[i] = append(sums[i], bigint(v))
		}
	}
	batch.Queue(`WITH changed AS (
			UPDATE creditgate.grant_state s SET granted = s.granted + u.granted, spent = s.spent + u.spent,
				lapsed = s.lapsed + u.lapsed, revoked = s.revoked + u.revoked, debt = s.debt + u.debt
			FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
				u (grant_id, account, granted, spent, lapsed, revoked, debt)
			WHERE s.grant_id = u.grant_id AND s.account = u.account
			RETURNING s.bucket, u.granted, u.spent, u.lapsed, u.revoked)
		SELECT bucket, count(*), sum(granted), sum(spent), sum(lapsed), sum(revoked) FROM changed GROUP BY bucket`,
		ids, owners, sums[0], sums[1], sums[2], sums[3], sums[4])
}

// readGrants reads the answer to queueGrants and returns how many grants were changed.
func (b *flushBatch) readGrants(results pgx.BatchResults) (changed int64, err error) {
	rows, err := results.Query()
	if err == nil {
		b.buckets, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c bucketCredits, err error) {
			var n int64
			err = row.Scan(&c.bucket, &n, &c.granted, &c.spent, &c.lapsed, &c.revoked)
			changed += n
			return c, err
		})
	}
	if err != nil {
		_ = results.Close() // reports the same error
		return 0, err
	}
	return changed, results.Close()
}

// seqs moves each account from the seq before the batch to its last one in it.
func (b *flushBatch) seqs() expectation {
	accounts := make(array[text], 0, len(b.accounts))
	before, last := make(array[bigint], 0, len(b.accounts)), make(array[bigint], 0, len(b.accounts))
	for account, span := range b.accounts {
		accounts = append(accounts, text(account))
		before, last = append(before, bigint(span.first)-1), append(last, bigint(span.last))
	}
	return expectation{
		what: "account seqs", rows: len(accounts), args: []any{accounts, before, last},
		sql: `UPDATE creditgate.account_state s SET seq = u.last
			FROM unnest($1::text[], $2::bigint[], $3::bigint[]) u (account, before, last)
			WHERE s.account = u.account AND s.seq = u.before`,
	}
}

// statuses marks changes as applied, in the transaction that has their entries. A void move can turn out to have
// been applied after all; an applied one cannot be applied again.
func (b *flushBatch) statuses() []expectation {
	var out []expectation
	for _, c := range [...]struct {
		table string
		ids   []meter.ID
	}{{"grant_lot", b.granted}, {"revocation", b.revoked}, {"expiry_move", b.moved}, {"reversal", b.reversed}} {
		if len(c.ids) > 0 {
			out = append(out, expectation{
				what: c.table + " rows", rows: len(c.ids), args: []any{uuids(c.ids)},
				sql: `UPDATE creditgate.` + c.table + ` SET status = 'applied', applied_at = now()
					WHERE id = ANY ($1::uuid[]) AND status <> 'applied'`,
			})
		}
	}
	if len(b.moved) > 0 {
		grants := map[meter.ID]bool{}
		for _, rec := range b.records {
			for _, e := range rec.Entries {
				if e.Kind == meter.KindAdjust && !reverses(&e) {
					for _, l := range e.Lines {
						grants[l.Grant] = true
					}
				}
			}
		}
		out = append(out, expectation{
			what: "moved expiries", rows: len(grants), args: []any{uuids(b.moved)},
			// several moves of one grant: the last one in the ledger counts
			sql: `UPDATE creditgate.grant_state s SET expires_at = m.expires_at
				FROM (SELECT DISTINCT ON (m.grant_id) m.grant_id, m.expires_at
					FROM unnest($1::uuid[]) WITH ORDINALITY u (id, n) JOIN creditgate.expiry_move m USING (id)
					ORDER BY m.grant_id, u.n DESC) m
				WHERE s.grant_id = m.grant_id`,
		})
	}
	return out
}

func uuids(ids []meter.ID) array[uuid] {
	out := make(array[uuid], len(ids))
	for i, id := range ids {
		out[i] = uuid(id)
	}
	return out
}

// explain names one account whose seq is not what the batch continues, for the alarm. It says nothing when the seqs
// are right or Postgres cannot be asked.
func (b *flushBatch) explain(ctx context.Context, tx pgx.Tx) string {
	for account, span := range b.accounts {
		var seq uint64
		err := tx.QueryRow(ctx, `SELECT seq FROM creditgate.account_state WHERE account = $1`, account).Scan(&seq)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return fmt.Sprintf("; account %q is not in Postgres", account)
		case err != nil:
			return ""
		case seq != span.last: // the statement ran: a matching account stands at last now
			return fmt.Sprintf("; account %q is at seq %d and the ledger goes on with %d", account, seq, span.first)
		}
	}
	return ""
}
