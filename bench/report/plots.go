package report

import (
	"fmt"
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"

	"creditgate/bench/result"
)

// plots are all that the rows allow.
func plots(c cells) ([]*plot, error) {
	all := []*plot{throughputPlot(c.suite("closed"))}
	for _, n := range []int{64, 256} {
		all = append(all, costPlot(c.suite("closed"), n))
	}
	latencies, err := latencyPlots(c)
	if err != nil {
		return nil, err
	}
	all = append(all, latencies...)
	all = append(all,
		growthPlot(c.suite("accounts"), "accounts", accountsOf), growthPlot(c.suite("grants"), "live grants of an account", grantsOf),
		growthPlot(c.suite("partitions"), "partitions", partitionsOf), growthPlot(c.suite("gateways"), "gateways", gatewaysOf),
		clusterPlot(c.suite("cluster").target("metered")), backlogPlot(c.suite("flush")))
	var out []*plot
	for _, p := range all {
		if p != nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// series is a figure of the rows against a key.
func series(c cells, target string, key func(result.Row) int, value func(result.Row) float64) line {
	l := line{name: called(target), class: "t-" + target, dots: true}
	rows := c.target(target)
	for _, v := range values(rows, key) {
		f := rows.where(func(r result.Row) bool { return key(r) == v }).of(value)
		l.points = append(l.points, point{float64(v), f.mid, f.low, f.high})
	}
	return l
}

// throughputPlot leaves out the backend: on its scale the others could not be told apart.
func throughputPlot(c cells) *plot {
	c = c.where(func(r result.Row) bool { return r.Target != "backend" })
	if len(c) == 0 {
		return nil
	}
	var lines []line
	for _, target := range c.targets() {
		lines = append(lines, series(c, target, clientsOf, throughput))
	}
	x, y := axis{label: "clients, each with one request under way"}, axis{label: "requests/s"}
	x.spanValues(floats(values(c, clientsOf)))
	_, top := reach(lines)
	y.spanZero(0, top)
	return draw("Throughput against clients", "Closed loop. Upright lines join the lowest and the highest round.", x, y, lines)
}

func floats(in []int) []float64 {
	out := make([]float64, len(in))
	for i, v := range in {
		out[i] = float64(v)
	}
	return out
}

// processes are the parts of a request's cost, in the order in which they are stacked.
func processes() []string {
	return []string{"gateway", "nginx", "redis", "postgres", "backend", "client"}
}

func costPlot(c cells, clients int) *plot {
	c = c.clients(clients)
	var bars []bar
	for _, target := range c.targets() {
		b := bar{name: called(target)}
		for _, process := range processes() {
			f := c.target(target).of(func(r result.Row) float64 { return r.CPU[process] })
			name := process
			if process == "gateway" {
				name = "gateway or proxy"
			}
			b.parts = append(b.parts, part{name, "p-" + process, f.mid})
		}
		bars = append(bars, b)
	}
	return drawBars(fmt.Sprintf("Where a request's CPU goes, %d clients", clients),
		"By process; what creditgate's flusher costs is in gateway, redis and postgres.", "µs of CPU per request", bars)
}

// latencyPlots are one of the closed loop and one for each share of the capacity.
func latencyPlots(c cells) ([]*plot, error) {
	closed, open := c.suite("closed").clients(64), c.suite("open")
	p, err := latencyPlot("Latency, closed loop of 64 clients", "", closed)
	if err != nil {
		return nil, err
	}
	out := []*plot{p}
	for _, share := range values(open, func(r result.Row) float64 { return r.Share }) {
		own, same := splitRates(open.where(func(r result.Row) bool { return r.Share == share }))
		title := fmt.Sprintf("Latency, open loop at %.0f %% of each target's capacity", 100*share)
		p, err := latencyPlot(title, "Counted from when a request was due, so waiting for a stalled target counts.", own)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
		title = fmt.Sprintf("Latency, both at %.0f %% of the metered capacity", 100*share)
		if p, err = latencyPlot(title, "The gateway without and with metering, at the same rate.", same); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// splitRates parts the rows in which each target was asked for a share of its own capacity from those in which the
// unmetered gateway was asked for as much as the metered one. The latter's metered rows are in both.
func splitRates(c cells) (own, same cells) {
	metered := c.target("metered")
	for _, r := range c {
		equal := len(metered) > 0 && sameRate(metered[0], r)
		if equal && (r.Target == "free" || r.Target == "metered") {
			same = append(same, r)
		}
		if r.Target != "free" || !equal {
			own = append(own, r)
		}
	}
	if len(same.target("free")) == 0 {
		same = nil
	}
	return own, same
}

// stepsPerDecade is how finely a latency curve is drawn, in decades of 1/(1-quantile).
const stepsPerDecade = 16

func latencyPlot(title, note string, c cells) (*plot, error) {
	var lines []line
	top := 100.0 // 99 %
	for _, target := range c.targets() {
		h, err := merged(c.target(target))
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", title, target, err)
		}
		if h == nil || h.TotalCount() == 0 {
			continue
		}
		l := line{name: called(target), class: "t-" + target}
		end := float64(h.TotalCount())
		for i := 0; ; i++ {
			x := math.Pow(10, float64(i)/stepsPerDecade)
			if x > end {
				break
			}
			l.points = append(l.points, point{x: x, y: max(float64(h.ValueAtQuantile(100-100/x)), 1) / 1000})
		}
		top = max(top, end)
		lines = append(lines, l)
	}
	if len(lines) == 0 {
		return nil, nil //nolint:nilnil // no rows, no plot
	}
	x, y := axis{label: "percentile"}, axis{label: "ms"}
	x.spanLog(1, top)
	x.top = top
	x.ticks = []tick{{1, "0"}, {2, "50"}, {10, "90"}, {100, "99"}, {1e3, "99.9"}, {1e4, "99.99"}, {1e5, "99.999"}, {1e6, "99.9999"}}
	for x.ticks[len(x.ticks)-1].at > top {
		x.ticks = x.ticks[:len(x.ticks)-1]
	}
	y.spanLog(reach(lines))
	return draw(title, note, x, y, lines), nil
}

// merged is the histogram of all rounds, nil where none was kept.
func merged(c cells) (*hdrhistogram.Histogram, error) {
	var all *hdrhistogram.Histogram
	for _, r := range c {
		if r.Latency.Hist == "" || r.Requests == 0 {
			continue
		}
		h, err := hdrhistogram.Decode([]byte(r.Latency.Hist))
		if err != nil {
			return nil, fmt.Errorf("histogram of round %d: %w", r.Round, err)
		}
		if all == nil {
			all = h
			continue
		}
		all.Merge(h)
	}
	return all, nil
}

func growthPlot(c cells, what string, key func(result.Row) int) *plot {
	// Of a million accounts those are shown that are asked for in part, and of them the fewest: of more, or all, keys are
	// looked up again and again, which is another question.
	kept := c.target("metered")
	part := func(r result.Row) float64 { return r.Extra[result.ExtraActive] }
	few := values(kept.where(func(r result.Row) bool { return r.Accounts >= 1_000_000 && part(r) > 0 }), part)
	kept = kept.where(func(r result.Row) bool {
		return r.Accounts < 1_000_000 || len(few) > 0 && part(r) == few[0]
	})
	if len(values(kept, key)) < 2 {
		return nil
	}
	lines := []line{{name: "Redis", class: "p-redis", dots: true}, {name: "gateway", class: "p-gateway", dots: true}}
	for i, process := range []string{"redis", "gateway"} {
		lines[i].points = series(kept, "metered", key, func(r result.Row) float64 { return r.CPU[process] }).points
	}
	x, y := axis{label: what}, axis{label: "µs of CPU per request"}
	x.spanValues(floats(values(kept, key)))
	_, top := reach(lines)
	y.spanZero(0, top)
	return draw("Growth: "+what, "64 clients, metered.", x, y, lines)
}

func backlogPlot(c cells) *plot {
	var lines []line
	seconds := 0.0
	for _, r := range c.target("metered") {
		l := line{name: fmt.Sprintf("round %d", r.Round), class: "t-metered"}
		for _, p := range r.Series {
			l.points = append(l.points, point{x: p.Second, y: p.Value})
			seconds = max(seconds, p.Second)
		}
		if len(l.points) > 0 {
			lines = append(lines, l)
		}
	}
	x, y := axis{label: "seconds at the full metered rate"}, axis{label: "records not yet in Postgres"}
	x.spanZero(0, seconds)
	_, top := reach(lines)
	y.spanZero(0, top)
	return draw("The ledger's backlog", "The flusher writes in batches, so it is never quite flat.", x, y, lines)
}
