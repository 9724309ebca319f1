package persist

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// Bounds of what is read, and then kept in memory, of one account.
const (
	termsAheadMax = 16  // terms of the subscription: the one in force and so many that were scheduled
	pricesMax     = 256 // negotiated prices that are not over; of more the newest count
)

// identityColumns reads an account a with what was agreed with it, as of $2, in one round trip: terms from the one in
// force on, and the prices that are not over. Times are in milliseconds. An account has few of both.
const identityColumns = `a.id, a.product, a.suspended,
	(SELECT coalesce(json_agg(t), '[]') FROM (
		SELECT (extract(epoch FROM at) * 1000)::bigint AS at, coalesce(plan, '') AS plan, slots, yearly,
			(extract(epoch FROM anchor) * 1000)::bigint AS anchor
		FROM creditgate.subscription_term WHERE account = a.id AND NOT void AND at >= coalesce((
			SELECT max(at) FROM creditgate.subscription_term WHERE account = a.id AND NOT void AND at <= $2), '-infinity')
		ORDER BY subscription_term.at, n LIMIT $3) t),
	(SELECT coalesce(json_agg(o), '[]') FROM (
		SELECT target, credits, (extract(epoch FROM from_at) * 1000)::bigint AS "from",
			(extract(epoch FROM until_at) * 1000)::bigint AS until, external_ref AS ref
		FROM creditgate.override
		WHERE account = a.id AND kind = 'unit_credits' AND (until_at IS NULL OR until_at > $2)
		ORDER BY from_at DESC, recorded_at DESC LIMIT $4) o)`

// termRow and priceRow are terms and prices as identityColumns writes them.
type termRow struct {
	At     int64
	Plan   string
	Slots  uint32
	Yearly bool
	Anchor int64
}

type priceRow struct {
	Target  string
	Credits int64
	From    int64
	Until   *int64
	Ref     string
}

// IdentityByKey returns whom the key with this hash belongs to; ErrNoKey if it does not exist or is revoked.
func (s *Store) IdentityByKey(ctx context.Context, hash [32]byte) (Identity, error) {
	i, err := s.identity(ctx, `SELECT k.id, `+identityColumns+`
		FROM creditgate.api_key k JOIN creditgate.account a ON a.id = k.account
		WHERE k.hash = $1 AND k.revoked_at IS NULL`, hash[:])
	if errors.Is(err, pgx.ErrNoRows) {
		return Identity{}, ErrNoKey
	}
	return i, storeError("look up key", err)
}

// IdentityByAccount returns an account that a trusted peer has named; meter.ErrNoAccount if it does not exist.
func (s *Store) IdentityByAccount(ctx context.Context, account string) (Identity, error) {
	i, err := s.identity(ctx, `SELECT NULL::uuid, `+identityColumns+`
		FROM creditgate.account a WHERE a.id = $1`, account)
	if errors.Is(err, pgx.ErrNoRows) {
		return Identity{}, meter.ErrNoAccount
	}
	return i, storeError("read account "+account, err)
}

func (s *Store) identity(ctx context.Context, sql string, who any) (i Identity, err error) {
	var key *[16]byte
	var terms []termRow
	var prices []priceRow
	err = s.pool.QueryRow(ctx, sql, who, s.clock.Now(), termsAheadMax, pricesMax).
		Scan(&key, &i.Account, &i.Product, &i.Suspended, &terms, &prices)
	if err != nil {
		return Identity{}, err
	}
	if key != nil {
		i.KeyID = meter.ID(*key).String()
	}
	for _, t := range terms {
		i.Terms = append(i.Terms, policy.Term{
			At: fromMs(t.At), Plan: t.Plan, Slots: t.Slots, Yearly: t.Yearly, Anchor: fromMs(t.Anchor),
		})
	}
	for _, p := range slices.Backward(prices) { // read newest first, so that the bound cuts off the oldest
		i.Prices = append(i.Prices, p.price())
	}
	return i, nil
}

func (r priceRow) price() policy.UnitPrice {
	p := policy.UnitPrice{
		Operation: r.Target, Credits: meter.Credits(r.Credits), From: fromMs(r.From), Ref: r.Ref,
		Reason: "negotiated price " + r.Ref, // at most 81 bytes; an entry keeps 120
	}
	if r.Until != nil {
		p.Until = time.UnixMilli(*r.Until).UTC()
	}
	return p
}
