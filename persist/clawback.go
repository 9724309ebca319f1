package persist

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// What is taken back of a purchase is first what is left of it. What was spent already becomes debt of its grant, or is
// written off, by the terms of the sale. Debt is paid by what comes back to that grant, from requests that fail or
// deliver less; later purchases do not pay it: each is granted whole, and what is owed is claimed outside, by what
// finance.balances and finance.purchases show. It goes when the revocation is undone.
//
// A pack that is frozen because it is overdue is taken back whole, with what is held as debt and nothing for what was
// spent, and the same is undone when it is paid: credit, expiry and price are those of the same grant again. One that is
// charged back instead is taken back by the terms of the sale: the freezing is undone and the whole is taken, by a
// reversal and a revocation that are one change to Redis, so that nothing of the pack can be spent in between. A payment
// after that finds nothing to undo.

// Reasons for which a purchase is taken back. The first three are said by whoever takes it back.
const (
	reasonRefund     = "refund"
	reasonChargeback = "chargeback"
	reasonError      = "error"
	reasonFrozen     = "frozen"
	reasonUnfrozen   = "unfrozen"
	reasonOverdue    = "overdue"
)

// NewReversal undoes a revocation, named by the reference it was made under.
type NewReversal struct {
	Account       string
	RevocationRef string
	Ref           string
	Reason        string
	Actor         string
}

// ReversalState is a reversal as Postgres has it.
type ReversalState struct {
	ReversalID    meter.ID
	GrantID       meter.ID
	RevocationRef string
	Ref           string
	ExpiresAt     time.Time // of the grant that was given back to; zero: never
	Undone        *Undone   // nil until the ledger has it
	Applied       bool
	Repeated      bool
}

// Undone is what became of a reversal: what can be used again, what of the grant's debt is gone (forgiven, or paid
// with what came back if the grant owed more than this), and what came back to a grant that was over and lapsed.
type Undone struct{ GivenBack, Settled, Lapsed meter.Credits }

// bookedMax is how long an answer waits for the ledger to have what Redis decided, bookedPause between two looks. Only
// the ledger knows how much of a revocation was there to be taken.
const (
	bookedMax   = time.Second
	bookedPause = 10 * time.Millisecond
)

// bookedLine joins the line that a change c was booked with. The kinds are those of a partial index.
const bookedLine = `LEFT JOIN creditgate.ledger_entry e ON e.subject = c.id AND e.kind IN ('grant', 'revoke', 'adjust')
	LEFT JOIN creditgate.ledger_line l
		ON (l.layout, l.partition, l.pseq, l.idx) = (e.layout, e.partition, e.pseq, e.idx)`

// awaitBooked waits until a change that Redis has is in the ledger, or says that it is not within bookedMax.
func (s *Store) awaitBooked(ctx context.Context, account string, id meter.ID) bool {
	ctx, cancel := context.WithTimeout(ctx, bookedMax)
	defer cancel()
	for {
		s.hurry(s.partitionOf(account))
		var booked bool
		err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM creditgate.ledger_entry
			WHERE subject = $1 AND kind IN ('grant', 'revoke', 'adjust'))`, [16]byte(id)).Scan(&booked)
		if err != nil || booked {
			return booked
		}
		if !sleep(ctx, bookedPause) {
			return false
		}
	}
}

// Reverse undoes a revocation: what it took goes back to its grant, what is left of its debt is forgiven. A second
// reversal of the same revocation is answered as the first was.
func (a *Admin) Reverse(ctx context.Context, v NewReversal) (ReversalState, error) {
	var r recorded
	if !meter.ValidName(v.Ref) {
		return ReversalState{}, refuse(ErrInvalid, "external_ref", "external_ref %q must match [A-Za-z0-9._-]{1,64}", v.Ref)
	}
	err := a.tx(ctx, "record reversal "+v.Ref, func(tx pgx.Tx) error {
		if err := lockAccount(ctx, tx, v.Account); err != nil {
			return err
		}
		var revocation meter.ID
		err := tx.QueryRow(ctx, `SELECT id FROM creditgate.revocation WHERE account = $1 AND external_ref = $2`,
			v.Account, v.RevocationRef).Scan((*[16]byte)(&revocation))
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%w: %q of account %q", ErrNoRevocation, v.RevocationRef, v.Account)
		}
		if err == nil {
			r, err = a.recordReversal(ctx, tx, revocation, v)
		}
		return err
	})
	if err := refRace(err, v.Ref); err != nil {
		return ReversalState{}, err
	}
	done := a.apply(ctx, reversalChange, r.id)
	if done == applied {
		a.awaitBooked(ctx, v.Account, r.id)
	}
	state, err := a.reversalState(ctx, r.id)
	state.Applied, state.Repeated = done != notApplied, r.repeated
	return state, err
}

// recordReversal records a reversal as pending, in a transaction that holds the account's lock.
func (s *Store) recordReversal(ctx context.Context, tx pgx.Tx, revocation meter.ID, v NewReversal) (recorded, error) {
	content := fingerprint(v.Account, revocation, v.Reason)
	r, found, err := earlier(ctx, tx, "reversal", v.Ref, content)
	if found || err != nil {
		return r, err
	}
	err = tx.QueryRow(ctx, `SELECT id FROM creditgate.reversal WHERE revocation_id = $1`, [16]byte(revocation)).
		Scan((*[16]byte)(&r.id))
	if !errors.Is(err, pgx.ErrNoRows) {
		r.repeated = true
		return r, err
	}
	var grant meter.ID
	err = tx.QueryRow(ctx, `SELECT grant_id FROM creditgate.revocation WHERE id = $1`, [16]byte(revocation)).
		Scan((*[16]byte)(&grant))
	if err == nil {
		r.id, err = s.nextOf(ctx, tx, grant)
	}
	if err != nil {
		return r, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO creditgate.reversal
			(id, account, grant_id, revocation_id, external_ref, fingerprint, reason, actor, created_at)
		SELECT $1, account, grant_id, id, $3, $4, $5, $6, $7 FROM creditgate.revocation WHERE id = $2`,
		[16]byte(r.id), [16]byte(revocation), v.Ref, content, v.Reason, v.Actor, fromMs(r.id.CreatedMs()))
	return r, invalid(err)
}

func (s *Store) reversalState(ctx context.Context, id meter.ID) (r ReversalState, err error) {
	var revoked, debt, lapsed *int64
	var expires *time.Time
	err = s.pool.QueryRow(ctx, `SELECT c.id, c.grant_id, v.external_ref, c.external_ref, t.expires_at, c.status <> 'pending',
			CASE WHEN c.status = 'void' THEN 0 ELSE l.revoked END, CASE WHEN c.status = 'void' THEN 0 ELSE l.debt END,
			CASE WHEN c.status = 'void' THEN 0 ELSE l.lapsed END
		FROM creditgate.reversal c JOIN creditgate.revocation v ON v.id = c.revocation_id
		JOIN creditgate.grant_state t ON t.grant_id = c.grant_id `+bookedLine+` WHERE c.id = $1`, [16]byte(id)).
		Scan((*[16]byte)(&r.ReversalID), (*[16]byte)(&r.GrantID), &r.RevocationRef, &r.Ref, &expires, &r.Applied,
			&revoked, &debt, &lapsed)
	r.ExpiresAt = timeOrZero(expires)
	if revoked != nil && debt != nil && lapsed != nil {
		r.Undone = &Undone{
			GivenBack: meter.Credits(-*revoked - *lapsed), Settled: meter.Credits(-*debt), Lapsed: meter.Credits(*lapsed),
		}
	}
	return r, storeError("read reversal", err)
}

// clawback adds to a change what revocations and reversals need beside the columns of every change, in its snapshot.
func (s *Store) clawback(ctx context.Context, tx pgx.Tx, id meter.ID, c *change) error {
	reversal := id
	switch c.kind {
	case revocationChange:
		var with *[16]byte
		err := tx.QueryRow(ctx, `SELECT c.beyond, v.id FROM creditgate.revocation c
			LEFT JOIN creditgate.reversal v ON v.revocation_id = c.instead_of WHERE c.id = $1`, [16]byte(id)).
			Scan((*uint8)(&c.beyond), &with)
		if err != nil {
			return err
		}
		reversal = meter.ID{}
		if with != nil {
			reversal = *with
		}
	case reversalChange:
		err := tx.QueryRow(ctx, `SELECT c.id FROM creditgate.reversal v
			JOIN creditgate.revocation c ON c.instead_of = v.revocation_id WHERE v.id = $1`, [16]byte(id)).
			Scan((*[16]byte)(&c.with))
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
	default:
		return nil
	}
	if reversal != (meter.ID{}) {
		if err := readUndone(ctx, tx, reversal, c); err != nil {
			return err
		}
	}
	var first PendingChange
	err := tx.QueryRow(ctx, `SELECT kind, id FROM (
			SELECT 'revocation' AS kind, id FROM creditgate.revocation WHERE grant_id = $1 AND status = 'pending'
			UNION ALL SELECT 'reversal', id FROM creditgate.reversal WHERE grant_id = $1 AND status = 'pending' AND id <> $3) p
		WHERE id < $2 ORDER BY id DESC LIMIT 1`, [16]byte(c.grant.ID), [16]byte(id), [16]byte(reversal)).
		Scan(&first.Kind, (*[16]byte)(&first.ID))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	c.first = &first
	return err
}

// readUndone reads what a reversal undoes, and what its grant owes at the same moment.
func readUndone(ctx context.Context, tx pgx.Tx, reversal meter.ID, c *change) error {
	c.undone.reversal = reversal
	return tx.QueryRow(ctx, `SELECT c.id, e.subject IS NOT NULL, coalesce(e.amount, 0), t.debt, v.reason, v.actor
		FROM creditgate.reversal v JOIN creditgate.revocation c ON c.id = v.revocation_id
		JOIN creditgate.grant_state t ON t.grant_id = c.grant_id
		LEFT JOIN creditgate.ledger_entry e ON e.subject = c.id AND e.kind IN ('grant', 'revoke', 'adjust')
		WHERE v.id = $1`, [16]byte(reversal)).
		Scan((*[16]byte)(&c.undone.id), &c.undone.booked, (*int64)(&c.undone.amount), (*int64)(&c.grant.Debt),
			&c.undone.note.Reason, &c.undone.note.Actor)
}

// voidReversal ends a reversal of a revocation that took nothing.
func (s *Store) voidReversal(ctx context.Context, id meter.ID) error {
	_, err := s.pool.Exec(ctx, `UPDATE creditgate.reversal SET status = 'void', applied_at = now()
		WHERE id = $1 AND status = 'pending'`, [16]byte(id))
	return storeError("void reversal", err)
}

// prepared brings what must precede a change to Redis. again asks to read the change once more: what it needs of the
// ledger was not there yet.
func (a *Admin) prepared(ctx context.Context, c change) (ready, again bool) {
	if c.kind != grantChange && c.grantStatus == "pending" && a.apply(ctx, grantChange, c.grant.ID) != applied {
		return false, false // Redis would take a grant that it never got for one that is used up
	}
	if c.first != nil && a.apply(ctx, changeKind(c.first.Kind), c.first.ID) == notApplied {
		return false, false
	}
	switch {
	case c.undone.id == meter.ID{}:
		return true, false
	case !c.undone.booked:
		return false, a.awaitBooked(ctx, c.account, c.undone.id)
	case c.kind == revocationChange && c.undone.amount == 0:
		return a.void(ctx, c.undone.reversal, c) == nothingToApply, false
	}
	return true, false
}

// findPurchase makes a revocation that names a purchase one of its grant, by the terms of the sale; one that names the
// grant is the same, if its reason is that of taking back a purchase. A reference that no purchase has may be that of a
// grant. The account's lock is held.
func (s *Store) findPurchase(ctx context.Context, tx pgx.Tx, v *NewRevocation) error {
	if v.PurchaseRef == "" && (v.Reason == reasonRefund || v.Reason == reasonChargeback || v.Reason == reasonError) {
		err := tx.QueryRow(ctx, `SELECT external_ref FROM creditgate.purchase WHERE grant_id = $1 AND account = $2`,
			[16]byte(v.GrantID), v.Account).Scan(&v.PurchaseRef)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
	}
	if v.PurchaseRef == "" {
		return nil
	}
	p, err := readPurchase(ctx, tx, v.PurchaseRef)
	switch {
	case errors.Is(err, ErrNoPurchase), err == nil && p.account != v.Account:
		return nil
	case err != nil:
		return err
	case v.Reason != reasonRefund && v.Reason != reasonChargeback && v.Reason != reasonError:
		return refuseChoice("reason", v.Reason, "that of taking back a purchase is "+reasonRefund+", "+reasonChargeback+
			" or "+reasonError)
	case v.Reason == reasonRefund && !p.refundable:
		return refuse(ErrNotRefundable, "", "pack %s was sold without a right to a refund; a chargeback or an error can be "+
			"taken back", p.pack)
	case p.state == PurchaseAwaiting:
		return refuse(ErrRefused, "", "purchase %s is not paid, so nothing was granted that could be taken back", p.ref)
	case p.state == PurchaseFrozen && (v.Reason == reasonRefund || v.Credits != 0 && v.Credits != p.credits):
		return refuse(ErrRefused, "", "purchase %s is frozen until it is paid, so nothing of it can be spent; report its "+
			"payment first, or take back all of it as a chargeback or an error", p.ref)
	}
	v.purchase, v.GrantID, v.Beyond = &p.id, p.grant, p.beyond()
	v.PurchaseRef = "" // found
	if p.state == PurchaseFrozen {
		return s.insteadOfFreezing(ctx, tx, v)
	}
	return nil
}

// insteadOfFreezing makes a revocation of a frozen purchase take the place of the freezing, of which there is never more
// than one: what freezes a purchase that is frozen takes the place of that.
func (s *Store) insteadOfFreezing(ctx context.Context, tx pgx.Tx, v *NewRevocation) error {
	frozen, err := standing(ctx, tx, *v.purchase, reasonFrozen)
	for _, revocation := range frozen {
		if err != nil {
			break
		}
		v.insteadOf = &revocation
		_, err = s.recordReversal(ctx, tx, revocation, unfreezing(revocation, v.Account, v.Actor))
	}
	return err
}
