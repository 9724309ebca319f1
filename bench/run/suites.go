package main

import (
	"fmt"
	"io"
	"time"

	"creditgate/bench/result"
	"creditgate/bench/rivals"
	"creditgate/bench/stage"
)

// capacityClients is the closed loop whose throughput counts as a target's capacity.
const capacityClients = 64

// headlineRounds is how often that is measured which the figures that matter are made of.
const headlineRounds = 3

// inFlight is how many requests are under way at a backend that takes two seconds.
const inFlight = 4000

// million of accounts, and how many of them are asked for. A key is believed for ten seconds. Of a few thousand each is
// used many times in that, and is looked up ahead of it now and then; of many, at some 6,000 requests/s each is used once
// in eight seconds, and every second request brings a look-up although the cache holds them all.
const (
	million    = 1_000_000
	activeFew  = 5_000
	activeMany = 50_000
	// keyWave is after how long a gateway looks up a key in use again. Those greeted together come together again: a cell
	// must be as long as that, or it lies between two such waves, or in one.
	keyWave = 5 * time.Second

	manyQuick = 20_000 // where a quick run asks for what a million would show
)

// suites are in the order in which they run: those first that share the usual stage.
func suites() []suite {
	return []suite{
		{"closed", "throughput against the number of clients, all targets", closedSuite},
		{"open", "latency at fixed shares of capacity, all targets", openSuite},
		{"roundtrip", "one client, beside a bare EVALSHA on one connection", roundtripSuite},
		{"units", "single commands and packings, in Redis' CPU", unitsSuite},
		{"bodies", "JSON of 2 KB, images of 2 MB both ways", bodiesSuite},
		{"hot", "one account that everybody uses", hotSuite},
		{"flush", "the ledger's backlog while the gateway is at its limit", flushSuite},
		{"backend", "a backend that takes 0, 20 ms, 2 s; with 4,000 in flight", backendSuite},
		{"grants", "1, 3, 12 live grants of each account", grantsSuite},
		{"partitions", "1 to 256 partitions on one Redis", partitionsSuite},
		{"gateways", "1, 2, 3 gateways on one Redis", gatewaysSuite},
		{"cluster", "a Redis Cluster of 1, 2, 3 masters", clusterSuite},
		{"accounts", "1, 1,000, 1,000,000 accounts", accountsSuite},
		{"renewals", "subscriptions of 1,000,000 accounts that renew at one midnight, under load", renewalsSuite},
		{"memory", "Redis memory of idle accounts and of open holds", memorySuite},
	}
}

func listSuites(out io.Writer) {
	for _, s := range suites() {
		fmt.Fprintf(out, "%-11s %s\n", s.name, s.what)
	}
}

// everybody is all targets, creditgate's between the floor and the rivals.
func everybody(c *config) []string {
	names := []string{stage.Backend}
	for _, name := range rivals.Names() {
		if name == stage.Backend {
			continue
		}
		names = append(names, name)
		if len(names) == 2 {
			names = append(names, stage.Free, stage.Metered)
		}
	}
	return c.chosen(names...)
}

// ours is the gateway, without metering and with.
func ours(c *config) []string { return c.chosen(stage.Free, stage.Metered) }

func closedSuite(c *config) []act {
	var cells []cell
	for _, clients := range pick(c, []int{1, 16, 64, 256, 1024}, []int{64, 256}) {
		rounds := 1
		if clients == capacityClients || clients == 4*capacityClients {
			rounds = pick(c, headlineRounds, 1)
		}
		cells = append(cells, each(everybody(c), cell{clients: clients, rounds: rounds})...)
	}
	return []act{{usual(), cells}}
}

// openSuite has more connections than a target that keeps up needs: those that are late must not wait for one.
func openSuite(c *config) []act {
	const connections = 256
	var cells []cell
	for _, share := range pick(c, []float64{0.2, 0.5, 0.7, 0.9}, []float64{0.5}) {
		cells = append(cells, each(everybody(c), cell{clients: connections, share: share})...)
	}
	same := each(ours(c), cell{clients: connections, share: 0.5, of: stage.Metered, rounds: pick(c, headlineRounds, 1)})
	return []act{{usual(), append(cells, same...)}}
}

func roundtripSuite(c *config) []act {
	rounds := pick(c, headlineRounds, 1)
	cells := []cell{{target: "evalsha", clients: 1, rounds: rounds, special: bareRoundTrip}}
	return []act{{usual(), append(cells, each(ours(c), cell{clients: 1, rounds: rounds})...)}}
}

func unitsSuite(c *config) []act {
	return []act{{usual(), each(result.Units(), cell{clients: 1, rounds: pick(c, headlineRounds, 1), special: unitCost})}}
}

func bodiesSuite(c *config) []act {
	const clients = 16
	cells := each(ours(c), cell{clients: clients})
	return []act{{usual(), append(cells, each(ours(c), cell{clients: clients, image: true})...)}}
}

func hotSuite(c *config) []act {
	var cells []cell
	for _, clients := range pick(c, []int{64, 256, 1024}, []int{64}) {
		cells = append(cells, each(c.chosen(stage.Metered), cell{clients: clients, active: 1})...)
	}
	return []act{{usual(), cells}}
}

func flushSuite(c *config) []act {
	const cells = 10 // of them in a row: in a short one a single batch on its way looks like growth
	return []act{{usual(), each(c.chosen(stage.Metered), cell{clients: 64, length: cells * c.length, watch: true})}}
}

func backendSuite(c *config) []act {
	short := act{on(func(o *stage.Options) { o.Delay = 20 * time.Millisecond }), each(ours(c), cell{clients: 256})}
	if c.quick {
		return []act{short}
	}
	const slow = 2 * time.Second
	return append([]act{{usual(), each(ours(c), cell{clients: 256})}, short}, act{
		on(func(o *stage.Options) { o.Delay = slow }), each(ours(c), cell{clients: inFlight, warm: 3 * slow, length: 3 * slow}),
	})
}

func grantsSuite(c *config) []act {
	return growth(c, pick(c, []int{1, 3, 12}, []int{1, 12}), func(o *stage.Options, n int) { o.Grants = n })
}

func partitionsSuite(c *config) []act {
	return growth(c, pick(c, []int{1, 4, 16, 64, 256}, []int{1, 256}), func(o *stage.Options, n int) { o.Partitions = n })
}

func gatewaysSuite(c *config) []act {
	return growth(c, pick(c, []int{1, 2, 3}, []int{1, 2}), func(o *stage.Options, n int) { o.Gateways = n })
}

// partitionsPerMaster is what a Cluster is set up with.
const partitionsPerMaster = 4

func clusterSuite(c *config) []act {
	var acts []act
	for _, n := range pick(c, []int{1, 2, 3}, []int{1, 3}) {
		var cells []cell
		for _, clients := range pick(c, []int{capacityClients, 4 * capacityClients}, []int{capacityClients}) {
			cells = append(cells, each(c.chosen(stage.Metered), cell{clients: clients})...)
		}
		acts = append(acts, act{on(func(o *stage.Options) { o.Masters, o.Partitions = n, n*partitionsPerMaster }), cells})
	}
	return acts
}

// growth measures the metered gateway while one thing grows. Each has a stage of its own, so there is nothing to
// interleave.
func growth(c *config, values []int, set func(*stage.Options, int)) []act {
	var acts []act
	for _, n := range values {
		o := on(func(o *stage.Options) { set(o, n) })
		acts = append(acts, act{o, each(c.chosen(stage.Metered), cell{clients: 64})})
	}
	return acts
}

// accountsSuite asks three times where there are a million: for a few of them, spread over all, whose keys a gateway has
// in its cache; for many, whose keys it has as well and looks up all the time to know that they still hold; and for all,
// which its cache cannot hold. The first is about Redis, the others are about Postgres too. Those that can be held are
// greeted before: a cell's warm-up alone would leave half of the many to be met for the first time while it is measured.
func accountsSuite(c *config) []act {
	const grants = 1 // a million accounts are made in a third of the time
	acts := growth(c, []int{1, 1000}, func(o *stage.Options, n int) { o.Accounts, o.Grants = n, grants })
	if c.quick {
		return acts
	}
	targets, warm := c.chosen(stage.Metered), 2*c.length
	var cells []cell
	for _, active := range []int{activeFew, activeMany} {
		cells = append(cells, each(targets, cell{clients: 64, active: active, greet: true, warm: warm, length: keyWave})...)
	}
	cells = append(cells, each(targets, cell{clients: 64, warm: warm})...)
	return append(acts, act{on(func(o *stage.Options) { o.Accounts, o.Grants = million, grants }), cells})
}

// renewalsSuite has a clock of its own, which it moves: its stage is nobody else's.
func renewalsSuite(c *config) []act {
	o := on(func(o *stage.Options) {
		o.Accounts, o.Grants, o.Renewing = pick(c, million, manyQuick), stage.GrantsGiven, true
	})
	return []act{{o, each(c.chosen(stage.Metered), cell{special: renewals, length: pick(c, 10*time.Minute, time.Minute)})}}
}

// memorySuite has a Redis of its own and needs no stage.
func memorySuite(c *config) []act {
	return []act{{cells: each(c.chosen(stage.Metered), cell{special: memoryUsed})}}
}
