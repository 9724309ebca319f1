package persist

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// ErrHeldBack says that an account's ledger waits for a person: what Postgres has of it is not what Redis has.
var ErrHeldBack = errors.New("account is held back: its ledger cannot be booked; see `creditgate ledger held`")

// HeldAccount is an account whose entries are kept and not booked.
type HeldAccount struct {
	Account string
	Known   bool // Postgres has the account itself
	Since   time.Time
	Oldest  time.Time // when the first entry that waits happened
	Entries int
	Reason  string // why the first of them cannot be booked
	Retry   bool   // something was booked, and the flusher is about to try
	Lost    []LostChange
}

// LostChange is a change that the ledger names and Postgres does not have.
type LostChange struct {
	Kind       string // grant, revoke, adjust
	ID         meter.ID
	EntryID    string
	Credits    meter.Credits // 0: of an expiry that was moved
	Reason     string
	Actor      string
	OccurredAt time.Time
}

// listedMax bounds what a list of held-back accounts has of each.
const listedMax = 1000

// lostChanges are the entries of changes that Postgres does not know, of the accounts $1.
const lostChanges = `SELECT account, kind, subject, layout, partition, pseq, idx, amount, reason, actor, occurred_at
	FROM creditgate.held_entry h WHERE account = ANY ($1) AND kind IN ('grant', 'revoke', 'adjust') AND NOT EXISTS (
		SELECT FROM creditgate.grant_lot WHERE id = h.subject
		UNION ALL SELECT FROM creditgate.revocation WHERE id = h.subject
		UNION ALL SELECT FROM creditgate.expiry_move WHERE id = h.subject
		UNION ALL SELECT FROM creditgate.reversal WHERE id = h.subject)
	ORDER BY account, pseq, idx LIMIT $2`

// HeldBack lists the accounts that are held back, oldest first.
func (s *Store) HeldBack(ctx context.Context) (out []HeldAccount, err error) {
	err = s.snapshot(ctx, "list held-back accounts", func(tx pgx.Tx) error {
		out, err = heldBack(ctx, tx, "")
		return err
	})
	return out, err
}

// Held is an account that is held back, nil if it is not.
func (s *Store) Held(ctx context.Context, account string) (held *HeldAccount, err error) {
	err = s.snapshot(ctx, "read held-back account", func(tx pgx.Tx) error {
		all, err := heldBack(ctx, tx, account)
		if len(all) > 0 {
			held = &all[0]
		}
		return err
	})
	return held, err
}

// heldBack reads the accounts that are held back, or only one of them.
func heldBack(ctx context.Context, tx pgx.Tx, only string) ([]HeldAccount, error) {
	rows, err := tx.Query(ctx, `SELECT h.account, EXISTS (SELECT FROM creditgate.account WHERE id = h.account), h.since, h.reason,
			h.retry, count(e.pseq), coalesce(min(e.occurred_at), h.since)
		FROM creditgate.held_account h LEFT JOIN creditgate.held_entry e USING (account)
		WHERE $2 = '' OR h.account = $2
		GROUP BY h.account ORDER BY h.since, h.account LIMIT $1`, listedMax, only)
	if err != nil {
		return nil, err
	}
	at := map[string]int{}
	var names []string
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h HeldAccount, err error) {
		err = row.Scan(&h.Account, &h.Known, &h.Since, &h.Reason, &h.Retry, &h.Entries, &h.Oldest)
		h.Since, h.Oldest = h.Since.UTC(), h.Oldest.UTC()
		at[h.Account] = len(names)
		names = append(names, h.Account)
		return h, err
	})
	if err != nil || len(out) == 0 {
		return out, err
	}
	if rows, err = tx.Query(ctx, lostChanges, names, listedMax); err != nil {
		return nil, err
	}
	var account string
	var c LostChange
	var rec meter.Record
	var idx int
	_, err = pgx.ForEachRow(rows, []any{
		&account, &c.Kind, (*[16]byte)(&c.ID), &rec.Layout, &rec.Partition, &rec.Pseq, &idx, (*int64)(&c.Credits), &c.Reason,
		&c.Actor, &c.OccurredAt,
	}, func() error {
		h := &out[at[account]]
		c.EntryID, c.OccurredAt = rec.EntryID(idx), c.OccurredAt.UTC()
		h.Lost = append(h.Lost, c)
		return nil
	})
	return out, err
}

// verifyHeld names the accounts that are held back, and how each is helped.
func verifyHeld(ctx context.Context, tx pgx.Tx, report *Report) error {
	all, err := heldBack(ctx, tx, "")
	if err != nil {
		return err
	}
	for _, h := range all {
		if len(h.Lost) == 0 || !h.Known {
			report.Add(Drift{
				Kind: DriftHeld, Account: h.Account, Where: "account", What: fmt.Sprintf("%d entries are held back", h.Entries),
				Have: h.Help(),
			})
		}
		for _, c := range h.Lost {
			report.Add(Drift{
				Kind: DriftHeld, Account: h.Account, Where: "entry " + c.EntryID, What: "Postgres lost this " + c.Kind,
				Want: c.Credits.String() + " credits", Have: h.Command(c),
			})
		}
	}
	return nil
}

// Help says what brings an account's entries to Postgres, apart from the commands for what is lost.
func (h HeldAccount) Help() string {
	switch {
	case !h.Known:
		return "Postgres lost the account: make it with PUT /v1/accounts/" + h.Account + " and its product"
	case len(h.Lost) > 0:
		return "run the commands below"
	}
	return h.Reason
}

// Command is the command that books a lost change, to be filled in.
func (h HeldAccount) Command(c LostChange) string {
	command := fmt.Sprintf("creditgate ledger book %s %s --ref ORDER --actor YOU --reason WHY", h.Account, c.ID)
	switch c.Kind {
	case "grant":
		return command + " --bucket BUCKET --expires-at DATE|never"
	case "adjust":
		return command + " --expires-at DATE|never"
	}
	return command
}

// isHeld reports whether an account is held back.
func isHeld(ctx context.Context, tx querier, account string) (held bool, err error) {
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM creditgate.held_account WHERE account = $1)`, account).Scan(&held)
	return held, err
}

// heldError is ErrHeldBack for an account.
func heldError(account string) error {
	return fmt.Errorf("%w: %w: account %q", ErrUnavailable, ErrHeldBack, account)
}
