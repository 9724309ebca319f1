package persist

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Each query returns account, where, want, have for what is wrong, and nothing when all is well.
const (
	sumsOfGrants = `SELECT coalesce(t.account, ''), 'grant ' || coalesce(t.grant_id, l.grant_id),
			concat_ws(' ', l.granted, l.spent, l.lapsed, l.revoked, l.debt),
			concat_ws(' ', t.granted, t.spent, t.lapsed, t.revoked, t.debt)
		FROM creditgate.grant_state t
		FULL JOIN (SELECT grant_id, sum(granted) AS granted, sum(spent) AS spent, sum(lapsed) AS lapsed,
				sum(revoked) AS revoked, sum(debt) AS debt
			FROM creditgate.ledger_line GROUP BY grant_id) l ON l.grant_id = t.grant_id
		WHERE (coalesce(t.granted, 0), coalesce(t.spent, 0), coalesce(t.lapsed, 0), coalesce(t.revoked, 0), coalesce(t.debt, 0))
			IS DISTINCT FROM
			(coalesce(l.granted, 0), coalesce(l.spent, 0), coalesce(l.lapsed, 0), coalesce(l.revoked, 0), coalesce(l.debt, 0))`
	seqsOfAccounts = `SELECT coalesce(s.account, e.account), 'account', concat(e.entries, ' entries up to ', e.last),
			coalesce(s.seq, 0)::text
		FROM creditgate.account_state s
		FULL JOIN (SELECT account, count(*) AS entries, max(seq) AS last FROM creditgate.ledger_entry GROUP BY account) e
			ON e.account = s.account
		WHERE coalesce(s.seq, 0) <> coalesce(e.last, 0) OR coalesce(e.entries, 0) <> coalesce(e.last, 0)`
	lateBeforeExpiry = `SELECT l.account, 'reservation ' || l.subject, 'after seq ' || x.seq, l.seq::text
		FROM creditgate.ledger_entry l JOIN creditgate.ledger_entry x
			ON x.subject = l.subject AND x.kind = 'expire' AND x.seq > l.seq
		WHERE l.kind IN ('late', 'uncollected')`
	statusesOfChanges = `SELECT c.account, c.kind || ' ' || c.id, CASE WHEN e.subject IS NULL THEN 'not applied' ELSE 'applied' END,
			c.status
		FROM (SELECT id, account, status, 'grant' AS kind FROM creditgate.grant_lot
			UNION ALL SELECT id, account, status, 'revoke' FROM creditgate.revocation
			UNION ALL SELECT id, account, status, 'adjust' FROM creditgate.expiry_move
			UNION ALL SELECT id, account, status, 'adjust' FROM creditgate.reversal) c
		LEFT JOIN creditgate.ledger_entry e
			ON e.subject = c.id AND e.kind = c.kind AND e.kind IN ('grant', 'revoke', 'adjust')
		WHERE (c.status = 'applied') <> (e.subject IS NOT NULL)`
	rowsOfNoPartition = `SELECT '', r.name || ' ' || r.layout || '-' || r.partition, 'none', count(*)::text
		FROM (SELECT 'ledger_record' AS name, layout, partition FROM creditgate.ledger_record
			UNION ALL SELECT 'ledger_entry', layout, partition FROM creditgate.ledger_entry
			UNION ALL SELECT 'ledger_line', layout, partition FROM creditgate.ledger_line) r
		WHERE NOT EXISTS (SELECT FROM creditgate.partition p WHERE (p.layout, p.partition) = (r.layout, r.partition))
		GROUP BY r.name, r.layout, r.partition`
)

// verifySums compares what is kept beside the ledger with the ledger.
func verifySums(ctx context.Context, tx pgx.Tx, report *Report) error {
	for _, check := range [...]struct{ what, sql string }{
		{"granted, spent, lapsed, revoked, debt", sumsOfGrants},
		{"seq", seqsOfAccounts},
		{"late entry before the expiry", lateBeforeExpiry},
		{"status of a change", statusesOfChanges},
		{"rows of a partition that does not exist", rowsOfNoPartition},
	} {
		rows, err := tx.Query(ctx, check.sql)
		if err != nil {
			return fmt.Errorf("%s: %w", check.what, err)
		}
		d := Drift{Kind: DriftSums, What: check.what}
		_, err = pgx.ForEachRow(rows, []any{&d.Account, &d.Where, &d.Want, &d.Have}, func() error {
			report.Add(d)
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", check.what, err)
		}
	}
	return nil
}
