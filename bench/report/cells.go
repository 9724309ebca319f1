package report

import (
	"cmp"
	"slices"

	"creditgate/bench/result"
)

// Targets, in the order in which they are shown.
func targetOrder() []string {
	return []string{"backend", "proxy", "free", "metered", "naive", "pgrow", "nginx"}
}

// called is what people read for a target.
func called(target string) string {
	names := map[string]string{
		"backend": "backend direct", "proxy": "plain proxy", "free": "creditgate, unmetered", "metered": "creditgate, metered",
		"naive": "two EVALSHA", "pgrow": "Postgres row locks", "nginx": "nginx + Lua", "evalsha": "bare EVALSHA",
	}
	if name, ok := names[target]; ok {
		return name
	}
	return target
}

// cells are the rows of a run, narrowed down step by step.
type cells []result.Row

func (c cells) where(keep func(result.Row) bool) cells {
	var out cells
	for _, r := range c {
		if keep(r) {
			out = append(out, r)
		}
	}
	return out
}

func (c cells) suite(name string) cells {
	return c.where(func(r result.Row) bool { return r.Suite == name })
}

func (c cells) target(name string) cells {
	return c.where(func(r result.Row) bool { return r.Target == name })
}

func (c cells) clients(n int) cells {
	return c.where(func(r result.Row) bool { return r.Clients == n })
}

// targets are those that have rows, in order.
func (c cells) targets() []string {
	var out []string
	for _, name := range targetOrder() {
		if len(c.target(name)) > 0 {
			out = append(out, name)
		}
	}
	return out
}

// values lists what key takes in the rows, ascending.
func values[T cmp.Ordered](c cells, key func(result.Row) T) []T {
	var out []T
	for _, r := range c {
		out = append(out, key(r))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// figure is a value with the lowest and the highest of its rounds. A figure of no rounds is not ok.
type figure struct {
	mid, low, high float64
	rounds         int
}

func (f figure) ok() bool { return f.rounds > 0 }

func figureOf(seen []float64) figure {
	if len(seen) == 0 {
		return figure{}
	}
	slices.Sort(seen)
	n := len(seen)
	return figure{mid: (seen[(n-1)/2] + seen[n/2]) / 2, low: seen[0], high: seen[n-1], rounds: n}
}

// of is the median over the rounds.
func (c cells) of(value func(result.Row) float64) figure {
	var seen []float64
	for _, r := range c {
		seen = append(seen, value(r))
	}
	return figureOf(seen)
}

// against combines each round of c with the same round of other.
func (c cells) against(other cells, value func(a, b result.Row) float64) figure {
	var seen []float64
	for _, a := range c {
		for _, b := range other {
			if a.Round == b.Round {
				seen = append(seen, value(a, b))
				break
			}
		}
	}
	return figureOf(seen)
}

// What is asked of a row.
func throughput(r result.Row) float64 { return r.Throughput() }
func redisCPU(r result.Row) float64   { return r.CPU["redis"] }
func p50(r result.Row) float64        { return r.Latency.P50 }
func p99(r result.Row) float64        { return r.Latency.P99 }
func clientsOf(r result.Row) int      { return r.Clients }

// ratio is 0 where there is nothing to divide by.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
