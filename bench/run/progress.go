package main

import (
	"fmt"
	"io"
	"time"

	"creditgate/bench/result"
	"creditgate/bench/stage"
)

// What a cell and a stage take beside their measured time, roughly. Once some have passed, the estimate is corrected
// by what they really took.
const (
	cellOverhead  = 500 * time.Millisecond
	stageOverhead = 4 * time.Second
	perAccount    = 120 * time.Microsecond // to make it, in Postgres and in Redis
	specialTakes  = 10 * time.Second
)

// progress tells how far the run is.
type progress struct {
	out     io.Writer
	began   time.Time
	cells   int
	done    int
	planned time.Duration
	passed  time.Duration // of planned
}

func newProgress(out io.Writer, scenes []scene, c *config) *progress {
	p := &progress{out: out, began: time.Now()}
	var last stage.Options
	for _, s := range scenes {
		if s.stage != last && s.stage != (stage.Options{}) {
			p.planned += settingTakes(s.stage)
			last = s.stage
		}
		for i := range s.cells {
			n := max(1, s.cells[i].rounds)
			p.cells += n
			p.planned += time.Duration(n) * s.cells[i].takes(c)
		}
	}
	fmt.Fprintf(out, "%d cells, about %s\n", p.cells, rough(p.planned))
	return p
}

func settingTakes(o stage.Options) time.Duration {
	return stageOverhead + time.Duration(o.Accounts)*perAccount
}

func (c *cell) takes(run *config) time.Duration {
	if c.special != nil && c.clients == 0 { // it asks nothing for a set time
		return max(specialTakes, c.length)
	}
	length := c.lasts(run.length)
	return c.warmth(length) + length + cellOverhead
}

// left is what the rest takes if it goes on as it went.
func (p *progress) left() time.Duration {
	left := p.planned - p.passed
	if p.passed > 0 {
		left = time.Duration(float64(left) * float64(time.Since(p.began)) / float64(p.passed))
	}
	return max(0, left)
}

func rough(d time.Duration) string {
	if d < 2*time.Minute {
		return fmt.Sprintf("%d s", int(d.Seconds()+0.5))
	}
	return fmt.Sprintf("%d min", int(d.Minutes()+0.5))
}

func (p *progress) setting(o stage.Options) {
	servers := "one Redis"
	if o.Masters > 0 {
		servers = fmt.Sprintf("a Redis Cluster of %d masters", o.Masters)
	}
	fmt.Fprintf(p.out, "-- %d accounts with %d grants, %d partitions, %s, %d gateways, backend takes %s\n",
		o.Accounts, o.Grants, o.Partitions, servers, o.Gateways, o.Delay)
	p.passed += settingTakes(o)
}

func (p *progress) note(text string) { fmt.Fprintln(p.out, "!!", text) }

// skip counts a cell that is left out.
func (p *progress) skip(c *cell, run *config) {
	p.done++
	p.passed += c.takes(run)
}

// cell tells what was measured.
func (p *progress) cell(row *result.Row, c *cell, run *config) {
	p.skip(c, run)
	how := fmt.Sprintf("%d clients", row.Clients)
	if row.Rate > 0 {
		how = fmt.Sprintf("%.0f/s", row.Rate)
	}
	fmt.Fprintf(p.out, "[%3d/%d, %s left] %-10s %-8s %-13s %s\n",
		p.done, p.cells, rough(p.left()), row.Suite, row.Target, how, figures(row))
}

// figures are those of a row that a reader looks for first.
func figures(row *result.Row) string {
	if took, renewed := row.Extra[result.ExtraApplied]; renewed {
		return fmt.Sprintf("%.1f s until all have their next grant, %.1f s until the old ones have lapsed, p99 meanwhile %s",
			took, row.Extra[result.ExtraBooked], millis(row.Latency.P99))
	}
	if size, memory := row.Extra[result.ExtraAccountSize]; memory {
		return fmt.Sprintf("%.0f B per account, %.0f B per hold", size, row.Extra[result.ExtraHoldSize])
	}
	if cost, unit := row.Extra[result.ExtraUnit]; unit {
		return fmt.Sprintf("%.0f ns of Redis' CPU", cost)
	}
	text := fmt.Sprintf("%7.0f req/s  p50 %s  p99 %s", row.Throughput(), millis(row.Latency.P50), millis(row.Latency.P99))
	if redis, asked := row.CPU["redis"]; asked {
		text += fmt.Sprintf("  redis %.1f µs", redis)
	}
	if row.Backlog.Max > 0 {
		text += fmt.Sprintf("  backlog %d", row.Backlog.Max)
	}
	if failed := row.Failed(); failed > 0 {
		text += fmt.Sprintf("  FAILED %d", failed)
	}
	return text
}

func millis(micros float64) string { return fmt.Sprintf("%.2f ms", micros/1000) }

func (p *progress) end(page, rows string) {
	fmt.Fprintf(p.out, "measured in %s: %s, from %s\n", rough(time.Since(p.began)), page, rows)
}
