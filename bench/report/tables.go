package report

import (
	"fmt"
	"math"
	"strconv"

	"creditgate/bench/result"
)

// table is shown as HTML and as Markdown. The first column is text, the others are figures.
type table struct {
	Title string
	Head  []string
	Rows  [][]string
}

// tables are all that have rows.
func tables(c cells) []table {
	closed := c.suite("closed")
	all := []table{
		byClients("Throughput, requests/s", closed, throughput),
		byClients("Median latency, ms", closed, func(r result.Row) float64 { return r.Latency.P50 / 1000 }),
		costTable(closed, 64), costTable(closed, 256), unitsTable(c.suite("units")), openTable(c.suite("open")),
		growthTable("Redis CPU and throughput as it grows", c), clusterTable(c.suite("cluster").target("metered")),
		bodiesTable(c), memoryTable(c.suite("memory")),
	}
	var out []table
	for _, t := range all {
		if len(t.Rows) > 0 {
			out = append(out, t)
		}
	}
	return out
}

func byClients(title string, c cells, value func(result.Row) float64) table {
	t := table{Title: title, Head: []string{"clients"}}
	counts := values(c, clientsOf)
	for _, n := range counts {
		t.Head = append(t.Head, number(float64(n)))
	}
	for _, target := range c.targets() {
		row := []string{called(target)}
		for _, n := range counts {
			row = append(row, c.target(target).clients(n).of(value).text(""))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func costTable(closed cells, clients int) table {
	t := table{Title: fmt.Sprintf("A request at %d clients: CPU in µs by process, Redis, heap", clients), Head: []string{"target"}}
	t.Head = append(t.Head, processes()...)
	t.Head = append(t.Head, "commands", "bytes to Redis", "from Redis", "allocations", "heap bytes")
	c := closed.clients(clients)
	for _, target := range c.targets() {
		rows := c.target(target)
		row := []string{called(target)}
		for _, process := range processes() {
			row = append(row, some(rows.of(func(r result.Row) float64 { return r.CPU[process] })))
		}
		for _, value := range []func(result.Row) float64{
			func(r result.Row) float64 { return r.Redis.Commands }, func(r result.Row) float64 { return r.Redis.InBytes },
			func(r result.Row) float64 { return r.Redis.OutBytes }, func(r result.Row) float64 { return r.Heap.Allocs },
			func(r result.Row) float64 { return r.Heap.Bytes },
		} {
			row = append(row, some(rows.of(value)))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// some is a median, or a dash where the target has no such thing.
func some(f figure) string {
	const least = 0.005 // would be written as 0.00
	if !f.ok() || math.Abs(f.mid) < least {
		return "–"
	}
	return number(f.mid)
}

func openTable(c cells) table {
	t := table{
		Title: "Open loop: latency in ms from when a request was due",
		Head:  []string{"target", "asked for, requests/s", "answered", "p50", "p90", "p99", "p99.9"},
	}
	for _, target := range c.targets() {
		rows := c.target(target)
		for _, rate := range values(rows, func(r result.Row) float64 { return r.Rate }) {
			at := rows.where(func(r result.Row) bool { return r.Rate == rate })
			row := []string{called(target), number(float64(int64(rate))), at.of(throughput).text("")}
			for _, value := range []func(result.Row) float64{
				p50, func(r result.Row) float64 { return r.Latency.P90 }, p99, func(r result.Row) float64 { return r.Latency.P999 },
			} {
				row = append(row, at.of(func(r result.Row) float64 { return value(r) / 1000 }).text(""))
			}
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

func growthTable(title string, c cells) table {
	t := table{
		Title: title,
		Head:  []string{"what", "requests/s", "Redis µs", "gateway µs", "Postgres µs", "commands", "keys looked up"},
	}
	for _, g := range []struct {
		suite, what string
		key         func(result.Row) int
	}{
		{"accounts", "accounts", accountsOf},
		{"grants", "grants", grantsOf},
		{"partitions", "partitions", partitionsOf},
		{"gateways", "gateways", gatewaysOf},
		{"hot", "clients on one account", clientsOf},
	} {
		rows := c.suite(g.suite).target("metered")
		for _, n := range values(rows, g.key) {
			at := rows.where(func(r result.Row) bool { return g.key(r) == n })
			for _, active := range values(at, func(r result.Row) float64 { return r.Extra[result.ExtraActive] }) {
				t.Rows = append(t.Rows, growthRow(number(float64(n))+" "+g.what, active, at))
			}
		}
	}
	return t
}

func growthRow(what string, active float64, c cells) []string {
	c = c.where(func(r result.Row) bool { return r.Extra[result.ExtraActive] == active })
	if active > 1 {
		what += ", of which " + number(active) + " are asked for"
	}
	cpu := func(process string) string { return some(c.of(func(r result.Row) float64 { return r.CPU[process] })) }
	return []string{
		what, c.of(throughput).text(""), cpu("redis"), cpu("gateway"), cpu("postgres"),
		some(c.of(func(r result.Row) float64 { return r.Redis.Commands })),
		some(c.of(func(r result.Row) float64 { return r.Extra[result.ExtraKeyLookups] })),
	}
}

// bodiesTable holds what differs in what is sent, and in how long the backend takes for it.
func bodiesTable(c cells) table {
	t := table{
		Title: "Bodies, and a backend that takes its time",
		Head:  []string{"target", "body", "backend, ms", "clients", "requests/s", "p50, ms", "p99, ms"},
	}
	rows := append(c.suite("bodies"), c.suite("backend")...)
	type kind struct {
		target, body string
		delay        float64
		clients      int
	}
	seen := map[kind]bool{}
	for _, r := range rows {
		k := kind{r.Target, r.Body, r.BackendMS, r.Clients}
		if seen[k] {
			continue
		}
		seen[k] = true
		at := rows.where(func(r result.Row) bool { return k == kind{r.Target, r.Body, r.BackendMS, r.Clients} })
		t.Rows = append(t.Rows, []string{
			called(k.target), k.body, number(k.delay), strconv.Itoa(k.clients), at.of(throughput).text(""),
			at.of(func(r result.Row) float64 { return r.Latency.P50 / 1000 }).text(""),
			at.of(func(r result.Row) float64 { return r.Latency.P99 / 1000 }).text(""),
		})
	}
	return t
}

func memoryTable(c cells) table {
	t := table{
		Title: "Memory of Redis",
		Head:  []string{"accounts", "grants each", "bytes an account", "open holds", "bytes a hold", "loaded in, s"},
	}
	for _, r := range c {
		t.Rows = append(t.Rows, []string{
			number(float64(r.Accounts)), number(float64(r.Grants)), number(r.Extra[result.ExtraAccountSize]),
			number(r.Extra[result.ExtraHolds]), number(r.Extra[result.ExtraHoldSize]), number(r.Extra[result.ExtraLoadSeconds]),
		})
	}
	return t
}
