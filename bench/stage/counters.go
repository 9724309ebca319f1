package stage

import (
	"context"
	"fmt"
	"slices"
	"time"

	"creditgate/bench/measure"
	"creditgate/bench/result"
)

// Counters are what a target and its client have used so far.
type Counters struct {
	cpu     map[string]time.Duration
	redis   []measure.Redis // of each master
	rows    measure.Postgres
	metrics measure.Metrics
	backlog int64
}

// Names of the Go runtime's counters.
const (
	metricMallocs = "go_memstats_mallocs_total"
	metricBytes   = "go_memstats_alloc_bytes_total"
	metricLookups = "creditgate_key_lookups_total"
)

// Read reads the counters of everything that serves the target, and of the client's process. What changes fastest is
// read first.
func (t *Target) Read(ctx context.Context, client int) (c Counters, err error) {
	c.cpu = map[string]time.Duration{}
	if c.cpu[LabelClient], err = measure.CPU(client); err != nil {
		return c, err
	}
	for label, pids := range t.processes {
		for _, pid := range pids {
			used, err := measure.CPU(pid)
			if err != nil {
				return c, fmt.Errorf("%s of %s: %w", label, t.Name, err)
			}
			c.cpu[label] += used
		}
	}
	if c.redis, err = measure.ReadRedis(ctx, t.redis); err != nil {
		return c, err
	}
	if t.counts != nil {
		if c.rows, err = t.counts.Read(ctx); err != nil {
			return c, err
		}
	}
	if t.backlog != nil {
		if c.backlog, err = t.backlog.Records(ctx); err != nil {
			return c, err
		}
	}
	c.metrics, err = measure.ReadMetrics(ctx, t.gateways)
	return c, err
}

// Fill writes into row what was used between two readings, by request.
func (t *Target) Fill(row *result.Row, before, after Counters) {
	row.Backlog = result.Backlog{
		Start: before.backlog, End: after.backlog, Max: max(before.backlog, after.backlog, row.Backlog.Max),
	}
	row.Cluster = slices.Clone(t.homes) // where accounts lie, whether or not they were asked for
	if row.Requests == 0 {
		return
	}
	per := 1 / float64(row.Requests)
	row.CPU = map[string]float64{}
	for label, used := range after.cpu {
		row.CPU[label] = float64((used - before.cpu[label]).Microseconds()) * per
	}
	if len(t.redis) > 0 {
		used := measure.SumRedis(after.redis).Since(measure.SumRedis(before.redis))
		row.CPU[labelRedis] = used.CPUMicros * per
		row.Redis = perRequest(used, per)
	}
	for i := range row.Cluster {
		used := after.redis[i].Since(before.redis[i])
		row.Cluster[i].CPU, row.Cluster[i].Redis = used.CPUMicros*per, perRequest(used, per)
	}
	if t.counts != nil {
		wrote := after.rows.Since(before.rows)
		row.Postgres = result.Postgres{
			Inserted: wrote.Inserted * per, Updated: wrote.Updated * per, WALBytes: wrote.WALBytes * per,
		}
	}
	if len(t.gateways) > 0 {
		made := after.metrics.Since(before.metrics)
		row.Heap = result.Heap{Allocs: made[metricMallocs] * per, Bytes: made[metricBytes] * per}
		if lookups := made[metricLookups]; lookups > 0 {
			row.Extra[result.ExtraKeyLookups] = lookups * per
		}
	}
}

func perRequest(used measure.Redis, per float64) result.Redis {
	return result.Redis{
		Commands: used.Commands * per, InBytes: used.InBytes * per, OutBytes: used.OutBytes * per, Calls: used.Calls * per,
		Errors: used.Errors * per,
	}
}
