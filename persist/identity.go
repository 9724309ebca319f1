package persist

import (
	"context"
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

// identityColumns reads an account a with what was agreed with it, as of $2: terms from the one in force on, and the
// prices that are not over. An account has few of both, and none unless agreed says so.
const identityColumns = `a.id, a.product, a.suspended,
	CASE WHEN a.agreed THEN ARRAY(
		SELECT (at, coalesce(plan, ''), slots, yearly, anchor)
		FROM creditgate.subscription_term WHERE account = a.id AND NOT void AND at >= coalesce((
			SELECT max(at) FROM creditgate.subscription_term WHERE account = a.id AND NOT void AND at <= $2), '-infinity')
		ORDER BY at, n LIMIT $3) END,
	CASE WHEN a.agreed THEN ARRAY(
		SELECT (target, credits, from_at, until_at, external_ref)
		FROM creditgate.override
		WHERE account = a.id AND kind = 'unit_credits' AND (until_at IS NULL OR until_at > $2)
		ORDER BY from_at DESC, recorded_at DESC LIMIT $4) END`

// What is asked for many keys or accounts, $1, at once.
const (
	identitiesByKey = `SELECT k.hash, k.id, ` + identityColumns + `
		FROM creditgate.api_key k JOIN creditgate.account a ON a.id = k.account
		WHERE k.hash = ANY ($1) AND k.revoked_at IS NULL`
	identitiesByAccount = `SELECT NULL::bytea, NULL::uuid, ` + identityColumns + `
		FROM creditgate.account a WHERE a.id = ANY ($1)`
)

// termRow and priceRow are terms and prices in the order of identityColumns.
type termRow struct {
	At     time.Time
	Plan   string
	Slots  uint32
	Yearly bool
	Anchor time.Time
}

type priceRow struct {
	Target  string
	Credits int64
	From    time.Time
	Until   *time.Time
	Ref     string
}

// keyHash is the SHA-256 of an API key.
type keyHash = [32]byte

// IdentityByKey returns whom the key with this hash belongs to; ErrNoKey if it does not exist or is revoked.
func (s *Store) IdentityByKey(ctx context.Context, hash [32]byte) (Identity, error) {
	i, known, err := s.keys.ask(ctx, hash)
	if err == nil && !known {
		return Identity{}, ErrNoKey
	}
	return i, storeError("look up key", err)
}

// IdentityByAccount returns an account that a trusted peer has named; meter.ErrNoAccount if it does not exist.
func (s *Store) IdentityByAccount(ctx context.Context, account string) (Identity, error) {
	i, known, err := s.names.ask(ctx, account)
	if err == nil && !known {
		return Identity{}, meter.ErrNoAccount
	}
	return i, storeError("read account "+account, err)
}

func (s *Store) findKeys(ctx context.Context, hashes []keyHash) (map[keyHash]Identity, error) {
	arg := make([][]byte, len(hashes))
	for i := range hashes {
		arg[i] = hashes[i][:]
	}
	found := make(map[keyHash]Identity, len(hashes))
	err := s.identities(ctx, identitiesByKey, arg, func(hash []byte, i Identity) { found[keyHash(hash)] = i })
	return found, err
}

func (s *Store) findNames(ctx context.Context, accounts []string) (map[string]Identity, error) {
	found := make(map[string]Identity, len(accounts))
	err := s.identities(ctx, identitiesByAccount, accounts, func(_ []byte, i Identity) { found[i.Account] = i })
	return found, err
}

// identities calls fn with each identity that sql finds of $1, and the hash of its key.
func (s *Store) identities(ctx context.Context, sql string, of any, fn func(hash []byte, i Identity)) error {
	rows, err := s.asked.Query(ctx, sql, of, s.clock.Now(), termsAheadMax, pricesMax)
	if err != nil {
		return err
	}
	var hash []byte
	var key *[16]byte
	var i Identity
	var terms []termRow
	var prices []priceRow
	_, err = pgx.ForEachRow(rows, []any{&hash, &key, &i.Account, &i.Product, &i.Suspended, &terms, &prices}, func() error {
		i.KeyID, i.Terms, i.Prices = "", nil, nil
		if key != nil {
			i.KeyID = meter.ID(*key).String()
		}
		for _, t := range terms {
			i.Terms = append(i.Terms, policy.Term{
				At: t.At.UTC(), Plan: t.Plan, Slots: t.Slots, Yearly: t.Yearly, Anchor: t.Anchor.UTC(),
			})
		}
		for _, p := range slices.Backward(prices) { // read newest first, so that the bound cuts off the oldest
			i.Prices = append(i.Prices, p.price())
		}
		fn(hash, i)
		return nil
	})
	return err
}

func (r priceRow) price() policy.UnitPrice {
	p := policy.UnitPrice{
		Operation: r.Target, Credits: meter.Credits(r.Credits), From: r.From.UTC(), Ref: r.Ref,
		Reason: "negotiated price " + r.Ref, // at most 81 bytes; an entry keeps 120
	}
	p.Until = timeOrZero(r.Until)
	return p
}
