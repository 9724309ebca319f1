package report

import (
	"creditgate/bench/result"
)

// unitsElsewhere are the ns of each unit on the machine by whose figures the bounds of shows.go were set. What a machine
// makes of the same work says how to read a bound in µs, or one against a rival whose work is of another kind. Whether
// writes had an append-only file there is not known: theirs compare less well than the others.
func unitsElsewhere() map[string]float64 {
	return map[string]float64{
		result.UnitEval: 2800, result.UnitTime: 1290, result.UnitGet: 546, result.UnitSet: 990, result.UnitHGet: 610,
		result.UnitHMGet: 1420, result.UnitHSet: 1700, result.UnitUnpack: 343, result.UnitPack: 478,
	}
}

func unitsTable(c cells) table {
	t := table{
		Title: "What single things cost Redis, ns of CPU; writes here with an append-only file, there perhaps without",
		Head:  []string{"in a script, but for the first", "here", "where the bounds were set", "there ÷ here"},
	}
	elsewhere := unitsElsewhere()
	for _, unit := range result.Units() {
		here := c.target(unit).of(func(r result.Row) float64 { return r.Extra[result.ExtraUnit] })
		if !here.ok() {
			continue
		}
		t.Rows = append(t.Rows, []string{unit, here.text(""), number(elsewhere[unit]), number(ratio(elsewhere[unit], here.mid))})
	}
	return t
}
