package persist

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// DriftKind says what is wrong, for alerts.
type DriftKind string

// The kinds of drifts.
const (
	DriftChain       DriftKind = "chain"       // a record is missing, changed or out of order
	DriftRows        DriftKind = "rows"        // a row of entries or lines is not what its record says
	DriftSums        DriftKind = "sums"        // a projection or a change's status is not what the entries say
	DriftQuarantined DriftKind = "quarantined" // an account's entries are not booked, because Postgres lacks what they name
	DriftRedis       DriftKind = "redis"       // Redis is not what Postgres says, or disagrees with itself
)

// DriftKinds are all kinds.
func DriftKinds() []DriftKind {
	return []DriftKind{DriftChain, DriftRows, DriftSums, DriftQuarantined, DriftRedis}
}

// Drift is one thing that is not as it must be.
type Drift struct {
	Kind    DriftKind
	Account string // empty when it concerns no single account
	Where   string // table and row, grant, partition
	What    string // the column, or what happened
	Want    string // what the ledger says
	Have    string
}

// Report is the result of a verification.
type Report struct {
	Partitions, Records, Entries, Accounts int
	Drifts                                 []Drift
}

// driftsMax bounds a report. A person does not read more, and the metrics stop there.
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

// Count counts the drifts of one kind.
func (r *Report) Count(kind DriftKind) (n int) {
	for _, d := range r.Drifts {
		if d.Kind == kind {
			n++
		}
	}
	return n
}

// Print writes what was checked and a table of what drifted.
func (r *Report) Print(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "verified: partitions %d, records %d, entries %d, accounts %d, drifts %d\n",
		r.Partitions, r.Records, r.Entries, r.Accounts, len(r.Drifts)); err != nil || r.OK() {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "KIND\tACCOUNT\tWHERE\tWHAT\tWANT\tHAVE") // Flush reports what went wrong
	for _, d := range r.Drifts {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Kind, orDash(d.Account), d.Where, d.What, d.Want, d.Have)
	}
	return table.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Add notes a drift, unless there are driftsMax already.
func (r *Report) Add(d Drift) {
	if len(r.Drifts) < driftsMax {
		r.Drifts = append(r.Drifts, d)
	}
}

// Verify proves the ledger against itself and against Redis:
//
//   - the hash chain of each partition, from the first record to the flush cursor;
//   - each column of entries and lines that a record holds against the record's body;
//   - the projections against the sums of the lines, and seqs for gaps;
//   - that no account is quarantined: each that is, and each change that it lacks, is a drift with the command that helps;
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
		if err := verifyQuarantined(ctx, tx, report); err != nil {
			return err
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
