package persist

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// LostBooking is what a person knows of a change that Postgres has lost. The record has its credits, its time, and which
// grant it is or is about.
type LostBooking struct {
	Account     string
	ID          meter.ID  // of the grant, the revocation or the expiry move, as `creditgate ledger quarantine` shows it
	Ref         string    // the order that a grant was bought with, or the reference of another change
	Bucket      string    // of a grant
	EffectiveAt time.Time // of a grant; zero: when it was granted
	ExpiresAt   time.Time // of a grant, or where an expiry was moved to; zero: never
	Price       *Price    // of a grant that was paid for
	FairUse     bool      // the grant is the cap of an unlimited plan
	Reason      string
	Actor       string
}

// LostBooked is what became of a booking.
type LostBooked struct {
	Kind     string // grant, revoke, adjust
	Credits  meter.Credits
	Repeated bool
}

// BookLost records a change that Postgres lost when it was restored to an older copy, from its ledger record and from what
// a person says. The flusher then books the account's entries. Nothing goes to Redis, which has the change.
func (a *Admin) BookLost(ctx context.Context, l LostBooking) (out LostBooked, err error) {
	if err := l.check(); err != nil {
		return out, err
	}
	err = a.tx(ctx, "book "+l.ID.String(), func(tx pgx.Tx) error {
		if err := lockAccount(ctx, tx, l.Account); err != nil {
			return err
		}
		if out, err = l.booked(ctx, tx); err != nil || out.Repeated {
			return err
		}
		e, err := quarantinedChange(ctx, tx, l.Account, l.ID)
		if err != nil {
			return err
		}
		out = LostBooked{Kind: e.Kind.String(), Credits: e.Amount}
		if err := a.insertLost(ctx, tx, l, e); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO creditgate.booked_change (id, kind, account, external_ref, fingerprint, reason, actor)
			VALUES ($1, $2, $3, $4, $5, $6, $7)`, [16]byte(l.ID), out.Kind, l.Account, l.Ref, l.content(), l.Reason, l.Actor)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE creditgate.quarantined_account SET retry = true WHERE account = $1`, l.Account)
		return err
	})
	return out, refRace(err, l.Ref)
}

func (l LostBooking) check() error {
	switch {
	case !meter.ValidName(l.Ref):
		return fmt.Errorf("%w: reference %q must match [A-Za-z0-9._-]{1,64}", ErrInvalid, l.Ref)
	case strings.TrimSpace(l.Actor) == "" || strings.TrimSpace(l.Reason) == "":
		return fmt.Errorf("%w: say who books it and why", ErrInvalid)
	case l.Price != nil && l.Price.Minor < 0:
		return fmt.Errorf("%w: a price below 0", ErrInvalid)
	}
	return nil
}

// content is the fingerprint of what was said, but for who said it.
func (l LostBooking) content() []byte {
	return fingerprint(l.Account, l.ID, l.Ref, l.Bucket, stamp(l.EffectiveAt), stamp(l.ExpiresAt),
		NewGrant{Price: l.Price}.priceText(), l.FairUse)
}

// booked finds an earlier booking of the same change.
func (l LostBooking) booked(ctx context.Context, tx pgx.Tx) (out LostBooked, err error) {
	var same bool
	err = tx.QueryRow(ctx, `SELECT kind, fingerprint = $2 FROM creditgate.booked_change WHERE id = $1`,
		[16]byte(l.ID), l.content()).Scan(&out.Kind, &same)
	if errors.Is(err, pgx.ErrNoRows) {
		return out, nil
	}
	if err == nil && !same {
		err = fmt.Errorf("%w: %s was booked before, with another order, bucket, date or price", ErrRefConflict, l.ID)
	}
	out.Repeated = true
	return out, err
}

// quarantinedChange reads the entry of a change from its record.
func quarantinedChange(ctx context.Context, tx pgx.Tx, account string, id meter.ID) (meter.Entry, error) {
	var idx int
	var body []byte
	err := tx.QueryRow(ctx, `SELECT h.idx, r.body FROM creditgate.quarantined_entry h
		JOIN creditgate.ledger_record r USING (layout, partition, pseq)
		WHERE h.subject = $1 AND h.account = $2 AND h.kind IN ('grant', 'revoke', 'adjust')`,
		[16]byte(id), account).Scan(&idx, &body)
	if errors.Is(err, pgx.ErrNoRows) {
		return meter.Entry{}, fmt.Errorf("%w: account %q has no quarantined entry of a change with id %s", ErrNoGrant, account, id)
	}
	if err != nil {
		return meter.Entry{}, err
	}
	rec, err := meter.UnpackRecord(body)
	if err != nil || idx >= len(rec.Entries) || len(rec.Entries[idx].Lines) == 0 {
		return meter.Entry{}, fmt.Errorf("%w: the record of %s cannot be read: %w", ErrLedgerBroken, id, err)
	}
	return rec.Entries[idx], nil
}

func (a *Admin) insertLost(ctx context.Context, tx pgx.Tx, l LostBooking, e meter.Entry) error {
	grant, created := e.Lines[0].Grant, fromMs(l.ID.CreatedMs())
	var err error
	switch {
	case e.Kind == meter.KindGrant:
		return a.insertLostGrant(ctx, tx, l, e)
	case l.Bucket != "" || l.Price != nil || !l.EffectiveAt.IsZero() || l.FairUse:
		return fmt.Errorf("%w: %s is no grant: it has no bucket, begin or price", ErrInvalid, l.ID)
	case e.Kind == meter.KindRevoke:
		_, err = tx.Exec(ctx, `INSERT INTO creditgate.revocation
				(id, account, grant_id, credits, external_ref, fingerprint, reason, actor, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, [16]byte(l.ID), l.Account, [16]byte(grant), int64(e.Amount), l.Ref,
			l.content(), e.Note.Reason, e.Note.Actor, created)
	case reverses(&e):
		return fmt.Errorf("%w: %s undoes a revocation, which cannot be booked by hand", ErrRefused, l.ID)
	default:
		_, err = tx.Exec(ctx, `INSERT INTO creditgate.expiry_move
				(id, account, grant_id, expires_at, external_ref, fingerprint, reason, actor, created_at, status, applied_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'void', now())`, [16]byte(l.ID), l.Account, [16]byte(grant),
			optionalTime(l.ExpiresAt), l.Ref, l.content(), e.Note.Reason, e.Note.Actor, created)
	}
	if _, ok := violates(err, foreignKeyViolation); ok {
		return fmt.Errorf("%w: Postgres does not know grant %s; book it first", ErrNoGrant, grant)
	}
	return invalid(err)
}

func (a *Admin) insertLostGrant(ctx context.Context, tx pgx.Tx, l LostBooking, e meter.Entry) error {
	var product string
	if err := tx.QueryRow(ctx, `SELECT product FROM creditgate.account WHERE id = $1`, l.Account).Scan(&product); err != nil {
		return err
	}
	p := a.policies.Policy(product)
	if p == nil {
		return fmt.Errorf("%w: there is no policy of product %q, which account %q belongs to", ErrInvalid, product, l.Account)
	}
	rank, ok := p.Rank(l.Bucket)
	if !ok {
		return fmt.Errorf("%w: bucket %q; product %s has %s", ErrInvalid, l.Bucket, product, strings.Join(p.Buckets, ", "))
	}
	cycle, err := a.lostCycle(ctx, tx, &l, e)
	if err != nil {
		return err
	}
	if l.EffectiveAt.IsZero() {
		l.EffectiveAt = fromMs(l.ID.CreatedMs())
	}
	if !l.ExpiresAt.IsZero() && !l.ExpiresAt.After(l.EffectiveAt) {
		return fmt.Errorf("%w: the grant would expire before it begins, at %s", ErrInvalid, l.EffectiveAt.Format(time.RFC3339))
	}
	g := NewGrant{
		Account: l.Account, Bucket: l.Bucket, Rank: rank, Credits: e.Amount, EffectiveAt: l.EffectiveAt, ExpiresAt: l.ExpiresAt,
		Ref: l.Ref, Reason: e.Note.Reason, Actor: e.Note.Actor, Price: l.Price, Unlimited: l.FairUse, Stops: l.FairUse,
	}
	if err := g.check(); err != nil {
		return err
	}
	var taken string
	err = tx.QueryRow(ctx, `SELECT account FROM creditgate.purchase WHERE external_ref = $1
		UNION ALL SELECT account FROM creditgate.grant_lot WHERE external_ref = $1`, l.Ref).Scan(&taken)
	if err == nil {
		return fmt.Errorf("%w: order %q of account %q is in Postgres: its grant was not lost", ErrRefConflict, l.Ref, taken)
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if err := g.insert(ctx, tx, l.ID); err != nil || cycle == nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO creditgate.cycle_grant (account, key, revision, grant_id, expires_at, policy_version)
		SELECT $1::text, $2::text, coalesce(max(revision), 0) + 1, $3::uuid, $4::timestamptz, $5::text
		FROM creditgate.cycle_grant WHERE account = $1::text AND key = $2::text`,
		l.Account, cycle.Key, [16]byte(l.ID), g.ExpiresAt, p.Version())
	return err
}

// lostCycle finds what a subscription is due that a lost grant by policy was, and completes what was said with it. The
// issuer would give it once more otherwise. It is nil for a grant that no subscription is due now.
func (a *Admin) lostCycle(ctx context.Context, tx pgx.Tx, l *LostBooking, e meter.Entry) (*policy.Due, error) {
	if e.Note.Actor != byPolicy {
		return nil, nil //nolint:nilnil // most grants are of no cycle
	}
	now := a.clock.Now().Truncate(time.Millisecond).UTC()
	s, p, err := a.subscriber(ctx, tx, l.Account, now)
	if err != nil {
		return nil, err
	}
	w, _, _ := s.plan(p, now)
	for _, i := range w.issue {
		if i.Bucket != l.Bucket || i.Credits != e.Amount || !l.EffectiveAt.IsZero() && !l.EffectiveAt.Equal(i.EffectiveAt) {
			continue
		}
		l.EffectiveAt, l.FairUse = i.EffectiveAt, i.Unlimited
		if l.ExpiresAt.IsZero() {
			l.ExpiresAt = i.ExpiresAt
		}
		return &i.Due, nil
	}
	return nil, nil //nolint:nilnil // its subscription was lost too, or ended
}

// bookedByHand refuses a purchase whose grant a person has booked.
func bookedByHand(ctx context.Context, tx pgx.Tx, ref string) error {
	var id meter.ID
	err := tx.QueryRow(ctx, `SELECT id FROM creditgate.booked_change WHERE kind = 'grant' AND external_ref = $1`, ref).
		Scan((*[16]byte)(&id))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%w: %q is granted already: its grant %s was booked by hand after Postgres had lost it",
			ErrRefConflict, ref, id)
	}
	return err
}
