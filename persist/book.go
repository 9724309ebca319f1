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
	var c meter.Cursor
	err := s.snapshot(ctx, "read flush cursor", func(tx pgx.Tx) (err error) {
		c, err = s.cursor(ctx, tx, int(partition))
		return err
	})
	return c, err
}

// querier is a pool, a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func (s *Store) cursor(ctx context.Context, tx querier, partition int) (c meter.Cursor, err error) {
	var hash []byte
	err = tx.QueryRow(ctx, `SELECT p.cursor_epoch, p.cursor_pseq, p.cursor_hash, r.body
		FROM creditgate.partition p LEFT JOIN creditgate.ledger_record r
			ON (r.layout, r.partition, r.pseq) = (p.layout, p.partition, p.cursor_pseq)
		WHERE p.layout = $1 AND p.partition = $2`, s.layoutNumber(), partition).
		Scan(&c.Epoch, &c.Pseq, &hash, &c.Body)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, ErrLayout // EnsureLayout was never called on this database
	}
	copy(c.Hash[:], hash)
	return c, err
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

// Account is an account's state as of the cursor returned with it: what its live grants have by the ledger, nothing
// held. Since every admin change up to the cursor is forgotten, PrunedPseq is the cursor.
func (s *Store) Account(ctx context.Context, account string) (a meter.Account, at meter.Cursor, err error) {
	s.hurry(s.partitionOf(account))
	err = s.snapshot(ctx, "load account "+account, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT s.seq, a.suspended, a.flags_version
			FROM creditgate.account a JOIN creditgate.account_state s ON s.account = a.id WHERE a.id = $1`, account).
			Scan(&a.Seq, &a.Suspended, &a.FlagsVersion)
		if errors.Is(err, pgx.ErrNoRows) {
			return meter.ErrNoAccount
		}
		if err != nil {
			return err
		}
		if a.Grants, err = s.liveGrants(ctx, tx, account); err != nil {
			return err
		}
		at, err = s.cursor(ctx, tx, s.partitionOf(account))
		a.PrunedPseq = at.Pseq
		return err
	})
	return a, at, err
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

// liveGrants are what the account's balance is made of: grants that hold something, and those that stop others.
func (s *Store) liveGrants(ctx context.Context, tx pgx.Tx, account string) ([]meter.Grant, error) {
	rows, err := tx.Query(ctx, `SELECT g.id, g.bucket, g.rank, g.paid, g.unlimited, g.stops AND `+neverRevoked+`,
			g.effective_at, g.created_at, t.expires_at, t.granted - t.spent - t.lapsed - t.revoked, t.debt
		FROM (SELECT grant_id FROM creditgate.grant_state WHERE account = ANY($1) AND live
			UNION ALL SELECT grant_id FROM (`+stoppingGrants+`) s) l
		JOIN creditgate.grant_state t USING (grant_id) JOIN creditgate.grant_lot g ON g.id = l.grant_id`,
		[]string{account}, s.overSince())
	if err != nil {
		return nil, err
	}
	grants, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (g meter.Grant, err error) {
		var effective, created time.Time
		var expires *time.Time
		err = row.Scan((*[16]byte)(&g.ID), &g.Bucket, &g.Rank, &g.Paid, &g.Unlimited, &g.Stops, &effective, &created, &expires,
			(*int64)(&g.Available), (*int64)(&g.Debt))
		g.EffectiveMs, g.CreatedMs, g.ExpiresMs = effective.UnixMilli(), created.UnixMilli(), expiryToMs(expires)
		return g, err
	})
	slices.SortFunc(grants, meter.CompareGrants)
	return grants, err
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

// Accounts calls fn with the names of the partition's accounts in order.
func (s *Store) Accounts(ctx context.Context, partition uint16, fn func(names []string) error) error {
	after := ""
	for {
		rows, err := s.pool.Query(ctx, `SELECT id::text FROM creditgate.account
			WHERE layout = $1 AND partition = $2 AND id > $3 ORDER BY id LIMIT $4`,
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
