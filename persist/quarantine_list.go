package persist

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// ErrQuarantined says that an account's ledger waits for a person: what Postgres has of it is not what Redis has.
var ErrQuarantined = errors.New("account is quarantined: its ledger cannot be booked; see `creditgate ledger quarantine`")

// QuarantinedAccount is an account whose entries are kept and not booked.
type QuarantinedAccount struct {
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

// listedMax bounds a list: its accounts, and the lost changes of all of them.
const listedMax = 1000

// lostChanges are the entries of changes that Postgres does not know, of the accounts $1.
const lostChanges = `SELECT account, kind, subject, layout, partition, pseq, idx, amount, reason, actor, occurred_at
	FROM creditgate.quarantined_entry h WHERE account = ANY ($1) AND kind IN ('grant', 'revoke', 'adjust') AND NOT EXISTS (
		SELECT FROM creditgate.grant_lot WHERE id = h.subject
		UNION ALL SELECT FROM creditgate.revocation WHERE id = h.subject
		UNION ALL SELECT FROM creditgate.expiry_move WHERE id = h.subject
		UNION ALL SELECT FROM creditgate.reversal WHERE id = h.subject)
	ORDER BY account, pseq, idx LIMIT $2`

// Quarantine lists the accounts that are quarantined, oldest first.
func (s *Store) Quarantine(ctx context.Context) (out []QuarantinedAccount, err error) {
	err = s.snapshot(ctx, "list quarantined accounts", func(tx pgx.Tx) error {
		out, err = quarantined(ctx, tx, "")
		return err
	})
	return out, err
}

// Quarantined is an account that is quarantined, nil if it is not.
func (s *Store) Quarantined(ctx context.Context, account string) (found *QuarantinedAccount, err error) {
	err = s.snapshot(ctx, "read quarantined account", func(tx pgx.Tx) error {
		all, err := quarantined(ctx, tx, account)
		if len(all) > 0 {
			found = &all[0]
		}
		return err
	})
	return found, err
}

// quarantined reads the accounts that are quarantined, or only one of them.
func quarantined(ctx context.Context, tx pgx.Tx, only string) ([]QuarantinedAccount, error) {
	rows, err := tx.Query(ctx, `SELECT h.account, EXISTS (SELECT FROM creditgate.account WHERE id = h.account), h.since, h.reason,
			h.retry, h.entries, coalesce((SELECT occurred_at FROM creditgate.quarantined_entry e
				WHERE e.account = h.account ORDER BY pseq, idx LIMIT 1), h.since)
		FROM creditgate.quarantined_account h WHERE $2 = '' OR h.account = $2
		ORDER BY h.since, h.account LIMIT $1`, listedMax, only)
	if err != nil {
		return nil, err
	}
	at := map[string]int{}
	var names []string
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h QuarantinedAccount, err error) {
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

// verifyQuarantined names the accounts that are quarantined, and how each is helped.
func verifyQuarantined(ctx context.Context, tx pgx.Tx, report *Report) error {
	all, err := quarantined(ctx, tx, "")
	if err != nil {
		return err
	}
	for _, h := range all {
		if len(h.Lost) == 0 || !h.Known {
			report.Add(Drift{
				Kind: DriftQuarantined, Account: h.Account, Where: "account", What: fmt.Sprintf("%d entries are quarantined", h.Entries),
				Have: h.Help(),
			})
		}
		for _, c := range h.Lost {
			report.Add(Drift{
				Kind: DriftQuarantined, Account: h.Account, Where: "entry " + c.EntryID, What: "Postgres lost this " + c.Kind,
				Want: c.Credits.String() + " credits", Have: h.Command(c),
			})
		}
	}
	return nil
}

// Help says what brings an account's entries to Postgres, apart from the commands for what is lost.
func (h QuarantinedAccount) Help() string {
	switch {
	case !h.Known:
		return "Postgres lost the account: make it with PUT /v1/accounts/" + h.Account + " and its product"
	case len(h.Lost) > 0:
		return "run the commands below"
	}
	return h.Reason
}

// Command is the command that books a lost change, to be filled in.
func (h QuarantinedAccount) Command(c LostChange) string {
	command := fmt.Sprintf("creditgate ledger book %s %s --ref ORDER --actor YOU --reason WHY", h.Account, c.ID)
	switch c.Kind {
	case "grant":
		return command + " --bucket BUCKET --expires-at DATE|never"
	case "adjust":
		return command + " --expires-at DATE|never"
	}
	return command
}

// isQuarantined reports whether an account is quarantined.
func isQuarantined(ctx context.Context, tx querier, account string) (found bool, err error) {
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM creditgate.quarantined_account WHERE account = $1)`, account).Scan(&found)
	return found, err
}

// quarantineError is ErrQuarantined for an account.
func quarantineError(account string) error {
	return fmt.Errorf("%w: %w: account %q", ErrUnavailable, ErrQuarantined, account)
}

// quarantinedOutcomes are the KeyedOutcomes whose entries are quarantined: they are charged, so that a repeat of the key
// must find them also after Redis was rebuilt.
func (s *Store) quarantinedOutcomes(
	ctx context.Context, partition uint16, from time.Time, fn func([]meter.Reservation) error,
) error {
	for pseq, idx := int64(0), -1; ; {
		var out []meter.Reservation
		err := s.snapshot(ctx, "read quarantined outcomes", func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, `SELECT pseq, q.idx, r.body FROM creditgate.quarantined_entry q
				JOIN creditgate.ledger_record r USING (layout, partition, pseq)
				WHERE layout = $1 AND partition = $2 AND q.kind IN ('commit', 'late') AND q.occurred_at >= $3
					AND (pseq, q.idx) > ($4, $5)
				ORDER BY pseq, q.idx LIMIT $6`, s.layoutNumber(), int(partition), from, pseq, idx, pageRows)
			if err != nil {
				return err
			}
			var body []byte
			_, err = pgx.ForEachRow(rows, []any{&pseq, &idx, &body}, func() error {
				rec, err := meter.UnpackRecord(body)
				if err != nil || idx >= len(rec.Entries) {
					return fmt.Errorf("%w: record %d cannot be read: %w", ErrLedgerBroken, pseq, err)
				}
				out = append(out, outcomeOf(&rec.Entries[idx], s.layout.Number, partition, rec.OccurredMs))
				return nil
			})
			return err
		})
		if err != nil || len(out) == 0 {
			return err
		}
		out = slices.DeleteFunc(out, func(r meter.Reservation) bool { return r.Note.Key == nil })
		if err := fn(out); err != nil {
			return err
		}
	}
}

// outcomeOf is what a commit, in time or late, made of its reservation.
func outcomeOf(e *meter.Entry, layout, partition uint16, occurredMs int64) meter.Reservation {
	r := meter.Reservation{
		ID: meter.ReservationID{Layout: layout, Partition: partition, ID: e.ID}, State: meter.Committed,
		Account: e.Account, Amount: e.Amount, SettledMs: occurredMs, Note: e.Note,
	}
	if e.Kind == meter.KindLate {
		r.State = meter.Late
	}
	for _, l := range e.Lines {
		r.Charged += l.Spent
		r.Draws = append(r.Draws, meter.Draw{Grant: l.Grant, Amount: l.Spent + l.Returned, Charged: l.Spent})
	}
	return r
}
