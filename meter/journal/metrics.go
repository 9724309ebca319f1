package journal

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	replayed *prometheus.CounterVec
}

// newMetrics registers the journal's metrics with reg; nil registers none.
func newMetrics(reg prometheus.Registerer, j *Journal) metrics {
	auto := promauto.With(reg)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "creditgate_journal_pending",
		Help: "Settlements in the journal whose outcome is not known.",
	}, func() float64 { return float64(j.Len()) })
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "creditgate_journal_bytes",
		Help: "Size of the journal's files.",
	}, func() float64 { return float64(j.Bytes()) })
	m := metrics{replayed: auto.NewCounterVec(prometheus.CounterOpts{
		Name: "creditgate_journal_replayed_total",
		Help: "Settlements of the journal that have their final outcome: settled, conflict (the reservation has " +
			"another outcome), refused (there is nothing to settle).",
	}, []string{"outcome"})}
	for _, o := range []outcome{settled, conflict, refused} {
		m.replayed.WithLabelValues(string(o)) // shown as 0 before the first
	}
	return m
}
