package meter

import "github.com/prometheus/client_golang/prometheus"

// engineMetrics are the engine's figures. None is labelled by account.
type engineMetrics struct {
	flights     prometheus.Counter
	flightOps   prometheus.Histogram
	retries     prometheus.Counter
	open        *prometheus.GaugeVec
	expired     prometheus.Counter
	lapsed      prometheus.Counter
	skipped     *prometheus.CounterVec
	lostRecords prometheus.Counter
	orphans     *prometheus.CounterVec
}

func newEngineMetrics(r prometheus.Registerer) *engineMetrics {
	m := &engineMetrics{
		flights: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "creditgate_redis_flights_total", Help: "Pipelines sent to Redis, each with all operations that were waiting.",
		}),
		flightOps: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "creditgate_redis_flight_operations", Help: "Operations in one flight.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "creditgate_redis_retries_total", Help: "Attempts of a flight that did not answer all its operations.",
		}),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "creditgate_reservations_open", Help: "Open reservations at the last sweep, by partition.",
		}, []string{"partition"}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "creditgate_reservations_expired_total", Help: "Reservations that this process returned because their lease was over.",
		}),
		lapsed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "creditgate_grants_lapsed_total", Help: "Expired grants that this process booked.",
		}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "creditgate_sweep_skipped_total",
			Help: "Times that a sweep passed over a hold, lapse or slot that it cannot handle; the log has the first of each sweep.",
		}, []string{"what"}),
		lostRecords: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "creditgate_ledger_lost_records_total", Help: "Ledger records that Redis lost before they were flushed.",
		}),
		orphans: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "creditgate_reserves_unknown_total", Help: "Reserves without a known outcome, by what became of their release.",
		}, []string{"release"}),
	}
	r.MustRegister(m.flights, m.flightOps, m.retries, m.open, m.expired, m.lapsed, m.skipped, m.lostRecords, m.orphans)
	return m
}
