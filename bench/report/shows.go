package report

import (
	"fmt"
	"math"

	"creditgate/bench/result"
)

// Outcomes of a promise.
const (
	reached     = "reached"
	missed      = "missed"
	notMeasured = "not measured"
)

// promise is one line of what the bench must show.
type promise struct {
	What, Bound, Measured, Outcome string
}

// bounds of the promises: as ratios, µs, bytes.
const (
	freeShareMin   = 0.6
	naiveTimesMin  = 2
	pgrowTimesMin  = 4
	nginxTimesMin  = 1.6
	redisAt64Max   = 35
	redisAt256Max  = 25
	roundTripsMax  = 3
	addedP99Max    = 3000
	allocsMax      = 12
	allocBytesMax  = 2048
	accountsMax    = 1.15
	grantsMax      = 1.40
	partitionsMax  = 1.25
	accountSizeMax = 400
	holdSizeMax    = 350
	// backlogShareMax is the part of the records that may stay behind for a backlog to count as not growing: the
	// flusher writes in batches, so that the line through it is never quite flat.
	backlogShareMax = 0.01
)

// promises are what is shown, in the order in which they matter.
func promises(c cells) []promise {
	closed := c.suite("closed")
	var out []promise
	for _, n := range []int{64, 256} {
		out = append(out, times(closed.clients(n), "free", n, freeShareMin))
	}
	for _, rival := range []struct {
		name string
		min  float64
	}{{"naive", naiveTimesMin}, {"pgrow", pgrowTimesMin}, {"nginx", nginxTimesMin}} {
		out = append(out, times(closed.clients(64), rival.name, 64, rival.min))
	}
	metered := closed.target("metered")
	out = append(out,
		atMost("Redis CPU per metered request, 64 clients", metered.clients(64).of(redisCPU), redisAt64Max, "µs"),
		atMost("Redis CPU per metered request, 256 clients", metered.clients(256).of(redisCPU), redisAt256Max, "µs"),
		addedRoundTrips(c.suite("roundtrip")), addedTail(c.suite("open")),
		atMost("heap allocations per metered request beyond an unmetered one, 64 clients",
			beyondFree(closed, func(r result.Row) float64 { return r.Heap.Allocs }), allocsMax, ""),
		atMost("heap bytes per metered request beyond an unmetered one, 64 clients",
			beyondFree(closed, func(r result.Row) float64 { return r.Heap.Bytes }), allocBytesMax, "B"))
	out = append(out, growths(c)...)
	memory := c.suite("memory")
	return append(out,
		atMost("Redis memory per idle account", extra(memory, result.ExtraAccountSize), accountSizeMax, "B"),
		atMost("Redis memory per open hold", extra(memory, result.ExtraHoldSize), holdSizeMax, "B"),
		backlog(c.suite("flush")))
}

func extra(c cells, name string) figure {
	return c.where(func(r result.Row) bool { _, ok := r.Extra[name]; return ok }).
		of(func(r result.Row) float64 { return r.Extra[name] })
}

// times compares the throughput of the metered gateway with another target's.
func times(c cells, other string, clients int, bound float64) promise {
	f := c.target("metered").against(c.target(other), func(a, b result.Row) float64 { return ratio(a.Throughput(), b.Throughput()) })
	return judge(fmt.Sprintf("metered throughput ÷ %s, %d clients", called(other), clients), f, "≥ "+limit(bound), "",
		f.mid >= bound)
}

func atMost(what string, f figure, bound float64, unit string) promise {
	return judge(what, f, "≤ "+withUnit(limit(bound), unit), unit, f.mid <= bound)
}

func judge(what string, f figure, bound, unit string, holds bool) promise {
	p := promise{What: what, Bound: bound, Measured: f.text(unit), Outcome: missed}
	switch {
	case !f.ok():
		p.Measured, p.Outcome = "–", notMeasured
	case holds:
		p.Outcome = reached
	}
	return p
}

// addedRoundTrips is what metering adds to a lone request, in bare round trips.
func addedRoundTrips(c cells) promise {
	bare := c.target("evalsha").of(p50).mid
	f := c.target("metered").against(c.target("free"), func(a, b result.Row) float64 {
		return ratio(a.Latency.P50-b.Latency.P50, bare)
	})
	if bare == 0 {
		f = figure{}
	}
	return atMost("added p50 of a lone client ÷ bare EVALSHA round trip", f, roundTripsMax, "")
}

// sameRate says whether two open loops were asked for as much.
func sameRate(a, b result.Row) bool { return math.Abs(a.Rate-b.Rate) <= a.Rate/100 }

// addedTail compares the tails where both were asked at half of what the metered gateway can.
func addedTail(c cells) promise {
	half := c.where(func(r result.Row) bool { return r.Share == 0.5 })
	var metered, free cells
	for _, m := range half.target("metered") {
		for _, f := range half.target("free") {
			if m.Round == f.Round && sameRate(m, f) {
				metered, free = append(metered, m), append(free, f)
				break
			}
		}
	}
	f := metered.against(free, func(a, b result.Row) float64 { return a.Latency.P99 - b.Latency.P99 })
	return atMost("added p99, open loop at 50 % of the metered capacity", f, addedP99Max, "µs")
}

func beyondFree(closed cells, value func(result.Row) float64) figure {
	c := closed.clients(64)
	return c.target("metered").against(c.target("free"), func(a, b result.Row) float64 { return value(a) - value(b) })
}

// growths compare Redis' CPU per request at the ends of what grows.
func growths(c cells) []promise {
	at := func(suite string, key func(result.Row) int, n int) figure {
		return c.suite(suite).target("metered").where(func(r result.Row) bool { return key(r) == n }).of(redisCPU)
	}
	compare := func(what string, few, many figure, bound float64) promise {
		f := figure{mid: ratio(many.mid, few.mid), low: ratio(many.low, few.high), high: ratio(many.high, few.low), rounds: many.rounds}
		if !few.ok() || few.low == 0 {
			f = figure{}
		}
		return atMost("Redis CPU per request, "+what, f, bound, "")
	}
	// A million keys are more than a gateway caches: asking for all of them, or for so many that each is rarely used, also
	// measures look-ups in Postgres, and the smaller batches of a slower gateway. Asking for a few, spread over all, is
	// about Redis. All are shown.
	million := c.suite("accounts").target("metered").where(func(r result.Row) bool { return r.Accounts == 1_000_000 })
	thousand := at("accounts", accountsOf, 1000)
	active := func(r result.Row) int { return int(r.Extra[result.ExtraActive]) }
	var out []promise
	of := func(n int) figure {
		return million.where(func(r result.Row) bool { return active(r) == n }).of(redisCPU)
	}
	for _, n := range values(million, active) {
		if n > 0 {
			what := "1,000,000 accounts of which " + number(float64(n)) + " are asked for ÷ 1,000"
			out = append(out, compare(what, thousand, of(n), accountsMax))
		}
	}
	return append(
		out,
		compare("1,000,000 accounts that are all asked for ÷ 1,000", thousand, of(0), accountsMax),
		compare("12 grants ÷ 1", at("grants", grantsOf, 1), at("grants", grantsOf, 12), grantsMax),
		compare("256 partitions ÷ 1", at("partitions", partitionsOf, 1), at("partitions", partitionsOf, 256), partitionsMax),
	)
}

func accountsOf(r result.Row) int   { return r.Accounts }
func grantsOf(r result.Row) int     { return r.Grants }
func partitionsOf(r result.Row) int { return r.Partitions }
func gatewaysOf(r result.Row) int   { return r.Gateways }
func mastersOf(r result.Row) int    { return r.Masters }

// backlog is judged against the rate at which records are made. One holds what a call of several requests did, so there
// are fewer of them than requests.
func backlog(c cells) promise {
	rows := c.target("metered").where(func(r result.Row) bool { return r.Extra[result.ExtraRecords] > 0 })
	f := rows.of(func(r result.Row) float64 {
		return 100 * ratio(r.Extra[result.ExtraSlope], r.Extra[result.ExtraRecords])
	})
	return judge("growth of the ledger's backlog at the full metered rate, of the records made", f,
		"≤ "+withUnit(limit(100*backlogShareMax), "%"), "%", f.mid <= 100*backlogShareMax)
}
