package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
)

// Bounds of waiting until a running gateway has booked what was quarantined.
const (
	bookedMax  = 10 * time.Second
	bookedPoll = 100 * time.Millisecond
)

func (a *app) ledgerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "Show accounts whose ledger Postgres cannot book, and book what it lost",
		Args:  cobra.ArbitraryArgs,
		RunE:  noSuchCommand,

		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(a.ledgerQuarantineCommand(), a.ledgerBookCommand())
	return cmd
}

func (a *app) ledgerQuarantineCommand() *cobra.Command {
	return a.configured(&cobra.Command{
		Use:   "quarantine",
		Short: "List accounts that are quarantined, and the commands that book what is missing",
		Long: "List accounts that are quarantined: Redis goes on charging them, and Postgres keeps their ledger records without\n" +
			"booking them, because it lacks a grant or another change that they name. That is so after Postgres was restored to\n" +
			"an older copy. At most 1,000 accounts and 1,000 missing changes are listed, oldest first: book those and list again.\n" +
			"The status is 0 when there is none, and 1 when there is one.",
		Args: cobra.NoArgs,
	}, func(cmd *cobra.Command, c *config, _ []string) error {
		store, err := openStore(cmd.Context(), c)
		if err != nil {
			return err
		}
		defer store.Close()
		found, err := store.Quarantine(cmd.Context())
		if err != nil {
			return &statusError{exitUnchecked, err}
		}
		if err := a.printQuarantine(found); err != nil || len(found) == 0 {
			return err
		}
		return &statusError{status: exitFailed}
	}, "postgres_url", "layout", "partitions")
}

// openStore opens the database of the settings, and checks its version.
func openStore(ctx context.Context, c *config) (*persist.Store, error) {
	if err := c.require("postgres_url"); err != nil {
		return nil, err
	}
	store, err := persist.Open(ctx, c.PostgresURL, c.Layout, nil)
	if err != nil {
		return nil, err
	}
	if err := store.CheckSchema(ctx); err != nil {
		store.Close()
		return nil, err
	}
	return store, nil
}

func (a *app) printQuarantine(found []persist.QuarantinedAccount) error {
	if len(found) == 0 {
		_, err := fmt.Fprintln(a.out, "no account is quarantined")
		return err
	}
	table := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	row := func(format string, args ...any) { _, _ = fmt.Fprintf(table, format+"\n", args...) } // Flush reports what goes wrong
	row("ACCOUNT\tENTRIES\tOLDEST\tWHY")
	for _, h := range found {
		row("%s\t%d\t%s\t%s", h.Account, h.Entries, h.Oldest.Format(time.RFC3339), h.Help())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, h := range found {
		for _, l := range h.Lost {
			_, err := fmt.Fprintf(a.out, "\n%s %s of %s credits (%s), entry %s of %s, reason %q, by %q\n  %s\n",
				h.Account, l.Kind, l.Credits, l.ID, l.EntryID, l.OccurredAt.Format(time.RFC3339), l.Reason, l.Actor, h.Command(l))
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// bookFlags are what a person says of a lost change.
type bookFlags struct {
	ref, bucket, effective, expires, currency, actor, reason string
	netMinor                                                 int64
	fairUse                                                  bool
}

func (a *app) ledgerBookCommand() *cobra.Command {
	var f bookFlags
	cmd := a.configured(&cobra.Command{
		Use:   "book ACCOUNT ID",
		Short: "Book a grant, a revocation or a moved expiry that Postgres lost",
		Long: "Book a grant, a revocation or a moved expiry that Postgres lost, as when it was restored to an older copy. ID is the\n" +
			"change's, as `creditgate ledger quarantine` shows it. The credits come from the ledger record. Order reference, bucket,\n" +
			"dates and price come from you: the shop and the invoice have them. Redis has the change and is not asked. A running\n" +
			"gateway then books the account's entries. The same command again changes nothing, and the same order cannot be\n" +
			"granted again by the shop. Who booked it and why stands in creditgate.booked_change.\n\n" +
			"A revocation takes --ref only, a moved expiry --ref and --expires-at.",
		Example: "  creditgate ledger book acme 01a204b5-3456-7300-b1bf-0e6873ebea51 --ref order-4711 --bucket purchased \\\n" +
			"    --expires-at 2027-12-01 --net-minor 4500 --currency EUR --actor grace --reason \"restore of 30 November\"",
		Args: cobra.ExactArgs(2),
	}, func(cmd *cobra.Command, c *config, args []string) error {
		return a.ledgerBook(cmd.Context(), c, f, args[0], args[1])
	}, "postgres_url", "policy", "layout", "partitions")
	flags := cmd.Flags()
	flags.StringVar(&f.ref, "ref", "", "order reference of a grant, or reference of another change. Required")
	flags.StringVar(&f.bucket, "bucket", "", "bucket of a grant; one of the product's")
	flags.StringVar(&f.effective, "effective-at", "", "when a grant begins: `DATE`, such as 2026-12-01 (00:00 UTC) or\n"+
		"2026-12-01T08:00:00Z; default: when it was granted")
	flags.StringVar(&f.expires, "expires-at", "", "when a grant ends, or where its end was moved to: `DATE` or never")
	flags.Int64Var(&f.netMinor, "net-minor", 0, "net price of a grant in the currency's minor unit, with --currency")
	flags.StringVar(&f.currency, "currency", "", "currency of the price, such as EUR")
	flags.BoolVar(&f.fairUse, "fair-use", false, "the grant is the fair-use cap of an unlimited plan")
	flags.StringVar(&f.actor, "actor", "", "who books it. Required")
	flags.StringVar(&f.reason, "reason", "", "why. Required")
	return cmd
}

func (a *app) ledgerBook(ctx context.Context, c *config, f bookFlags, account, id string) error {
	l, err := f.booking(account, id)
	if err != nil {
		return err
	}
	if err := c.require("policy"); err != nil {
		return err
	}
	policies, err := loadPolicies(c.Policy)
	if err != nil {
		return err
	}
	store, err := openStore(ctx, c)
	if err != nil {
		return err
	}
	defer store.Close()
	out, err := persist.NewAdmin(store, nil, policy.NewCatalog(policies), zerolog.Nop()).BookLost(ctx, l)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%s %s of account %s", out.Kind, id, account)
	if out.Repeated {
		_, err = fmt.Fprintf(a.out, "%s was booked before; nothing was changed\n", what)
		return err
	}
	if _, err = fmt.Fprintf(a.out, "booked %s: %s credits\n", what, out.Credits); err != nil {
		return err
	}
	return a.tellReleased(ctx, store, account)
}

// booking checks what was said, as far as it can be checked without the database.
func (f bookFlags) booking(account, id string) (l persist.LostBooking, err error) {
	l = persist.LostBooking{
		Account: account, Ref: f.ref, Bucket: f.bucket, FairUse: f.fairUse, Actor: f.actor, Reason: f.reason,
	}
	for _, required := range []struct{ flag, value string }{{"--ref", f.ref}, {"--actor", f.actor}, {"--reason", f.reason}} {
		if strings.TrimSpace(required.value) == "" {
			return l, fmt.Errorf("%s is missing", required.flag)
		}
	}
	if l.ID, err = meter.ParseID(id); err != nil {
		return l, fmt.Errorf("%q is not the id of a change; `creditgate ledger quarantine` shows them: %w", id, err)
	}
	if f.effective != "" {
		if l.EffectiveAt, err = parseDate("--effective-at", f.effective); err != nil {
			return l, err
		}
	}
	switch {
	case f.expires != "" && f.expires != "never":
		if l.ExpiresAt, err = parseDate("--expires-at", f.expires); err != nil {
			return l, err
		}
	case f.expires == "" && f.bucket != "":
		return l, errors.New("--expires-at is missing: write a date, or never")
	}
	switch {
	case f.currency != "":
		l.Price = &persist.Price{Minor: f.netMinor, Currency: f.currency}
	case f.netMinor != 0:
		return l, errors.New("--net-minor needs --currency")
	}
	return l, nil
}

// parseDate reads a day, which begins at 00:00 UTC, or a time with its zone.
func parseDate(flag, text string) (time.Time, error) {
	for _, form := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(form, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %q: write a date as 2026-12-01, or a time as 2026-12-01T08:00:00Z", flag, text)
}

// tellReleased waits for a gateway to book the account's entries, and says what else it waits for.
func (a *app) tellReleased(ctx context.Context, store *persist.Store, account string) error {
	for deadline := time.Now().Add(bookedMax); ; {
		found, err := store.Quarantined(ctx, account)
		switch {
		case err != nil:
			return err
		case found == nil:
			_, err = fmt.Fprintf(a.out, "account %s is quarantined no more: all its entries are booked\n", account)
			return err
		case !found.Retry && len(found.Lost) > 0:
			_, err = fmt.Fprintf(a.out, "account %s is still quarantined; `creditgate ledger quarantine` lists %d more changes to book\n",
				account, len(found.Lost))
			return err
		case !found.Retry:
			return fmt.Errorf("account %s is still quarantined: %s", account, found.Reason)
		case time.Now().After(deadline):
			_, err = fmt.Fprintf(a.out, "after %s account %s still has %d entries to book; a gateway books them while it runs\n",
				bookedMax, account, found.Entries)
			return err
		}
		if !sleep(ctx, bookedPoll) {
			return ctx.Err()
		}
	}
}
