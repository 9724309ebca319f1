package metertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Cost is what one request costs in one unit that can be counted: the same code gives the same figure on an idle
// machine and on a busy one, so a table of costs can be held against the one that was recorded. Nothing timed is a
// Cost.
type Cost struct {
	Cell       string  `json:"cell"` // what was done: "64 operations, 1 account"
	Unit       string  `json:"unit"` // what was counted: "redis commands"
	PerRequest float64 `json:"per_request"`

	// The larger of the two is how far the count may move by itself.
	Share float64 `json:"-"` // of the recorded figure
	Plus  float64 `json:"-"` // in the unit
}

// CostFile is a recorded table.
type CostFile struct {
	// Servers name, by unit, the build on which it was counted, where another build may give another figure.
	Servers map[string]string `json:"servers,omitempty"`
	Costs   []Cost            `json:"costs"`
}

// ReadCosts reads a recorded table; one that is not there is empty.
func ReadCosts(file string) (CostFile, error) {
	var f CostFile
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("%s: %w", file, err)
	}
	return f, nil
}

// Record writes what was counted. Units that could not be counted here keep their recorded figures.
func (f CostFile) Record(file string, counted []Cost) error {
	all := slices.Clone(counted)
	for _, old := range f.Costs {
		if !slices.ContainsFunc(counted, func(c Cost) bool { return c.Unit == old.Unit }) {
			all = append(all, old)
		}
	}
	var out strings.Builder
	servers, err := json.Marshal(f.Servers)
	if err != nil {
		return err
	}
	fmt.Fprintf(&out, "{\"servers\": %s,\n\"costs\": [\n", servers)
	for i, c := range all { // a line each, so that a difference shows what changed
		comma := ","
		if i == len(all)-1 {
			comma = ""
		}
		fmt.Fprintf(&out, "  {\"cell\": %q, \"unit\": %q, \"per_request\": %s}%s\n", c.Cell, c.Unit, figure(c.PerRequest), comma)
	}
	out.WriteString("]}\n")
	return os.WriteFile(file, []byte(out.String()), 0o644) //nolint:gosec // a file of the source tree
}

// Judge holds what was counted against the recorded table, and returns both side by side, what grew, which is an
// error of the change that made it, and what shrank, which should be recorded so that it stays.
func (f CostFile) Judge(counted []Cost) (table string, grew, shrank []string) {
	var out strings.Builder
	fmt.Fprintf(&out, "%-58s %-26s %12s %12s %9s\n", "cell", "unit, per request", "recorded", "counted", "change")
	for _, c := range counted {
		at := slices.IndexFunc(f.Costs, func(r Cost) bool { return r.Cell == c.Cell && r.Unit == c.Unit })
		if at < 0 {
			grew = append(grew, fmt.Sprintf("%s, %s: not in the table yet", c.Cell, c.Unit))
			fmt.Fprintf(&out, "%-58s %-26s %12s %12s\n", c.Cell, c.Unit, "-", figure(c.PerRequest))
			continue
		}
		was := f.Costs[at].PerRequest
		room, moved := max(c.Share*was, c.Plus), c.PerRequest-was
		said := fmt.Sprintf("%s, %s: %s, recorded %s, may move by %s", c.Cell, c.Unit, figure(c.PerRequest), figure(was), figure(room))
		verdict := ""
		switch {
		case moved > room:
			grew, verdict = append(grew, said), "  GREW"
		case moved < -room:
			shrank, verdict = append(shrank, said), "  shrank"
		}
		fmt.Fprintf(&out, "%-58s %-26s %12s %12s %9s%s\n",
			c.Cell, c.Unit, figure(was), figure(c.PerRequest), change(was, moved), verdict)
	}
	for _, r := range f.Costs {
		sameUnit := func(c Cost) bool { return c.Unit == r.Unit }
		sameCell := func(c Cost) bool { return c.Unit == r.Unit && c.Cell == r.Cell }
		if slices.ContainsFunc(counted, sameUnit) && !slices.ContainsFunc(counted, sameCell) {
			grew = append(grew, fmt.Sprintf("%s, %s: in the table, and no longer counted", r.Cell, r.Unit))
		}
	}
	return out.String(), grew, shrank
}

func change(was, moved float64) string {
	if was == 0 {
		return "-"
	}
	return fmt.Sprintf("%+.1f %%", 100*moved/was)
}

// figure writes three decimals of a small number and none of a large one.
func figure(x float64) string {
	if x >= 1000 || x <= -1000 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.3f", x)
}
