package persist

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// AccountChange creates an account or changes what is not nil.
type AccountChange struct {
	Account   string
	Product   *string // on creation nil means the deployment's only product
	Suspended *bool
	Actor     string
}

// AccountState is an account as Postgres has it. Applied says whether Redis was seen to have its flags.
type AccountState struct {
	Account   string
	Product   string
	Suspended bool
	CreatedAt time.Time
	Created   bool // by this call
	Applied   bool
}

// putAccount creates or changes an account in Postgres. A change of suspended raises the version of the flags, which
// is what orders changes in Redis. product is for a new account that names none.
func (s *Store) putAccount(ctx context.Context, c AccountChange, product string) (a AccountState, err error) {
	if !meter.ValidName(c.Account) {
		return a, fmt.Errorf("%w: account %q must match [A-Za-z0-9._-]{1,64}", ErrInvalid, c.Account)
	}
	err = s.tx(ctx, "put account "+c.Account, func(tx pgx.Tx) error {
		a, err = s.updateAccount(ctx, tx, c)
		if !errors.Is(err, meter.ErrNoAccount) {
			return err
		}
		if c.Product == nil {
			c.Product = &product
		}
		a, err = s.createAccount(ctx, tx, c)
		return err
	})
	return a, err
}

const accountColumns = `id, product, suspended, created_at, applied_flags_version = flags_version`

func scanAccount(row pgx.Row) (a AccountState, err error) {
	err = row.Scan(&a.Account, &a.Product, &a.Suspended, &a.CreatedAt, &a.Applied)
	if errors.Is(err, pgx.ErrNoRows) {
		return a, meter.ErrNoAccount
	}
	return a, err
}

// updateAccount changes an account. One that moves to another product is due at once: what it was given ahead is the old
// product's.
func (s *Store) updateAccount(ctx context.Context, tx pgx.Tx, c AccountChange) (AccountState, error) {
	now := s.clock.Now()
	if c.Product != nil {
		if err := lockAccount(ctx, tx, c.Account); err != nil {
			return AccountState{}, err
		}
		if err := unsubscribed(ctx, tx, c.Account, *c.Product, now); err != nil {
			return AccountState{}, err
		}
	}
	a, err := scanAccount(tx.QueryRow(ctx, `UPDATE creditgate.account SET
			product = coalesce($2, product),
			suspended = coalesce($3, suspended),
			flags_version = flags_version + CASE WHEN $3 <> suspended THEN 1 ELSE 0 END,
			flags_changed_at = CASE WHEN $3 <> suspended THEN $5 ELSE flags_changed_at END,
			actor = CASE WHEN $2 <> product OR $3 <> suspended THEN $4 ELSE actor END
		WHERE id = $1 RETURNING `+accountColumns, c.Account, c.Product, c.Suspended, c.Actor, now))
	if err != nil || c.Product == nil {
		return a, err
	}
	_, err = tx.Exec(ctx, `UPDATE creditgate.subscription_due SET product = $2, due_at = $3 WHERE account = $1 AND product <> $2`,
		c.Account, *c.Product, now.Truncate(time.Millisecond))
	return a, err
}

// unsubscribed refuses another product to an account with a subscription in force or to come: its plan, cycle and what
// was given of it are the old product's, and the new one may have none of that name.
func unsubscribed(ctx context.Context, tx pgx.Tx, account, product string, now time.Time) error {
	var from, plan string
	err := tx.QueryRow(ctx, `SELECT a.product, t.plan FROM creditgate.account a
		JOIN creditgate.subscription_term t ON t.account = a.id
		WHERE a.id = $1 AND a.product <> $2 AND NOT t.void AND t.plan IS NOT NULL AND t.at >= coalesce((
			SELECT max(at) FROM creditgate.subscription_term WHERE account = $1 AND NOT void AND at <= $3), '-infinity')
		ORDER BY t.at LIMIT 1`, account, product, now).Scan(&from, &plan)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return refuse(ErrRefused, "product", "account %q has a subscription to plan %q of product %q, in force or to come; "+
		"end it first with DELETE /v1/accounts/%s/subscription?at=now, or wait until it has ended", account, plan, from, account)
}

func (s *Store) createAccount(ctx context.Context, tx pgx.Tx, c AccountChange) (AccountState, error) {
	if !meter.ValidName(*c.Product) {
		return AccountState{}, refuse(ErrInvalid, "product",
			"product is required for a new account, since there are policies of several products")
	}
	suspended := c.Suspended != nil && *c.Suspended
	a, err := scanAccount(tx.QueryRow(ctx, `INSERT INTO creditgate.account
			(id, layout, partition, product, suspended, flags_version, actor, created_at, flags_changed_at)
		VALUES ($1, $2, $3, $4, $5, CASE WHEN $5 THEN 1 ELSE 0 END, $6, $7, $7)
		ON CONFLICT (id) DO NOTHING RETURNING `+accountColumns,
		c.Account, s.layoutNumber(), s.partitionOf(c.Account), *c.Product, suspended, c.Actor, s.clock.Now()))
	if errors.Is(err, meter.ErrNoAccount) { // another call created it at this moment
		return s.updateAccount(ctx, tx, c)
	}
	if err != nil {
		return a, err
	}
	a.Created = true
	if _, err = tx.Exec(ctx, `INSERT INTO creditgate.account_state (account) VALUES ($1)`, c.Account); err != nil {
		return a, err
	}
	// It may be back after Postgres lost it.
	_, err = tx.Exec(ctx, `UPDATE creditgate.quarantined_account SET retry = true WHERE account = $1`, c.Account)
	return a, err
}

// AccountState returns an account, or meter.ErrNoAccount.
func (s *Store) AccountState(ctx context.Context, account string) (AccountState, error) {
	a, err := scanAccount(s.pool.QueryRow(ctx,
		`SELECT `+accountColumns+` FROM creditgate.account WHERE id = $1`, account))
	return a, storeError("read account "+account, err)
}

// flags is what suspending in Redis needs, read in one snapshot.
type flags struct {
	suspended        bool
	version, applied uint32
	epoch            uint64 // of the partition: an opening forgets what was applied before it
}

func (s *Store) flags(ctx context.Context, account string) (f flags, err error) {
	err = s.pool.QueryRow(ctx, `SELECT a.suspended, a.flags_version, a.applied_flags_version, p.epoch
		FROM creditgate.account a JOIN creditgate.partition p USING (layout, partition) WHERE a.id = $1`, account).
		Scan(&f.suspended, &f.version, &f.applied, &f.epoch)
	if errors.Is(err, pgx.ErrNoRows) {
		err = meter.ErrNoAccount
	}
	return f, storeError("read flags of "+account, err)
}

// flagsApplied records that Redis has the flags, unless the partition was claimed for opening since they were read:
// a suspension writes no ledger entry, so a Redis that lost its last second may have lost it.
func (s *Store) flagsApplied(ctx context.Context, account string, f flags) error {
	_, err := s.pool.Exec(ctx, `UPDATE creditgate.account a SET applied_flags_version = $2
		FROM creditgate.partition p
		WHERE a.id = $1 AND a.applied_flags_version < $2 AND a.flags_version >= $2
			AND p.layout = a.layout AND p.partition = a.partition AND p.epoch = $3`, account, f.version, f.epoch)
	return storeError("record flags of "+account, err)
}
