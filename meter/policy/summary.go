package policy

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Summary is what `creditgate policy check` prints: version, buckets, operations and what they can cost.
func (p *Policy) Summary() string {
	var b strings.Builder
	unmatched := "refuse"
	if p.Pass {
		unmatched = "pass"
	}
	fmt.Fprintf(&b, "policy     %s, version %s\n", p.Name, p.version)
	fmt.Fprintf(&b, "timezone   %s\n", p.Location)
	fmt.Fprintf(&b, "buckets    %s (drained in this order)\n", strings.Join(p.Buckets, ", "))
	fmt.Fprintf(&b, "unmatched  %s\n\n", unmatched)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	// Neither w nor b can fail: both write to memory.
	_, _ = fmt.Fprintln(w, "OPERATION\tMATCH\tUNITS\tMAX\tCREDITS PER UNIT\tAT MOST\tDELIVERED")
	for _, o := range p.Operations {
		units, most, limit, delivered := o.unitsText(), o.MaxQuote().Credits.String(), strconv.Itoa(int(o.Max)), o.deliveredText()
		if o.Free() {
			units, most, limit, delivered = "-", "free", "-", "-"
		} else if delivered == "" {
			delivered = "all on 2xx"
		}
		row := []string{o.Name, o.Method + " " + o.Path, units, limit, o.creditsText(), most, delivered}
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush()
	return b.String()
}
