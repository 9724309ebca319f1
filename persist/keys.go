package persist

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// NewKey is an API key to be stored: its hash, never the key.
type NewKey struct {
	Account string
	KeyID   string   // a UUID
	Hash    [32]byte // SHA-256 of the key
	Ref     string   // may be empty: every call then makes a new key
	Actor   string
}

// KeyCreated names the key; when Repeated, it is the one of the first call and not NewKey's.
type KeyCreated struct {
	KeyID    string
	Repeated bool
}

// Identity is who a key belongs to.
type Identity struct {
	Account   string
	Product   string
	KeyID     string // empty when the account was named and not proved by a key
	Suspended bool
	Terms     policy.History     // of the subscription: the one in force now, and those to come
	Prices    []policy.UnitPrice // negotiated and not over, the one to be preferred last
}

// CreateKey stores a key. A Ref used before for the same account returns the first key; for another account it is
// ErrRefConflict, as is a hash that is stored already.
func (s *Store) CreateKey(ctx context.Context, k NewKey) (out KeyCreated, err error) {
	id, err := meter.ParseID(k.KeyID)
	if err != nil {
		return out, fmt.Errorf("%w: key id: %w", ErrInvalid, err)
	}
	var ref *string
	if k.Ref != "" {
		ref = &k.Ref
	}
	err = s.tx(ctx, "create key for "+k.Account, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO creditgate.api_key (id, account, hash, external_ref, actor, created_at)
			VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (external_ref) DO NOTHING`,
			[16]byte(id), k.Account, k.Hash[:], ref, k.Actor, s.clock.Now())
		if constraint, ok := violates(err, uniqueViolation); ok {
			return fmt.Errorf("%w: %s", ErrRefConflict, constraint)
		}
		if _, ok := violates(err, foreignKeyViolation); ok {
			return meter.ErrNoAccount
		}
		if err != nil || tag.RowsAffected() == 1 {
			out = KeyCreated{KeyID: k.KeyID}
			return err
		}
		var first [16]byte
		var account string
		err = tx.QueryRow(ctx, `SELECT id, account FROM creditgate.api_key WHERE external_ref = $1`, ref).
			Scan(&first, &account)
		if err != nil {
			return err
		}
		if account != k.Account {
			return refuse(ErrRefConflict, "external_ref", "external_ref %q made an API key of another account; use another one", k.Ref)
		}
		out = KeyCreated{KeyID: meter.ID(first).String(), Repeated: true}
		return nil
	})
	return out, err
}

// RevokeKey ends a key for ever. It is idempotent; ErrNoKey if the account never had the key.
func (s *Store) RevokeKey(ctx context.Context, account, keyID, actor string) error {
	id, err := meter.ParseID(keyID)
	if err != nil {
		return fmt.Errorf("%w: %q", ErrNoKey, keyID)
	}
	tag, err := s.pool.Exec(ctx, `UPDATE creditgate.api_key SET
			revoked_by = CASE WHEN revoked_at IS NULL THEN $3 ELSE revoked_by END,
			revoked_at = coalesce(revoked_at, $4)
		WHERE id = $1 AND account = $2`, [16]byte(id), account, actor, s.clock.Now())
	if err == nil && tag.RowsAffected() == 0 {
		return fmt.Errorf("%w: %s of account %s", ErrNoKey, keyID, account)
	}
	return storeError("revoke key "+keyID, err)
}
