package persist

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// The store is what the engine asks of Postgres. Each answer comes from one snapshot, with the cursor of the same
// snapshot: the engine then knows which ledger records the answer contains.
var (
	_ meter.Book          = (*Store)(nil)
	_ meter.RebuildSource = (*Store)(nil)
)

// pageRows bounds what is read from Postgres in one go.
const pageRows = 1000

// Cursor is the place up to which a partition's ledger is in Postgres.
func (s *Store) Cursor(ctx context.Context, partition uint16) (meter.Cursor, error) {
	c, err := s.cursor(ctx, s.pool, int(partition))
	return c, storeError("read flush cursor", err)
}

// querier is a pool, a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// selectCursor begins a statement that reads cursors of layout $1.
const selectCursor = `SELECT p.partition, p.cursor_epoch, p.cursor_pseq, p.cursor_hash, r.body
	FROM creditgate.partition p LEFT JOIN creditgate.ledger_record r
		ON (r.layout, r.partition, r.pseq) = (p.layout, p.partition, p.cursor_pseq)
	WHERE p.layout = $1 AND p.partition = `

func (s *Store) cursor(ctx context.Context, tx querier, partition int) (c meter.Cursor, err error) {
	var hash []byte
	err = tx.QueryRow(ctx, selectCursor+`$2`, s.layoutNumber(), partition).
		Scan(&partition, &c.Epoch, &c.Pseq, &hash, &c.Body)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, ErrLayout // EnsureLayout was never called on this database
	}
	copy(c.Hash[:], hash)
	return c, err
}

// queueCursors has the cursors of the accounts' partitions read into out.
func (s *Store) queueCursors(batch *pgx.Batch, accounts []string, out map[int]meter.Cursor) {
	var partitions []int
	for _, name := range accounts {
		if p := s.partitionOf(name); !slices.Contains(partitions, p) {
			partitions = append(partitions, p)
		}
	}
	batch.Queue(selectCursor+`ANY ($2)`, s.layoutNumber(), partitions).Query(func(rows pgx.Rows) error {
		var partition int
		var hash []byte
		var c meter.Cursor
		_, err := pgx.ForEachRow(rows, []any{&partition, &c.Epoch, &c.Pseq, &hash, &c.Body}, func() error {
			copy(c.Hash[:], hash)
			out[partition] = c
			return nil
		})
		return err
	})
}

// ClaimEpoch raises the partition's epoch above both its own and atLeast. A flush under an older epoch that is under
// way either commits before this returns or not at all: both update the same row.
//
// What Redis was seen to have of accounts' flags is forgotten, because the Redis being opened may be a replica that
// never got it; the sweeper applies them again, and at once whatever else is pending.
func (s *Store) ClaimEpoch(ctx context.Context, partition uint16, atLeast uint64) (epoch uint64, err error) {
	err = s.tx(ctx, "claim epoch", func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `UPDATE creditgate.partition SET epoch = greatest(epoch, $3) + 1
			WHERE layout = $1 AND partition = $2 RETURNING epoch`,
			s.layoutNumber(), int(partition), int64(atLeast)).Scan(&epoch)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrLayout
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE creditgate.account SET applied_flags_version = 0
			WHERE layout = $1 AND partition = $2 AND applied_flags_version > 0`, s.layoutNumber(), int(partition))
		return err
	})
	if err == nil {
		s.behind[partition].Store(true)
	}
	return epoch, err
}

// loaded is an account's state as of a cursor.
type loaded struct {
	quarantined bool // Postgres does not have all that the cursor has passed
	account     meter.Account
	at          meter.Cursor
}

// Account is an account's state as of the cursor returned with it: what its live grants have by the ledger, nothing
// held. Since every admin change up to the cursor is forgotten, PrunedPseq is the cursor.
func (s *Store) Account(ctx context.Context, account string) (a meter.Account, at meter.Cursor, err error) {
	s.hurry(s.partitionOf(account))
	l, known, err := s.loads.ask(ctx, account)
	switch {
	case err == nil && l.quarantined:
		err = quarantineError(account)
	case err == nil && !known:
		err = meter.ErrNoAccount
	}
	return l.account, l.at, storeError("load account "+account, err)
}

// loadedAccounts is what is read of accounts $1 besides their grants.
const loadedAccounts = `SELECT a.id, s.seq, a.suspended, a.flags_version,
		EXISTS (SELECT FROM creditgate.quarantined_account h WHERE h.account = a.id)
	FROM creditgate.account a JOIN creditgate.account_state s ON s.account = a.id WHERE a.id = ANY ($1)`

// loadAccounts reads accounts and the cursors of their partitions in one snapshot, their rows in one round trip.
func (s *Store) loadAccounts(ctx context.Context, accounts []string) (map[string]loaded, error) {
	var batch pgx.Batch
	found := make(map[string]loaded, len(accounts))
	cursors := map[int]meter.Cursor{}
	batch.Queue(loadedAccounts, accounts).Query(func(rows pgx.Rows) error {
		var name string
		var l loaded
		a := &l.account
		_, err := pgx.ForEachRow(rows, []any{&name, &a.Seq, &a.Suspended, &a.FlagsVersion, &l.quarantined}, func() error {
			found[name] = l
			return nil
		})
		return err
	})
	batch.Queue(liveGrants, accounts, s.overSince()).Query(func(rows pgx.Rows) error { return collectGrants(rows, found) })
	s.queueCursors(&batch, accounts, cursors)
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, s.asked, options, func(tx pgx.Tx) error { return tx.SendBatch(ctx, &batch).Close() })
	if err != nil {
		return nil, err
	}
	for name, l := range found {
		at, ok := cursors[s.partitionOf(name)]
		if !ok {
			return nil, ErrLayout // EnsureLayout was never called on this database
		}
		slices.SortFunc(l.account.Grants, meter.CompareGrants)
		l.at, l.account.PrunedPseq = at, at.Pseq
		found[name] = l
	}
	return found, nil
}

// stoppingGrants are the grants of accounts $1 that hold nothing and are kept all the same, because they stop others
// until they expire, those that expired before $2 left out. What anything was revoked of does not stop any more.
const stoppingGrants = `SELECT t.grant_id, g.account
	FROM creditgate.grant_lot g JOIN creditgate.grant_state t ON t.grant_id = g.id
	WHERE g.account = ANY($1) AND g.stops AND t.granted > 0 AND NOT t.live AND ` + neverRevoked + `
		AND (t.expires_at IS NULL OR t.expires_at > $2)`

// neverRevoked says of grant g that no revocation of it is in the ledger: one would have ended its stopping, for good.
const neverRevoked = `NOT EXISTS (SELECT FROM creditgate.revocation v WHERE v.grant_id = g.id AND v.status = 'applied')`

// takingRoom is a row for each grant of accounts $1 that counts towards meter.GrantsMax: those that hold something, that
// Redis may not have yet, or that stop others and did not expire before $2.
const takingRoom = `SELECT account FROM creditgate.grant_state WHERE account = ANY($1) AND live
	UNION ALL SELECT account FROM creditgate.grant_lot WHERE account = ANY($1) AND status = 'pending'
	UNION ALL SELECT account FROM (` + stoppingGrants + `) s`

// overSince is when a grant must have expired to be over for Redis too, whose clock may be that much behind. A script
// that is given one too many forgets it.
func (s *Store) overSince() time.Time { return s.clock.Now().Add(-clockSkewMax) }

// liveGrants are what the balances of accounts $1 are made of: grants that hold something, and those that stop others.
const liveGrants = `SELECT g.account, g.id, g.bucket, g.rank, g.paid, g.unlimited, g.stops AND ` + neverRevoked + `,
		g.effective_at, g.created_at, t.expires_at, t.granted - t.spent - t.lapsed - t.revoked, t.debt
	FROM (SELECT grant_id FROM creditgate.grant_state WHERE account = ANY($1) AND live
		UNION ALL SELECT grant_id FROM (` + stoppingGrants + `) s) l
	JOIN creditgate.grant_state t USING (grant_id) JOIN creditgate.grant_lot g ON g.id = l.grant_id`

func collectGrants(rows pgx.Rows, of map[string]loaded) error {
	var account string
	var g meter.Grant
	var effective, created time.Time
	var expires *time.Time
	_, err := pgx.ForEachRow(rows, []any{
		&account, (*[16]byte)(&g.ID), &g.Bucket, &g.Rank, &g.Paid, &g.Unlimited, &g.Stops, &effective, &created, &expires,
		(*int64)(&g.Available), (*int64)(&g.Debt),
	}, func() error {
		g.EffectiveMs, g.CreatedMs, g.ExpiresMs = effective.UnixMilli(), created.UnixMilli(), expiryToMs(expires)
		l := of[account]
		l.account.Grants = append(l.account.Grants, g)
		of[account] = l
		return nil
	})
	return err
}

const dueLapses = `SELECT account, grant_id, expires_at FROM creditgate.grant_state
	WHERE live AND expires_at <= $1 AND (expires_at, grant_id) > ($2, $3) ORDER BY expires_at, grant_id LIMIT $4`

// DueLapses are grants that have something left and end at `until` or before, in the order of index grant_state_ending.
func (s *Store) DueLapses(ctx context.Context, after meter.Lapse, until time.Time, limit int) ([]meter.Lapse, error) {
	rows, err := s.pool.Query(ctx, dueLapses, until, after.At, [16]byte(after.Grant), limit)
	if err != nil {
		return nil, storeError("what lapses", err)
	}
	due, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l meter.Lapse, err error) {
		err = row.Scan(&l.Account, (*[16]byte)(&l.Grant), &l.At)
		return l, err
	})
	return due, storeError("what lapses", err)
}

// Accounts calls fn with the names of the partition's accounts in order, but for those that are quarantined.
func (s *Store) Accounts(ctx context.Context, partition uint16, fn func(names []string) error) error {
	after := ""
	for {
		rows, err := s.pool.Query(ctx, `SELECT id::text FROM creditgate.account
			WHERE layout = $1 AND partition = $2 AND id > $3
				AND NOT EXISTS (SELECT FROM creditgate.quarantined_account h WHERE h.account = id)
			ORDER BY id LIMIT $4`,
			s.layoutNumber(), int(partition), after, pageRows)
		if err != nil {
			return storeError("list accounts", err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return storeError("list accounts", err)
		}
		if len(names) == 0 {
			return nil
		}
		if err := fn(names); err != nil {
			return err
		}
		after = names[len(names)-1]
	}
}
