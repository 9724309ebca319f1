package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist/finance"
)

// storyTable prints a row as soon as its step is done, so its columns are measured before the first one.
type storyTable struct {
	out     io.Writer
	zone    *time.Location
	buckets []string
	widths  []int // date, account, what, charged, one for each bucket
}

// storyRow is what a step did.
type storyRow struct {
	at            time.Time
	account, what string
	charged       string
	standing      standing
	said          string
}

const (
	storyTime = "2006-01-02 15:04"
	// amountWidth is that of usual amounts; a longer one pushes its row to the right, and only that.
	amountWidth = 8
)

func newStoryTable(out io.Writer, p *policy.Policy, story *policy.Scenario) *storyTable {
	t := &storyTable{out: out, zone: p.Location, buckets: p.Buckets}
	account, what := len("account"), len("what happens")
	for _, s := range story.Steps {
		if s.Act != nil {
			account = max(account, utf8.RuneCountInString(s.Who()))
			what = max(what, utf8.RuneCountInString(describe(s.Act)))
		}
	}
	t.widths = []int{len(storyTime), account, what, len("charged")}
	for _, b := range p.Buckets {
		t.widths = append(t.widths, max(utf8.RuneCountInString(b), amountWidth))
	}
	return t
}

func (t *storyTable) head() {
	t.cells(append(append([]string{"date", "account", "what happens", "charged"}, t.buckets...), "answer"))
}

func (t *storyTable) row(r storyRow) {
	cells := []string{r.at.In(t.zone).Format(storyTime), r.account, r.what, r.charged}
	for _, name := range t.buckets {
		cells = append(cells, bucketText(r.standing, name))
	}
	t.cells(append(cells, r.said))
}

// cells prints texts from the left and amounts from the right.
func (t *storyTable) cells(cells []string) {
	var line strings.Builder
	for i, c := range cells {
		pad := ""
		if i < len(t.widths) {
			pad = strings.Repeat(" ", max(0, t.widths[i]-utf8.RuneCountInString(c)))
		}
		if i >= 3 && i < len(t.widths) {
			c, pad = pad+c, ""
		}
		line.WriteString(c + pad + "  ")
	}
	_, _ = fmt.Fprintln(t.out, strings.TrimRight(line.String(), " "))
}

// note is a line below a row.
func (t *storyTable) note(s string) { _, _ = fmt.Fprintln(t.out, "    "+s) }

// bucketText is what is available in a bucket; of an unlimited one what fair use leaves.
func bucketText(s standing, name string) string {
	for _, b := range s.Buckets {
		switch {
		case b.Name != name:
		case b.Available != nil:
			return b.Available.String()
		case b.FairUse != nil:
			return "∞ " + b.FairUse.Left.String()
		default:
			return "∞"
		}
	}
	return ""
}

// entries prints the ledger of an account.
func (t *storyTable) entries(account string, entries []finance.Entry) {
	if len(entries) == 0 {
		_, _ = fmt.Fprintf(t.out, "\nledger of %s: nothing\n", account)
		return
	}
	_, _ = fmt.Fprintf(t.out, "\nledger of %s\n", account)
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "seq\tdate\tkind\toperation\tunits\tbucket\tcredits")
	sum := meter.Credits(0)
	for _, e := range entries {
		sum += e.Credits
		_, _ = fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Seq, e.OccurredAt.In(t.zone).Format(storyTime), e.Kind,
			e.Operation, either(e.Units > 0, strconv.FormatInt(e.Units, 10), ""), e.Bucket, e.Credits)
	}
	_, _ = fmt.Fprintf(w, "\t\t\t\t\tsum\t%s\n", sum)
	_ = w.Flush() // as fmt.Fprint
}
