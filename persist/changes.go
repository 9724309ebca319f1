package persist

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// NewGrant is a lot of credit to be added.
type NewGrant struct {
	Account     string
	Bucket      string
	Rank        uint8 // of the bucket in the policy's drain order
	Credits     meter.Credits
	EffectiveAt time.Time // zero: now
	ExpiresAt   time.Time // zero: never
	Ref         string
	Reason      string
	Actor       string
	Price       *Price // nil: nothing was paid for it
	Follows     bool   // it ends with the account's cycle, wherever that end moves to
	Unlimited   bool   // a fair-use cap, shown as unlimited
	// Stops lets nothing be drawn of the buckets behind the grant's while it is in force, even when it is used up.
	// Moving its expiry to now ends that, as does revoking anything of it.
	Stops bool
}

// Price is what was paid for a grant, in the currency's minor unit (ISO 4217).
type Price struct {
	Minor    int64
	Currency string
}

// NewRevocation takes back credit of one grant, named by its id or by the reference it was granted under. Credits 0
// means all of it that was not revoked before.
type NewRevocation struct {
	Account     string
	GrantID     meter.ID
	PurchaseRef string
	Credits     meter.Credits
	Beyond      meter.Beyond // what becomes of the part that is spent; of a purchase, the policy decides
	Ref         string
	Reason      string
	Actor       string

	purchase  *meter.ID // the purchase that is taken back, if it is one
	insteadOf *meter.ID // the revocation that this one takes the place of, if of one
}

// ExpiryChange moves the expiry of a grant.
type ExpiryChange struct {
	Account   string
	GrantID   meter.ID
	ExpiresAt time.Time // zero: never
	Ref       string
	Reason    string
	Actor     string
}

// recorded is a change as Postgres has it, by this call or an earlier one with the same reference.
type recorded struct {
	id       meter.ID
	repeated bool
}

// fingerprint tells a repeated request from another one under the same reference. Each part is preceded by its
// length, so that no two contents run together to the same bytes.
func fingerprint(parts ...any) []byte {
	h := sha256.New()
	for _, p := range parts {
		text := fmt.Sprint(p)
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(text))))
		h.Write([]byte(text))
	}
	return h.Sum(nil)
}

// stamp is a time as part of a fingerprint.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// lockAccount serialises admin changes of one account, and proves that it exists.
func lockAccount(ctx context.Context, tx pgx.Tx, account string) error {
	var one int
	err := tx.QueryRow(ctx, `SELECT 1 FROM creditgate.account WHERE id = $1 FOR NO KEY UPDATE`, account).Scan(&one)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%w: %q", meter.ErrNoAccount, account)
	}
	return err
}

// earlier looks for a change made before under the same reference. table is one of our own names.
func earlier(ctx context.Context, tx pgx.Tx, table, ref string, content []byte) (r recorded, found bool, err error) {
	var same bool
	err = tx.QueryRow(ctx, `SELECT id, fingerprint = $2 FROM creditgate.`+table+` WHERE external_ref = $1`, ref, content).
		Scan((*[16]byte)(&r.id), &same)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, false, nil
	}
	if err == nil && !same {
		err = refConflict(ref)
	}
	r.repeated = true
	return r, true, err
}

// insertGrant records a grant as pending.
func (s *Store) insertGrant(ctx context.Context, g NewGrant) (r recorded, err error) {
	err = s.tx(ctx, "record grant "+g.Ref, func(tx pgx.Tx) error {
		if err := lockAccount(ctx, tx, g.Account); err != nil {
			return err
		}
		r, err = s.recordGrant(ctx, tx, g)
		return err
	})
	return r, refRace(err, g.Ref)
}

// recordGrant records a grant as pending, in a transaction that holds the account's lock. It counts as live whatever
// Redis may still hold: the projection is never ahead of Redis in using grants up, so Redis has at most as many.
func (s *Store) recordGrant(ctx context.Context, tx pgx.Tx, g NewGrant) (recorded, error) {
	if err := g.check(); err != nil {
		return recorded{}, err
	}
	r, found, err := earlier(ctx, tx, "grant_lot", g.Ref, g.content())
	if found || err != nil {
		return r, err
	}
	if err := s.checkRoom(ctx, tx, g.Account); err != nil {
		return recorded{}, err
	}
	now := s.clock.Now()
	if g.EffectiveAt.IsZero() && !g.ExpiresAt.IsZero() && !g.ExpiresAt.After(now) {
		return recorded{}, g.endsFirst()
	}
	r.id = meter.NewID(now)
	return r, g.insert(ctx, tx, r.id)
}

// content is the fingerprint of what was asked for.
func (g NewGrant) content() []byte {
	parts := []any{g.Account, g.Bucket, g.Credits, stamp(g.EffectiveAt), stamp(g.ExpiresAt), g.Reason, g.priceText()}
	if g.Unlimited || g.Stops {
		parts = append(parts, g.Unlimited, g.Stops)
	}
	return fingerprint(parts...)
}

func (s *Store) checkRoom(ctx context.Context, tx pgx.Tx, account string) error {
	var live int
	err := tx.QueryRow(ctx, `SELECT count(*) FROM (`+takingRoom+`) l`, []string{account}, s.overSince()).Scan(&live)
	if err == nil && live >= meter.GrantsMax {
		return fmt.Errorf("%w: %q has %d, which is the most", ErrTooManyGrants, account, live)
	}
	return err
}

func (g NewGrant) endsFirst() error {
	return refuse(ErrInvalid, "expires_at", "expires_at %s must be later than effective_at, which is now where it is not given",
		g.ExpiresAt.Format(time.RFC3339))
}

func (g NewGrant) check() error {
	switch {
	case !meter.ValidName(g.Ref):
		return refuse(ErrInvalid, "external_ref", "external_ref %q must match [A-Za-z0-9._-]{1,64}", g.Ref)
	case !meter.ValidName(g.Bucket):
		return refuse(ErrInvalid, "bucket", "bucket %q must match [A-Za-z0-9._-]{1,64}", g.Bucket)
	case g.Credits <= 0 || !g.Credits.Valid():
		return refuse(ErrInvalid, "credits", "credits is %s; a grant has more than 0 and at most %s", g.Credits, meter.MaxCredits)
	case !g.ExpiresAt.IsZero() && !g.ExpiresAt.After(g.EffectiveAt):
		return g.endsFirst()
	case g.ExpiresAt.UnixMilli() > meter.Never || g.EffectiveAt.UnixMilli() > meter.Never:
		return refuse(ErrInvalid, "expires_at", "effective_at and expires_at must lie before %s; leave expires_at out for never",
			fromMs(meter.Never).Format(time.DateOnly))
	}
	return nil
}

func (g NewGrant) priceText() string {
	if g.Price == nil {
		return ""
	}
	return fmt.Sprintf("%d %s", g.Price.Minor, g.Price.Currency)
}

func (g NewGrant) insert(ctx context.Context, tx pgx.Tx, id meter.ID) error {
	created := fromMs(id.CreatedMs())
	effective := created
	if !g.EffectiveAt.IsZero() {
		effective = g.EffectiveAt.UTC().Truncate(time.Millisecond)
	}
	var minor *int64
	var currency *string
	if g.Price != nil {
		minor, currency = &g.Price.Minor, &g.Price.Currency
	}
	expires := optionalTime(g.ExpiresAt)
	_, err := tx.Exec(ctx, `INSERT INTO creditgate.grant_lot (id, account, bucket, rank, credits, paid, price_minor,
			currency, effective_at, expires_at, external_ref, fingerprint, reason, actor, created_at, unlimited, stops,
			follows_renewal)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)`,
		[16]byte(id), g.Account, g.Bucket, int16(g.Rank), int64(g.Credits), g.Price != nil && g.Price.Minor > 0,
		minor, currency, effective, expires, g.Ref, g.content(), g.Reason, g.Actor, created, g.Unlimited, g.Stops,
		g.Follows)
	if err != nil {
		return invalid(err)
	}
	_, err = tx.Exec(ctx, `INSERT INTO creditgate.grant_state
			(grant_id, account, product, bucket, rank, unlimited, effective_at, credits, expires_at)
		SELECT $1::uuid, id, product, $3::text, $4::smallint, $5::boolean, $6::timestamptz, $7::bigint, $8::timestamptz
		FROM creditgate.account WHERE id = $2`,
		[16]byte(id), g.Account, g.Bucket, int16(g.Rank), g.Unlimited, effective, int64(g.Credits), expires)
	return err
}

// insertRevocation records a revocation as pending and returns how much it takes.
func (s *Store) insertRevocation(ctx context.Context, v NewRevocation) (r recorded, err error) {
	if !meter.ValidName(v.Ref) {
		return r, refuse(ErrInvalid, "external_ref", "external_ref %q must match [A-Za-z0-9._-]{1,64}", v.Ref)
	}
	if v.Credits < 0 || !v.Credits.Valid() {
		return r, refuse(ErrInvalid, "credits", "credits is %s; a revocation takes more than 0 and at most %s",
			v.Credits, meter.MaxCredits)
	}
	err = s.tx(ctx, "record revocation "+v.Ref, func(tx pgx.Tx) error {
		if err := lockAccount(ctx, tx, v.Account); err != nil {
			return err
		}
		r, err = s.recordRevocation(ctx, tx, v)
		return err
	})
	return r, refRace(err, v.Ref)
}

// recordRevocation records a revocation as pending, in a transaction that holds the account's lock.
func (s *Store) recordRevocation(ctx context.Context, tx pgx.Tx, v NewRevocation) (recorded, error) {
	content := fingerprint(v.Account, v.GrantID, v.PurchaseRef, v.Credits, v.Reason)
	r, found, err := earlier(ctx, tx, "revocation", v.Ref, content)
	if found || err != nil {
		return r, err
	}
	if err := s.findPurchase(ctx, tx, &v); err != nil {
		return r, err
	}
	grant, left, err := revocable(ctx, tx, v)
	if err != nil {
		return r, err
	}
	credits := v.Credits
	if credits == 0 {
		credits = left
	}
	if credits > left || credits == 0 {
		return r, refuse(ErrExceedsGrant, "credits", "at most %s credits of grant %s can still be revoked", left, grant)
	}
	if r.id, err = s.nextOf(ctx, tx, grant); err != nil {
		return r, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO creditgate.revocation
			(id, account, grant_id, credits, external_ref, fingerprint, reason, actor, created_at, beyond, purchase_id,
			instead_of)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`, [16]byte(r.id), v.Account, [16]byte(grant),
		int64(credits), v.Ref, content, v.Reason, v.Actor, fromMs(r.id.CreatedMs()), int16(v.Beyond),
		(*[16]byte)(v.purchase), (*[16]byte)(v.insteadOf))
	return r, invalid(err)
}

// nextOf is an id after those of all revocations and reversals of a grant, which reach Redis in the order of their ids:
// another gateway's clock may be ahead of this one's. The account's lock is held.
func (s *Store) nextOf(ctx context.Context, tx pgx.Tx, grant meter.ID) (meter.ID, error) {
	var last *time.Time
	err := tx.QueryRow(ctx, `SELECT greatest((SELECT max(created_at) FROM creditgate.revocation WHERE grant_id = $1),
		(SELECT max(created_at) FROM creditgate.reversal WHERE grant_id = $1))`, [16]byte(grant)).Scan(&last)
	at := s.clock.Now()
	if next := timeOrZero(last).Add(time.Millisecond); next.After(at) {
		at = next
	}
	return meter.NewID(at), err
}

// revocable finds the grant and what of it no earlier revocation asked for, but those that were undone. The account's
// lock is held.
func revocable(ctx context.Context, tx pgx.Tx, v NewRevocation) (grant meter.ID, left meter.Credits, err error) {
	err = tx.QueryRow(ctx, `SELECT g.id, g.credits - coalesce(sum(r.credits), 0)::bigint
		FROM creditgate.grant_lot g LEFT JOIN creditgate.revocation r ON r.grant_id = g.id
			AND NOT EXISTS (SELECT FROM creditgate.reversal v WHERE v.revocation_id = r.id)
		WHERE g.account = $1 AND CASE WHEN $3 = '' THEN g.id = $2 ELSE g.external_ref = $3 END
		GROUP BY g.id`, v.Account, [16]byte(v.GrantID), v.PurchaseRef).Scan((*[16]byte)(&grant), (*int64)(&left))
	if errors.Is(err, pgx.ErrNoRows) {
		err = fmt.Errorf("%w: account %q", ErrNoGrant, v.Account)
	}
	return grant, left, err
}

// insertMove records an expiry move as pending.
func (s *Store) insertMove(ctx context.Context, m ExpiryChange) (r recorded, err error) {
	if !meter.ValidName(m.Ref) {
		return r, refuse(ErrInvalid, "external_ref", "external_ref %q must match [A-Za-z0-9._-]{1,64}", m.Ref)
	}
	if m.ExpiresAt.UnixMilli() > meter.Never {
		return r, refuse(ErrInvalid, "expires_at", "expires_at must lie before %s; null is never",
			fromMs(meter.Never).Format(time.DateOnly))
	}
	err = s.tx(ctx, "record expiry move "+m.Ref, func(tx pgx.Tx) error {
		if err := lockAccount(ctx, tx, m.Account); err != nil {
			return err
		}
		r, err = s.recordMove(ctx, tx, m)
		return err
	})
	return r, refRace(err, m.Ref)
}

// recordMove records an expiry move as pending, in a transaction that holds the account's lock.
func (s *Store) recordMove(ctx context.Context, tx pgx.Tx, m ExpiryChange) (recorded, error) {
	content := fingerprint(m.Account, m.GrantID, stamp(m.ExpiresAt), m.Reason)
	r, found, err := earlier(ctx, tx, "expiry_move", m.Ref, content)
	if found || err != nil {
		return r, err
	}
	// The newest wish counts. An older one that Redis has already is booked as applied all the same.
	_, err = tx.Exec(ctx, `UPDATE creditgate.expiry_move SET status = 'void', applied_at = now()
		WHERE grant_id = $1 AND status = 'pending'`, [16]byte(m.GrantID))
	if err != nil {
		return r, err
	}
	r.id = meter.NewID(s.clock.Now())
	_, err = tx.Exec(ctx, `INSERT INTO creditgate.expiry_move
			(id, account, grant_id, expires_at, external_ref, fingerprint, reason, actor, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, [16]byte(r.id), m.Account, [16]byte(m.GrantID),
		optionalTime(m.ExpiresAt), m.Ref, content, m.Reason, m.Actor, fromMs(r.id.CreatedMs()))
	if _, ok := violates(err, foreignKeyViolation); ok {
		return r, fmt.Errorf("%w: %s of account %q", ErrNoGrant, m.GrantID, m.Account)
	}
	return r, invalid(err)
}

// refRace is err unless two accounts used one reference at the same moment; the lock of one account does not see
// the other.
func refRace(err error, ref string) error {
	if _, ok := violates(err, uniqueViolation); ok {
		return refConflict(ref)
	}
	return err
}

// invalid turns what a check of the schema refused into ErrInvalid.
func invalid(err error) error {
	if constraint, ok := violates(err, checkViolation); ok {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, constraint, err)
	}
	return err
}
