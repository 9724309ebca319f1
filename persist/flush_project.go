package persist

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"creditgate/meter"
)

// expectation is a statement that must change so many rows; anything else means that Postgres does not know what
// Redis decided about.
type expectation struct {
	what string
	rows int
	sql  string
	args func(a *arrays)
}

// project brings the projections and the statuses of changes up to the batch: one statement each, whatever the
// batch holds, and all of them in one round trip.
func project(ctx context.Context, tx pgx.Tx, b *flushBatch) error {
	expected := append([]expectation{b.seqs()}, b.statuses()...)
	results, err := b.send(ctx, tx.Conn(), append(expected, expectation{sql: changeGrants, args: b.grantArgs}))
	if err != nil {
		return err
	}
	var wrong error
	for _, e := range expected {
		tag, err := b.read(results, nil)
		if err != nil {
			_ = results.Close() // reports the same error
			return err
		}
		wrong = cmp.Or(wrong, unexpected(e.what, tag.RowsAffected(), e.rows))
	}
	var changed int64
	_, err = b.read(results, func(row [][]byte) error {
		n, err := b.addBucket(row)
		changed += n
		return err
	})
	if err := errors.Join(err, results.Close()); err != nil {
		return err
	}
	if wrong = cmp.Or(wrong, unexpected("grants", changed, len(b.deltas))); wrong != nil {
		return b.explain(ctx, tx, wrong)
	}
	return nil
}

// send sends statements whose results are then read in their order. Each is prepared once for a connection, and leaves by
// itself: pgx lets what it sends grow in steps, and would begin anew with the next statement behind it.
func (b *flushBatch) send(ctx context.Context, conn *pgx.Conn, statements []expectation) (*pgconn.Pipeline, error) {
	var prepared []*pgconn.StatementDescription
	for _, s := range statements {
		p, err := conn.Prepare(ctx, s.sql, s.sql)
		if err != nil {
			return nil, err
		}
		prepared = append(prepared, p)
	}
	results := conn.PgConn().StartPipeline(ctx)
	for i, s := range statements {
		b.args.reset()
		s.args(&b.args)
		results.SendQueryStatement(prepared[i], b.args.values, []int16{pgx.BinaryFormatCode}, nil)
		if err := results.Flush(); err != nil {
			return nil, err
		}
	}
	return results, results.Sync()
}

// read takes the next statement's result, with its rows as text.
func (b *flushBatch) read(results *pgconn.Pipeline, row func([][]byte) error) (tag pgconn.CommandTag, err error) {
	next, err := results.GetResults()
	if err != nil {
		return tag, err
	}
	rows, ok := next.(*pgconn.ResultReader)
	if !ok {
		return tag, fmt.Errorf("a result was expected, and %T came", next)
	}
	for err == nil && rows.NextRow() {
		err = row(rows.Values())
	}
	tag, closed := rows.Close()
	return tag, cmp.Or(err, closed)
}

// unexpected is the alarm of a statement that changed another number of rows than the ledger names, else nil.
func unexpected(what string, got int64, want int) error {
	if got == int64(want) {
		return nil
	}
	return fmt.Errorf("%w: %d of %d %s are as the ledger says", ErrLedgerBroken, got, want, what)
}

// changeGrants adds to each grant what the batch did to it. The answer is that by bucket, which is told as a metric once
// it is committed; it comes from the same statement because the amounts would have to be sent twice otherwise. An amount
// that no grant has is sent as no element at all.
const changeGrants = `WITH changed AS (
		UPDATE creditgate.grant_state s SET granted = s.granted + coalesce(u.granted, 0),
			spent = s.spent + coalesce(u.spent, 0), lapsed = s.lapsed + coalesce(u.lapsed, 0),
			revoked = s.revoked + coalesce(u.revoked, 0), debt = s.debt + coalesce(u.debt, 0)
		FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
			u (grant_id, account, granted, spent, lapsed, revoked, debt)
		WHERE s.grant_id = u.grant_id AND s.account = u.account
		RETURNING s.bucket, u.granted, u.spent, u.lapsed, u.revoked)
	SELECT bucket, count(*), coalesce(sum(granted), 0), coalesce(sum(spent), 0), coalesce(sum(lapsed), 0),
		coalesce(sum(revoked), 0) FROM changed GROUP BY bucket`

func (b *flushBatch) grantArgs(a *arrays) {
	a.add(pgtype.UUIDOID, len(b.deltas), func(r *copyRows, i int) { r.uuid(b.deltas[i].grant) })
	a.add(pgtype.TextOID, len(b.deltas), func(r *copyRows, i int) { r.text(b.deltas[i].account) })
	for _, amount := range [...]func(d *grantDelta) meter.Credits{
		func(d *grantDelta) meter.Credits { return d.granted },
		func(d *grantDelta) meter.Credits { return d.spent },
		func(d *grantDelta) meter.Credits { return d.lapsed },
		func(d *grantDelta) meter.Credits { return d.revoked },
		func(d *grantDelta) meter.Credits { return d.debt },
	} {
		n := 0
		for i := range b.deltas {
			if amount(&b.deltas[i]) != 0 {
				n = len(b.deltas)
				break
			}
		}
		a.add(pgtype.Int8OID, n, func(r *copyRows, i int) { r.credits(amount(&b.deltas[i])) })
	}
}

// addBucket takes a row of changeGrants' answer and returns how many grants it is of.
func (b *flushBatch) addBucket(row [][]byte) (grants int64, err error) {
	c := bucketCredits{bucket: string(row[0])}
	for i, to := range [...]*float64{&c.granted, &c.spent, &c.lapsed, &c.revoked} {
		if *to, err = strconv.ParseFloat(string(row[2+i]), 64); err != nil {
			return 0, err
		}
	}
	b.buckets = append(b.buckets, c)
	return strconv.ParseInt(string(row[1]), 10, 64)
}

// seqs moves each account from the seq before the batch to its last one in it.
func (b *flushBatch) seqs() expectation {
	return expectation{
		what: "account seqs", rows: len(b.spans),
		args: func(a *arrays) {
			a.add(pgtype.TextOID, len(b.spans), func(r *copyRows, i int) { r.text(b.spans[i].account) })
			a.add(pgtype.Int8OID, len(b.spans), func(r *copyRows, i int) { r.bigint(int64(b.spans[i].first) - 1) })
			a.add(pgtype.Int8OID, len(b.spans), func(r *copyRows, i int) { r.bigint(int64(b.spans[i].last)) })
		},
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
				what: c.table + " rows", rows: len(c.ids), args: func(a *arrays) { a.uuids(c.ids) },
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
			what: "moved expiries", rows: len(grants), args: func(a *arrays) { a.uuids(b.moved) },
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

// explain adds to an error one account whose seq is not what the batch continues, for the alarm. It adds nothing when the
// seqs are right or Postgres cannot be asked.
func (b *flushBatch) explain(ctx context.Context, tx pgx.Tx, wrong error) error {
	for _, span := range b.spans {
		account := span.account
		var seq uint64
		err := tx.QueryRow(ctx, `SELECT seq FROM creditgate.account_state WHERE account = $1`, account).Scan(&seq)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return fmt.Errorf("%w; account %q is not in Postgres", wrong, account)
		case err != nil:
			return wrong
		case seq == span.last: // the statement ran: a matching account stands at last now
		case seq >= span.first:
			return fmt.Errorf("%w; account %q is at seq %d and the ledger goes on with %d: %w",
				wrong, account, seq, span.first, errForked)
		default:
			return fmt.Errorf("%w; account %q is at seq %d and the ledger goes on with %d", wrong, account, seq, span.first)
		}
	}
	return wrong
}
