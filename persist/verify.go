package persist

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// Drift is one thing that is not as it must be.
type Drift struct {
	Account string // empty when it concerns no single account
	Where   string // record, entry, grant
	What    string
	Want    string // what the ledger says
	Have    string
}

// Report is the result of a verification.
type Report struct {
	Partitions, Records, Entries, Accounts int
	Drifts                                 []Drift
}

// driftsMax bounds a report: whoever has a thousand drifts does not need the next.
const driftsMax = 1000

// OK reports whether nothing drifted.
func (r *Report) OK() bool { return len(r.Drifts) == 0 }

// DriftAccounts counts the accounts that drifted.
func (r *Report) DriftAccounts() int {
	accounts := map[string]bool{}
	for _, d := range r.Drifts {
		if d.Account != "" {
			accounts[d.Account] = true
		}
	}
	return len(accounts)
}

// Print writes what was checked and a table of what drifted.
func (r *Report) Print(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "verified: partitions %d, records %d, entries %d, accounts %d, drifts %d\n",
		r.Partitions, r.Records, r.Entries, r.Accounts, len(r.Drifts)); err != nil || r.OK() {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ACCOUNT\tWHERE\tWHAT\tWANT\tHAVE") // Flush reports what went wrong
	for _, d := range r.Drifts {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", d.Account, d.Where, d.What, d.Want, d.Have)
	}
	return table.Flush()
}

func (r *Report) add(d Drift) {
	if len(r.Drifts) < driftsMax {
		r.Drifts = append(r.Drifts, d)
	}
}

// Verify proves the ledger against itself and against Redis:
//
//   - the hash chain of each partition, from the first record to the flush cursor;
//   - entries and lines against the bodies of their records;
//   - the projections against the sums of the lines, and seqs for gaps;
//   - each account in Redis, which live returns, against Postgres at equal account seq, so that nothing has to stand
//     still meanwhile. A nil live leaves Redis out.
//
// Someone who rewrites a whole chain, cursor included, goes unnoticed here; that is what exported head hashes are for.
func Verify(
	ctx context.Context, s *Store, live func(ctx context.Context, account string) (meter.Decision, error),
) (*Report, error) {
	report := &Report{}
	err := s.snapshot(ctx, "verify", func(tx pgx.Tx) error {
		cursors, err := readCursors(ctx, tx)
		if err != nil {
			return err
		}
		for _, c := range cursors {
			v := chainVerifier{tx: tx, report: report, partitionCursor: c}
			if err := v.run(ctx); err != nil {
				return err
			}
			report.Partitions++
		}
		return verifySums(ctx, tx, report)
	})
	if err != nil || live == nil {
		return report, err
	}
	for p := range s.layout.Partitions {
		err := s.Accounts(ctx, p, func(names []string) error {
			for _, name := range names {
				report.Accounts++
				if err := verifyAccount(ctx, s, report, name, live); err != nil {
					return fmt.Errorf("verify account %s: %w", name, err)
				}
			}
			return nil
		})
		if err != nil {
			return report, err
		}
	}
	return report, nil
}
