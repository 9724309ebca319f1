package persist

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"creditgate/meter"
)

// flushMetrics are the flusher's figures. Lag and pending are worked out when they are asked for, so that they rise
// while Postgres is away and nothing else happens here.
type flushMetrics struct {
	rows    *prometheus.CounterVec
	credits *prometheus.CounterVec
	seconds prometheus.Histogram
}

func newFlushMetrics(reg prometheus.Registerer) *flushMetrics {
	m := &flushMetrics{
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "creditgate_flush_rows_total", Help: "Rows of the ledger committed to Postgres.",
		}, []string{"table"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "creditgate_flush_seconds", Help: "Duration of one flush transaction.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 13),
		}),
	}
	m.credits = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "creditgate_credits_total", Help: "Credits that the ledger booked, as flushed by this process.",
	}, []string{"bucket", "event"})
	reg.MustRegister(m.rows, m.credits, m.seconds)
	return m
}

func (m *flushMetrics) written(b *flushBatch, took time.Duration) {
	m.rows.WithLabelValues("record").Add(float64(len(b.records)))
	m.rows.WithLabelValues("entry").Add(float64(b.entries))
	m.rows.WithLabelValues("line").Add(float64(b.lines))
	m.seconds.Observe(took.Seconds())
	for _, c := range b.buckets {
		for event, milli := range map[string]float64{
			"granted": c.granted, "spent": c.spent, "lapsed": c.lapsed, "revoked": c.revoked,
		} {
			if milli > 0 { // a series appears when there is something to tell
				m.credits.WithLabelValues(c.bucket, event).Add(milli / float64(meter.Credit))
			}
		}
	}
}

// watch registers the gauges of one partition.
func (m *flushMetrics) watch(reg prometheus.Registerer, w *flushWorker) {
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: name, Help: help, ConstLabels: prometheus.Labels{"partition": strconv.Itoa(int(w.partition))},
		}, value))
	}
	gauge("creditgate_ledger_lag_seconds", "Age of the oldest ledger record that this gateway read and Postgres has not booked.",
		func() float64 {
			oldest := w.oldestMs.Load()
			if since := w.quarantinedSinceMs.Load(); since > 0 && (oldest == 0 || since < oldest) {
				oldest = since
			}
			if oldest > 0 {
				return max(0, w.flusher.store.clock.Now().Sub(time.UnixMilli(oldest)).Seconds())
			}
			return 0
		})
	gauge("creditgate_ledger_pending", "Ledger records that Redis has and Postgres has not.",
		func() float64 { return float64(w.behind.Load()) })
	gauge("creditgate_ledger_quarantined_accounts",
		"Accounts whose ledger is kept and not booked, as the gateway that flushes saw last: see `creditgate ledger quarantine`.",
		func() float64 { return float64(w.quarantinedAccounts.Load()) })
	gauge("creditgate_ledger_quarantined_entries", "Entries of these accounts.",
		func() float64 { return float64(w.quarantinedEntries.Load()) })
	gauge("creditgate_flush_stopped", "1 while the partition's ledger is broken and not flushed: a person must look.",
		func() float64 {
			if w.broken.Load() {
				return 1
			}
			return 0
		})
}
