package persist

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// changeKind says which table a change is in.
type changeKind string

const (
	grantChange      changeKind = "grant"
	revocationChange changeKind = "revocation"
	expiryChange     changeKind = "expiry move"
	reversalChange   changeKind = "reversal"
)

// PendingChange names a change that Redis may not have yet.
type PendingChange struct {
	Kind      string // grant, revocation, expiry move, reversal, suspension
	ID        meter.ID
	Account   string
	CreatedAt time.Time
}

// change is a row with what applying it to Redis needs, all from one snapshot.
type change struct {
	kind    changeKind
	status  string
	checked uint64 // the flush cursor at which status was seen: the engine's CheckedPseq
	account string
	note    meter.Note
	// grant is the lot granted, revoked or moved; grantStatus is its own status.
	grant       meter.Grant
	grantStatus string
	credits     meter.Credits // of a revocation
	beyond      meter.Beyond  // of a revocation
	expiresMs   int64         // of a move
	undone      undone        // of a reversal, or of a revocation in place of another
	with        meter.ID      // of a reversal: the revocation that it is one change with, if with one
	// Revocations and reversals of one grant reach Redis in the order in which they were recorded: what comes first of
	// those that may not be there yet.
	first *PendingChange
}

// undone is the revocation that a reversal undoes, as the ledger has it.
type undone struct {
	id       meter.ID // zero: nothing is undone
	booked   bool
	amount   meter.Credits // taken or owed
	reversal meter.ID
	note     meter.Note // of the reversal
}

// The same columns from each table, so that one function reads them.
const (
	changeOfGrant = `SELECT g.status, g.account, g.reason, g.actor, g.status, g.credits, g.expires_at,
			g.id, g.bucket, g.rank, g.paid, g.unlimited, g.stops, g.credits, g.effective_at, g.expires_at, g.created_at
		FROM creditgate.grant_lot g WHERE g.id = $1`
	changeOfRevocation = `SELECT c.status, c.account, c.reason, c.actor, g.status, c.credits, NULL::timestamptz,
			g.id, g.bucket, g.rank, g.paid, g.unlimited, g.stops, g.credits, g.effective_at, g.expires_at, g.created_at
		FROM creditgate.revocation c JOIN creditgate.grant_lot g ON g.id = c.grant_id WHERE c.id = $1`
	changeOfExpiry = `SELECT c.status, c.account, c.reason, c.actor, g.status, 0::bigint, c.expires_at,
			g.id, g.bucket, g.rank, g.paid, g.unlimited, g.stops, g.credits, g.effective_at, g.expires_at, g.created_at
		FROM creditgate.expiry_move c JOIN creditgate.grant_lot g ON g.id = c.grant_id WHERE c.id = $1`
	changeOfReversal = `SELECT c.status, c.account, c.reason, c.actor, g.status, 0::bigint, NULL::timestamptz,
			g.id, g.bucket, g.rank, g.paid, g.unlimited, g.stops, g.credits, g.effective_at, t.expires_at, g.created_at
		FROM creditgate.reversal c JOIN creditgate.grant_lot g ON g.id = c.grant_id
		JOIN creditgate.grant_state t ON t.grant_id = c.grant_id WHERE c.id = $1`
)

// change reads a change and the flush cursor of its partition in one snapshot. That the change is pending at this
// cursor proves that no record up to it has the change; a script that knows of later records it has forgotten
// answers CodeRecheck.
func (s *Store) change(ctx context.Context, kind changeKind, id meter.ID) (c change, err error) {
	query := map[changeKind]string{
		grantChange: changeOfGrant, revocationChange: changeOfRevocation, expiryChange: changeOfExpiry,
		reversalChange: changeOfReversal,
	}[kind]
	c.kind = kind
	err = s.snapshot(ctx, "read "+string(kind), func(tx pgx.Tx) error {
		var effective, created time.Time
		var moved, expires *time.Time
		err := tx.QueryRow(ctx, query, [16]byte(id)).Scan(&c.status, &c.account, &c.note.Reason, &c.note.Actor,
			&c.grantStatus, (*int64)(&c.credits), &moved, (*[16]byte)(&c.grant.ID), &c.grant.Bucket, &c.grant.Rank,
			&c.grant.Paid, &c.grant.Unlimited, &c.grant.Stops, (*int64)(&c.grant.Available), &effective, &expires, &created)
		if err != nil {
			return err
		}
		c.expiresMs = expiryToMs(moved)
		c.grant.EffectiveMs, c.grant.CreatedMs = effective.UnixMilli(), created.UnixMilli()
		c.grant.ExpiresMs = expiryToMs(expires)
		if err := s.clawback(ctx, tx, id, &c); err != nil {
			return err
		}
		// That it is pending proves nothing then: its entry may be quarantined.
		if c.status == "pending" {
			if out, err := isQuarantined(ctx, tx, c.account); err != nil || out {
				return cmp.Or(err, quarantineError(c.account))
			}
		}
		at, err := s.cursor(ctx, tx, s.partitionOf(c.account))
		c.checked = at.Pseq
		return err
	})
	return c, err
}

// voidMove ends an expiry move that found its grant used up.
func (s *Store) voidMove(ctx context.Context, id meter.ID) error {
	_, err := s.pool.Exec(ctx, `UPDATE creditgate.expiry_move SET status = 'void', applied_at = now()
		WHERE id = $1 AND status = 'pending'`, [16]byte(id))
	return storeError("void expiry move", err)
}

// pendingChanges limits each kind by itself, in the order of its index, so that Postgres walks the indexes of what is
// pending, which are mostly empty, from their oldest. Ordered by more, or limited only as a whole, it read all accounts for
// each partition: its planner takes two columns that differ for the rule.
const (
	pendingHead = `', c.id, c.account::text AS account, c.created_at FROM creditgate.`
	pendingTail = ` c JOIN creditgate.account a ON a.id = c.account
		WHERE c.status = 'pending' AND a.layout = $1 AND a.partition = $2
			AND NOT EXISTS (SELECT FROM creditgate.quarantined_account h WHERE h.account = a.id)
			AND c.created_at < $3 AND (c.created_at, c.account::text, c.id) > `
	pendingEnd     = ` ORDER BY c.created_at FETCH FIRST $4 ROWS WITH TIES) UNION ALL `
	pendingChanges = `SELECT kind, id, account, created_at FROM (
		(SELECT 'revocation` + pendingHead + `revocation` + pendingTail + `($5, $6, $7)` + pendingEnd +
		`(SELECT 'grant` + pendingHead + `grant_lot` + pendingTail + `($8, $9, $10)` + pendingEnd +
		`(SELECT 'expiry move` + pendingHead + `expiry_move` + pendingTail + `($8, $9, $10)` + pendingEnd +
		`(SELECT 'reversal` + pendingHead + `reversal` + pendingTail + `($8, $9, $10)` + pendingEnd +
		`(SELECT 'suspension', '00000000-0000-0000-0000-000000000000'::uuid, id::text, flags_changed_at
			FROM creditgate.account WHERE applied_flags_version <> flags_version AND layout = $1 AND partition = $2
				AND flags_changed_at < $3
				AND (flags_changed_at, id::text, '00000000-0000-0000-0000-000000000000'::uuid) > ($8, $9, $10)
			ORDER BY flags_changed_at FETCH FIRST $4 ROWS WITH TIES)) c (kind, id, account, created_at)
		ORDER BY kind <> 'revocation', created_at, account, id LIMIT $4`
)

// Pending lists changes of the partition's accounts that were made before olderThan ago and are not known to be in
// Redis, starting after the given one (the zero value: at the first). Revocations come first, so that what is superseded
// is gone before its successor is there, then the others; each oldest first. Of what was in force the sweeper brings the
// successor first. Changes of accounts that are quarantined are not listed: they may be in Redis.
func (s *Store) Pending(
	ctx context.Context, partition uint16, olderThan time.Duration, after PendingChange, limit int,
) ([]PendingChange, error) {
	olderBy := s.clock.Now().Add(-olderThan)
	revocations, others := after, PendingChange{}
	if after.Kind != "" && after.Kind != string(revocationChange) { // all revocations are behind
		revocations, others = PendingChange{CreatedAt: olderBy}, after
	}
	rows, err := s.pool.Query(ctx, pendingChanges, s.layoutNumber(), int(partition), olderBy, limit,
		revocations.CreatedAt, revocations.Account, [16]byte(revocations.ID),
		others.CreatedAt, others.Account, [16]byte(others.ID))
	if err != nil {
		return nil, storeError("list pending changes", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p PendingChange, err error) {
		err = row.Scan(&p.Kind, (*[16]byte)(&p.ID), &p.Account, &p.CreatedAt)
		return p, err
	})
	return out, storeError("list pending changes", err)
}

// GrantState is a grant as Postgres has it.
type GrantState struct {
	GrantID     meter.ID
	Bucket      string
	Credits     meter.Credits
	EffectiveAt time.Time
	ExpiresAt   time.Time // zero: never
	Ref         string
	Applied     bool
	Repeated    bool
}

// GrantState returns a grant as it was granted, but for its expiry, which is where it was last moved to. ErrNoGrant if
// the account has none with this id.
func (s *Store) GrantState(ctx context.Context, account string, id meter.ID) (g GrantState, err error) {
	var expires *time.Time
	err = s.pool.QueryRow(ctx, `SELECT g.id, g.bucket, g.credits, g.effective_at, g.external_ref, g.status = 'applied',
			CASE WHEN m.id IS NULL THEN t.expires_at ELSE m.expires_at END
		FROM creditgate.grant_lot g
		JOIN creditgate.grant_state t ON t.grant_id = g.id
		LEFT JOIN creditgate.expiry_move m ON m.grant_id = g.id AND m.status = 'pending'
		WHERE g.id = $1 AND g.account = $2`, [16]byte(id), account).
		Scan((*[16]byte)(&g.GrantID), &g.Bucket, (*int64)(&g.Credits), &g.EffectiveAt, &g.Ref, &g.Applied, &expires)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoGrant
	}
	g.EffectiveAt, g.ExpiresAt = g.EffectiveAt.UTC(), timeOrZero(expires)
	return g, storeError("read grant", err)
}

// RevocationState is a revocation as Postgres has it.
type RevocationState struct {
	RevocationID meter.ID
	GrantID      meter.ID
	Credits      meter.Credits
	Ref          string
	Booked       *Booked // nil until the ledger has it
	Applied      bool
	Repeated     bool
}

// Booked is what became of a revocation: what was taken back at once, what became debt, and what was written off.
type Booked struct{ Taken, Debt, WrittenOff meter.Credits }

func (s *Store) revocationState(ctx context.Context, id meter.ID) (r RevocationState, err error) {
	var taken, debt *int64
	err = s.pool.QueryRow(ctx, `SELECT c.id, c.grant_id, c.credits, c.external_ref, c.status = 'applied', l.revoked, l.debt
		FROM creditgate.revocation c `+bookedLine+` WHERE c.id = $1`, [16]byte(id)).
		Scan((*[16]byte)(&r.RevocationID), (*[16]byte)(&r.GrantID), (*int64)(&r.Credits), &r.Ref, &r.Applied, &taken, &debt)
	if taken != nil && debt != nil {
		r.Booked = &Booked{Taken: meter.Credits(*taken), Debt: meter.Credits(*debt)}
		r.Booked.WrittenOff = r.Credits - r.Booked.Taken - r.Booked.Debt
	}
	return r, storeError("read revocation", err)
}
