package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"creditgate/meter"
)

func (a *app) inspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect",
		Short: "Show what Redis holds, in clear; nothing is changed",
		Args:  cobra.ArbitraryArgs,
		RunE:  noSuchCommand,

		SuggestionsMinimumDistance: 2,
	}
	type show func(ctx context.Context, i *meter.Inspector, w io.Writer, name string) error
	inspect := func(use, short string, of func(c *config) show, settings ...string) *cobra.Command {
		return a.configured(&cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1)},
			func(cmd *cobra.Command, c *config, args []string) error {
				if err := c.require("redis_url"); err != nil {
					return err
				}
				i, err := meter.NewInspector(c.RedisURL, c.Layout)
				if err != nil {
					return err
				}
				defer i.Close() //nolint:errcheck // only read
				table := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
				if err := of(c)(cmd.Context(), i, table, args[0]); err != nil {
					return err
				}
				return table.Flush()
			}, append(settings, "redis_url", "layout", "partitions")...)
	}
	alone := func(s show) func(*config) show { return func(*config) show { return s } }
	cmd.AddCommand(
		inspect("account NAME", "Show an account and its live grants in drain order", alone(inspectAccount)),
		inspect("reservation ID", "Show a reservation, open or settled, and its draws", alone(inspectReservation)),
		inspect("partition NUMBER", "Show a partition: epoch, ledger head and tail, and why it is closed, with the way out",
			func(c *config) show { return (&partitionInspection{postgresURL: c.PostgresURL}).show }, "postgres_url"),
	)
	return cmd
}

// rows writes label and value, a pair a line. What goes wrong shows when the table is flushed.
func rows(w io.Writer, pairs ...any) {
	for i := 0; i+1 < len(pairs); i += 2 {
		_, _ = fmt.Fprintf(w, "%v\t%v\n", pairs[i], pairs[i+1])
	}
}

// when shows a time of Redis' clock, and how far from now it is.
func when(ms, nowMs int64) string {
	switch ms {
	case meter.Never:
		return "never"
	case 0:
		return "-"
	}
	distance := (time.Duration(ms-nowMs) * time.Millisecond).Round(time.Second)
	side := "from now"
	if distance <= 0 {
		distance, side = -distance, "ago"
	}
	return fmt.Sprintf("%s (%s %s)", time.UnixMilli(ms).UTC().Format(time.RFC3339), distance, side)
}

func inspectAccount(ctx context.Context, i *meter.Inspector, w io.Writer, name string) error {
	if !meter.ValidName(name) {
		return fmt.Errorf("account %q: a name matches [A-Za-z0-9._-]{1,64}", name)
	}
	accounts, err := i.Accounts(ctx, name)
	if err != nil {
		return err
	}
	account, ok := accounts[name]
	if !ok {
		return fmt.Errorf("account %s is not in Redis: it is loaded from Postgres when it is first used", name)
	}
	nowMs, err := i.NowMs(ctx, i.Layout().PartitionOf(name))
	if err != nil {
		return err
	}
	keys := i.Layout().Keys(i.Layout().PartitionOf(name))
	rows(w,
		"account", name,
		"key", keys.Account(name),
		"partition", i.Layout().PartitionOf(name),
		"seq", account.Seq,
		"suspended", fmt.Sprintf("%t (version %d)", account.Suspended, account.FlagsVersion),
		"available", account.Available(nowMs),
		"held", fmt.Sprintf("%s in %d reservations", account.Held(), account.Holds),
		"changes not flushed", fmt.Sprintf("%d (forgotten up to record %d)", len(account.Applied), account.PrunedPseq),
	)
	for _, c := range account.Applied {
		rows(w, "", fmt.Sprintf("%s in record %d", c.ID, c.Pseq))
	}
	_, _ = fmt.Fprintln(w, "\nBUCKET\tGRANT\tAVAILABLE\tHELD\tDEBT\tKIND\tEFFECTIVE\tEXPIRES")
	for _, g := range account.Grants {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", g.Bucket, g.ID, g.Available, g.Held, g.Debt, kindOf(g),
			when(g.EffectiveMs, nowMs), when(g.ExpiresMs, nowMs))
	}
	return nil
}

// kindOf says in words what a grant's flags say.
func kindOf(g meter.Grant) string {
	kind := "free"
	if g.Paid {
		kind = "paid"
	}
	if g.Unlimited {
		kind += ", unlimited"
	}
	if g.Stops {
		kind += ", stops what follows"
	}
	return kind
}

func inspectReservation(ctx context.Context, i *meter.Inspector, w io.Writer, text string) error {
	id, err := meter.ParseReservationID(text)
	if err != nil {
		return err
	}
	r, ok, err := i.Reservation(ctx, id)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("reservation %s is not in Redis: it was never made, or its outcome is in Postgres only: "+
			"see finance.entries where reservation_id = '%s'", id, id)
	}
	nowMs, err := i.NowMs(ctx, id.Partition)
	if err != nil {
		return err
	}
	rows(w,
		"reservation", r.ID,
		"state", r.State,
		"account", r.Account,
		"made", when(r.ID.ID.CreatedMs(), nowMs),
		"lease over", when(r.DeadlineMs, nowMs),
		"settled", when(r.SettledMs, nowMs),
		"amount", r.Amount,
		"charged", r.Charged,
		"returned", r.Returned(),
		"available after", r.Available,
	)
	if n := r.Note; n != (meter.Note{}) {
		rows(w, "operation", n.Operation, "policy version", n.PolicyVersion, "key", n.KeyID)
		if n.Key != nil {
			rows(w, "Idempotency-Key", "hash "+hex.EncodeToString(n.Key.Hash[:]))
		}
	}
	_, _ = fmt.Fprintln(w, "\nGRANT\tDRAWN\tCHARGED")
	for _, d := range r.Draws {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", d.Grant, d.Amount, d.Charged)
	}
	return nil
}
