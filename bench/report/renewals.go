package report

import (
	"fmt"

	"creditgate/bench/result"
)

// phaseText says what a phase of the renewals is.
func phaseText(phase string) string {
	return map[string]string{
		result.PhaseBefore: "before", result.PhaseMidnight: "the seconds around midnight",
		result.PhaseRenewing: "while grants are issued and lapse", result.PhaseAfter: "after",
	}[phase]
}

// renewalSection is about the moment at which the month of all accounts ends. It is nothing without its row.
func renewalSection(c cells) []section {
	renewing := c.where(func(r result.Row) bool { return r.Phase == result.PhaseRenewing })
	if len(renewing) == 0 {
		return nil
	}
	of := func(name string) figure { return extra(renewing, name) }
	accounts := float64(renewing[0].Accounts)
	work := table{
		Title: "From midnight until it is done",
		Head:  []string{"what", "seconds", "accounts/s"},
	}
	for _, step := range []struct{ what, name string }{
		{"the month's grants that ended have lapsed in Redis", result.ExtraLapsed},
		{"… and Postgres has that", result.ExtraBooked},
		{"the next month's grants are recorded in Postgres", result.ExtraIssued},
		{"… and Redis has them, and Postgres knows", result.ExtraApplied},
	} {
		took := of(step.name)
		work.Rows = append(work.Rows, []string{step.what, took.text(""), number(ratio(accounts, took.mid))})
	}
	size := table{Title: "Memory", Head: []string{"of", "before", "after"}, Rows: [][]string{
		{"Redis, bytes an account", of(result.ExtraAccountSize).text(""), of(result.ExtraAccountRenewed).text("")},
		{"… of it the ledger, which stays for trim_lag", "–", of(result.ExtraLedgerRenewed).text("")},
		{"gateway, MiB; after: the most it had", mebibytes(of(result.ExtraResident)), mebibytes(of(result.ExtraResidentPeak))},
	}}
	return []section{{
		Title: fmt.Sprintf("%s subscriptions renew at one midnight", number(accounts)),
		Text: []string{
			fmt.Sprintf("The new month's credit lies in Redis a month before it begins, so that at midnight nobody waits for anything: "+
				"the first request after it spends it. What midnight brings is work for later: the old grants are booked as lapsed, and "+
				"those of the month after the new one are issued, by the gateway that serves %s requests/s of %s accounts all the time.",
				number(renewing[0].Rate), number(renewing[0].Extra[result.ExtraActive])),
			refusedText(c),
		},
		Tables: []table{work, phaseTable(c), size},
	}}
}

func refusedText(c cells) string {
	failed, asked := int64(0), int64(0)
	for _, r := range c {
		failed, asked = failed+r.Failed(), asked+r.Requests
	}
	if failed == 0 {
		return fmt.Sprintf("None of %s requests was refused or failed.", number(float64(asked)))
	}
	return fmt.Sprintf("%s of %s requests were refused or failed.", number(float64(failed)), number(float64(asked)))
}

func phaseTable(c cells) table {
	t := table{
		Title: "Open loop all the time: latency in ms from when a request was due",
		Head:  []string{"phase", "seconds", "requests", "refused or failed", "p50", "p99", "p99.9", "most"},
	}
	for _, phase := range []string{result.PhaseBefore, result.PhaseMidnight, result.PhaseRenewing, result.PhaseAfter} {
		rows := c.where(func(r result.Row) bool { return r.Phase == phase })
		if len(rows) == 0 {
			continue
		}
		row := []string{phaseText(phase)}
		for _, value := range []func(result.Row) float64{
			func(r result.Row) float64 { return r.Seconds }, func(r result.Row) float64 { return float64(r.Requests) },
			func(r result.Row) float64 { return float64(r.Failed()) },
			func(r result.Row) float64 { return r.Latency.P50 / 1000 }, func(r result.Row) float64 { return r.Latency.P99 / 1000 },
			func(r result.Row) float64 { return r.Latency.P999 / 1000 }, func(r result.Row) float64 { return r.Latency.Max / 1000 },
		} {
			row = append(row, rows.of(value).text(""))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func mebibytes(f figure) string {
	const mebi = 1 << 20
	return figure{f.mid / mebi, f.low / mebi, f.high / mebi, f.rounds}.text("")
}
