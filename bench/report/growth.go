package report

import (
	"fmt"
	"math"
	"slices"

	"creditgate/bench/result"
	"creditgate/meter"
)

// Assumptions of the extrapolation. Each is said on the page.
const (
	useMax        = 0.7 // of a core: what is above it is for bursts
	gatewayCores  = 8   // of a gateway's host
	postgresCores = 64  // of the largest host for a primary that is taken for granted
	flightSize    = 512 // operations in a full flight: meter's flightMax
	perMaster     = 4   // partitions
	callsLone     = 2   // per request, where nothing is batched: one for reserve, one for commit
	microsPerCore = 1e6 // a second of one core
)

// section is text with tables.
type section struct {
	Title  string
	Text   []string
	Tables []table
}

// units are what a metered request costs, in µs of CPU and in bytes.
type units struct {
	gateway, postgres float64
	rows, wal         float64 // that Postgres writes
	redisBytes        float64 // both ways
	base, perCall     float64 // µs of Redis: for the request itself, and for each call that it needs
	points            int     // rows that base and perCall were fitted to
	off               float64 // the most that one of them is off, as a part
}

// unitsOf takes the gateway's costs from the busiest closed loop up to 256 clients, Postgres' from the longest cell,
// and fits Redis' to the metered rows that differ in how many requests share a call, from a lone client's on.
func unitsOf(c cells) (u units, ok bool) {
	metered := c.target("metered")
	busy := metered.suite("closed").clients(256)
	if len(busy) == 0 {
		busy = metered.suite("closed").clients(64)
	}
	steady := metered.suite("flush")
	if len(steady) == 0 {
		steady = busy
	}
	u.gateway = busy.of(func(r result.Row) float64 { return r.CPU["gateway"] }).mid
	u.redisBytes = busy.of(func(r result.Row) float64 { return r.Redis.InBytes + r.Redis.OutBytes }).mid
	u.postgres = steady.of(func(r result.Row) float64 { return r.CPU["postgres"] }).mid
	u.rows = steady.of(func(r result.Row) float64 { return r.Postgres.Inserted + r.Postgres.Updated }).mid
	u.wal = steady.of(func(r result.Row) float64 { return r.Postgres.WALBytes }).mid
	seen := metered.where(func(r result.Row) bool {
		return slices.Contains([]string{"closed", "roundtrip", "cluster"}, r.Suite) && callsOf(r) > 0 && redisCPU(r) > 0
	})
	u.base, u.perCall = redisLine(seen)
	u.points = len(seen)
	for _, r := range seen {
		u.off = max(u.off, math.Abs(u.redis(callsOf(r))/redisCPU(r)-1))
	}
	return u, u.gateway > 0 && u.postgres > 0 && u.base > 0 && u.perCall > 0
}

// redisLine is the least-squares line through Redis' CPU per request against calls per request. What is measured in
// one call more is its reading of the partition, its write of the ledger record, and the system calls around it.
func redisLine(c cells) (base, perCall float64) {
	var x, y, xx, xy float64
	for _, r := range c {
		x, y = x+callsOf(r), y+redisCPU(r)
		xx, xy = xx+callsOf(r)*callsOf(r), xy+callsOf(r)*redisCPU(r)
	}
	n := float64(len(c))
	width := n*xx - x*x
	if width <= 0 {
		return 0, 0
	}
	perCall = (n*xy - x*y) / width
	return (y - perCall*x) / n, perCall
}

func (u units) redis(calls float64) float64 { return u.base + u.perCall*calls }

// fullCalls is how many calls a request needs when every flight is full: half of its operations reserve and half commit,
// and they fall into as many calls as they meet partitions.
func fullCalls(partitions int) float64 {
	const requests = flightSize / 2.0
	p := float64(partitions)
	return p * (1 - math.Pow(1-1/p, flightSize)) / requests
}

// masters is how many a rate needs. More masters have more partitions, and more partitions make smaller calls, so that
// it is searched for. 0: more than there can be, each with a partition of its own.
func (u units) masters(rate float64, calls func(partitions int) float64) (n int, micros float64) {
	for n = 1; n <= meter.PartitionsMax; n++ {
		micros = u.redis(calls(min(n*perMaster, meter.PartitionsMax)))
		if rate*micros <= float64(n)*useMax*microsPerCore {
			return n, micros
		}
	}
	return 0, micros
}

func loneCalls(int) float64 { return callsLone }

func coresFor(rate, micros float64) float64 {
	return math.Ceil(rate * micros / (useMax * microsPerCore))
}

// growthSection is nothing without the rows that it is computed from.
func growthSection(c cells) []section {
	u, ok := unitsOf(c)
	if !ok {
		return nil
	}
	s := section{Title: "Growth, on paper", Tables: []table{u.unitTable(), u.rateTable()}}
	s.Text = append([]string{
		fmt.Sprintf("Computed from this run's rows; nothing here was run. No core is used for more than %.0f %%; a gateway's host "+
			"has %d cores; a core is one of this machine's, with what the bench itself cost it in caches and switches; "+
			"each Redis master has a core of its own and %d partitions, as far as there are, evenly spread; costs per "+
			"request stay what they were here, but for Redis, whose calls change in size.", 100*useMax, gatewayCores, perMaster),
		fmt.Sprintf("Redis: %s µs for a request and %s µs for each call, fitted to %d rows, off by %s %% at most. In "+
			"a Cluster a call serves one partition. "+
			"Two bounds: every flight of every gateway is full (%d operations), or every call carries one operation. "+
			"Gateways near their own limit come near the first, as they fill their flights; many gateways with little to do go "+
			"to the second.", number(u.base), number(u.perCall), u.points,
			number(math.Round(100*u.off)), flightSize),
	}, u.breaks()...)
	s.Text = append(s.Text, clusterText(c.suite("cluster").target("metered"))...)
	out := []section{s}
	if hot := hotSection(c.suite("hot").target("metered")); hot != nil {
		out = append(out, *hot)
	}
	return out
}

func (u units) unitTable() table {
	return table{
		Title: "What a metered request costs",
		Head:  []string{"part", "µs of a core", "requests/s of a core at 70 %"},
		Rows: [][]string{
			costRow("gateway, its flusher included", u.gateway),
			costRow("Redis, full flights over 4 partitions", u.redis(fullCalls(perMaster))),
			costRow("Redis, full flights over 256 partitions", u.redis(fullCalls(meter.PartitionsMax))),
			costRow("Redis, one operation in a call", u.redis(callsLone)),
			costRow("Postgres", u.postgres),
		},
	}
}

func costRow(part string, micros float64) []string {
	return []string{part, number(micros), number(math.Floor(useMax * microsPerCore / micros))}
}

func (u units) rateTable() table {
	t := table{
		Title: "What a rate needs",
		Head: []string{
			"requests/s", "gateway cores", "gateways", "Redis masters, full flights", "one operation in a call", "Postgres cores",
			"Postgres rows/s", "its log, MB/s", "to and from Redis, Gbit/s",
		},
	}
	needed := func(rate float64, calls func(int) float64) string {
		if n, _ := u.masters(rate, calls); n > 0 {
			return number(float64(n))
		}
		return fmt.Sprintf("over %d", meter.PartitionsMax)
	}
	for _, rate := range []float64{10_000, 100_000, 1_000_000} {
		cores := coresFor(rate, u.gateway)
		t.Rows = append(t.Rows, []string{
			number(rate), number(cores), number(math.Ceil(cores / gatewayCores)), needed(rate, fullCalls), needed(rate, loneCalls),
			number(coresFor(rate, u.postgres)), number(math.Round(rate * u.rows)), number(rate * u.wal / 1e6),
			number(rate * u.redisBytes * 8 / 1e9),
		})
	}
	return t
}

// breaks says where it ends, the lowest end first.
func (u units) breaks() []string {
	postgres := postgresCores * useMax * microsPerCore / u.postgres
	masters := float64(meter.PartitionsMax) * useMax * microsPerCore
	full, lone := masters/u.redis(fullCalls(meter.PartitionsMax)), masters/u.redis(callsLone)
	p := fmt.Sprintf("Postgres: all gateways write to one primary, which cannot be multiplied. With %d cores it takes %s "+
		"requests/s. That its log (%s MB/s then) goes to disk and to replicas in time is not measured here, and may end it "+
		"sooner. Beyond it, accounts are split over deployments, each with a Postgres of its own; a ledger that falls behind "+
		"holds up nothing until 500,000 records of a partition wait; then nothing new is reserved.",
		postgresCores, about(postgres), number(math.Round(postgres*u.wal/1e6)))
	r := fmt.Sprintf("Redis: there are at most %d partitions, so at most %d masters: %s requests/s with full flights, %s with one "+
		"operation in a call.", meter.PartitionsMax, meter.PartitionsMax, about(full), about(lone))
	g := "Gateways share nothing but Redis and Postgres: more of them is the whole answer."
	switch {
	case postgres <= lone:
		return []string{"Breaks first: " + p, "Then " + r, g}
	case postgres >= full:
		return []string{"Breaks first: " + r, "Then " + p, g}
	default:
		return []string{"Breaks first: Redis or Postgres, as flights are emptier or fuller. " + r, p, g}
	}
}

// about is a rate in two digits: more would be a claim.
func about(rate float64) string {
	if rate < 1 {
		return number(rate)
	}
	unit := math.Pow(10, math.Floor(math.Log10(rate))-1)
	return number(math.Round(rate/unit) * unit)
}
